"""Source → pack → the same kind again changes nothing: names, labels and images, by a slow look."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from facepack.convert.datum import pack_datum
from facepack.convert.lmdb import PackSource
from facepack.convert.pickles import read_bin, write_bin
from facepack.convert.recordio import RecordWriter, pack_header
from facepack.convert.registry import SINKS, SOURCES
from facepack.convert.source import Source
from facepack.convert.to_pack import PackOptions, convert_to_pack
from facepack.shard import SourceRecord

MakeJpeg = Callable[..., bytes]
Rows = list[tuple[str, int, bytes]]  # name, label, image
PEOPLE = ["Zoë", "b c", "a", "B"]


@pytest.fixture
def rows(make_jpeg: MakeJpeg) -> Rows:
    """Twelve images of four people, in an order that is none of the sorted ones."""
    label = {name: k for k, name in enumerate(sorted(PEOPLE, key=str.encode))}
    return [
        (f"{person}/{(7 * k) % 12} x.jpg", label[person], make_jpeg(k))
        for k, person in enumerate(PEOPLE * 3)
    ]


def make_rec(path: Path, rows: Rows) -> None:
    path.mkdir()
    with RecordWriter(path / "train.rec", path / "train.idx") as writer:
        for k, (_, label, image) in enumerate(rows):
            writer.write(k + 1, pack_header([label, k / 4, 3], k + 1, 7 * k) + image)


def make_img(path: Path, rows: Rows) -> None:
    for name, _, image in rows:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(image)


def make_zip(path: Path, rows: Rows) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, _, image in rows:
            archive.writestr(name, image)


def make_kv(path: Path, rows: Rows) -> None:
    path.mkdir()
    with (
        lmdb.open(str(path / "faces.lmdb"), map_size=1 << 22) as environment,
        environment.begin(write=True) as transaction,
    ):
        for k, (_, label, image) in enumerate(rows):
            transaction.put(f"db_{label}_{k}".encode(), pack_datum(image))
    lines = (f"db_{label}_{k} {label}\n" for k, (_, label, _) in enumerate(rows))
    (path / "faces.kv").write_text("".join(lines))


def make_wds(path: Path, rows: Rows) -> None:
    with tarfile.open(path, "w") as tar:
        for k, (_, label, image) in enumerate(rows):
            for suffix, data in ((".jpg", image), (".cls", str(label).encode())):
                info = tarfile.TarInfo(f"shard/{k:03d}{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def make_bin(path: Path, rows: Rows) -> None:
    images = [image for _, _, image in rows]
    write_bin(path, [*images, *images[3:7]], [True, False] * 4)


def make_lmdb(path: Path, rows: Rows) -> None:
    make_zip(path.with_suffix(".zip"), rows)
    source = SOURCES["zip"].open([path.with_suffix(".zip")], {"password": None})
    convert_to_pack(source, path, PackOptions(shard_records=5))


def look(source: Source) -> dict[Any, Any]:
    """Everything that a source says of each record, by its name, its key or its place."""
    found: dict[Any, Any] = {}
    for _, start, stop in source.groups():
        part = source.part(start, stop)
        people = part.identity_names()
        for record in part.read():
            assert isinstance(record, SourceRecord)
            name = record.name or (record.extra or {}).get("key", record.ordinal)
            assert name not in found
            found[name] = (
                record.label,
                people.get(record.label),
                bytes(record.image),
                record.extra,
            )
    return found


# What is made; as what it is read; the sink; as what the sink's output is read; its file.
CASES = {
    "rec": (make_rec, "rec", "rec", "rec", ""),
    "img": (make_img, "img", "img", "img", ""),
    "zip": (make_zip, "zip", "img", "img", ""),
    "kv": (make_kv, "kv", "kv", "kv", ""),
    "wds": (make_wds, "tar", "wds", "tar", "{stem}.tar"),
    "bin": (make_bin, "bin", "bin", "bin", "{stem}.bin"),
    "lmdb": (make_lmdb, "lmdb", "lmdb", "lmdb", ""),
}
OPTIONS: dict[str, dict[str, Any]] = {"zip": {"password": None}}


@pytest.mark.parametrize("order", ["shuffled", "source"])
@pytest.mark.parametrize("kind", CASES)
def test_there_and_back(tmp_path: Path, rows: Rows, kind: str, order: str) -> None:
    make, source_kind, sink, again_kind, file = CASES[kind]
    made, pack, out = tmp_path / "made", tmp_path / "pack", tmp_path / "out"
    made = made.with_suffix({"zip": ".zip", "wds": ".tar", "bin": ".bin"}.get(kind, ""))
    make(made, rows)
    source = SOURCES[source_kind].open([made], OPTIONS.get(source_kind, {}))
    before = look(source)
    assert sorted(image for _, _, image, _ in before.values()) == sorted(row[2] for row in rows)
    result = convert_to_pack(source, pack, PackOptions(shard_records=5, order=order))
    assert (result.found, result.packed, result.quarantined) == (12, 12, 0)
    packed = PackSource(pack)
    assert look(packed) == before
    SINKS[sink].write(packed, out, {})
    again = SOURCES[again_kind].open([out / file.format(stem="made")], {})
    assert look(again) == before
    assert list(look(again)) == list(before) or kind in {"img", "zip"}  # walked in their own order
    assert again.content == source.content


def test_a_verification_set_keeps_its_order(tmp_path: Path, rows: Rows) -> None:
    make_bin(tmp_path / "a.bin", rows)
    for kind in ("lmdb", "img"):
        source = SOURCES["bin"].open([tmp_path / "a.bin"], {})
        SINKS[kind].write(source, tmp_path / kind, {})
        SINKS["bin"].write(SOURCES[kind].open([tmp_path / kind], {}), tmp_path / f"{kind}.bin", {})
        one, two = read_bin(tmp_path / "a.bin"), read_bin(tmp_path / f"{kind}.bin")
        assert list(map(bytes, one.images)) == list(map(bytes, two.images))
        assert one.issame.tolist() == two.issame.tolist()
