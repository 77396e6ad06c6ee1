from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgpack
import numpy as np
import pytest
import xxhash
from click.testing import CliRunner

import facepack
from facepack import images
from facepack.care.msgpack_walk import walk_msgpack
from facepack.care.untrusted import verify_untrusted
from facepack.care.verify import verify
from facepack.cli import root
from facepack.errors import DamageError, PackError
from facepack.store import format as fmt
from facepack.store.lmdb_read import leaf_numbers, read_page_size
from facepack.store.lmdb_write import lmdb_pages
from facepack.store.plan import PackPlan
from facepack.store.shard import ShardInfo, content_id
from facepack.terminal import printable
from tests.store.lmdb_twin import scan_leaf

MakePack = Callable[..., Path]


def restate(path: Path) -> None:
    """Let the manifest state the files as they are, as whoever forges a pack would."""
    manifest = json.loads((path / "pack.json").read_text())
    for files in [manifest["files"], *(shard["files"] for shard in manifest["shards"])]:
        for name, stated in files.items():
            if (path / name).is_file():
                data = (path / name).read_bytes()
                stated |= {"bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    shards = [ShardInfo.from_json(shard) for shard in manifest["shards"]]
    manifest["content_id"] = content_id(shards, manifest["files"])
    (path / "pack.json").write_text(fmt.json_text(manifest))


def edit_manifest(path: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((path / "pack.json").read_text())
    change(manifest)
    (path / "pack.json").write_text(fmt.json_text(manifest))


def shard_items(path: Path) -> tuple[dict[bytes, bytes], int]:
    data = memoryview(path.read_bytes())
    size = read_page_size(data)
    pages = leaf_numbers(data, size)
    return {k: bytes(v) for p in pages for k, v in scan_leaf(data, p, size)}, size


def forge_records(path: Path, changes: dict[bytes, bytes | None]) -> None:
    """The first shard with other records in it, in a file that the engine could read."""
    shard = path / "shard-000.mdb"
    items, size = shard_items(shard)
    items = {k: v for k, v in (items | changes).items() if v is not None}
    keys = sorted(items)
    shard.write_bytes(b"".join(lmdb_pages(keys, [items[k] for k in keys], page_size=size)))
    restate(path)


def reasons(path: Path) -> str:
    """The findings, which a plain look must not turn into anything else than findings."""
    return "\n".join(map(str, verify_untrusted(path).damage))


def test_sound_packs_pass_without_the_engine(
    make_pack: MakePack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_jpeg: Callable
) -> None:
    monkeypatch.setattr("lmdb.open", None)
    monkeypatch.setattr("lmdb.verify.verify", None)
    report = verify_untrusted(make_pack(60), decode=True)
    assert report.damage == [] and report.records == 60
    with facepack.PackWriter(tmp_path / "pairs", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1]]))
        writer.add_table("names", np.array(["a", "b"]))
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1, size=112), -1)
    assert verify_untrusted(tmp_path / "pairs").damage == []
    with facepack.PackWriter(tmp_path / "empty"):
        pass
    assert verify_untrusted(tmp_path / "empty").damage == []


def test_links_pipes_sockets_and_folders_are_never_opened(make_pack: MakePack) -> None:
    path = make_pack(10)
    shard = path / "shard-000.mdb"
    good = shard.read_bytes()
    shard.unlink()
    shard.symlink_to("/etc/passwd")
    assert "shard-000.mdb: a link, which may lead anywhere" in reasons(path)
    shard.unlink()
    os.mkfifo(shard)
    assert "shard-000.mdb: no regular file" in reasons(path)
    shard.unlink()
    shard.write_bytes(good)
    os.mkfifo(path / "pairs.npy")
    assert "pairs.npy: no regular file" in reasons(path)
    (path / "pairs.npy").unlink()
    (path / "pack.json").rename(path / "x")
    (path / "pack.json").symlink_to(path / "x")
    assert "pack.json: a link" in reasons(path)
    (path / "pack.json").unlink()
    (path / "x").rename(path / "pack.json")
    (path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path)  # a socket's name must be short
        listener.bind("sock")
        os.chdir(here)
        assert reasons(path).count("no regular file") == 2


def test_files_that_the_manifest_does_not_tell_of(make_pack: MakePack) -> None:
    path = make_pack(10)
    (path / f"plan.json.next-{json.loads((path / 'pack.json').read_text())['pack_id'][:8]}").touch()
    (path / "run.sh").touch()
    (path / "sets.json").write_text("{}")
    assert reasons(path).count("does not list this file") == 2
    (path / "labels.txt").unlink()
    assert "labels.txt: the file is missing" in reasons(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "rebuild it"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "rebuild it"),
        ("1" * 100_000, "rebuild it"),
        ("x" * ((16 << 20) + 1), "at most 16,777,216 are looked at, unless FACEPACK_MAX_JSON"),
        ('{"format": 1, "requires": ["\\u001b[2J"]}', r"needs \\x1b\[2J, which this facepack does"),
    ],
)
def test_manifests_that_are_bombs(make_pack: MakePack, text: str, message: str) -> None:
    path = make_pack(10)
    (path / "pack.json").write_text(text)
    with pytest.raises(PackError, match=message):
        verify_untrusted(path)


def test_manifests_that_lead_elsewhere_or_claim_too_much(make_pack: MakePack) -> None:
    path = make_pack(10)
    good = (path / "pack.json").read_text()

    def after(change: Callable[[dict], object]) -> str:
        (path / "pack.json").write_text(good)
        edit_manifest(path, change)
        try:
            return reasons(path)
        except DamageError as error:
            return str(error)

    def twice(manifest: dict) -> None:
        manifest["shards"] *= 2

    def outside(manifest: dict) -> None:
        manifest["files"]["../../etc/passwd"] = {"bytes": 1, "xxh3_128": ""}

    def many(manifest: dict) -> None:
        entry = manifest["shards"][0]
        entry["records"] = 10**12
        entry["files"]["shard-000.kv"]["bytes"] = 20 * 10**12

    assert "two shards have the same name" in after(twice)
    assert "leads outside the pack" in after(outside)
    assert "1000000000000 records are claimed" in after(many)
    assert "bytes, the manifest states 20000000000000" in after(many)
    assert "100000001 classes are claimed" in after(lambda m: m.update(classes=100_000_001))
    assert "'records' differs" in after(lambda m: m.update(records=11))
    assert "'source' differs" in after(lambda m: m.update(source={"a": "b"}))


def plan(**changes: object) -> bytes:
    """A sound plan of a stream but for ``changes``."""
    source = {"kind": "stream", "stem": "shard"}
    sound = PackPlan.make(kind="train", source=source)
    return fmt.json_text(sound.with_fields(**changes).fields).encode()


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("plan.json", b"[" * 100_000, "nested more than 200 deep"),
        ("plan.json", b"[]", "the plan has no 'kind' of type str"),
        ("plan.json", plan(classes=1e99), r"'classes' is 1e\+99"),
        ("plan.json", plan(label_maps=5), "'label_maps' is not"),
        ("plan.json", plan(tables=["../x"]), r"'\.\./x': allowed are"),
        ("plan.json", plan(tables=[1]), "'tables' is not"),
        ("plan.json", plan(source={}), "the plan's source has no 'kind'"),
        ("plan.json", plan(source={"kind": "zip", "packs": [{}]}), "a pack of the plan's source"),
        ("plan.json", plan(source={"kind": "zip", "chosen": 1}), "'chosen' is not"),
        ("plan.json", plan(check=None), "the plan's check has no 'decode'"),
        ("plan.json", plan(source={"kind": "merge"}), "the plan has no 'shards' of type list"),
        (
            "plan.json",
            plan(source={"kind": "merge"}, shards=[], label_maps={"../x": "0"}),
            "is no label map with a digest",
        ),
        (
            "plan.json",
            plan(source={"kind": "merge"}, shards=[{"name": "a"}], label_maps={}),
            "a shard of the plan has no 'own_name'",
        ),
        ("labels.txt", b"\n" * 99, "99 lines for 4 classes"),
        ("labels.txt", b"\xff\n" * 4, "line 1: the byte 0xff is not UTF-8"),
    ],
)
def test_files_beside_the_shards(make_pack: MakePack, name: str, data: bytes, text: str) -> None:
    path = make_pack(10)
    (path / name).write_bytes(data)
    restate(path)
    (damage,) = verify_untrusted(path).damage
    assert damage.shard == name
    assert re.search(text, damage.reason)


def npy(header: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(header) + 1)
    return b"\x93NUMPY" + version + size + header.encode() + b"\n" + body


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not sound"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"cos\nsystem"), "table of"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (10**12,)}"), "not sound"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000, 3)}"), "not of 0"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (-1, -3)}"), "shape"),
        (npy("{'descr': '<i8', 'fortran_order': False, 'shape': (%s)}" % ("1," * 40)), "shape"),
        (npy("{'descr': '|V0', 'fortran_order': False, 'shape': (9,)}"), "a table of"),
        (npy("(" * 3_000), "not sound"),
        (npy("{'descr': '<i8'" + " " * 20_000 + "}"), "not sound"),
        (npy("{}", version=b"\x03\x00"), "version"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "not sound"),
    ],
)
def test_tables(tmp_path: Path, make_jpeg: Callable, data: bytes, text: str) -> None:
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 0, 1]]))
        writer.add(make_jpeg(0), -1)
    (tmp_path / "p" / "pairs.npy").write_bytes(data)
    restate(tmp_path / "p")
    (damage,) = verify_untrusted(tmp_path / "p").damage
    assert damage.shard == "pairs.npy" and text in damage.reason


# Trees --------------------------------------------------------------------------------------------


def set_meta(data: bytearray, page_size: int, **values: int) -> None:
    """Fields of the committed meta page's main tree, and its last page."""
    fields = {"depth": (6, "H"), "entries": (32, "Q"), "root": (40, "Q"), "last": (48, "Q")}
    for name, value in values.items():
        at, kind = fields[name]
        struct.pack_into(f"<{kind}", data, page_size + 16 + 24 + 48 + at, value)


def self_referencing_branch(data: bytearray, size: int) -> None:
    last = len(data) // size - 1
    at = last * size
    (pointer,) = struct.unpack_from("<H", data, at + 16)
    struct.pack_into("<HHH", data, at + pointer, last & 0xFFFF, last >> 16, 0)


def overlapping_overflow(data: bytearray, size: int) -> None:
    targets = big_targets(data, size)
    (first,) = struct.unpack_from("<Q", data, targets[0])
    for at in targets[1:]:
        struct.pack_into("<Q", data, at, first)


def far_overflow(data: bytearray, size: int) -> None:
    struct.pack_into("<Q", data, big_targets(data, size)[0], 1 << 63)


def overflow_in_the_meta(data: bytearray, size: int) -> None:
    struct.pack_into("<Q", data, big_targets(data, size)[0], 0)


def huge_values(data: bytearray, size: int) -> None:
    for at in big_targets(data, size):
        struct.pack_into("<I", data, at - 18, len(data) - (1 << 16))


def big_targets(data: bytearray, size: int) -> list[int]:
    """Where the page numbers of overflow values stand."""
    found = []
    for page in leaf_numbers(memoryview(data), size):
        base = page * size
        (lower,) = struct.unpack_from("<H", data, base + 12)
        for pointer in struct.unpack_from(f"<{(lower - 16) // 2}H", data, base + 16):
            _, _, flags, key = struct.unpack_from("<4H", data, base + pointer)
            if flags & 1:
                found.append(base + pointer + 8 + key)
    return found


def leaves_without_end(data: bytearray, size: int) -> None:
    for page in range(2, len(data) // size):
        struct.pack_into("<QHHHH", data, page * size, page, 0, 2, size, size)


def sub_database(data: bytearray, size: int) -> None:
    page = next(leaf_numbers(memoryview(data), size))
    (pointer,) = struct.unpack_from("<H", data, page * size + 16)
    struct.pack_into("<H", data, page * size + pointer + 4, 2)


@pytest.mark.parametrize(
    "harm",
    [
        self_referencing_branch,
        overlapping_overflow,
        far_overflow,
        overflow_in_the_meta,
        huge_values,
        leaves_without_end,
        sub_database,
        lambda data, size: set_meta(data, size, root=1 << 63),
        lambda data, size: set_meta(data, size, last=(1 << 64) - 1),
        lambda data, size: set_meta(data, size, depth=65_535),
        lambda data, size: set_meta(data, size, entries=1 << 63),
        lambda data, size: data.__setitem__(slice(size + 4, size + 8), b"\xff" * 4),
        lambda data, size: data.extend(bytes(size)),
        lambda data, size: data.__delitem__(slice(-size, None)),
        lambda data, size: data.__delitem__(slice(100, None)),
        lambda data, size: data.clear(),
        lambda data, size: struct.pack_into("<I", data, 40, 1 << 31),
        lambda data, size: struct.pack_into("<I", data, 40, 256),
    ],
)
def test_trees_that_would_harm_the_engine(
    harm: Callable[[bytearray, int], None], tmp_path: Path, make_jpeg: Callable
) -> None:
    path = tmp_path / "p"
    with facepack.PackWriter(path) as writer:
        for i in range(120):
            writer.add(make_jpeg(i % 7, size=256, quality=95), 0)
    shard = path / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    size = read_page_size(data)
    assert size == 4096 and len(big_targets(data, size)) > 2
    harm(data, size)
    shard.write_bytes(bytes(data))
    restate(path)
    (damage,) = verify_untrusted(path).damage
    assert damage.shard == "shard-000.mdb"
    assert verify(path).damage == [] or verify(path).damage  # a plain look ends, too


def test_a_tree_that_another_program_made(make_pack: MakePack) -> None:
    """It may be sound; but nothing here says so."""
    import lmdb

    path = make_pack(10)
    shard = path / "shard-000.mdb"
    items, _ = shard_items(shard)
    shard.unlink()
    with lmdb.open(str(shard), subdir=False, lock=False, map_size=1 << 24) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in items.items():
                transaction.put(key, value)
    restate(path)
    assert "its structure is not what facepack writes" in reasons(path)


# Reserved records ---------------------------------------------------------------------------------


def reserved(key: bytes, body: bytes) -> bytes:
    """A reserved record of raw msgpack, its sum right."""
    return bytes(msgpack.packb([body, fmt.record_checksum(key, body)], use_bin_type=True))


BOMBS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdd\x00\x01\x00\x00" * 1000 + b"\xc0" * 100_000,
    b"\x91" * 100_000 + b"\xc0",
    b"\x81\xc0\xc0",
    b"\x81\x90\xc0",
    b"\xc1",
    b"\xc0\xc0",
    b"",
    b"\xd4\x01\x01",
]


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:6].hex())
@pytest.mark.parametrize("key", [fmt.NAMES, fmt.META])
def test_msgpack_bombs(make_pack: MakePack, key: bytes, bomb: bytes) -> None:
    path = make_pack(10)
    forge_records(path, {key: reserved(key, bomb)})
    assert f"{key.decode()}: " in reasons(path)
    forge_records(path, {key: bomb})
    assert f"{key.decode()}: " in reasons(path)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb[:6].hex())
def test_walking_a_bomb_takes_no_memory(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="msgpack"):
            walk_msgpack(memoryview(bomb))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_whatever_msgpack_packs_is_walked_to_its_end() -> None:
    rng = random.Random(0)

    def value(depth: int) -> object:
        kinds = 9 if depth else 7
        match rng.randrange(kinds):
            case 0:
                return rng.choice([None, True, False])
            case 1:
                return rng.choice([1, -1, 1 << 40, -(1 << 40), (1 << 64) - 1, 200, -200, 70_000])
            case 2:
                return rng.random()
            case 3 | 4:
                return "x" * rng.choice([0, 5, 40, 300, 70_000])
            case 5 | 6:
                return b"y" * rng.choice([0, 5, 40, 300, 70_000])
            case 7:
                return [value(depth - 1) for _ in range(rng.choice([0, 3, 20]))]
            case _:
                return {f"k{i}": value(depth - 1) for i in range(rng.choice([0, 3, 20]))}

    for _ in range(100):
        thing = value(3)
        packed = msgpack.packb(thing, use_bin_type=True)
        strings = walk_msgpack(memoryview(packed))
        assert all(set(packed[a:b]) <= {ord("y")} for a, b in strings)
        with pytest.raises(ValueError, match="msgpack"):
            walk_msgpack(memoryview(packed + b"\xc0"))
        with pytest.raises(ValueError, match="msgpack"):
            walk_msgpack(memoryview(packed[:-1]))


@pytest.mark.parametrize(
    "column",
    [
        {"dtype": "|O", "data": bytes(80)},
        {"dtype": "<i4,<i4", "data": bytes(80)},
        {"dtype": "|V4", "data": bytes(40)},
        {"dtype": "<i4", "data": bytes(39)},
        {"dtype": "<i4", "data": bytes(44)},
        {"dtype": "<i4", "data": "x" * 40},
        {"dtype": ["<i4"], "data": bytes(40)},
        {"dtype": "<i4"},
        [],
        None,
    ],
)
def test_columns_of_other_types_and_sizes(make_pack: MakePack, column: object) -> None:
    path = make_pack(10)
    forge_records(path, {fmt.LABEL_COLUMN: fmt.pack_reserved(fmt.LABEL_COLUMN, column)})
    (damage,) = verify_untrusted(path).damage
    assert damage.shard == "shard-000.mdb"


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (fmt.NAMES, ["x"] * 9),
        (fmt.NAMES, [1] * 10),
        (fmt.EXTRA, {}),
        (fmt.EXTRA, {"first": "x", "ordinal": {"dtype": "|u1", "data": b"1"}, "columns": {}}),
        (fmt.IDENTITIES, {"labels": {"dtype": "<i4", "data": bytes(4)}, "names": "abc"}),
        (fmt.IDENTITIES, {"labels": {"dtype": "<i4", "data": bytes(8)}, "names": ["a", "b", "c"]}),
        (fmt.QUARANTINED, {"a": 1}),
        (fmt.QUARANTINED, [1]),
        (fmt.META, {"version": 1}),
        (fmt.META, []),
        (b"nonsense", None),
    ],
)
def test_reserved_records_of_another_shape(make_pack: MakePack, key: bytes, body: object) -> None:
    path = make_pack(10)
    forge_records(path, {key: fmt.pack_reserved(key, body)})
    assert verify_untrusted(path).damage


def test_reserved_records_of_later_versions_are_left_alone(make_pack: MakePack) -> None:
    path = make_pack(10)
    forge_records(path, {b"__zebra__": fmt.pack_reserved(b"__zebra__", {"a": [1, 2]})})
    assert reasons(path) == ""
    forge_records(path, {b"__zebra__": reserved(b"__zebra__", BOMBS[0])})
    assert "__zebra__: msgpack that claims more than it holds" in reasons(path)


def test_missing_reserved_records_and_a_limit_that_can_be_raised(
    make_pack: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_pack(10)
    monkeypatch.setenv("FACEPACK_MAX_RESERVED_BYTES", "20")
    assert "at most 20 are looked at, unless FACEPACK_MAX_RESERVED_BYTES says more" in reasons(path)
    monkeypatch.delenv("FACEPACK_MAX_RESERVED_BYTES")
    monkeypatch.setenv("FACEPACK_MAX_SHARD_BYTES", "1000")
    assert "at most 1,000 are looked at" in reasons(path)
    monkeypatch.delenv("FACEPACK_MAX_SHARD_BYTES")
    forge_records(path, {fmt.CHECKSUMS: None})
    assert "__sums__ is missing" in reasons(path)


# Images -------------------------------------------------------------------------------------------


def test_images_that_claim_too_much(
    make_pack: MakePack, make_jpeg: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_pack(10)
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    assert "unless the environment variable FACEPACK_MAX_IMAGE_BYTES" in reasons(path)
    monkeypatch.undo()
    jpeg = bytearray(make_jpeg(0))
    struct.pack_into(">HH", jpeg, jpeg.index(b"\xff\xc0") + 5, 40_000, 40_000)
    forge_records(path, {b"0000000003": bytes(jpeg)})
    (damage,) = verify_untrusted(path).damage
    assert damage.key == "0000000003"
    assert "40000×40000 pixels are claimed" in damage.reason
    assert "FACEPACK_MAX_PIXELS" in damage.reason


def test_what_is_no_image_and_statistics_that_lie(make_pack: MakePack) -> None:
    path = make_pack(10)
    items, _ = shard_items(path / "shard-000.mdb")
    meta = fmt.unpack_reserved(fmt.META, items[fmt.META])
    lie = {**meta, "images": {**meta["images"], "height": [1, 1]}}
    forge_records(path, {fmt.META: fmt.pack_reserved(fmt.META, lie)})
    assert "its images are" in reasons(path)
    forge_records(path, {b"0000000003": b"#!/bin/sh"})
    (damage,) = verify_untrusted(path).damage
    assert damage.key == "0000000003" and "not an image" in damage.reason


def test_a_record_that_differs_from_its_sum(make_pack: MakePack, make_jpeg: Callable) -> None:
    path = make_pack(10)
    forge_records(path, {b"0000000003": make_jpeg(99)})
    (damage, *_) = verify_untrusted(path).damage
    assert damage.key == "0000000003" and "differs from what was packed" in damage.reason


# The whole ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_forged_noise_ends_in_findings_or_in_a_pack_that_can_be_read(
    seed: int, make_pack: MakePack
) -> None:
    path = make_pack(30, shard_records=20)
    good = {file.name: file.read_bytes() for file in path.iterdir()}
    rng = random.Random(seed)
    for _ in range(60):
        name = rng.choice([*sorted(good), "shard-000.mdb", "shard-001.mdb"])
        data = bytearray(good[name])
        for _ in range(rng.choice([1, 3, 100])):
            at = rng.randrange(min(len(data), rng.choice([64, 40_000])))
            data[at] = rng.choice([0, 255, rng.randrange(256)])
        (path / name).write_bytes(bytes(data))
        if name != "pack.json":
            restate(path)
        try:
            damage = verify_untrusted(path, decode=True).damage
        except facepack.errors.PackError:
            damage = [None]
        if not damage:
            with facepack.open(path) as pack:
                assert len(list(pack)) == len(pack)
        for file, whole in good.items():
            (path / file).write_bytes(whole)


def test_the_command(make_pack: MakePack) -> None:
    path = make_pack(10)
    done = CliRunner().invoke(root, ["verify", str(path), "--untrusted"])
    assert done.exit_code == 0 and "10 records" in done.stdout and "all good" in done.stdout
    (path / "x\x1b[2J").touch()
    done = CliRunner().invoke(root, ["verify", str(path), "--untrusted"])
    assert done.exit_code == 3
    assert "x\\x1b[2J: the manifest does not list this file" in done.stdout


def test_text_that_could_steer_a_terminal() -> None:
    assert printable("a\x1b[31mé漢\n\udcff") == "a\\x1b[31mé漢\\n\\udcff"
