#!/bin/bash
# pyvips 3.2.0 (libvips 8.18.7; beside OpenCV 5.0.0.93 and Pillow 13.0.0; Python 3.11): enlarged images lie half a pixel off.
#
# One would guess: resize() and thumbnail() keep the picture where it is, as OpenCV and Pillow do: what was in the centre stays
#                  there, whichever way the size changes.
# What happens:    reduced images agree with OpenCV's to a hundredth of a pixel. Enlarged ones are moved right and down by half a
#                  pixel of the result, by any factor, 1.12 as well as 4, with the default kernel and with linear. similarity()
#                  by the same factor goes the other way, by (factor − 1) / 2 pixels: 1.5 at 4.
# Why it matters:  one set holds faces above and below 112 pixels. Brought to 112 they are aligned to two templates, and the
#                  small, hard ones (surveillance, TinyFace) are those that moved. Of an image that is mirrored first the offset
#                  is on the other side: it and its mirror image are a pixel apart. All of them look right.
#
# Seen when written (mean offset, in pixels of the result, of five blobs from where they belong; x and y):
#   to 112 from                  28              56             100             112             250             448
#   cv2.resize        -0.01 -0.01   -0.00 -0.00   -0.00 -0.00   +0.00 +0.00   -0.00 -0.00   +0.00 +0.00
#   Pillow resize     -0.00 -0.01   -0.00 -0.00   -0.00 -0.00   +0.00 +0.00   +0.00 +0.00   +0.00 -0.00
#   resize            +0.49 +0.50   +0.50 +0.50   +0.50 +0.50   +0.00 +0.00   -0.00 -0.00   -0.00 -0.00
#   resize linear     +0.49 +0.49   +0.50 +0.50   +0.50 +0.50   +0.00 +0.00   +0.00 -0.00   +0.00 +0.00
#   thumbnail_image   +0.49 +0.50   +0.50 +0.50   +0.50 +0.50   +0.00 +0.00   -0.00 -0.00   -0.00 -0.00
#   similarity        -1.51 -1.51   -0.50 -0.50   -0.06 -0.06   +0.00 +0.00   +0.28 +0.28   +0.38 +0.38
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyvips==3.2.0 pyvips-binary==8.18.7 opencv-python-headless==5.0.0.93 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import cv2
import numpy as np
import pyvips
from PIL import Image

SIDE = 112
PLACES = np.array([[0.30, 0.30], [0.70, 0.28], [0.50, 0.50], [0.35, 0.70], [0.65, 0.72]])  # about those of landmarks


def grid(side):
    return np.mgrid[:side, :side].astype(np.float64)


def blob(side, place):
    """A round blob around place × side (pixel centres at whole numbers), in three equal channels."""
    y, x = grid(side)
    squared = (x - place[0] * side) ** 2 + (y - place[1] * side) ** 2
    grey = np.round(200 * np.exp(-squared / (2 * (side / 25) ** 2))).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[..., None], 3, 2))


def centre(image):
    weight = np.asarray(image, np.float64)[..., 0]
    y, x = grid(SIDE)
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def opencv(image, factor):
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def vips(image):
    return pyvips.Image.new_from_array(image)


WAYS = {
    "cv2.resize": opencv,
    "Pillow resize": lambda image, factor: Image.fromarray(image).resize((SIDE, SIDE), Image.BICUBIC),
    "resize": lambda image, factor: vips(image).resize(factor).numpy(),
    "resize linear": lambda image, factor: vips(image).resize(factor, kernel="linear").numpy(),
    "thumbnail_image": lambda image, factor: vips(image).thumbnail_image(SIDE).numpy(),
    "similarity": lambda image, factor: vips(image).similarity(scale=factor).numpy()[:SIDE, :SIDE],
}
SIDES = (28, 56, 100, 112, 250, 448)
print(f"{'to 112 from':<15}" + "".join(f"{side:>16}" for side in SIDES))
for name, way in WAYS.items():
    line = f"{name:<15}"
    for side in SIDES:
        factor = SIDE / side
        belongs = (PLACES * side + 0.5) * factor - 0.5
        centres = [centre(way(blob(side, place), factor)) for place in PLACES]
        offset = np.mean(centres - belongs, axis=0)
        line += f"   {offset[0]:+.2f} {offset[1]:+.2f}"
        expected = 0.0
        if name == "similarity":
            expected = -(factor - 1) / 2
        elif factor > 1 and name in ("resize", "resize linear", "thumbnail_image"):
            expected = 0.5
        assert (abs(offset - expected) < 0.06).all(), (name, side, offset)
    print(line)
PY
"$tmp/venv/bin/python" "$tmp/see.py"
