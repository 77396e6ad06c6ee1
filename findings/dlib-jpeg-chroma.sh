#!/bin/bash
# dlib-bin 20.0.1.post1 (beside Pillow 13.0.0, OpenCV 5.0.0.93, simplejpeg 1.9.0; Python 3.11): dlib reads other pixels from a JPEG.
#
# One would guess: dlib.load_rgb_image gives the pixels that Pillow, OpenCV and simplejpeg give, which agree bit for bit on sound
#                  JPEGs of every sampling, or those of libjpeg-turbo's faster upsampling.
# What happens:    4:4:4 is equal. Where chroma is halved, pixels are up to 25 levels off, on average a fifth of what the
#                  compression itself costs. The wheel carries the libjpeg of the IJG, 9e. Since its version 7 that enlarges a
#                  block of chroma by a larger inverse DCT, each block by itself; libjpeg-turbo kept the interpolation of
#                  version 6, which looks into the next block. Each calls itself libjpeg.
# Why it matters:  detection and alignment with dlib, training with another reader, is an old and common pair, and 4:2:0 is the
#                  usual sampling of photographs. Lips, irises and the edge of the hair are where the pictures differ. Read the file
#                  with one library and hand dlib the array.
#
# Seen when written (a drawn face of 112 × 112, quality 95):
#   greatest / mean difference from Pillow's pixels, in levels
#   444   OpenCV  0 / 0.00   simplejpeg  0 / 0.00   fastupsample  0 / 0.00   dlib  0 / 0.00   the original / 2.82
#   422   OpenCV  0 / 0.00   simplejpeg  0 / 0.00   fastupsample 14 / 0.91   dlib 17 / 0.60   the original / 3.10
#   440   OpenCV  0 / 0.00   simplejpeg  0 / 0.00   fastupsample 19 / 0.80   dlib 13 / 0.62   the original / 3.22
#   420   OpenCV  0 / 0.00   simplejpeg  0 / 0.00   fastupsample 24 / 1.07   dlib 25 / 0.64   the original / 3.33
#   one block coloured: pixels changed beside it, Pillow 68, dlib 0
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check dlib-bin==20.0.1.post1 simplejpeg==1.9.0 \
    opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys

import cv2
import dlib
import numpy as np
import simplejpeg
from PIL import Image

path = f"{sys.argv[1]}/face.jpg"


def blob(x, y, wide, high, side=112):
    rows, columns = np.mgrid[0:side, 0:side]
    return np.clip(3 * (1 - ((columns - x) / wide) ** 2 - ((rows - y) / high) ** 2), 0, 1)[:, :, None]


def drawn():
    """A face of 112 × 112: skin, hair, eyes and lips on a blue ground, with the noise of a sensor."""
    face = np.full((112, 112, 3), (60.0, 90, 160))
    for part, colour in (
        (blob(56, 40, 50, 45), (70, 45, 30)),
        (blob(56, 65, 40, 52), (215, 165, 135)),
        (blob(38, 52, 8, 4), (40, 80, 60)),
        (blob(73, 52, 8, 4), (40, 80, 60)),
        (blob(56, 92, 16, 6), (190, 50, 60)),
    ):
        face += part * (np.array(colour) - face)
    noise = np.random.default_rng(0).normal(0, 4, face.shape)
    return np.clip(face + noise, 0, 255).astype(np.uint8)


def readers(sampling, image):
    data = simplejpeg.encode_jpeg(image, quality=95, colorspace="RGB", colorsubsampling=sampling)
    with open(path, "wb") as out:
        out.write(data)
    return {
        "Pillow": np.asarray(Image.open(path)).astype(int),
        "OpenCV": cv2.imread(path)[:, :, ::-1].astype(int),
        "simplejpeg": simplejpeg.decode_jpeg(data).astype(int),
        "fastupsample": simplejpeg.decode_jpeg(data, fastupsample=True).astype(int),
        "dlib": dlib.load_rgb_image(path).astype(int),
    }


face = drawn()
print("greatest / mean difference from Pillow's pixels, in levels")
for sampling in ("444", "422", "440", "420"):
    pictures = readers(sampling, face)
    pillow = pictures.pop("Pillow")
    away = {name: np.abs(picture - pillow) for name, picture in pictures.items()}
    loss = np.abs(pillow - face).mean()
    print(
        sampling,
        *(f"  {name} {difference.max():2} / {difference.mean():.2f}" for name, difference in away.items()),
        f"  the original / {loss:.2f}",
    )
    assert away["OpenCV"].max() == away["simplejpeg"].max() == 0
    assert away["dlib"].max() <= 1 if sampling == "444" else away["dlib"].max() >= 10 and away["dlib"].mean() > 0.3

grey = np.full((112, 112, 3), 128, np.uint8)
spot = grey.copy()
spot[48:64, 48:64] = (200, 90, 90)  # sixteen by sixteen pixels: one block of halved chroma
before, after = readers("420", grey), readers("420", spot)
outside = np.ones((112, 112), bool)
outside[48:64, 48:64] = False
reach = {name: int((after[name] != before[name]).any(axis=2)[outside].sum()) for name in ("Pillow", "dlib")}
print(f"one block coloured: pixels changed beside it, Pillow {reach['Pillow']}, dlib {reach['dlib']}")
assert reach == {"Pillow": 68, "dlib": 0}
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
