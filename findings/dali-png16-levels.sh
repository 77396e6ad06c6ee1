#!/bin/bash
# DALI 2.4.0, Pillow 13.0.0, OpenCV 5.0.0.93, Python 3.11: one 16-bit grey PNG, three different 8-bit pictures.
#
# One would guess: decoding a 16-bit grey PNG to 8 bits gives one picture, perhaps off by one for the rounding.
# What happens:    DALI divides by 257 and rounds, OpenCV keeps the high byte, Pillow's convert("L" or "RGB") cuts at 255, which
#                  is white for every level above. None of them warns. A float TIFF is as divided: DALI takes 1.0 as white and
#                  cuts above, Pillow takes 255 as white.
# Why it matters:  near-infrared, thermal and depth faces often come as 16-bit PNG. Training through one reader and evaluating
#                  through another compares white squares with faces, or levels that differ by one.
#
# Seen when written (112 × 112 random 16-bit levels; float levels from 0 to 255):
#   DALI - OpenCV: at most 1, other in 25.7 % of pixels
#   DALI - Pillow: at most 254; Pillow is 255 in 99.5 % of pixels, DALI in 0.2 %
#   float TIFF:    DALI is 255 in 99.5 % of pixels, Pillow in 0.0 %
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    nvidia-dali-cuda130==2.4.0 pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io

import cv2
import numpy as np
from nvidia.dali import fn, pipeline_def, types
from PIL import Image


def encode(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def decoder(data):
    source = fn.external_source(source=lambda: [np.frombuffer(data, np.uint8)])
    return fn.decoders.image(source, device="cpu", output_type=types.GRAY)


def dali(data):
    pipe = decoder(data)
    pipe.build()
    return np.asarray(pipe.run()[0].at(0))[..., 0].astype(int)


def pillow(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)


def opencv(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).astype(int)


def percent(mask):
    return 100 * float(mask.mean())


rng = np.random.default_rng(0)
levels = rng.integers(0, 65536, (112, 112), dtype=np.uint16)
png = encode(levels, "PNG")
a, b, c = dali(png), opencv(png), pillow(png)
print(f"DALI - OpenCV: at most {abs(a - b).max()}, other in {percent(a != b):.1f} % of pixels")
print(
    f"DALI - Pillow: at most {abs(a - c).max()}; "
    f"Pillow is 255 in {percent(c == 255):.1f} % of pixels, DALI in {percent(a == 255):.1f} %"
)
assert np.array_equal(a, np.rint(levels / 257)) and np.array_equal(b, levels >> 8)
assert np.array_equal(c, np.minimum(levels, 255))

tiff = encode(rng.random((112, 112), dtype=np.float32) * 255, "TIFF")
a, c = dali(tiff), pillow(tiff)
print(f"float TIFF:    DALI is 255 in {percent(a == 255):.1f} % of pixels, Pillow in {percent(c == 255):.1f} %")
assert percent(a == 255) > 99 and percent(c == 255) < 1
PY
"$tmp/venv/bin/python" "$tmp/see.py"
