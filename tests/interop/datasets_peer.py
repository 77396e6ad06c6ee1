"""The other side of test_datasets.py: the real ``datasets``, in an environment without facepack.

``datasets_peer.py read DIR`` loads what facepack wrote to DIR and prints what it holds as JSON;
``datasets_peer.py write DIR`` writes sets in each of its ways, and what they hold to
``expected.json``.
"""

import base64
import json
import sys
from pathlib import Path

import datasets

NAMES = ["Zoë", "b c", "a"]


def text(data):
    return None if data is None else base64.b64encode(data).decode()


def told(dataset):
    """Columns and rows, images undecoded."""
    images = [name for name, kind in dataset.features.items() if isinstance(kind, datasets.Image)]
    for name in images:
        dataset = dataset.cast_column(name, datasets.Image(decode=False))
    rows = [
        {
            key: {"bytes": text(value["bytes"]), "path": value["path"]} if key in images else value
            for key, value in row.items()
        }
        for row in dataset
    ]
    label = dataset.features["label"]
    return {"images": images, "names": getattr(label, "names", None), "rows": rows}


def read(folder):
    loaded = datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))
    decoded = {split: loaded[split][0] for split in loaded}
    assert all(row[key].size for row in decoded.values() for key in row if key.startswith("image"))
    json.dump({split: told(loaded[split]) for split in loaded}, sys.stdout)


def write(folder):
    source = Path(folder) / "images"
    images = [path.read_bytes() for path in sorted(source.iterdir())]
    columns = {
        "image": [{"bytes": image, "path": f"{k}.jpg"} for k, image in enumerate(images)],
        "label": [k % 4 - 1 for k in range(len(images))],
    }
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    dataset.to_parquet(str(folder / "faces.parquet"))
    dataset.save_to_disk(str(folder / "saved"), num_shards=3)
    datasets.DatasetDict(train=dataset).save_to_disk(str(folder / "split"))
    backwards = dataset.select(range(len(images) - 1, -1, -1))
    backwards.save_to_disk(str(folder / "backwards"))
    half = len(images) // 2
    pairs = {
        "label": [k % 2 for k in range(half)],
        "image1": columns["image"][:half],
        "image2": columns["image"][half : 2 * half],
    }
    kinds = {"label": datasets.Value("int64")} | dict.fromkeys(
        ("image1", "image2"), datasets.Image()
    )
    paired = datasets.Dataset.from_dict(pairs, features=datasets.Features(kinds))
    paired.to_parquet(str(folder / "pairs.parquet"))
    expected = {"faces": told(dataset), "backwards": told(backwards), "pairs": told(paired)}
    (folder / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](Path(sys.argv[2]))
