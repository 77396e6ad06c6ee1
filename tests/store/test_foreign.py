"""LMDB files that are no shards: told as what they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

import facepack
from facepack.care.reindex import reindex
from facepack.care.shard_check import check_shard
from facepack.convert.formats.kv.data import KvData, is_data_file
from facepack.convert.formats.kv.source import KvSource
from facepack.errors import DamageError, PackError, SourceError
from facepack.store.lmdb_format import MAGIC
from facepack.store.lmdb_read import ScanError, read_page_size

MakePack = Callable[..., Path]


def write(path: Path, records: dict[bytes, bytes]) -> Path:
    with (
        lmdb.open(str(path), subdir=False, map_size=1 << 22) as env,
        env.begin(write=True) as txn,
    ):
        for key, value in records.items():
            txn.put(key, value)
    path.with_name(f"{path.name}-lock").unlink()
    return path


def write_lmdb_1(path: Path) -> Path:
    """As LMDB 1.0 writes it, down to the version: a page header of 24 bytes."""
    path.write_bytes((bytes(24) + MAGIC.to_bytes(4, "little") + b"\3\0\0\0").ljust(1 << 14, b"\0"))
    return path


def test_a_foreign_database_among_shards(make_pack: MakePack) -> None:
    pack = make_pack(30)
    before = {file.name: file.read_bytes() for file in pack.iterdir()}
    foreign = write(pack / "other.mdb", {b"0001": b"image", b"name": b"x" * 9000})
    with pytest.raises(
        PackError, match=r"other\.mdb: is not a shard of a pack, but an LMDB database"
    ):
        reindex(pack)
    foreign.unlink()
    reindex(pack)
    assert {file.name: file.read_bytes() for file in pack.iterdir()} == before
    # In the place of a shard it is damage, in one line.
    (shard, _) = sorted(pack.glob("*.mdb"))
    write(pack / "other.mdb", {b"%04d" % k: b"image" for k in range(50)}).replace(shard)
    (damage,) = check_shard(pack, shard.stem).damage
    assert "it is not a shard of a pack, but an LMDB database" in damage.reason


def test_a_shard_without_its_own_records_is_damaged_not_foreign(make_pack: MakePack) -> None:
    pack = make_pack(20)
    (shard,) = pack.glob("*.mdb")
    with facepack.open(pack) as opened:
        records = {b"%010d" % k: bytes(record.image) for k, record in enumerate(opened)}
    write(pack / "new.mdb", records).replace(shard)
    with pytest.raises(DamageError, match=r"__meta__.* are missing or damaged"):
        reindex(pack)


def test_files_of_lmdb_1(tmp_path: Path, make_pack: MakePack) -> None:
    path = write_lmdb_1(tmp_path / "faces.lmdb")
    assert is_data_file(path)
    for look in (KvData.look, lambda p: KvSource([p])):
        with pytest.raises(SourceError, match=r"a file of LMDB 1\.0"):
            look(path)
    with pytest.raises(ScanError, match="lib_version=1"):
        read_page_size(path.read_bytes())
    pack = make_pack(20)
    write_lmdb_1(pack / "other.mdb")
    with pytest.raises(DamageError, match=r"other: .*a file of LMDB 1\.0"):
        reindex(pack)


def test_what_lmdb_1_writes_is_known(tmp_path: Path) -> None:
    """By the library itself, where it has that version."""
    path = tmp_path / "faces.lmdb"
    try:
        env = lmdb.open(str(path), subdir=False, lib_version=1)
    except TypeError:
        pytest.skip(f"lmdb {lmdb.__version__} does not bundle LMDB 1.0")
    with env, env.begin(write=True) as txn:
        txn.put(b"a", b"b")
    with pytest.raises(SourceError, match=r"a file of LMDB 1\.0"):
        KvData.look(path)


def test_shards_and_databases_without_labels(tmp_path: Path, make_pack: MakePack) -> None:
    (shard,) = make_pack(20).glob("*.mdb")
    with pytest.raises(SourceError, match="is a shard of a pack: convert the pack's folder"):
        KvSource([shard.rename(tmp_path / "alone.mdb")])
    plain = write(tmp_path / "plain.lmdb", {b"0": b"record"})
    with pytest.raises(SourceError, match=r"expected one kv file, plain\.kv beside it"):
        KvSource([plain])


def test_an_environment_that_the_user_has_open(make_pack: MakePack) -> None:
    path = make_pack(20)
    (shard,) = path.glob("*.mdb")
    with facepack.open(path) as pack:
        with lmdb.open(str(shard), subdir=False, readonly=True, lock=False):
            with pytest.raises(PackError, match="is open in this process already") as raised:
                pack[0]
            assert not isinstance(raised.value, DamageError)
        assert len(pack[0].image)
