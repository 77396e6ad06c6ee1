#!/bin/bash
# insightface 2.1 and uniface 4.2.1 (OpenCV 5.0.0.93, Python 3.11): a face cropped at 256 is not the crop of 112 with more pixels.
#
# One would guess: norm_crop(image, landmarks, image_size) and face_alignment(…) show the same part of the face at each size that
#                  they allow, the multiples of 112 and of 128: brought to 112, all of them are the crop of 112.
# What happens:    multiples of 112 do. Multiples of 128 show more: the face is an eighth smaller, in the middle from left to right
#                  and at the top, for all that is new in height is below the chin: the eyes stand at 40 % instead of 46 %.
#                  112 is asked first, so that 896, a multiple of both, is like 112, and 768 and 1,024 are not.
# Why it matters:  faces are cropped large once, for networks of several sizes (quality, attributes, swapping at 128 to 512), and
#                  brought to 112 for recognition. Landmarks are then 9 pixels from ArcFace's template, far more than any
#                  detector errs, and each crop looks well aligned. Ask for 448 instead of 512.
#
# Seen when written (landmarks' heights and the eyes' distance in % of the side; pixels from the template after the crop is
# brought to 112; both libraries alike):
#   size    eyes   mouth   eye to eye   from the template: mean    mouth
#    112    46 %    82 %         31 %                       0.0      0.0
#    224    46 %    82 %         31 %                       0.0      0.0
#    448    46 %    82 %         31 %                       0.0      0.0
#    896    46 %    82 %         31 %                       0.0      0.0
#    128    40 %    72 %         28 %                       9.2     11.7
#    256    40 %    72 %         28 %                       9.2     11.7
#    512    40 %    72 %         28 %                       9.2     11.7
#    768    40 %    72 %         28 %                       9.2     11.7
#   1024    40 %    72 %         28 %                       9.2     11.7
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check insightface==2.1 uniface==4.2.1 scikit-image==0.26.0 \
    opencv-python==5.0.0.93 onnx==1.23.2 onnxruntime==1.31.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import warnings

import numpy as np
from insightface.utils import face_align
from uniface import face_alignment

warnings.filterwarnings("ignore")  # scikit-image would rather be called another way
# ArcFace's five points, of a face five times as large that leans by 10 degrees.
template = np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]])
turn = np.deg2rad(10)
rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
landmarks = np.float32((template - 56) @ rotation * 5 + 500)
photograph = np.random.default_rng(0).integers(0, 256, (1000, 1000, 3)).astype(np.uint8)

print("  size    eyes   mouth   eye to eye   from the template: mean    mouth")
for size in (112, 224, 448, 896, 128, 256, 512, 768, 1024):
    crop, matrix = face_align.norm_crop2(photograph, landmarks, image_size=size)
    other, _ = face_alignment(photograph, landmarks, image_size=size)
    assert crop.shape == other.shape == (size, size, 3)
    assert np.abs(crop.astype(int) - other).mean() < 1
    share = (landmarks @ matrix[:, :2].T + matrix[:, 2]) / size
    pixels = np.linalg.norm(share * 112 - template, axis=1)
    eyes, mouth, apart = share[:2, 1].mean(), share[3:, 1].mean(), share[1, 0] - share[0, 0]
    print(f"{size:>6} {100 * eyes:>5.0f} % {100 * mouth:>5.0f} % {100 * apart:>10.0f} % {pixels.mean():>25.1f} {pixels[3:].mean():>8.1f}")
    assert pixels.max() < 0.1 if size % 112 == 0 else pixels.min() > 4
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
