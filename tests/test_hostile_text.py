"""Text that packs and users bring, mutated: whatever reads it ends in words or in good values."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import facepack
from facepack.care.reindex import reindex
from facepack.care.untrusted import verify_untrusted
from facepack.care.verify import verify
from facepack.convert.choose import read_exclude_list
from facepack.convert.files import Root
from facepack.convert.formats.benchmarks.megaface import read_noises
from facepack.convert.formats.kv.index import read_kv
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.layout import read_property
from facepack.convert.formats.tree.listing import Listing, read_identities
from facepack.convert.list_lines import KINDS
from facepack.errors import FacepackError
from facepack.store import format as fmt
from facepack.store.manifest import read_manifest
from facepack.store.sets import read_sets
from facepack.train.collect import make_config, read_settings
from facepack.train.replay import read_log

Mutated = Callable[[bytes, random.Random], bytes]
RUNS = {"pack": 150, "file": 700}  # of each file: 10,000 in all


def read_whole(path: Path) -> None:
    """All that Python offers of a pack, apart from its images."""
    with facepack.open(path) as pack:
        for look in (
            lambda: pack.labels,
            lambda: pack.identity_names,
            lambda: pack.image_size,
            lambda: pack[0],
            lambda: read_sets(pack.path, pack.shard_names),
        ):
            only_words(look)


def only_words(look: Callable[[], object]) -> bool:
    """Whether ``look`` ends well; anything but a :class:`FacepackError` goes on to the test."""
    try:
        look()
    except FacepackError as error:
        assert str(error)
        return False
    return True


PACK_FILES = ("pack.json", "plan.json", "labels.txt", "quarantine.jsonl", "sets.json", "a-000.kv")


@pytest.mark.parametrize("name", PACK_FILES)
def test_files_of_packs(
    tmp_path: Path, make_jpeg: Callable[..., bytes], mutated: Mutated, name: str
) -> None:
    path = tmp_path / "pack"
    with facepack.PackWriter(path, shard_records=4, stem="a") as writer:
        for i in range(6):
            writer.add(make_jpeg(i), i % 3, identity=f"é{i % 3}\n\\", name=f"{i}.jpg")
    (path / "sets.json").write_text('{"half": ["a-000"]}\n')
    (path / "quarantine.jsonl").write_text('{"ordinal": 6, "reason": "é"}\n')
    copy, manifest = tmp_path / "copy", read_manifest(path)
    good = (path / name).read_bytes()
    rng = random.Random(name)
    fine = 0
    for number in range(RUNS["pack"]):
        data = mutated(good, rng)
        (path / name).write_bytes(data)
        stated = manifest["files"].get(name) or (name == "a-000.kv" and _kv(manifest))
        if stated and rng.random() < 0.5:  # as a forger would, who states what is there
            stated |= {"bytes": len(data), "xxh3_128": _digest(data)}
        if name != "pack.json":
            (path / "pack.json").write_text(fmt.json_text(manifest))
        for look in (read_whole, verify, verify_untrusted):
            fine += only_words(lambda look=look: look(path))
        if number % 20 == 0:
            shutil.copytree(path, copy)
            only_words(lambda: reindex(copy))
            shutil.rmtree(copy)
    (path / name).write_bytes(good)
    assert fine  # some harm nothing


def _kv(manifest: dict) -> dict:
    stated: dict = manifest["shards"][0]["files"]["a-000.kv"]
    return stated


def _digest(data: bytes) -> str:
    digest = fmt.file_digest()
    digest.update(data)
    return str(digest.hexdigest())


def _settings(path: Path) -> object:
    return make_config({"shards": "x", **read_settings(str(path))})


def _listing(path: Path) -> object:
    listing = Listing(path, Root(path.parent), KINDS)
    return [
        list(listing.part(0, len(listing)).read()),
        list(listing.part(0, len(listing)).entries()),
    ]


CONFIG = b"""\
backbone = "r50"
batch_size = 128
epochs = 20
lr = 0.02
schedule = "mhlr"
schedule_options = {window = 4000, a.b = [1, 2.5]}
[val]
lfw = "packs/lfw"
"""
FILES: dict[str, tuple[bytes, Callable[[Path], object]]] = {
    "config.toml": (CONFIG, _settings),
    "labels.txt": ("ann\nbé\\nb\n\nc\\\\d\n".encode(), read_identities),
    "exclude.txt": ("# noise\n0.1\tann/1.jpg\nbé/\n".encode(), read_exclude_list),
    "faces.kv": (b"0000000000 0\nk\xc3\xa9y 00000012\nz -1\n", read_kv),
    "train.idx": (b"0\t0\n1\t128\n25\t9000\n", read_index),
    "property": (b"85742,112,112\n", read_property),
    "noises.txt": (b"# x\n0.3\ta/b/c.jpg\nd.jpg\n", read_noises),
    "train.lst": (b"0\t1\ta.jpg\n1\t2.000\tb.jpg\n2\t0\t3.5\tc.jpg\n", _listing),
    "face2rec.lst": (b"1\ta.jpg\t5\n0\tb.jpg\t7\t1 2 3 4\n".replace(b" ", b"\t"), _listing),
    "tree.kv": (b"a.jpg 1\nb c.jpg 2\n", _listing),
    "faces.csv": (b'Image;Id\r\n"a.jpg";Zo\xc3\xab\r\nb.jpg;anna\r\n', _listing),
    "label.txt": (b"a.jpg\tanna b\nb.jpg \t c\n", _listing),
    "log.csv": (b"step,loss,lr,epoch\n1,2.5,0.1,0\n2,nan,0.1,0\n3,2,0.1,1\n", read_log),
    "metrics.jsonl": (
        b'{"step": 1, "loss": 2.5, "lr": 0.1, "epoch": 0}\n{"step": 2, "lfw": 1}\n'
        b'{"step": 3, "loss": null, "lr": 0.1, "epoch": 0}\n',
        read_log,
    ),
    "training.log": (
        b"Training: 2022-01-01,Speed 1 samples/sec   Loss 46.5   LearningRate 0.02   Epoch: 0   "
        b"Global Step: 20   Fp16 Grad Scale: 1\n" * 2,
        read_log,
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_users(
    tmp_path: Path, make_jpeg: Callable[..., bytes], mutated: Mutated, name: str
) -> None:
    good, read = FILES[name]
    file = tmp_path / name
    for image in "abc":
        (tmp_path / f"{image}.jpg").write_bytes(make_jpeg(1))
    rng = random.Random(name)
    file.write_bytes(good)
    assert only_words(lambda: read(file)), name
    fine = 0
    for _ in range(RUNS["file"]):
        file.write_bytes(mutated(good, rng))
        fine += only_words(lambda: read(file))
    assert fine
