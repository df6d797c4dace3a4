#!/usr/bin/env bash
# run.sh FOLDER: cutouts of a folder of photos, cropped and centred on white, then a contact sheet.
set -euo pipefail

bgpipe --quiet submit "$1" --out cutouts --preset catalogue --format jpeg
bgpipe --quiet report --out sheet.html
bgpipe --json status
ls cutouts
