#!/bin/bash
# datasets 5.2.0 (Python 3.11, pyarrow 26.0.1): the first Parquet file's list of people names the faces of all others.
#
# One would guess: load_dataset("parquet") of two files whose ClassLabel columns list different people either keeps every
#                  name or refuses, as concatenate_datasets and interleave_datasets do (ValueError: the features cannot be aligned).
# What happens:    The column's description is taken from the first file alone. The others' numbers are read under its list:
#                  bob's images (0 in the second file) become anna's, and four people are two. A number past the
#                  end of the first list stays as it is and has no name. Neither is warned of. The order of data_files
#                  decides; in a folder, the names of the files.
# Why it matters:  Parts of a face set that were written one by one (a source each, a delivery each, a class_encode_column a part)
#                  number their people from 0. Loaded together they are an identity of two persons, with the right number
#                  of images and a valid label each.
#
# Seen when written (a: anna, bob; b: carl, dora; c: erik, fay, gil):
#   a + b                 anna bob anna bob
#   b + a                 carl dora carl dora
#   folder of a and b     anna bob anna bob
#   a + c                 0 1 0 1 2 under two names; the name of 2: ValueError
#   concatenate_datasets  ValueError
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import os
import sys
import warnings
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=sys.argv[1] + "/home", HF_DATASETS_DISABLE_PROGRESS_BARS="1")
import datasets

warnings.simplefilter("error")
folder = Path(sys.argv[1]) / "set"
folder.mkdir()


def part(name, people):
    """One image (left out here) of each person, written as one Parquet file."""
    features = datasets.Features({"label": datasets.ClassLabel(names=people)})
    rows = datasets.Dataset.from_dict({"label": list(range(len(people)))}, features=features)
    rows.to_parquet(folder / f"{name}.parquet")
    return rows


parts = {"a": part("a", ["anna", "bob"]), "b": part("b", ["carl", "dora"])}


def names(**where):
    rows = datasets.load_dataset("parquet", split="train", **where)
    return [rows.features["label"].int2str(label) for label in rows["label"]]


def report(what, seen, wanted):
    print(f"{what:22}{' '.join(seen)}")
    assert seen == wanted, seen


a, b = (str(folder / f"{name}.parquet") for name in "ab")
report("a + b", names(data_files=[a, b]), ["anna", "bob", "anna", "bob"])
report("b + a", names(data_files=[b, a]), ["carl", "dora", "carl", "dora"])
report("folder of a and b", names(data_dir=str(folder)), ["anna", "bob", "anna", "bob"])

part("c", ["erik", "fay", "gil"])
rows = datasets.load_dataset("parquet", split="train", data_files=[a, str(folder / "c.parquet")])
assert rows.features["label"].names == ["anna", "bob"] and rows["label"][:] == [0, 1, 0, 1, 2]
try:
    rows.features["label"].int2str(2)
except ValueError:
    print(f"{'a + c':22}0 1 0 1 2 under two names; the name of 2: ValueError")
else:
    raise AssertionError("2 has a name")

try:
    datasets.concatenate_datasets(list(parts.values()))
except ValueError:
    print(f"{'concatenate_datasets':22}ValueError")
else:
    raise AssertionError("concatenated")
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
echo "as described"
