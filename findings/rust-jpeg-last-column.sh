#!/bin/bash
# daft 0.7.26, kornia-rs 0.2.0 (Python 3.11; Pillow 13.0.0, simplejpeg 1.9.0): JPEG pixels are not libjpeg-turbo's, least so in the last column.
#
# One would guess: decoders of a baseline JPEG agree to a level or two: libjpeg-turbo's users (Pillow, OpenCV, DALI,
#                  simplejpeg) do so bit for bit, at any sampling of the chroma.
# What happens:    zune-jpeg, the decoder in Rust's image crate and so behind daft's decode_image and kornia_rs'
#                  read_image_jpeg, is 3 or 4 levels off (28 % of the values at 4:2:0). At 4:2:0 and 4:2:2, and an even
#                  width that no 16 divides, it also takes the chroma of the last column from the filling behind the
#                  picture's edge: 42 levels off in noise, 4 to 8 in pictures. kornia_rs' other reader, read_image, is
#                  libjpeg-turbo's: one package, two pictures.
# Why it matters:  Pixels, and so embeddings and hashes of decoded faces, depend on which data frame or tensor library has read
#                  the file. LFW's and CASIA's images are 250 wide, many crops 100 or 120; 112, 96 and 160 keep their edge.
#
# Seen when written (quality 90, largest difference to Pillow inside / in the last column, widths 17 to 32 and some of faces):
#   4:4:4   3 /  2   no width beyond
#   4:2:2   3 / 42   18 20 22 24 26 28 30 100 120 250
#   4:2:0   4 / 30   18 20 22 24 26 28 30 100 120 250
#   4:2:2   3 /  8   smooth colours with a little grain, 250 wide
#   read_image, simplejpeg: Pillow's pixels at each
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    daft==0.7.26 kornia-rs==0.2.0 pillow==13.0.0 simplejpeg==1.9.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io
import sys
from pathlib import Path

import daft
import numpy as np
import simplejpeg
from kornia_rs.io import read_image, read_image_jpeg
from PIL import Image

path = Path(sys.argv[1]) / "face.jpg"
random = np.random.default_rng(0)


def differences(picture, sampling):
    """Largest difference of zune-jpeg's pixels to Pillow's, inside and in the last column."""
    data = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=90, colorsubsampling=sampling)
    path.write_bytes(data)
    pillow = np.asarray(Image.open(io.BytesIO(data)))
    assert (np.asarray(read_image(str(path))) == pillow).all()
    assert (simplejpeg.decode_jpeg(data) == pillow).all()
    rust = np.asarray(read_image_jpeg(str(path), "rgb"))
    column = daft.col("image").decode_image()
    assert (daft.from_pydict({"image": [data]}).select(column).to_pydict()["image"][0] == rust).all()
    off = np.abs(rust.astype(int) - pillow)
    return int(off[:, :-1].max()), int(off[:, -1].max())


widths = [*range(17, 33), 96, 100, 112, 120, 160, 250]
for name, sampling in (("4:4:4", "444"), ("4:2:2", "422"), ("4:2:0", "420")):
    seen = {w: differences(random.integers(0, 256, (64, w, 3), np.uint8), sampling) for w in widths}
    inside, last = (max(pair[k] for pair in seen.values()) for k in (0, 1))
    wrong = [w for w in widths if seen[w][1] > 2 * inside]
    print(f"{name}  {inside:>2} / {last:>2}   {' '.join(map(str, wrong)) or 'no width beyond'}")
    assert inside <= 6
    assert wrong == ([] if sampling == "444" else [w for w in widths if w % 2 == 0 and w % 16])
y, x = np.mgrid[:250, :250]
waves = (128 + 90 * np.sin(x / 7), 128 + 80 * np.cos((x + y) / 9), 128 + 90 * np.sin(y / 6 - x / 11))
waves = (np.stack(waves, axis=2) + random.normal(0, 12, (250, 250, 3))).clip(0, 255).astype(np.uint8)
inside, last = differences(waves, "422")
print(f"4:2:2  {inside:>2} / {last:>2}   smooth colours with a little grain, 250 wide")
assert last > inside + 2
print("read_image, simplejpeg: Pillow's pixels at each")
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
