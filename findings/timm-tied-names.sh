#!/bin/bash
# timm 1.0.31 (Python 3.11): the class numbers of an image folder differ from process to process for names that differ in zeros.
#
# One would guess: labels of a folder of identities are the places of the sorted names, the same in each process, as with
#                  torchvision's ImageFolder.
# What happens:    names are sorted by a "natural" key, in which letter case and the zeros before a number are gone: m.0b1c,
#                  m.0b01c and m.0B1C have the same. The names come out of a set, so that tied ones lie in the order of
#                  Python's hashes of strings, which are drawn anew in each process (PYTHONHASHSEED).
# Why it matters:  MS-Celeb-1M's folders are named after Freebase's identifiers, of digits and lower-case letters: of 100,000
#                  drawn ones 60 are tied. The ranks of one run, and a run and its resumption, give these identities each
#                  other's labels and class centres. No count changes and the loss falls. Give a class map file.
#
# Seen when written (ReaderImageFolder, behind timm.data.ImageDataset and create_dataset, in processes of hash seeds 0 to 7):
#   m.0b1c, m.0b01c, m.0b001c   [2, 0, 1] and 4 other ways
#   anna, Anna                  [1, 0] and [0, 1]
#   n000001, n000010, n000002   [0, 2, 1] always
#   60 of 100,000 drawn identifiers share their key with another
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps timm==1.0.31
cat > "$tmp/labels.py" <<'PY'
"""Prints the labels that timm gives to the folders named after the first argument, which holds them."""
import importlib.util
import sys
import types

# The reader is pure Python: bare packages in the place of timm's own spare torch and torchvision.
root = importlib.util.find_spec("timm").submodule_search_locations[0]
for name in ("timm", "timm.data", "timm.data.readers", "timm.utils"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [root + name.removeprefix("timm").replace(".", "/")]
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.utils.misc import natural_key

if sys.argv[1] == "--keys":
    keys = [str(natural_key(name)) for name in sys.stdin.read().split()]
    counts = {key: keys.count(key) for key in {key for key, after in zip(sorted(keys), sorted(keys)[1:]) if key == after}}
    print(sum(counts.values()))
else:
    reader = ReaderImageFolder(sys.argv[1])
    assert len(reader) == len(sys.argv[2:])
    print([reader.class_to_idx[name] for name in sys.argv[2:]])
PY
cat > "$tmp/see.py" <<'PY'
import ast
import os
import random
import subprocess
import sys
from pathlib import Path

folder = Path(sys.argv[1])


def ask(*arguments, seed=0, names=""):
    """What labels.py prints in a process with this hash seed."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    command = [sys.executable, str(folder / "labels.py"), *arguments]
    return ast.literal_eval(subprocess.run(command, env=environment, input=names, stdout=-1, text=True, check=True).stdout)


def labels(names, place):
    """The different labels of these identities, of one image each, in eight processes."""
    for name in names:
        (folder / place / name).mkdir(parents=True)
        (folder / place / name / "0.jpg").touch()
    return [list(row) for row in dict.fromkeys(tuple(ask(str(folder / place), *names, seed=k)) for k in range(8))]


zeros = labels(["m.0b1c", "m.0b01c", "m.0b001c"], "zeros")
print(f"m.0b1c, m.0b01c, m.0b001c   {zeros[0]} and {len(zeros) - 1} other ways")
assert len(zeros) > 1 and all(sorted(row) == sorted(zeros[0]) for row in zeros)
case = labels(["anna", "Anna"], "case")
print(f"anna, Anna                  {' and '.join(map(str, case))}")
assert sorted(case) == [[0, 1], [1, 0]]
fixed = labels(["n000001", "n000010", "n000002"], "fixed")
print(f"n000001, n000010, n000002   {fixed[0]} always")
assert fixed == [[0, 2, 1]]

draw = random.Random(0)
characters = "0123456789bcdfghjklmnpqrstvwxyz_"
drawn = set()
while len(drawn) < 100_000:
    length = draw.choice([4, 5, 5, 6])
    drawn.add("m.0" + draw.choice(characters[1:]) + "".join(draw.choice(characters) for _ in range(length - 1)))
tied = ask("--keys", names=" ".join(sorted(drawn)))
print(f"{tied} of {len(drawn):,} drawn identifiers share their key with another")
assert tied == 60
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
