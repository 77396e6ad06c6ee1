#!/bin/bash
# datasets 5.2.0 (Python 3.11): class_encode_column gives identities that were numbered 0 to n − 1 other numbers.
#
# One would guess: a column of whole numbers 0 to n − 1 keeps them when it becomes a ClassLabel: they are class numbers
#                  already, and train_test_split(stratify_by_column=…) asks for that type.
# What happens:    the numbers become strings, and classes are these strings in alphabetical order: 0, 1, 10, 11, 2, … Of
#                  twelve identities ten are renumbered, of 10,575 all but twelve. int2str still shows the old number, as a name.
# Why it matters:  the stored numbers are what a collate function, a to_parquet and a training loop see. Class centres of a
#                  checkpoint, a noise list or a class map written for the old numbers are those of other people. No message.
#                  cast_column with ClassLabel(num_classes=n) keeps them.
#
# Seen when written:
#   before                     0 1 2 3 4 5 6 7 8 9 10 11
#   class_encode_column        0 1 4 5 6 7 8 9 10 11 2 3
#   written to Parquet         0 1 4 5 6 7 8 9 10 11 2 3
#   cast to ClassLabel         0 1 2 3 4 5 6 7 8 9 10 11
#   10,575 identities: 12 keep their number
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import os
import sys

os.environ.update(HF_HOME=sys.argv[1], HF_HUB_OFFLINE="1")
import datasets
import pyarrow.parquet

datasets.disable_progress_bars()


def numbers(name, labels):
    print(f"{name:<26} {' '.join(map(str, labels))}")
    return list(labels)


def faces(count):
    """Two images of each identity (their columns left out)."""
    return datasets.Dataset.from_dict({"label": [k for k in range(count) for _ in range(2)]})


before = faces(12)
assert numbers("before", before["label"][::2]) == list(range(12))
try:
    before.train_test_split(0.5, stratify_by_column="label")
    raise SystemExit("it splits by a column of numbers now")
except ValueError as error:
    assert "ClassLabel" in str(error)
encoded = before.class_encode_column("label")
renumbered = [sorted(map(str, range(12))).index(str(k)) for k in range(12)]
assert numbers("class_encode_column", encoded["label"][::2]) == renumbered != list(range(12))
assert [encoded.features["label"].int2str(k) for k in renumbered] == [str(k) for k in range(12)]
encoded.to_parquet(f"{sys.argv[1]}/faces.parquet")
stored = pyarrow.parquet.read_table(f"{sys.argv[1]}/faces.parquet")["label"].to_pylist()
assert numbers("written to Parquet", stored[::2]) == renumbered
cast = before.cast_column("label", datasets.ClassLabel(num_classes=12))
assert numbers("cast to ClassLabel", cast["label"][::2]) == list(range(12))
cast.train_test_split(0.5, stratify_by_column="label")
many = faces(10575).class_encode_column("label")["label"][::2]
kept = sum(k == label for k, label in enumerate(many))
print(f"10,575 identities: {kept} keep their number")
assert kept < 20
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp/home" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
