#!/bin/bash
# DALI 2.4.0 (CPU, Python 3.11): fn.readers.caffe gives the planes of a raw Datum as if they were pixels.
#
# One would guess: an LMDB that Caffe's convert_imageset made without --encoded, its default, is read as images: a Datum holds
#                  its raw values as channels × height × width, B, G, R, and the reader gives (3, H, W), or (H, W, 3) with the
#                  axes moved.
# What happens:    the tensor has the shape (H, W, 3), and the bytes of the Datum in their order. The picture is nine small
#                  grey ones: each row is three rows of blue, and so on. Only grey images and encoded ones are right. If the
#                  Datum does not say whether it is encoded, as pycaffe's array_to_datum leaves it, the same bytes are flat.
# Why it matters:  SphereFace, center loss and other sets of Caffe's time are such LMDBs. Shape, type and mean are as
#                  expected, crops and mirrors work, and training runs. Reshape to (3, H, W), then transpose.
#
# Seen when written (96 × 112 pixels, three planes that differ):
#   raw, encoded false   shape (112, 96, 3), as the image 0% of rows, as planes all
#   raw, not said        shape (32256,), as planes all
#   grey                 shape (112, 96, 1), the image
#   reshaped, transposed the image
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    nvidia-dali-cuda130==2.4.0 numpy==2.4.6 lmdb==3.0.0
cat > "$tmp/see.py" <<'PY'
import sys
from pathlib import Path

import lmdb
import numpy as np
from nvidia.dali import fn, pipeline_def

folder = Path(sys.argv[1])


def number(value):
    """A protobuf varint."""
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + number(rest) if rest else bytes([low])


def datum(planes, encoded):
    """Caffe's message: channels, height, width, data, label, encoded (None: not said)."""
    data = planes.tobytes()
    fields = b"".join(bytes([8 * k]) + number(side) for k, side in enumerate(planes.shape, 1))
    fields += b"\x22" + number(len(data)) + data + b"\x28" + number(7)
    return fields if encoded is None else fields + b"\x38" + number(encoded)


def read(name, planes, encoded=False, as_planes=False):
    """The image that DALI gives of an LMDB with this Datum; its label must be right."""
    path = folder / name
    with lmdb.open(str(path), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        transaction.put(b"00000000", datum(planes, encoded))

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        images, labels = fn.readers.caffe(path=str(path))
        if as_planes:
            images = fn.transpose(fn.reshape(images, shape=list(planes.shape)), perm=[1, 2, 0])
        return images, labels

    run = pipeline()
    run.build()
    images, labels = run.run()
    assert labels.as_array().tolist() == [[7]]
    return images.as_array()[0]


y, x = np.mgrid[:112, :96]
image = np.stack([y + x, 2 * y + 3, 255 - 2 * x], axis=2).astype(np.uint8)
planes = np.ascontiguousarray(image.transpose(2, 0, 1))

raw = read("raw", planes)
rows = (raw == image).all(axis=(1, 2)).mean()
print(f"raw, encoded false   shape {raw.shape}, as the image {rows:.0%} of rows, as planes all")
assert raw.shape == image.shape and rows == 0 and raw.tobytes() == planes.tobytes()

flat = read("flat", planes, encoded=None)
print(f"raw, not said        shape {flat.shape}, as planes all")
assert flat.shape == (planes.size,) and flat.tobytes() == planes.tobytes()

grey = read("grey", planes[:1])
print(f"grey                 shape {grey.shape}, the image")
assert grey.shape == (112, 96, 1) and (grey == image[:, :, :1]).all()

assert (read("moved", planes, as_planes=True) == image).all()
print("reshaped, transposed the image")
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
