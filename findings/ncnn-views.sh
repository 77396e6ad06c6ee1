#!/bin/bash
# ncnn 1.0.20261020 (NumPy 2.4.6, Python 3.11): a face cut out of a frame, or an image moved to planes by transpose, is another picture.
#
# One would guess: ncnn.Mat.from_pixels and ncnn.Mat take any array of the right type and shape as it is, or refuse a view.
# What happens:    they take the address, shape and element type of the array, and pass over its strides. A crop such as
#                  frame[y:y+112, x:x+112] is so many bytes of the frame from the crop's corner on, a few full rows folded
#                  up. (image − 127.5) / 127.5 with .transpose(2, 0, 1), the usual last line before a network, stays in the
#                  order of pixels: three planes that each hold a third of the picture in three colours. Shape, mean and
#                  deviation are right.
# Why it matters:  this is where an exported face model meets a camera or a test set, and a detector's box is always such a crop.
#                  The network answers with an embedding, only a bad one; a check on a whole image, or on one read from
#                  a file of the right size, is right. Use from_pixels_roi, or numpy.ascontiguousarray(…), and keep what
#                  that gives: Mat borrows its memory.
#
# Seen when written (share of values that are the array's, random pixels):
#   from_pixels, a copy of the crop    100.0 %
#   from_pixels, the crop                1.3 %
#   from_pixels, one channel of it       0.4 %
#   from_pixels_resize, the crop         0.6 %
#   from_pixels_roi, the frame         100.0 %
#   Mat, planes by transpose             0.4 %
#   Mat, a copy of the planes          100.0 %
#   mean -0.0038 → -0.0038, deviation 0.5790 → 0.5790
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check ncnn==1.0.20261020 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import ncnn
import numpy as np

BGR, GREY = ncnn.Mat.PixelType.PIXEL_BGR, ncnn.Mat.PixelType.PIXEL_GRAY
random = np.random.default_rng(0)
frame = random.integers(0, 256, (250, 250, 3), np.uint8)
crop = frame[69:181, 69:181]
copy = np.ascontiguousarray(crop)
grey = frame[69:181, 69:181, 0]
planes = ((copy.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)
copied = np.ascontiguousarray(planes)  # has a name, for Mat borrows its memory


def half(pixels):
    return np.array(ncnn.Mat.from_pixels_resize(pixels, BGR, 112, 112, 56, 56))


for name, mat, expected, right in (
    ("from_pixels, a copy of the crop", ncnn.Mat.from_pixels(copy, BGR, 112, 112), crop.transpose(2, 0, 1), True),
    ("from_pixels, the crop", ncnn.Mat.from_pixels(crop, BGR, 112, 112), crop.transpose(2, 0, 1), False),
    ("from_pixels, one channel of it", ncnn.Mat.from_pixels(grey, GREY, 112, 112), grey[np.newaxis], False),
    ("from_pixels_resize, the crop", half(crop), half(copy), False),
    (
        "from_pixels_roi, the frame",
        ncnn.Mat.from_pixels_roi(frame, BGR, 250, 250, 69, 69, 112, 112),
        crop.transpose(2, 0, 1),
        True,
    ),
    ("Mat, planes by transpose", ncnn.Mat(planes), planes, False),
    ("Mat, a copy of the planes", ncnn.Mat(copied), planes, True),
):
    seen = np.array(mat)
    assert seen.shape == expected.shape
    share = (seen == expected).mean()
    print(f"{name:<34} {100 * share:5.1f} %")
    assert share == 1 if right else share < 0.05
mixed = np.array(ncnn.Mat(planes))
print(f"mean {planes.mean():.4f} → {mixed.mean():.4f}, deviation {planes.std():.4f} → {mixed.std():.4f}")
assert np.isclose(mixed.mean(), planes.mean(), atol=1e-4) and np.isclose(mixed.std(), planes.std(), atol=1e-4)
PY
"$tmp/venv/bin/python" "$tmp/see.py"
