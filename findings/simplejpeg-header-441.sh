#!/bin/bash
# simplejpeg 1.9.0, Python 3.11: it decodes a 4:4:1 JPEG, but reading that JPEG's header raises KeyError: 6.
#
# One would guess: decode_jpeg_header is the cheap part of decode_jpeg: what can be decoded has a header that can be read.
# What happens:    libjpeg-turbo 3 knows a seventh sampling, 4:4:1 (luma 1 × 4, which a quarter turn without loss makes of 4:1:1).
#                  decode_jpeg passes it on and agrees with Pillow; the header's table of names ends before it.
# Why it matters:  packing reads the header for size and channels, training decodes. A check by header that catches only
#                  ValueError, which simplejpeg raises for broken files, stops a whole run at a sound picture.
#
# Seen when written:
#   luma 4 × 1: header (112, 112, 'YCbCr', '411'), decoded as by Pillow
#   luma 1 × 4: header KeyError(6), decoded as by Pillow
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    simplejpeg==1.9.0 jpeglib==1.0.2 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys
from pathlib import Path

import jpeglib
import numpy as np
import simplejpeg
from PIL import Image

folder = Path(sys.argv[1])
image = np.kron(np.random.default_rng(0).integers(0, 256, (14, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def see(vertical, horizontal):
    path = folder / f"{horizontal}x{vertical}.jpg"
    jpeg = jpeglib.from_spatial(image)
    jpeg.samp_factor = ((vertical, horizontal), (1, 1), (1, 1))
    jpeg.write_spatial(str(path), qt=95)
    data = path.read_bytes()
    assert data[data.index(b"\xff\xc0") + 11] == horizontal << 4 | vertical
    try:
        header = simplejpeg.decode_jpeg_header(data)
    except KeyError as error:
        header = error
    same = np.array_equal(simplejpeg.decode_jpeg(data), np.asarray(Image.open(path)))
    print(f"luma {horizontal} × {vertical}: header {header!r}, decoded {'as' if same else 'NOT as'} by Pillow")
    return header, same


header, same = see(1, 4)
assert same and header[3] == "411"
header, same = see(4, 1)
assert same and isinstance(header, KeyError)
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
