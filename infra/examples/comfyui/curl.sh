#!/usr/bin/env bash
# curl.sh PHOTO [CUTOUT]: the cutout of one photo. COMFY_URL is the server, COMFY_KEY an API key.
set -euo pipefail

photo=$1
cutout=${2:-cutout.png}
server=${COMFY_URL:-http://127.0.0.1:8188}
workflow=$(dirname "$0")/production_bg_removal_api.json

call() { # call PATH OPTIONS...: print the response, an error to standard error
    local response
    if ! response=$(curl --silent --show-error --fail-with-body \
        ${COMFY_KEY:+--header "Authorization: Bearer $COMFY_KEY"} "${@:2}" "$server$1"); then
        echo "$response" >&2
        return 1
    fi
    [ -z "$response" ] || echo "$response"
}
field() { # field NAME: print its value in the JSON on standard input
    grep -o "\"$1\": *\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4
}

name=$(call /upload/image --form "image=@$photo" | field name)
graph=$(<"$workflow")
graph=${graph/'"photo.jpg"'/"\"$name\""}
id=$(call /prompt --header "Content-Type: application/json" --data "{\"prompt\": $graph}" | field prompt_id)

entry={}
while [ "$entry" = "{}" ]; do
    sleep 0.5
    entry=$(call "/history/$id")
done
if [ "$(field status_str <<<"$entry")" != success ]; then
    echo "failed: $(field exception_message <<<"$entry")" >&2
    exit 1
fi

saved=$(grep -o '{"filename": *"[^"]*", *"subfolder": *"[^"]*", *"type": *"output"}' <<<"$entry" | head -n 1)
call /view --get --output "$cutout" \
    --data-urlencode "filename=$(field filename <<<"$saved")" \
    --data-urlencode "subfolder=$(field subfolder <<<"$saved")" \
    --data-urlencode "type=output"
echo "$(field filename <<<"$saved") -> $cutout"
