"""What targets hold, read by the plainest means, and what they should hold by the truth.

Each format is read as its own users read it, by no code of facepack's: ``lmdb`` and ``msgpack`` as
docs/pack-format.md tells, RecordIO by ``struct``, ``.bin`` by ``pickle``, tars by ``tarfile``.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import lmdb
import msgpack
import numpy as np
import pytest
from matrix.truth import MAGIC, Face


class Row(NamedTuple):
    """A record of a target; what its format does not keep is None."""

    label: int
    image: bytes
    name: str | None = None
    person: str | None = None
    numbers: dict[str, float] | None = None


@dataclass(kw_only=True)
class Content:
    """A target.

    Attributes:
        rows: in the order of the source.
        positions: of each row, as tables count them.
        tables: ``NAME.npy``.
        pairs: of a target that holds nothing but pairs: both images, and whether they are of one
            person.
    """

    rows: list[Row] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    pairs: list[tuple[bytes, bytes, bool]] | None = None


def load_tables(out: Path) -> dict[str, np.ndarray]:
    """All ``NAME.npy``."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(out.glob("*.npy"))}


def load_people(out: Path) -> dict[int, str]:
    """The names of identities in ``labels.txt``."""
    path = out / "labels.txt"
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return {label: name for label, name in enumerate(lines) if name}


def in_order(rows: list[Row], out: Path) -> Content:
    """Of a target whose records lie in the order of the source."""
    return Content(rows=rows, positions=list(range(len(rows))), tables=load_tables(out))


# Packs -------------------------------------------------------------------------------------------


def column(stated: dict[str, Any], count: int) -> list[Any]:
    """The numbers of a column; one of one number stands for as many equal ones."""
    values = np.frombuffer(stated["data"], stated["dtype"]).tolist()
    return values * count if len(values) == 1 else values


def read_pack(out: Path) -> Content:
    """A pack, as its format page tells; what was appended comes behind what was there."""
    manifest = json.loads((out / "pack.json").read_text())
    found: list[tuple[tuple[int, int], int, Row]] = []
    runs: list[str] = []
    for shard in manifest["shards"]:
        if shard["pack_id"] not in runs:
            runs.append(shard["pack_id"])
        path = str(out / shard["name"])
        lines = Path(path + ".kv").read_text().splitlines()
        count = len(lines)
        with (
            lmdb.open(path + ".mdb", subdir=False, readonly=True, lock=False) as env,
            env.begin() as txn,
        ):
            stored = {bytes(key): bytes(value) for key, value in txn.cursor()}
        reserved = {
            key.decode(): msgpack.unpackb(msgpack.unpackb(value)[0])
            for key, value in stored.items()
            if key.startswith(b"__")
        }
        assert len(stored) - len(reserved) == count
        labels = column(reserved["__labels__"], count)
        assert lines == [f"{k:010d} {label:08d}" for k, label in enumerate(labels)]
        extra = reserved["__extra__"]
        ordinals = [extra["first"] + k for k in column(extra["ordinal"], count)]
        columns = {name: column(values, count) for name, values in extra["columns"].items()}
        named = reserved.get("__identities__", {"labels": {"dtype": "<i4", "data": b""}})
        known = column(named["labels"], len(named.get("names", ())))
        people = dict(zip(known, named.get("names", ()), strict=True))
        names = reserved.get("__names__") or [None] * count
        for k in range(count):
            numbers = {name: values[k] for name, values in columns.items()}
            row = Row(
                labels[k],
                stored[b"%010d" % k],
                names[k],
                people.get(labels[k]),
                {name: value for name, value in numbers.items() if value == value},
            )
            found.append(((len(runs), ordinals[k]), len(found), row))
    found.sort()
    texts = load_people(out)
    assert all(texts.get(row.label) == row.person for _, _, row in found)
    assert manifest["records"] == len(found)
    return Content(
        rows=[row for _, _, row in found],
        positions=[position for _, position, _ in found],
        tables=load_tables(out),
    )


# Image files -------------------------------------------------------------------------------------

BESIDE = ("index.kv", "labels.txt", "quarantine.jsonl")


def read_images(out: Path) -> Content:
    """An image tree with its index, or a pair folder."""
    if (out / "pair_label.npy").exists():
        flags = np.load(out / "pair_label.npy").tolist()
        images = {int(path.stem): path.read_bytes() for path in (out / "imgs").iterdir()}
        assert sorted(images) == list(range(2 * len(flags)))
        places = [images[k] for k in range(len(images))]
        return Content(pairs=list(zip(places[::2], places[1::2], flags, strict=True)))
    people = load_people(out)
    rows = []
    for line in (out / "index.kv").read_text(encoding="utf-8").splitlines():
        path, _, text = line.rpartition(" ")
        label = int(text)
        rows.append(Row(label, (out / path).read_bytes(), path, people.get(label)))
    files = {
        os.path.relpath(os.path.join(folder, file), out)  # noqa: PTH118 (as os.walk has it)
        for folder, _, files in os.walk(out)
        for file in files
    }
    images = {name for name in files if not (name.startswith(".") or name.endswith(".npy"))}
    assert images - {*BESIDE} == {str(row.name) for row in rows}
    return in_order(rows, out)


# RecordIO ----------------------------------------------------------------------------------------


def read_record(data: bytes, at: int) -> tuple[bytes, int]:
    """The payload of the record at a byte, and where the next one begins."""
    payload = b""
    flag = 1
    while flag in (1, 2):
        magic, word = data[at : at + 4], struct.unpack_from("<I", data, at + 4)[0]
        flag, length = word >> 29, word & (1 << 29) - 1
        assert magic == MAGIC
        payload += (MAGIC if flag in (2, 3) else b"") + data[at + 8 : at + 8 + length]
        at += 8 + (length + 3) // 4 * 4
    return payload, at


def read_rec(out: Path) -> Content:
    """A ``.rec`` as arcface_torch and older readers go through it."""
    data = (out / "train.rec").read_bytes()
    lines = [line.split("\t") for line in (out / "train.idx").read_text().splitlines()]
    offsets = {int(key): int(offset) for key, offset in lines}
    at, follow = 0, []
    while at < len(data):
        follow.append(at)
        _, at = read_record(data, at)
    assert sorted(offsets.values()) == follow and len(lines) == len(follow)

    def record(key: int) -> tuple[list[float], int, int, int, bytes]:
        payload, _ = read_record(data, offsets[key])
        flag, label, id, id2 = struct.unpack_from("<IfQQ", payload)
        labels = [*struct.unpack_from(f"<{flag}f", payload, 24)] if flag else [label]
        return labels, flag, id, id2, payload[24 + 4 * flag :]

    labels, _, _, _, image = record(0)
    assert not image
    count, end = int(labels[0]) - 1, int(labels[1])
    rows = {}
    for key in range(1, count + 1):
        labels, flag, id, id2, image = record(key)
        numbers = {"flag": flag, "id": id, "id2": id2, "key": key}
        numbers |= {f"label_{k}": value for k, value in enumerate(labels[1:], 1)}
        rows[offsets[key]] = Row(int(labels[0]), image, numbers=numbers)
    ranges = [record(key)[0] for key in range(count + 1, end)]
    by_key = {row.numbers["key"]: row.label for row in rows.values() if row.numbers}
    for first, stop in ranges:  # of identity records: all images of one
        inside = {by_key[key] for key in range(int(first), int(stop))}
        assert len(inside) == 1
        assert Counter(by_key.values())[inside.pop()] == stop - first
    content = in_order([rows[offset] for offset in sorted(rows)], out)
    if (out / "property").exists():
        classes = int((out / "property").read_text().split(",")[0])
        assert classes > max(row.label for row in content.rows)
    return content


# F2C's LMDB and kv -------------------------------------------------------------------------------


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A protobuf varint, and the byte behind it."""
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def read_kv(out: Path) -> Content:
    """``faces.lmdb`` and ``faces.kv``: the image is field 4 of a Datum."""
    rows = []
    with (
        lmdb.open(str(out / "faces.lmdb"), readonly=True, lock=False) as env,
        env.begin() as txn,
    ):
        for line in (out / "faces.kv").read_text(encoding="utf-8").splitlines():
            key, label = line.split(" ")
            value = bytes(txn.get(key.encode()))
            size, begin = read_varint(value, 1)
            assert (value[0], len(value)) == (4 << 3 | 2, begin + size)
            rows.append(Row(int(label), value[begin:], key))
        assert txn.stat()["entries"] == len(rows)
    return in_order(rows, out)


def read_msgpack(out: Path) -> Content:
    """``faces.lmdb``, as the loader of face_analysis_pytorch reads it."""
    with (
        lmdb.open(str(out / "faces.lmdb"), readonly=True, lock=False) as env,
        env.begin() as txn,
    ):
        keys = msgpack.loads(txn.get(b"__keys__"))
        rows = []
        for key in keys:
            image, label = msgpack.loads(txn.get(key))
            rows.append(Row(label, image, key.decode()))
        assert msgpack.loads(txn.get(b"__len__")) == len(keys) == txn.stat()["entries"] - 3
        assert msgpack.loads(txn.get(b"__classnum__")) > max(row.label for row in rows)
    return in_order(rows, out)


# WebDataset --------------------------------------------------------------------------------------


def read_wds(out: Path) -> Content:
    """Tars of samples, ``key.jpg`` and ``key.cls``, of which no key is there twice."""
    summary = json.loads((out / "dataset.json").read_text())
    people = load_people(out)
    rows = []
    assert {path.name for path in out.glob("*.tar")} == {tar["name"] for tar in summary["tars"]}
    for tar in summary["tars"]:
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(out / tar["name"]) as archive:
            for member in archive:
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                file = archive.extractfile(member)
                assert file is not None
                samples.setdefault(folder + slash + stem, {})[suffix] = file.read()
        assert len(samples) == tar["samples"]
        for key, sample in samples.items():
            label = int(sample.pop("cls"))
            (image,) = sample.values()
            rows.append(Row(label, image, key, people.get(label)))
    assert len({row.name for row in rows}) == len(rows)
    index = json.loads((out / "shardindex.json").read_text())
    assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
    assert index["shardlist"] == [
        {
            "url": tar["name"],
            "nsamples": tar["samples"],
            "filesize": (out / tar["name"]).stat().st_size,
        }
        for tar in summary["tars"]
    ]
    return in_order(rows, out)


# Parquet -----------------------------------------------------------------------------------------


def read_parquet(out: Path) -> Content:
    """Files of rows as ``pyarrow`` reads them, described as ``datasets`` wants it."""
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = []
    for path in sorted(out.glob("*.parquet")):
        file = parquet.ParquetFile(path)
        table = file.read().to_pylist()
        features = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
        kind = features.pop("label")
        assert all(feature == {"_type": "Image"} for feature in features.values())
        for k in range(file.metadata.num_row_groups):
            assert file.metadata.row_group(k).column(0).compression == "UNCOMPRESSED"
        if "image1" in features:
            assert kind == {"_type": "ClassLabel", "names": ["different", "same"]}
            pairs = [
                (row["image1"]["bytes"], row["image2"]["bytes"], row["label"]) for row in table
            ]
            return Content(pairs=[(one, other, bool(same)) for one, other, same in pairs])
        names = kind.get("names")
        assert (kind["_type"] == "ClassLabel") == (names is not None)
        for row in table:
            label, image = row["label"], row["image"]
            person = names[label] if names and label >= 0 else None
            rows.append(Row(label, image["bytes"], image["path"], person))
    people = load_people(out)
    assert all(people.get(row.label) == row.person for row in rows)
    return in_order(rows, out)


# Verification sets -------------------------------------------------------------------------------


def read_bin(out: Path) -> Content:
    """A pickle of images and flags."""
    path = out if out.is_file() else next(out.glob("*.bin"))
    images, issame = pickle.loads(path.read_bytes())  # our own
    assert len(images) == 2 * len(issame)
    pairs = list(zip(map(bytes, images[::2]), map(bytes, images[1::2]), issame, strict=True))
    return Content(pairs=pairs)


READERS: dict[str, Callable[[Path], Content]] = {
    "lmdb": read_pack,
    "img": read_images,
    "rec": read_rec,
    "kv": read_kv,
    "msgpack": read_msgpack,
    "wds": read_wds,
    "parquet": read_parquet,
    "bin": read_bin,
}


# What a target should hold -----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A record that should be in a target.

    Attributes:
        face: what the source has.
        label: its label in the target.
        ordinal: its place among the records that were chosen, broken ones too.
        before: how many of its label come before it in the target.
    """

    face: Face
    label: int
    ordinal: int
    before: int


def pack_row(kept: Kept) -> Row:
    """A pack keeps everything."""
    face = kept.face
    return Row(kept.label, face.shot.image, face.name, face.person, face.numbers)


def tree_row(kept: Kept, *, numbered: bool = False) -> Row:
    """A tree keeps names; what has none lies below its label, by its key or place."""
    face = kept.face
    number = kept.ordinal if numbered else face.numbers.get("key", kept.ordinal)
    name = face.name
    if name is None or numbered:
        path = f"{kept.label}/{number}.jpg"
    else:
        name = name if name.endswith(".jpg") else f"{name}.jpg"
        path = name if "/" in name else f"{kept.label}/{name}"
    return Row(kept.label, face.shot.image, path, face.person)


def kv_rows(kept: Sequence[Kept]) -> list[Row]:
    """A key is the name, if it may be one and no record before has it."""
    rows: list[Row] = []
    for each in kept:
        name = each.face.name
        if name is None or " " in name or name in [row.name for row in rows]:
            name = f"{each.face.stem}_{each.label}_{each.before}"
        rows.append(Row(each.label, each.face.shot.image, name))
    return rows


def msgpack_rows(kept: Sequence[Kept]) -> list[Row]:
    """A key is the position."""
    return [Row(each.label, each.face.shot.image, str(k)) for k, each in enumerate(kept)]


def wds_rows(kept: Sequence[Kept], *, numbered: bool = False) -> list[Row]:
    """A key is the name without its suffix, if no dot is left in it and none before has it."""
    rows: list[Row] = []
    for each in kept:
        name = each.face.name
        key = None if name is None or numbered else name.removesuffix(".jpg")
        if key is None or "." in PurePosixPath(key).name or key in [row.name for row in rows]:
            key = f"{each.label}/{each.ordinal:010d}"
        rows.append(Row(each.label, each.face.shot.image, key, each.face.person))
    return rows


def rec_rows(kept: Sequence[Kept]) -> list[Row]:
    """Keys are 1 to n: the source's, if they are that."""
    keys = [each.face.numbers.get("key") for each in kept]
    places = list(range(1, len(kept) + 1))
    if None in keys or sorted(keys) != places:  # type: ignore[type-var]
        keys = list(places)
    rows = []
    for each, key, place in zip(kept, keys, places, strict=True):
        told = each.face.numbers
        labels = {k: v for k, v in told.items() if k.startswith("label_")}
        numbers = {
            "flag": told.get("flag", len(labels) + 1 if labels else 0),
            "id": told.get("id", place),
            "id2": told.get("id2", 0),
            "key": key,
            **labels,
        }
        rows.append(Row(each.label, each.face.shot.image, numbers=numbers))
    return rows


def parquet_row(kept: Kept) -> Row:
    """The path is the name; the label's name is the person's."""
    return Row(kept.label, kept.face.shot.image, kept.face.name, kept.face.person)


def expected_rows(sink: str, kept: Sequence[Kept], *, numbered: bool = False) -> list[Row]:
    """The rows of a target that is no verification set."""
    if sink in ("rec", "kv", "msgpack"):
        return {"rec": rec_rows, "kv": kv_rows, "msgpack": msgpack_rows}[sink](kept)
    if sink == "img":
        return [tree_row(each, numbered=numbered) for each in kept]
    if sink == "wds":
        return wds_rows(kept, numbered=numbered)
    return [{"lmdb": pack_row, "parquet": parquet_row}[sink](each) for each in kept]
