from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash

import facepack
from facepack.care.reindex import _check_complete, reindex
from facepack.care.shard_check import ShardContent
from facepack.care.verify import verify
from facepack.errors import DamageError, NewerFormatError, PackError
from facepack.store import format as fmt
from facepack.store.lmdb_read import (
    Nodes,
    ScanError,
    leaf_numbers,
    leaves_from,
    read_nodes,
    read_page_size,
)
from facepack.store.lmdb_write import lmdb_pages
from facepack.store.shard_nodes import shard_nodes
from tests.store.lmdb_twin import scan_leaf

MakePack = Callable[..., Path]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data))


def place_of(path: Path, key: bytes) -> int:
    """The file offset of a value."""
    data = path.read_bytes()
    view, size = memoryview(data), read_page_size(data)
    for page in leaf_numbers(view, size):
        for found, value in scan_leaf(view, page, size):
            if found == key:
                return data.index(bytes(value))
    raise KeyError(key)


def test_a_sound_pack(make_pack: MakePack) -> None:
    report = verify(make_pack(60), decode=True)
    assert report.damage == [] and report.records == 60
    assert report.as_json()["ok"] is True


def test_a_flip_in_a_record_is_named_by_shard_and_key(make_pack: MakePack) -> None:
    path = make_pack(60)
    shard = path / "shard-001.mdb"
    flip(shard, place_of(shard, b"0000000007") + 40)
    (damage,) = verify(path).damage
    assert (damage.shard, damage.key) == ("shard-001", "0000000007")
    assert "differs from what was packed" in damage.reason


@pytest.mark.parametrize(
    "key", [b"__meta__", b"__labels__", b"__sums__", b"__extra__", b"__names__", b"__identities__"]
)
def test_a_flip_in_a_reserved_record(make_pack: MakePack, key: bytes) -> None:
    path = make_pack(60)
    shard = path / "shard-000.mdb"
    flip(shard, place_of(shard, key) + 8)
    damage = verify(path).damage
    assert damage and damage[0].shard == "shard-000" and key.decode() in damage[0].reason


def test_every_single_flip_anywhere_is_found(make_pack: MakePack) -> None:
    """Records, node headers, page headers, slack, metas, indexes, names, plan and manifest."""
    path = make_pack(30, shard_records=20)
    good = contents(path)
    rng = random.Random(0)
    for name, data in good.items():
        spots = [rng.randrange(len(data)) for _ in range(60)]
        if name.endswith(".mdb"):
            spots += list(range(0, 160, 3)) + [read_page_size(data) + i for i in range(0, 160, 3)]
        for at in spots:
            flip(path / name, at, rng.randrange(8))
            try:
                damage = verify(path).damage
            except PackError:
                damage = [None]  # the manifest itself cannot be read
            assert damage, f"{name}: a flip at {at} was not found"
            (path / name).write_bytes(data)
    assert verify(path).damage == []


def test_truncated_too_long_missing_and_foreign_shards(make_pack: MakePack) -> None:
    path = make_pack(60)
    shard = path / "shard-002.mdb"
    good = shard.read_bytes()
    for data, text in (
        (good[:-4096], "truncated"),
        (good[:100], "truncated"),
        (b"", "truncated"),
        (good + b"\0" * 4096, "too long"),
    ):
        shard.write_bytes(data)
        damage = verify(path).damage
        assert any(text in d.reason for d in damage), (text, damage)
        assert {d.shard for d in damage} == {"shard-002"}
    shard.unlink()
    assert [str(d) for d in verify(path).damage] == ["shard-002: the shard is missing"]
    other = make_pack(60, "other", seed=9)
    shard.write_bytes((other / "shard-002.mdb").read_bytes())
    damage = verify(path).damage
    assert any("of another pack" in d.reason for d in damage)


def test_an_index_that_lies(make_pack: MakePack) -> None:
    path = make_pack(60)
    index = path / "shard-000.kv"
    lines = index.read_bytes().splitlines(keepends=True)
    lines[3] = b"0000000003 00000077\n"
    index.write_bytes(b"".join(lines))
    (damage, *_) = verify(path).damage
    assert (damage.shard, damage.key) == ("shard-000", "0000000003")
    assert "says label 77, the shard" in damage.reason
    index.write_bytes(b"".join(lines[:-1]))
    assert any("24 lines for 25 records" in d.reason for d in verify(path).damage)
    index.write_bytes(b"x" * 500)
    assert any("line 1 is 'xxxx" in d.reason for d in verify(path).damage)


def test_decoding_finds_what_sums_cannot(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> None:
    broken = bytearray(make_jpeg(0, size=112))
    broken[-400:-2] = b""
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add(make_jpeg(1), 0)
        writer.add(bytes(broken), 0)
    assert verify(tmp_path / "p").damage == []
    (damage,) = verify(tmp_path / "p", decode=True).damage
    assert damage.key == "0000000001" and "does not decode" in damage.reason


def test_reindex_makes_everything_but_the_shards_anew(make_pack: MakePack) -> None:
    path = make_pack(60)
    good = contents(path)
    for name in good:
        if not name.endswith(".mdb"):
            (path / name).unlink()
    reindex(path)
    assert contents(path) == good


def test_reindex_of_a_pair_set_keeps_its_table(
    tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    path = tmp_path / "p"
    with facepack.PackWriter(path, order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1]]))
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1), -1)
    good = contents(path)
    (path / "pack.json").unlink()
    (path / "plan.json").unlink()
    reindex(path)
    assert contents(path) == good
    (path / "pairs.npy").unlink()
    with pytest.raises(DamageError, match=r"the table pairs\.npy cannot be read"):
        reindex(path)


def test_reindex_refuses_missing_damaged_foreign_and_renamed_shards(make_pack: MakePack) -> None:
    path = make_pack(60)
    other = make_pack(60, "other", seed=9)
    with pytest.raises(PackError, match="holds no shards"):
        reindex(path.parent)
    first, last = path / "shard-000.mdb", path / "shard-002.mdb"
    first_bytes, last_bytes = first.read_bytes(), last.read_bytes()

    first.unlink()
    with pytest.raises(
        DamageError, match=r"1 of 3 shards are missing \(number 0 first\).*--partial"
    ):
        reindex(path)
    assert reindex(path, partial=True)["records"] == 35
    assert len(facepack.open(path)) == 35 and verify(path).damage == []
    first.write_bytes(first_bytes)
    assert reindex(path)["records"] == 60

    last.unlink()
    with pytest.raises(DamageError, match="the last shard is missing"):
        reindex(path)
    last.write_bytes((other / "shard-002.mdb").read_bytes())
    with pytest.raises(DamageError, match="shards of 2 packs"):
        reindex(path)
    damaged = bytearray(last_bytes)
    damaged[place_of(first, b"0000000003") % len(damaged)] ^= 1
    last.write_bytes(last_bytes)
    flip(last, place_of(last, b"0000000003"))
    with pytest.raises(DamageError, match="shard-002/0000000003: the record differs"):
        reindex(path)
    last.write_bytes(last_bytes)
    first.rename(path / "shard-009.mdb")
    with pytest.raises(DamageError, match=r"says that it is shard-000\.mdb: rename it back"):
        reindex(path)


def test_damage_outside_records_is_not_blessed_by_reindex(make_pack: MakePack) -> None:
    path = make_pack(30, shard_records=30)
    shard = path / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    slack = data.index(bytes(64), 2 * read_page_size(data))
    data[slack + 30] = 1
    shard.write_bytes(bytes(data))
    (damage,) = verify(path).damage
    assert "bytes of a header or of unused space have changed" in damage.reason
    with pytest.raises(DamageError, match="bytes of a header or of unused space"):
        reindex(path)


def test_a_shard_under_another_s_name(make_pack: MakePack) -> None:
    path = make_pack(60, shard_records=20)
    (path / "shard-001.mdb").write_bytes((path / "shard-000.mdb").read_bytes())
    (path / "shard-001.kv").write_bytes((path / "shard-000.kv").read_bytes())
    assert any("it is another shard: shard-000, number 0" in str(d) for d in verify(path).damage)


def rewrite_meta(shard: Path, /, **changes: object) -> None:
    """The same shard but for fields of __meta__, with sums that match."""
    data = shard.read_bytes()
    size = read_page_size(data)
    view = memoryview(data)
    found = {k: bytes(v) for p in leaf_numbers(view, size) for k, v in scan_leaf(view, p, size)}
    meta = fmt.unpack_reserved(fmt.META, found[fmt.META])
    found[fmt.META] = fmt.pack_reserved(fmt.META, {**meta, **changes})
    keys = sorted(found)
    pages = lmdb_pages(keys, [found[key] for key in keys], page_size=size)
    shard.write_bytes(b"".join(pages))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"records": 10**11}, "claims 100000000000 records"),
        ({"records": "3"}, "no 'records'"),
        ({"images": []}, "no 'images'"),
        ({"plan": None}, "no 'plan'"),
        ({"shard": -1}, "'shard' is -1"),
    ],
)
def test_shards_of_strangers_end_in_words(
    make_pack: MakePack, changes: dict[str, object], text: str
) -> None:
    path = make_pack(10)
    rewrite_meta(path / "shard-000.mdb", **changes)
    assert any(text in damage.reason for damage in verify(path).damage)
    with pytest.raises(DamageError, match=text):
        reindex(path)


def test_shards_of_a_later_version_are_not_judged(make_pack: MakePack) -> None:
    path = make_pack(10)
    rewrite_meta(path / "shard-000.mdb", version=2)
    for look in (verify, reindex):
        with pytest.raises(NewerFormatError, match=r"shard-000\.mdb: the shard has format 2; this"):
            look(path)


def test_a_manifest_that_does_not_tell_of_a_file(make_pack: MakePack) -> None:
    path = make_pack(10)
    manifest = json.loads((path / "pack.json").read_text())
    del manifest["files"]["labels.txt"]
    (path / "pack.json").write_text(fmt.json_text(manifest))
    (damage,) = verify(path).damage
    assert damage.shard == "pack.json" and "labels.txt" in damage.reason
    reindex(path)
    assert not verify(path).damage
    assert facepack.open(path).identity_names is not None
    manifest = json.loads((path / "pack.json").read_text())
    del manifest["files"]["plan.json"]
    (path / "pack.json").write_text(fmt.json_text(manifest))
    with pytest.raises(DamageError, match=r"pack\.json .* plan\.json: .* reindex"):
        verify(path)
    reindex(path)
    assert not verify(path).damage


def test_a_table_s_name_leads_nowhere_else(make_pack: MakePack) -> None:
    path = make_pack(10)
    rewrite_meta(
        path / "shard-000.mdb",
        plan={
            "kind": "pairs",
            "source": {"kind": "stream", "stem": "shard"},
            "tables": ["../../x"],
            "classes": 1,
            "order": "source",
            "seed": 0,
            "check": {"decode": False, "size": None, "color": "keep"},
        },
    )
    with pytest.raises(PackError, match=r"name '\.\./\.\./x': allowed are"):
        reindex(path)


def test_no_shard_of_a_pair_set_can_be_left_out(
    tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    path = tmp_path / "p"
    with facepack.PackWriter(path, order="source", shard_records=2) as writer:
        writer.add_table("pairs", np.array([[0, 3, 1]]))
        for i in range(4):
            writer.add(make_jpeg(i), -1)
    (path / "shard-000.mdb").unlink()
    with pytest.raises(DamageError, match="no shard can be left out"):
        reindex(path, partial=True)


def test_a_changed_table_is_not_taken(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> None:
    path = tmp_path / "p"
    with facepack.PackWriter(path, order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1]]))
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1), -1)
    np.save(path / "pairs.npy", np.array([[0, 1, 0]]))
    assert verify(path).damage
    with pytest.raises(DamageError, match=r"pairs\.npy differs from what pack\.json states"):
        reindex(path)
    (path / "pack.json").unlink()
    np.save(path / "pairs.npy", np.array([[0, 2, 0]]))
    with pytest.raises(DamageError, match="a position lies outside the 2 records"):
        reindex(path)


def test_keys_that_later_versions_add_are_no_damage(make_pack: MakePack) -> None:
    path = make_pack(10)
    manifest = json.loads((path / "pack.json").read_text())
    (path / "pack.json").write_text(json.dumps({**manifest, "colour": "blue"}))
    assert verify(path).damage == []
    assert len(facepack.open(path)) == 10


def test_a_partial_pack_says_so(make_pack: MakePack) -> None:
    path = make_pack(60)
    whole = facepack.open(path).content_id
    (path / "shard-001.mdb").unlink()
    assert reindex(path, partial=True)["partial"] is True
    assert facepack.open(path).content_id != whole
    assert verify(path).damage == []


def test_fuzzed_shards_end_in_findings_not_in_other_errors(make_pack: MakePack) -> None:
    path = make_pack(30, shard_records=30)
    shard = path / "shard-000.mdb"
    good = shard.read_bytes()
    rng = random.Random(1)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.choice([1, 10, 200])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        shard.write_bytes(bytes(data))
        assert verify(path, decode=True).damage


def test_a_manifest_that_contradicts_the_shards(make_pack: MakePack) -> None:
    path = make_pack(60)
    text = (path / "pack.json").read_text()
    for field, value in (("classes", 9), ("identities", 3), ("records", 61), ("order", "source")):
        manifest = {**json.loads(text), field: value}
        (path / "pack.json").write_text(json.dumps(manifest))
        (damage, *_) = verify(path).damage
        assert re.search(f"'{field}' differs from what the shards say", str(damage))


def twin(data: bytes) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The slow, obvious way: page by page; and whether a page could not be read to its end."""
    view, size = memoryview(data), read_page_size(data)
    found, broken = [], False
    for page in leaf_numbers(view, size):
        try:
            found += [(key, bytes(value)) for key, value in scan_leaf(view, page, size)]
        except ScanError:
            broken = True
    return found, broken


def all_at_once(data: bytes) -> tuple[list[tuple[bytes, bytes]], Nodes]:
    view = memoryview(data)
    _, nodes = shard_nodes(view)
    records = (nodes.record(view, index) for index in range(len(nodes)))
    return [(key, bytes(value)) for key, value in records], nodes


@pytest.mark.parametrize(("size", "quality"), [(32, 80), (256, 95)])
def test_reading_all_pages_at_once_equals_reading_one_by_one(
    tmp_path: Path, make_jpeg: Callable[..., bytes], size: int, quality: int
) -> None:
    """In whole files and in noise: inline and overflow values."""
    with facepack.PackWriter(tmp_path / "p") as writer:
        for i in range(50):
            writer.add(make_jpeg(i % 7, size=size, quality=quality), 0)
    good = (tmp_path / "p" / "shard-000.mdb").read_bytes()
    found, nodes = all_at_once(good)
    assert (found, False) == twin(good) and nodes.errors == [] and not nodes.overlap.any()
    assert [found[start][0] for start in nodes.page_starts] == [
        next(scan_leaf(memoryview(good), page, read_page_size(good)))[0]
        for page in leaf_numbers(memoryview(good), read_page_size(good))
    ]
    rng = random.Random(0)
    for _ in range(200):
        data = bytearray(good)
        pages = list(leaf_numbers(memoryview(good), read_page_size(good)))
        for _ in range(rng.choice([1, 10])):
            at = rng.choice(pages) * read_page_size(good) + rng.randrange(12, 200)
            data[at] = rng.randrange(256)
        try:
            found, nodes = all_at_once(bytes(data))
        except ScanError as error:
            assert "records; at most" in str(error)
            continue
        slow, broken = twin(bytes(data))
        assert broken == bool(nodes.errors)
        assert found == slow if not broken else set(slow) <= set(found)


def test_records_that_share_bytes_are_counted_once(make_pack: MakePack) -> None:
    path = make_pack(10)
    shard = path / "shard-000.mdb"
    data = bytearray(shard.read_bytes())
    size = read_page_size(data)
    page = next(leaf_numbers(memoryview(data), size)) * size
    first, second = data[page + 16 : page + 18], data[page + 18 : page + 20]
    assert first != second
    data[page + 18 : page + 20] = first
    shard.write_bytes(bytes(data))
    _, nodes = all_at_once(bytes(data))
    assert nodes.overlap.sum() == 1
    damage = verify(path).damage
    assert any("1 records run into others" in str(d) for d in damage)
    assert any(d.key == "0000000001" and "is missing" in d.reason for d in damage)


def test_more_records_than_a_shard_can_have_end_the_reading(make_pack: MakePack) -> None:
    path = make_pack(10)
    data = memoryview((path / "shard-000.mdb").read_bytes())
    size = read_page_size(data)
    pages = np.fromiter(leaf_numbers(data, size), np.int64)
    with pytest.raises(ScanError, match="records; at most 3 can be"):
        read_nodes(data, pages, size, most=3)


def test_the_walk_is_spared_where_the_digest_is_right(
    make_pack: MakePack, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_pack(60)
    walked: list[str] = []
    monkeypatch.setattr("lmdb.verify.verify", lambda file, subdir: walked.append(file) or [])
    assert verify(path).damage == [] and walked == []
    flip(path / "shard-001.mdb", 20_000)
    assert verify(path).damage and walked == [str(path / "shard-001.mdb")]


def test_deep_finds_what_was_wrong_when_it_was_written(make_pack: MakePack) -> None:
    """A record that its sum contradicts, in a file that has the digest of the manifest."""
    path = make_pack(60)
    shard = path / "shard-001.mdb"
    flip(shard, place_of(shard, b"0000000007") + 40)
    manifest = json.loads((path / "pack.json").read_text())
    entry = manifest["shards"][1]["files"][shard.name]
    entry["xxh3_128"] = xxhash.xxh3_128_hexdigest(shard.read_bytes())
    manifest["content_id"] = fmt.content_id([[s["files"] for s in manifest["shards"]], {}])
    (path / "pack.json").write_text(fmt.json_text(manifest))
    (damage,) = verify(path, deep=True).damage
    assert (damage.shard, damage.key) == ("shard-001", "0000000007")
    assert verify(path).damage == []


@pytest.mark.parametrize(("records", "names"), [(1, 3), (60, 40), (4000, 300)])
def test_the_branches_lead_to_the_leaves_of_reserved_records(records: int, names: int) -> None:
    """Against a look at all leaves; over trees of one level, two and three."""
    for size in (0, 40, 900, 3000):
        keys = [b"%010d" % place for place in range(records)]
        keys += [b"__%06d__" % number for number in range(names)]
        pages = lmdb_pages(keys, [bytes(size)] * len(keys), page_size=4096)
        data = memoryview(b"".join(pages))
        found = {
            page: [k for k, _ in scan_leaf(data, page, 4096)] for page in leaf_numbers(data, 4096)
        }
        for key in (fmt.RESERVED, b"", keys[len(keys) // 2], b"~"):
            leaves = leaves_from(data, 4096, key)
            expected = [page for page in found if found[page][-1] >= key]
            assert leaves == sorted(leaves) and set(expected) <= set(leaves)
            assert len(leaves) <= len(expected) + 1


def test_branches_that_lead_astray_end_in_words() -> None:
    keys = [b"%010d" % place for place in range(4000)]
    good = b"".join(lmdb_pages(keys, [bytes(40)] * len(keys), page_size=4096))
    rng = random.Random(0)
    for _ in range(300):
        data = bytearray(good)
        page = rng.choice([1, *range(len(good) // 4096 - 4, len(good) // 4096)])
        for _ in range(rng.choice([1, 30])):
            data[page * 4096 + rng.randrange(160)] = rng.randrange(256)
        with contextlib.suppress(ScanError):
            assert len(leaves_from(memoryview(data), 4096, b"")) <= len(good) // 4096


def test_a_shard_that_the_disk_cannot_read(make_pack: MakePack) -> None:
    """Reading a folder as a file fails like a bad sector: with an OSError."""
    path = make_pack(60)
    (path / "shard-001.mdb").unlink()
    (path / "shard-001.mdb").mkdir()
    assert any("the shard cannot be read: Is a directory" in str(d) for d in verify(path).damage)
    (path / "labels.txt").unlink()
    (path / "labels.txt").mkdir()
    assert any("labels.txt: the file cannot be read" in str(d) for d in verify(path).damage)


def test_shards_that_do_not_agree_how_many_they_are_make_no_pack(tmp_path: Path) -> None:
    said = [ShardContent(meta={"shard": k, "shards": count}) for k, count in ((0, 2), (1, 1))]
    with pytest.raises(DamageError, match=r"do not agree .* \(2 are here, the last says 1\)"):
        _check_complete(tmp_path, said, partial=False)
