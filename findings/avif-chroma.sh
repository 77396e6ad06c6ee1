#!/bin/bash
# pyvips 3.2.0 (libvips 8.18.7, libheif) and PyAV 18.1.0 beside Pillow 13.0.0, OpenCV 5.0.0.93 and imagecodecs 2026.3.6 (Python 3.11):
# an AVIF face has two pictures, though everybody decodes the same planes.
#
# One would guess: an AVIF is decoded alike everywhere, to a level or so: AV1 prescribes each bit of the planes, and sound JPEGs
#                  and WebPs give equal pixels in all of these but PyAV.
# What happens:    how halved chroma planes are enlarged is left open. libavif (in Pillow, OpenCV and imagecodecs) interpolates,
#                  libheif (in pyvips) repeats each value: 4:4:4 agrees to a level, 4:2:0 does not. PyAV's to_ndarray
#                  repeats, too, and is as far from Pillow with JPEG and WebP.
# Why it matters:  4:2:0 is what Pillow writes by default. A network that is trained through one reader and served through another
#                  sees other pixels at lips, irises and hair, nearly as far apart as the loss by compression. 4:4:4 is safe.
#
# Seen when written (a drawn face of 112×112; largest and mean difference from Pillow's pixels, in levels):
#                         OpenCV   imagecodecs        pyvips          PyAV      the original
#   AVIF 4:4:4          0 / 0.00      0 / 0.00      1 / 0.11      1 / 0.11     24 / 0.95
#   AVIF 4:2:2          0 / 0.00      0 / 0.00     25 / 0.75     25 / 1.16     34 / 1.38
#   AVIF 4:2:0          0 / 0.00      0 / 0.00     41 / 1.25     40 / 1.50     44 / 1.70
#   AVIF default        0 / 0.00      0 / 0.00     39 / 1.25     38 / 1.50     43 / 1.82
#   JPEG 4:2:0          0 / 0.00      0 / 0.00      0 / 0.00     33 / 1.84     52 / 2.49
#   WebP 4:2:0          0 / 0.00      0 / 0.00      0 / 0.00     39 / 2.27     47 / 2.07
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    pyvips==3.2.0 pyvips-binary==8.18.7 av==18.1.0 pillow==13.0.0 opencv-python-headless==5.0.0.93 imagecodecs==2026.3.6 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io

import av
import cv2
import imagecodecs
import numpy as np
import pyvips
from PIL import Image, ImageDraw

image = Image.new("RGB", (448, 448), (70, 90, 150))
draw = ImageDraw.Draw(image)
draw.ellipse((70, 20, 378, 440), fill=(60, 35, 25))
draw.ellipse((100, 60, 348, 430), fill=(224, 172, 140))
for x in (160, 288):
    draw.ellipse((x - 32, 165, x + 32, 205), fill=(245, 240, 235))
    draw.ellipse((x - 17, 168, x + 17, 202), fill=(40, 110, 190))
draw.polygon([(224, 200), (200, 280), (248, 280)], fill=(205, 140, 112))
draw.ellipse((165, 315, 283, 365), fill=(190, 40, 60))
image = image.resize((112, 112), Image.LANCZOS)


def pyav(data):
    with av.open(io.BytesIO(data)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


READERS = {
    "OpenCV": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1],
    "imagecodecs": imagecodecs.imread,
    "pyvips": lambda data: pyvips.Image.new_from_buffer(data, "").numpy(),
    "PyAV": pyav,
}
FILES = {
    "AVIF 4:4:4": ("AVIF", {"quality": 80, "subsampling": "4:4:4"}),
    "AVIF 4:2:2": ("AVIF", {"quality": 80, "subsampling": "4:2:2"}),
    "AVIF 4:2:0": ("AVIF", {"quality": 80, "subsampling": "4:2:0"}),
    "AVIF default": ("AVIF", {}),
    "JPEG 4:2:0": ("JPEG", {"quality": 90, "subsampling": 2}),
    "WebP 4:2:0": ("WEBP", {"quality": 90}),
}
print(f"{'':<14}" + "".join(f"{name:>14}" for name in READERS) + "      the original")
for name, (kind, options) in FILES.items():
    file = io.BytesIO()
    image.save(file, kind, **options)
    pillow = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"), int)
    line = f"{name:<14}"
    for reader, read in [*READERS.items(), ("the original", lambda data: np.asarray(image))]:
        difference = np.abs(np.asarray(read(file.getvalue()), int) - pillow)
        line += f"   {difference.max():>4} / {difference.mean():.2f}"
        if reader in ("OpenCV", "imagecodecs") or (reader == "pyvips" and kind != "AVIF"):
            assert difference.max() == 0, (name, reader)
        elif reader in ("pyvips", "PyAV"):
            assert difference.max() <= 3 if name == "AVIF 4:4:4" else difference.max() > 15, (name, reader)
    print(line)
PY
"$tmp/venv/bin/python" "$tmp/see.py"
