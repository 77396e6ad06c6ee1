#!/bin/bash
# ormsgpack 1.13.1 (orjson 3.13.0, NumPy 2.4.6, Python 3.11): an array of big-endian numbers is packed with its bytes the wrong way round.
#
# One would guess: packb(…, option=OPT_SERIALIZE_NUMPY) packs the values of an array, whatever its byte order, or refuses it, as
#                  orjson, which ormsgpack comes from, does ("numpy array is not native-endianness"), and as
#                  ormsgpack itself does with an array that is not C-contiguous.
# What happens:    the bytes are taken as little-endian: 300 in two bytes is 11,265, 0.5 in four is 8.8e-44. One element of the
#                  same array is packed right. Nothing is said, and the type of what is read back shows nothing.
# Why it matters:  MessagePack records hold the boxes, landmarks, depths and embeddings beside a face. Big-endian arrays come from
#                  16-bit PGM (depth maps of 3D faces), IDX, TIFF and HDF5 of other machines, and Java; NumPy
#                  computes with them as with others, and == finds them equal. Small floats pass for zeros in a training.
#
# Seen when written (given → unpacked):
#   16-bit PGM           1, 300, 65280 → 256, 11265, 255
#   landmarks, float32   0.5, 38.2946, 51.6963 → 8.82818e-44, -2.45988e-12, 1.18317e-36
#   the same, float64    0.5, 38.2946, 51.6963 → 2.83628e-319, 2.73117e-312, 2.03984e-312
#   orjson: TypeError: numpy array is not native-endianness
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check ormsgpack==1.13.1 orjson==3.13.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import numpy as np
import orjson
import ormsgpack


def through(value):
    return ormsgpack.unpackb(ormsgpack.packb(value, option=ormsgpack.OPT_SERIALIZE_NUMPY))


# The pixels of a binary PGM of 16 bits follow its header, the high byte first.
pgm = b"P5 3 1 65535\n" + bytes([0, 1, 1, 44, 255, 0])
depths = np.frombuffer(pgm, ">u2", offset=len(b"P5 3 1 65535\n"))
landmarks = np.array([0.5, 38.2946, 51.6963], ">f4")
for name, array in (("16-bit PGM", depths), ("landmarks, float32", landmarks), ("the same, float64", landmarks.astype(">f8"))):
    native = array.astype(array.dtype.newbyteorder("="))
    assert (array == native).all()
    seen = through(array)
    show = [[f"{value:.6g}" for value in values] for values in (array, seen)]
    print(f"{name:<20} {', '.join(show[0])} → {', '.join(show[1])}")
    assert through(native) == native.tolist()
    assert seen == array.view(native.dtype).tolist() != native.tolist()
    assert through(array[1]) == native[1]
    try:
        orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        refusal = error
    else:
        raise AssertionError("orjson took it")
try:
    through(np.zeros((2, 3)).T)
except TypeError:
    pass
else:
    raise AssertionError("a transposed array was taken")
print(f"orjson: TypeError: {refusal}")
PY
"$tmp/venv/bin/python" "$tmp/see.py"
