#!/bin/bash
# datasets 5.2.0 (Python 3.11, pyarrow 26.0.1, Pillow 13.0.0): faces changed in place are stored as if they had not been.
#
# One would guess: a Pillow image put into an Image column is stored as the image object shows it at that moment.
# What happens:    As long as the object still knows the file that it was opened from, the file's path is stored and its
#                  pixels are not looked at. thumbnail(), paste(), putpixel() and ImageDraw change an image and keep its
#                  path; resize(), crop(), convert() and copy() return a new image without one. So a
#                  set made smaller by thumbnail((112, 112)) comes out at the size of its files, and a face whose background
#                  was painted over has its background back. It holds for from_dict, from_generator and map; nothing warns.
# Why it matters:  thumbnail() is the usual way to bring faces to a size, and drawing a box or a mask the usual way to hide
#                  what is beside the face. Until the set is written out, the old pixels are looked up in the old files.
#
# Seen when written (files of 250 × 250, grey 200):
#   thumbnail((112, 112)), from_dict       250 x 250   path kept, no bytes
#   thumbnail((112, 112)), from_generator  250 x 250
#   thumbnail((112, 112)), map             250 x 250
#   paste of black over the left half      left half 200
#   resize((112, 112)), from_dict          112 x 112
#   thumbnail((112, 112)), then copy()     112 x 112
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import os
import sys
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=sys.argv[1] + "/home", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
import datasets
from PIL import Image

warnings.simplefilter("error")
files = [str(Path(sys.argv[1]) / f"{number}.png") for number in range(3)]
for file in files:
    Image.new("RGB", (250, 250), (200, 200, 200)).save(file)
columns = datasets.Features({"image": datasets.Image()})


def smaller(image):
    image.thumbnail((112, 112))
    assert image.size == (112, 112)
    return image


def half_black(image):
    image.paste((0, 0, 0), (0, 0, 125, 250))
    assert image.getpixel((10, 10)) == (0, 0, 0)
    return image


def stored(change):
    return datasets.Dataset.from_dict({"image": [change(Image.open(file)) for file in files]}, features=columns)


def report(what, rows, size):
    image = rows[0]["image"]
    print(f"{what:40}{image.width} x {image.height}")
    assert image.size == size, image.size


rows = stored(smaller)
report("thumbnail((112, 112)), from_dict", rows, (250, 250))
raw = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]
assert raw == {"bytes": None, "path": files[0]}, raw
report(
    "thumbnail((112, 112)), from_generator",
    datasets.Dataset.from_generator(lambda: ({"image": smaller(Image.open(file))} for file in files), features=columns),
    (250, 250),
)
paths = datasets.Dataset.from_dict({"image": files}, features=columns)
report("thumbnail((112, 112)), map", paths.map(lambda row: {"image": smaller(row["image"])}), (250, 250))
left = stored(half_black)[0]["image"].getpixel((10, 10))
print(f"{'paste of black over the left half':40}left half {left[0]}")
assert left == (200, 200, 200), left
report("resize((112, 112)), from_dict", stored(lambda image: image.resize((112, 112))), (112, 112))
report("thumbnail((112, 112)), then copy()", stored(lambda image: smaller(image).copy()), (112, 112))
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
echo "as described"
