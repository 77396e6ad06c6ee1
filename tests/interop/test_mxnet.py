"""RecordIO against the real MXNet, which runs in an environment of its own.

``make interop`` builds that environment and names its interpreter in FACEPACK_MXNET_PYTHON.
"""

import hashlib
import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.layout import read_layout
from facepack.convert.formats.rec.recordio import (
    RecordReader,
    RecordWriter,
    pack_header,
    unpack_header,
)
from facepack.convert.formats.rec.sink import convert_to_rec
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.options import ConvertOptions
from facepack.convert.source import Source

PEER = Path(__file__).with_name("mxnet_peer.py")
INTERPRETER = os.environ.get("FACEPACK_MXNET_PYTHON")
MAGIC = bytes.fromhex("0a23d7ce")

pytestmark = pytest.mark.skipif(
    not INTERPRETER,
    reason="FACEPACK_MXNET_PYTHON names no interpreter that has MXNet; make interop sets it",
)

SETS = [
    "scalar-header-first",
    "vector-header-last",
    "scalar-header-after-images",
    "images-only",
    "with-magic",
]


def run_peer(command: str, folder: Path) -> None:
    assert INTERPRETER is not None
    done = subprocess.run(
        [INTERPRETER, str(PEER), command, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of records that MXNet wrote."""
    folder = tmp_path_factory.mktemp("mxnet")
    run_peer("write", folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(SETS)
    return folder


def expected(folder: Path) -> list[dict[str, Any]]:
    records = json.loads((folder / "expected.json").read_text())
    for record in records:
        record["payload"] = bytes.fromhex(record["payload"])
        record["image"] = bytes.fromhex(record["image"])
    return records


@pytest.mark.parametrize("name", SETS)
def test_we_read_what_mxnet_writes(written: Path, name: str) -> None:
    folder = written / name
    records = expected(folder)
    keys, offsets = read_index(folder / "train.idx")
    assert keys.tolist() == [record["key"] for record in records]
    with RecordReader(folder / "train.rec") as reader:
        assert reader.offsets().tolist() == offsets.tolist()
        by_offset = [bytes(reader.read_at(offset)) for offset in offsets.tolist()]
        by_index = [bytes(payload) for payload in reader.iter_at(offsets)]
    assert by_offset == by_index == [record["payload"] for record in records]
    for payload, record in zip(by_index, records, strict=True):
        header = unpack_header(payload)
        assert (header.flag, list(header.labels)) == (record["flag"], record["labels"])
        assert (header.id, header.id2) == (record["id"], record["id2"])
        assert bytes(header.image) == record["image"]


@pytest.mark.parametrize("index", [True, False], ids=["idx", "no-idx"])
@pytest.mark.parametrize("name", SETS)
def test_we_tell_the_images_of_what_mxnet_writes(written: Path, name: str, index: bool) -> None:
    layout = read_layout(written / name / ("train.rec" if index else "plain.rec"))
    images = [record for record in expected(written / name) if record["image"]]
    assert len(layout) == len(images)
    if index:
        assert layout.keys.tolist() == [record["key"] for record in images]
    with RecordReader(layout.rec) as reader:
        found = [bytes(unpack_header(p).image) for p in reader.iter_at(layout.offsets)]
    assert found == [record["image"] for record in images]
    assert (layout.header_offset is not None) == ("header" in name)
    assert len(layout.identity_offsets) == (6 if "header" in name else name == "with-magic")


@pytest.mark.parametrize("name", SETS)
def test_we_write_the_same_bytes(written: Path, tmp_path: Path, name: str) -> None:
    folder = written / name
    with RecordWriter(tmp_path / "train.rec", tmp_path / "train.idx") as writer:
        for record in expected(folder):
            labels = record["labels"] if record["flag"] else record["labels"][0]
            header = pack_header(labels, record["id"], record["id2"])
            writer.write(record["key"], header + record["image"])
    for file in ("train.rec", "train.idx"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


def test_mxnet_reads_what_we_write(tmp_path: Path) -> None:
    draw = random.Random(0)
    pieces = [MAGIC, MAGIC[:2], MAGIC[2:], b"abcd", b"x", bytes(4)]
    sets = {}
    for name, vector in (("scalar", False), ("vector", True)):
        (tmp_path / name).mkdir()
        records = []
        for key in draw.sample(range(1000), 300):
            image = b"".join(draw.choices(pieces, k=draw.randrange(12))) + draw.randbytes(key)
            label = draw.randrange(1 << 24)
            records.append((key, [label, 1] if vector else label, image))
        with RecordWriter(tmp_path / name / "train.rec", tmp_path / name / "train.idx") as writer:
            for key, label, image in records:
                writer.write(key, pack_header(label, key, 3) + image)
        sets[name] = records
    run_peer("read", tmp_path)
    digest = json.loads((tmp_path / "digest.json").read_text())
    assert digest.pop("mxnet") == "1.9.1"
    assert sorted(digest) == sorted(sets)
    for name, records in sets.items():
        by_key = digest[name]["by_key"]
        assert len(by_key) == len(records)
        for found, (key, label, image) in zip(by_key, records, strict=True):
            assert (found["key"], found["id"], found["id2"]) == (key, key, 3)
            assert found["labels"] == (label if isinstance(label, list) else [label])
            assert bytes.fromhex(found["image"]) == image
            assert bytes.fromhex(found["payload"]) == pack_header(label, key, 3) + image
        assert digest[name]["in_order"] == [
            hashlib.sha256(bytes.fromhex(found["payload"])).hexdigest() for found in by_key
        ]


@pytest.mark.parametrize("by_way_of_a_pack", [False, True])
@pytest.mark.parametrize("name", ["scalar-header-first", "vector-header-last"])
def test_mxnet_reads_the_data_sets_we_write(
    written: Path,
    tmp_path: Path,
    make_jpeg: Callable[..., bytes],
    name: str,
    by_way_of_a_pack: bool,
) -> None:
    # The peer's images are none that could be packed.
    records = expected(written / name)
    folder = tmp_path / "source"
    folder.mkdir()
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for record in records:
            if record["image"]:
                record["image"] = make_jpeg(record["key"])
            labels = record["labels"] if record["flag"] else record["labels"][0]
            payload = pack_header(labels, record["id"], record["id2"]) + record["image"]
            writer.write(record["key"], payload)
    source: Source = RecSource(folder)
    if by_way_of_a_pack:
        convert_to_pack(source, tmp_path / "pack", PackOptions())
        source = PackSource(tmp_path / "pack")
    (tmp_path / "read").mkdir()
    convert_to_rec(source, tmp_path / "read" / "out", ConvertOptions())
    run_peer("read", tmp_path / "read")
    found = json.loads((tmp_path / "read" / "digest.json").read_text())["out"]
    by_key = {record["key"]: record for record in found["by_key"]}
    assert list(by_key) == list(range(len(records)))  # the header first, the identities last
    for record in records:
        mine = by_key[record["key"]]
        assert bytes.fromhex(mine["image"]) == record["image"]
        for field in ("flag", "labels", "id", "id2"):
            assert mine[field] == record[field], (record["key"], field)
    # What arcface_torch takes for the images, and what readers of 2018 do.
    first, end = map(int, by_key[0]["labels"])
    told = [by_key[key]["labels"] for key in range(first, end)]
    assert [key for a, b in told for key in range(int(a), int(b))] == list(range(1, first))
    assert all(by_key[key]["image"] for key in range(1, first)) and first == 13
