#!/bin/bash
# datasets 5.2.0 (Python 3.11, pyarrow 26.0.1, Pillow 13.0.0): one identity's name makes all other identities vanish.
#
# One would guess: load_dataset("imagefolder") of a tree with a folder a person gives every image, labelled by its folder. Split
#                  names play a part only where the top folders are splits: train/, validation/, test/.
# What happens:    A folder name that holds dev, val, valid, eval, test … as a word of its own (between -, _, ., digits or
#                  blanks) declares a split. As soon as one is found, the folders that declare none belong to no split: a
#                  tree of people with one dev_patel or val_kilmer among them is a validation set of that person's images,
#                  without a label column, and nothing says that the others were left out. A word in one file's name
#                  does the same. It goes by lower case: Val_Kilmer is a person like any other.
# Why it matters:  Trees of celebrities are commonly written in lower case with underscores, and Dev and Val are given names.
#                  The tree's own split argument does not help (split="train" raises), data_files={"train": "**"} does.
#
# Seen when written (three people of three images each):
#   anna_bell bob_cox carl_day    train: 9 images, 3 labels
#   anna_bell bob_cox Val_Kilmer  train: 9 images, 3 labels
#   anna_bell bob_cox val_kilmer  validation: 3 images, no labels
#   anna_bell bob_cox dev-patel   validation: 3 images, no labels
#   anna_bell bob_cox eval.smith  test: 3 images, no labels
#   the same tree under data_files={"train": "**"}: train: 9 images, 3 labels
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
import numpy as np
from PIL import Image


def tree(people, odd_file=None):
    """A folder a person, three images in each; one of the files may bear another name."""
    folder = Path(sys.argv[1]) / "-".join([*people, odd_file or ""])
    for number, person in enumerate(people):
        (folder / person).mkdir(parents=True)
        for image in range(3):
            name = odd_file if odd_file and number == image == 0 else f"{image:03d}.jpg"
            Image.fromarray(np.full((112, 112, 3), 60 * number + image, np.uint8)).save(folder / person / name)
    return folder


def loaded(folder, **options):
    """Images and labels of each split; loading must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = datasets.load_dataset("imagefolder", data_dir=str(folder), **options)
    return {name: (len(rows), len(rows.features["label"].names) if "label" in rows.features else 0) for name, rows in splits.items()}


def report(what, seen, wanted):
    print(f"{what:48}", ", ".join(f"{split}: {rows} images, {labels} labels" for split, (rows, labels) in seen.items()))
    assert seen == wanted, (seen, wanted)


whole = {"train": (9, 3)}
report("anna_bell bob_cox carl_day", loaded(tree(["anna_bell", "bob_cox", "carl_day"])), whole)
report("anna_bell bob_cox Val_Kilmer", loaded(tree(["anna_bell", "bob_cox", "Val_Kilmer"])), whole)
for person, split in (("val_kilmer", "validation"), ("dev-patel", "validation"), ("eval.smith", "test")):
    folder = tree(["anna_bell", "bob_cox", person])
    report(f"anna_bell bob_cox {person}", loaded(folder), {split: (3, 0)})
    report("  … under data_files", loaded(folder, data_files={"train": "**"}), whole)
report("one file named test_1.jpg", loaded(tree(["a", "b", "c"], "test_1.jpg")), {"test": (1, 0)})
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp"
echo "as described"
