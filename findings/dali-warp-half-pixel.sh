#!/bin/bash
# DALI 2.4.0 (CPU operators), OpenCV 5.0.0.93, Python 3.11: the same alignment matrix crops the face elsewhere.
#
# One would guess: fn.warp_affine with inverse_map=False and the 2 × 3 matrix that cv2.warpAffine takes gives cv2's crop.
# What happens:    OpenCV and every landmark file count from the centre of the first pixel; DALI counts from its corner. With
#                  linear part A the crop moves by (I - A)·½ pixels: nothing under a pure shift, so a test with shifts
#                  passes, and nearly half a pixel where a large face is scaled down. The default, inverse_map=True, takes the
#                  matrix the other way round, like cv2's WARP_INVERSE_MAP.
# Why it matters:  aligning in the loader with the ArcFace template is off by a fraction of a pixel against the crops that the
#                  model was trained on. The matrix [A | t + (I - A)·½] gives OpenCV's crop.
#
# Seen when written (a drawn 448 × 448 image to 112 × 112, mean absolute difference in grey levels):
#   shift alone              0.000
#   alignment, same matrix   7.337
#   alignment, moved matrix  0.072
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    nvidia-dali-cuda130==2.4.0 opencv-python-headless==5.0.0.93 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import cv2
import numpy as np
from nvidia.dali import fn, pipeline_def

y, x = np.mgrid[:448, :448].astype(np.float32)
image = (128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 11))[..., None]


@pipeline_def(batch_size=1, num_threads=1, device_id=None)
def warp(matrix):
    source = fn.external_source(source=lambda: [image])
    return fn.warp_affine(source, matrix=matrix.ravel().tolist(), size=(112, 112), inverse_map=False)


def difference(matrix, dali_matrix):
    pipe = warp(dali_matrix.astype(np.float32))
    pipe.build()
    dali = np.asarray(pipe.run()[0].at(0))[..., 0]
    opencv = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    return float(np.abs(dali - opencv)[2:-2, 2:-2].mean())


def moved(matrix):
    corner = (np.eye(2) - matrix[:, :2]) @ [0.5, 0.5]
    return np.column_stack([matrix[:, :2], matrix[:, 2] + corner])


shift = np.array([[1, 0, -40.25], [0, 1, -60.5]])
angle, scale = np.deg2rad(8), 0.27
a = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
align = np.column_stack([a, np.array([56, 56]) - a @ [224, 224]])  # the face's centre to the crop's
rows = {
    "shift alone": difference(shift, shift),
    "alignment, same matrix": difference(align, align),
    "alignment, moved matrix": difference(align, moved(align)),
}
for name, levels in rows.items():
    print(f"{name:<24} {levels:.3f}")
plain, same, corrected = rows.values()
assert plain < 0.05 and corrected < 0.2 and same > 3
PY
"$tmp/venv/bin/python" "$tmp/see.py"
