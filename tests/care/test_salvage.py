from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack.care.reindex import reindex
from facepack.care.remains import _fill, read_through
from facepack.care.salvage import salvage
from facepack.care.verify import verify
from facepack.cli import root
from facepack.errors import DamageError, PackError
from facepack.store import format as fmt
from facepack.store.lmdb_format import P_LEAF, PAGE_SIZES
from facepack.store.lmdb_read import guess_page_size, leaf_numbers, read_page_size
from facepack.store.lmdb_write import lmdb_pages
from tests.store.lmdb_twin import scan_leaf

MakePack = Callable[..., Path]
Records = dict[str, tuple[bytes, int, str | None]]


def records(path: Path) -> Records:
    """shard/key → image, label, name, under the keys of the first pack of a chain of packs."""
    with facepack.open(path) as pack:
        return {r.key: (r.image, r.label, pack.source_name(i)) for i, r in enumerate(pack)}


def old_keys(path: Path) -> list[str]:
    """The keys that the records of a salvaged pack had in the damaged one."""
    from facepack.care.shard_check import check_shard

    keys = []
    for shard in json.loads((path / "plan.json").read_text())["shards"]:
        ordinals = check_shard(path, shard["name"]).ordinals - shard["start"]
        keys += [f"{shard['name']}/{place:010d}" for place in ordinals.tolist()]
    return keys


def salvaged_records(path: Path) -> Records:
    return dict(zip(old_keys(path), records(path).values(), strict=True))


def lost_keys(path: Path) -> set[str]:
    file = path / "quarantine.jsonl"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else []
    return {f"{line['file'].removesuffix('.mdb')}/{line['key']}" for line in lines}


def extents(path: Path) -> dict[bytes, list[tuple[int, int]]]:
    """The byte ranges of a shard that each record depends on: its leaf page and its value."""
    data = memoryview(path.read_bytes())
    size = read_page_size(data)
    base = np.frombuffer(data, np.uint8).ctypes.data
    found = {}
    for page in leaf_numbers(data, size):
        for key, value in scan_leaf(data, page, size):
            start = np.frombuffer(value, np.uint8).ctypes.data - base if len(value) else 0
            found[key] = [(page * size, (page + 1) * size), (start, start + len(value))]
    return found


def test_a_sound_pack_comes_out_whole(make_pack: MakePack, tmp_path: Path) -> None:
    path, out = make_pack(60), tmp_path / "out"
    result = salvage(path, out)
    assert (result.found, result.salvaged, result.lost) == (60, 60, 0)
    assert result.doubtful == [] and result.notices == []
    assert records(out) == records(path)
    assert verify(out, decode=True).damage == []
    with facepack.open(path) as old, facepack.open(out) as new:
        assert new.identity_names == old.identity_names
        assert new.classes == old.classes


def test_a_salvaged_pack_can_be_reindexed(make_pack: MakePack, tmp_path: Path) -> None:
    path, out = make_pack(60), tmp_path / "out"
    (path / "shard-001.mdb").unlink()
    salvage(path, out)
    good = {file.name: file.read_bytes() for file in out.iterdir()}
    for name in good:
        if not name.endswith(".mdb"):
            (out / name).unlink()
    reindex(out)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == good


def test_a_damaged_record_is_lost_and_told(make_pack: MakePack, tmp_path: Path) -> None:
    path, out = make_pack(60), tmp_path / "out"
    whole = records(path)
    shard = path / "shard-001.mdb"
    data = bytearray(shard.read_bytes())
    data[extents(shard)[b"0000000007"][1][0] + 40] ^= 1
    shard.write_bytes(bytes(data))
    result = salvage(path, out)
    assert (result.found, result.salvaged, result.lost) == (60, 59, 1)
    assert lost_keys(out) == {"shard-001/0000000007"}
    del whole["shard-001/0000000007"]
    assert salvaged_records(out) == whole
    assert verify(out).damage == []
    (line,) = map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())
    assert line["reason"] == "the record differs from what was packed"
    assert line["ordinal"] == 32


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_records_are_found_without_meta_branches_and_tail(
    page_size: int, make_pack: MakePack, tmp_path: Path
) -> None:
    path, out = make_pack(400, shard_records=400), tmp_path / "out"
    whole = records(path)
    shard = path / "shard-000.mdb"
    data = memoryview(shard.read_bytes())
    size = read_page_size(data)
    items = [item for page in leaf_numbers(data, size) for item in scan_leaf(data, page, size)]
    pages = b"".join(
        lmdb_pages([k for k, _ in items], [bytes(v) for _, v in items], page_size=page_size)
    )
    shard.write_bytes(pages)
    assert guess_page_size(memoryview(pages)) == page_size
    broken = bytearray(pages)
    broken[: 2 * page_size] = bytes(2 * page_size)
    broken[-page_size:] = os.urandom(page_size)  # the root
    shard.write_bytes(bytes(broken[:-100]))
    for name in ("pack.json", "plan.json", "labels.txt"):
        (path / name).unlink()
    result = salvage(path, out)
    assert (result.found, result.lost, result.doubtful) == (400, 0, [])
    assert salvaged_records(out) == whole


def test_damaged_sums_leave_most_records_proven(make_pack: MakePack, tmp_path: Path) -> None:
    path, out = make_pack(60), tmp_path / "out"
    shard = path / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    (_, (start, stop)) = extents(shard)[b"__sums__"]
    data[stop - 9 - 8 * 25 + 8 * 3] ^= 1  # the sum of record 3
    shard.write_bytes(bytes(data))
    result = salvage(path, out)
    assert (result.salvaged, result.lost) == (60, 0)
    (doubt,) = result.doubtful
    assert doubt["key"] == "0000000003" and "checksum is lost: it decodes" in doubt["reason"]
    assert salvaged_records(out) == records_before(make_pack)

    data[start:stop] = bytes(stop - start)
    shard.write_bytes(bytes(data))
    result = salvage(path, out, overwrite=True)
    assert (result.salvaged, len(result.doubtful)) == (60, 25)


def records_before(make_pack: MakePack) -> Records:
    return records(make_pack(60, "again"))


def test_damaged_labels_come_from_the_index_and_what_is_left(
    make_pack: MakePack, tmp_path: Path
) -> None:
    path, out = make_pack(60), tmp_path / "out"
    whole = records(path)
    shard, index = path / "shard-000.mdb", path / "shard-000.kv"
    data = bytearray(shard.read_bytes())
    (_, (_, stop)) = extents(shard)[b"__labels__"]
    column = stop - 9 - 4 * 25
    data[column + 4 * 6] ^= 1  # the label of record 6
    shard.write_bytes(bytes(data))
    result = salvage(path, out)
    assert (result.lost, result.doubtful) == (0, [])  # the index is whole
    assert salvaged_records(out) == whole

    lines = bytearray(index.read_bytes())
    lines[20 * 9 + 18] ^= 1  # the label of record 9
    lines[20 * 12] = ord("x")  # the key of record 12
    index.write_bytes(bytes(lines))
    result = salvage(path, out, overwrite=True)
    places = (6, 9, 12)
    assert lost_keys(out) == {f"shard-000/{place:010d}" for place in places}
    assert result.doubtful == []
    kept = salvaged_records(out)
    assert kept == {key: whole[key] for key in kept} and len(kept) == 57

    gone = data.replace(b"__labels__", b"__lobels__")
    shard.write_bytes(bytes(gone))
    result = salvage(path, out, overwrite=True)
    assert lost_keys(out) == {"shard-000/0000000012"}
    assert len(result.doubtful) == 24
    assert {doubt["reason"] for doubt in result.doubtful} == {
        "its label is known from a damaged index only"
    }
    (path / "pack.json").rename(tmp_path / "pack.json")
    index.write_bytes(fmt.kv_bytes(np.array([whole[f"shard-000/{i:010d}"][1] for i in range(25)])))
    shard.write_bytes(bytes(data))
    result = salvage(path, out, overwrite=True)
    assert (result.lost, result.doubtful) == (0, [])  # the column's own sum proves the index
    assert salvaged_records(out) == whole

    (tmp_path / "pack.json").rename(path / "pack.json")
    index.unlink()
    result = salvage(path, out, overwrite=True)
    assert result.lost == 25
    assert {line.split("/")[0] for line in lost_keys(out)} == {"shard-000"}


def test_missing_and_foreign_shards(make_pack: MakePack, tmp_path: Path) -> None:
    path, out = make_pack(60), tmp_path / "out"
    other = make_pack(60, "other", seed=9)
    whole = records(path)
    (path / "shard-000.mdb").write_bytes((other / "shard-000.mdb").read_bytes())
    (path / "shard-001.mdb").unlink()
    (path / "stray.mdb").write_bytes((other / "shard-001.mdb").read_bytes())
    result = salvage(path, out)
    assert [shard["lost"] for shard in result.shards] == [25, 25, 0]
    assert salvaged_records(out) == {k: v for k, v in whole.items() if k.startswith("shard-002/")}
    assert sum("not a shard of this pack" in notice for notice in result.notices) == 2

    (path / "pack.json").unlink()
    with pytest.raises(DamageError, match=r"holds shards of 2 packs .*: move the others away"):
        salvage(path, tmp_path / "out2")


def test_a_manifest_that_calls_a_shard_by_a_damaged_name(
    make_pack: MakePack, tmp_path: Path
) -> None:
    path, out = make_pack(60), tmp_path / "out"
    whole = records(path)
    manifest = (path / "pack.json").read_text().replace("shard-001", "shard-0Q1")
    (path / "pack.json").write_text(manifest)
    result = salvage(path, out)
    assert (result.found, result.lost) == (60, 0)
    assert salvaged_records(out) == whole


def test_nothing_to_salvage(make_pack: MakePack, tmp_path: Path) -> None:
    path = make_pack(10)
    with pytest.raises(PackError, match="is the damaged pack itself"):
        salvage(path, path, overwrite=True)
    with pytest.raises(PackError, match=r"holds no shards"):
        salvage(tmp_path / "nowhere", tmp_path / "out")
    (path / "shard-000.mdb").write_bytes(bytes(1 << 16))
    with pytest.raises(DamageError, match="nothing can be salvaged"):
        salvage(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pairs_point_at_what_is_left(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> None:
    path, out = tmp_path / "p", tmp_path / "out"
    pairs = np.array([[0, 1, 1], [2, 3, 0], [1, 5, 1], [4, 0, 0]])
    with facepack.PackWriter(path, order="source", shard_records=3) as writer:
        writer.add_table("pairs", pairs)
        writer.add_table("scores", np.arange(6.0))
        for i in range(6):
            writer.add(make_jpeg(i), -1)
    assert salvage(path, out).lost == 0
    with facepack.open(out) as pack:
        assert (pack.pairs == pairs).all() and (pack.table("scores") == np.arange(6.0)).all()
    shard = path / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    data[extents(shard)[b"0000000002"][1][0] + 40] ^= 1
    shard.write_bytes(bytes(data))
    result = salvage(path, out, overwrite=True)
    assert any("1 of 4 pairs are left out" in notice for notice in result.notices)
    assert any("scores.npy is left out" in notice for notice in result.notices)
    assert verify(out).damage == []
    with facepack.open(out) as pack:
        assert pack.pairs is not None
        assert pack.pairs.tolist() == [[0, 1, 1], [1, 4, 1], [3, 0, 0]]
    (path / "pairs.npy").write_bytes(b"x")
    result = salvage(path, out, overwrite=True)
    assert facepack.open(out).manifest["kind"] == "train"
    assert any("pairs.npy is damaged" in notice for notice in result.notices)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage(seed: int, make_pack: MakePack, tmp_path: Path) -> None:
    """Whatever is hit: what comes out is genuine, and what was not touched comes out."""
    path, out = make_pack(60), tmp_path / "out"
    whole = records(path)
    layout = {name: extents(path / f"{name}.mdb") for name in sorted({k[:9] for k in whole})}
    rng = random.Random(seed)
    hits: dict[str, list[tuple[int, int]]] = {}
    for _ in range(rng.choice([1, 1, 3, 8])):
        target = rng.choice(sorted(path.glob("*.mdb")) if rng.random() < 0.7 else [*path.iterdir()])
        data = bytearray(target.read_bytes())
        if not data:
            continue
        start = rng.randrange(len(data))
        match rng.choice(["flip", "zero", "noise", "cut"]):
            case "flip":
                data[start] ^= 1 << rng.randrange(8)
                stop = start + 1
            case "zero":
                stop = min(start + rng.choice([16, 512, 5000, 40000]), len(data))
                data[start:stop] = bytes(stop - start)
            case "noise":
                stop = min(start + rng.choice([16, 512, 5000, 40000]), len(data))
                data[start:stop] = rng.randbytes(stop - start)
            case "cut":
                stop = len(data)
                del data[start:]
        target.write_bytes(bytes(data))
        hits.setdefault(target.name, []).append((start, stop))
    untouched = {
        f"{name}/{key.decode()}"
        for name, keys in layout.items()
        for key, ranges in keys.items()
        if not key.startswith(b"__")
        and not any(a < d and c < b for a, b in ranges for c, d in hits.get(f"{name}.mdb", []))
    }
    try:
        result = salvage(path, out)
    except DamageError:
        assert not untouched
        return
    assert result.found == result.salvaged + result.lost
    assert verify(out, decode=True).damage == []
    doubtful = {f"{doubt['shard']}/{doubt['key']}" for doubt in result.doubtful}
    kept = salvaged_records(out)
    for key, (image, label, name) in kept.items():
        assert key in doubtful or (image, label) == whole[key][:2]
        assert name in (None, whole[key][2])
    unlabelled = {
        f"{line['file'].removesuffix('.mdb')}/{line['key']}"
        for line in map(json.loads, _text(out / "quarantine.jsonl").splitlines())
        if line["reason"] == "its label is lost"
    }
    assert untouched - {*kept} <= unlabelled
    for shard in {key[:9] for key in unlabelled}:  # of column, index and digest, two were hit
        assert f"{shard}.mdb" in hits and ({f"{shard}.kv", "pack.json"} & hits.keys())


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_page_of_an_image_that_looks_like_a_leaf(tmp_path: Path) -> None:
    """Bytes inside a value that are a leaf page of another shard do no harm."""
    import io

    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    image = buffer.getvalue()
    with facepack.PackWriter(tmp_path / "inner", order="source") as writer:
        writer.add(image, 5)
    inner = (tmp_path / "inner" / "shard-000.mdb").read_bytes()
    size = read_page_size(inner)
    leaf = next(p for p in leaf_numbers(memoryview(inner), size))
    assert inner[leaf * size + 10] == P_LEAF
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add(image + inner[leaf * size - 16 :], 1)
        writer.add(image, 2)
    result = salvage(tmp_path / "p", tmp_path / "out")
    assert (result.salvaged, result.lost) == (2, 0)
    assert records(tmp_path / "out") == records(tmp_path / "p")


def test_a_disk_that_cannot_read(tmp_path: Path) -> None:
    """A hole in this process's own memory is an input/output error to who reads it as a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    page = mmap.PAGESIZE
    address = libc.mmap(
        None, 3 * page, mmap.PROT_READ | mmap.PROT_WRITE,
        mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 2**64 - 1, 0,
    )  # fmt: skip
    ctypes.memset(address, 7, 3 * page)
    libc.munmap(address + page, page)
    data = memoryview(bytearray(3 * page))
    descriptor = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        lost = sum(_fill(descriptor, data, address))
    finally:
        os.close(descriptor)
        libc.munmap(address, page)
        libc.munmap(address + 2 * page, page)
    assert lost == page
    assert bytes(data) == bytes([7]) * page + bytes(page) + bytes([7]) * page
    (tmp_path / "file").write_bytes(b"abc")
    assert read_through(tmp_path / "file") == (b"abc", 0)


def test_the_command(make_pack: MakePack, tmp_path: Path) -> None:
    path, out = make_pack(60), tmp_path / "out"
    (path / "shard-001.mdb").unlink()
    done = CliRunner().invoke(root, ["salvage", str(path), str(out)])
    assert done.exit_code == 0
    assert "shard-001: 25 of 25 lost" in done.stdout
    assert "35 of 60 records salvaged (0 of them in doubt), 25 lost" in done.stdout
    done = CliRunner().invoke(root, ["salvage", str(path), str(out)])
    assert done.exit_code == 1 and "--overwrite replaces it" in done.stderr
    done = CliRunner().invoke(root, ["salvage", str(path), str(out), "--overwrite", "--json"])
    assert json.loads(done.stdout)["lost"] == 25


def test_what_the_source_said_is_kept(make_pack: MakePack, tmp_path: Path) -> None:
    from facepack.store.finish import finish_pack
    from facepack.store.plan import PackPlan
    from facepack.store.record import SourceRecord
    from facepack.store.shard import ShardBuilder
    from facepack.store.shard_nodes import shard_nodes

    path, out = tmp_path / "p", tmp_path / "out"
    with facepack.open(make_pack(6)) as pack:
        images = [record.image for record in pack]
    plan = PackPlan.make(
        kind="train", source={}, order="source", shards=[{"name": "s", "start": 0, "stop": 6}]
    )
    builder = ShardBuilder()
    for i, image in enumerate(images):
        extra = {"id": i, "flag": 2.5} if i % 2 else {"id": i}
        builder.add(SourceRecord(i, image, i % 3, None, extra))
    path.mkdir()
    written = builder.write(path, "s", order="source", seed=0, meta=plan.shard_meta(0))
    finish_pack(path, plan, [written])
    salvage(path, out)

    def extra(shard: Path) -> bytes:
        data = memoryview(shard.read_bytes())
        _, nodes = shard_nodes(data)
        found = (nodes.record(data, i) for i in range(len(nodes)))
        return next(bytes(value) for key, value in found if key == fmt.EXTRA)

    assert extra(out / "s.mdb") == extra(path / "s.mdb")
