#!/bin/bash
# datasets 5.2.0 (Python 3.11, pyarrow 26.0.1, Pillow 13.0.0): the first five samples decide which images of a WebDataset are loaded.
#
# One would guess: load_dataset("webdataset", …) gives the image of every sample, or says which it cannot. A sample's members
#                  are told apart by their extensions, and .jpg, .jpeg and .png are all images to it.
# What happens:    The columns are the extensions of the first five samples of the first shard. Later images under any other
#                  extension are None, without a word, in a map-style and in a streamed data set alike; labels and keys
#                  stay, so that the number of rows is right. It takes the spelling literally: jpg is not jpeg, nor JPG.
# Why it matters:  Sets of faces are joined from sources whose files are named .jpg, .jpeg, .JPG and .png. Whoever filters
#                  out rows without an image then trains on a part of the shards and is never told.
#
# Seen when written (two shards of six samples, the first of .jpg):
#   second shard .png:   images 0–5 loaded, 6–11 None; labels of all 12
#   second shard .jpeg:  images 0–5 loaded, 6–11 None; labels of all 12
#   second shard .JPG:   images 0–5 loaded, 6–11 None; labels of all 12
#   one shard, sample 5 a .png among .jpg: image 5 None; sample 4 instead: a ValueError that says the types differ
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check \
    datasets==5.2.0 pyarrow==26.0.1 pillow==13.0.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import io
import os
import sys
import tarfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=sys.argv[1] + "/home", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
import datasets
import numpy as np
from PIL import Image

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "JPG": "JPEG", "png": "PNG"}
folder = Path(sys.argv[1])


def shard(name, extensions, first=0):
    """A tar with an image and a label a sample, next to each other as WebDataset wants them."""
    with tarfile.open(folder / name, "w") as tar:
        for label, extension in enumerate(extensions, first):
            image = io.BytesIO()
            Image.fromarray(np.full((112, 112, 3), 20 * label, np.uint8)).save(image, FORMATS[extension])
            for suffix, content in ((extension, image.getvalue()), ("cls", b"%d" % label)):
                member = tarfile.TarInfo(f"{label:06d}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(folder / name)


def missing(shards, streaming):
    """The labels of rows without an image in any column; every label must be there, in order."""
    rows = list(datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=streaming))
    samples = [int(row["__key__"]) for row in rows]
    assert [row["cls"] for row in rows] == samples == list(range(len(rows)))
    columns = [name for name in rows[0] if name in FORMATS]
    return len(rows), columns, [row["cls"] for row in rows if all(row[name] is None for name in columns)]


first = shard("0.tar", ["jpg"] * 6)
for extension in ("png", "jpeg", "JPG"):
    second = shard(f"1-{extension}.tar", [extension] * 6, first=6)
    for streaming in (False, True):
        rows, columns, none = missing([first, second], streaming)
        print(f"second shard .{extension}, streaming {streaming}: {rows} rows, columns {columns}, without an image: {none}")
        assert (rows, columns, none) == (12, ["jpg"], [6, 7, 8, 9, 10, 11])
mixed = [shard(f"odd-{odd}.tar", ["png" if label == odd else "jpg" for label in range(8)]) for odd in (5, 4)]
rows, columns, none = missing(mixed[:1], streaming=False)
print(f"one shard, sample 5 a .png among .jpg: {rows} rows, columns {columns}, without an image: {none}")
assert (rows, columns, none) == (8, ["jpg"], [5])
try:
    missing(mixed[1:], streaming=False)
except ValueError as error:
    print(f"one shard, sample 4 a .png among .jpg: {error}")
    assert "same types" in str(error)
else:
    raise AssertionError("a .png as the fifth sample among .jpg was taken")
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
