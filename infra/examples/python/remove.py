"""Cut out one photo: python remove.py PHOTO CUTOUT"""

import sys

from PIL import Image

from bgpipe import remove

photo, cutout = sys.argv[1:]
result = remove(Image.open(photo))
result.save(cutout)
print(f"{cutout}: {result.width}x{result.height} {result.mode}")
