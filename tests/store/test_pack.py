from __future__ import annotations

import json
import multiprocessing
import operator
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb
import numpy as np
import pytest
import xxhash

import facepack
from facepack.errors import DamageError, DecodeError, PackError
from facepack.hashing import hash64
from facepack.store import environments
from facepack.store import format as fmt

MakePack = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def test_every_record_comes_back(make_pack: MakePack, make_jpeg: MakeJpeg) -> None:
    with facepack.open(make_pack(60)) as pack:
        assert len(pack) == 60 and pack.classes == pack.identities == 4
        assert pack.labels.dtype == np.int64 and not pack.labels.flags.writeable
        records = list(pack)
        expected = sorted((make_jpeg(i), i % 4) for i in range(60))
        assert sorted((record.image, record.label) for record in records) == expected
        assert [record.label for record in records] == pack.labels.tolist()
        assert records == [pack[i] for i in range(60)] == pack[:] == pack.batch(range(60))
        assert pack[-1] == records[59] and pack[5:20:3] == records[5:20:3]
        assert pack.batch(np.array([7, 7, -2])) == [records[7], records[7], records[58]]
        assert pack.image_size == (32, 32) and pack.decode(0).shape == (32, 32, 3)
        assert pack.identity_names == ["ann", "bob\nby", "c\\d", "dora"]


def test_keys_and_positions_are_inverse(make_pack: MakePack) -> None:
    with facepack.open(make_pack(60)) as pack:
        assert pack.key(0) == "shard-000/0000000000" and pack.key(59) == "shard-002/0000000009"
        assert [pack.position(pack.key(i)) for i in range(60)] == list(range(60))
        known = ("shard-000/25", "shard-000/0000000025", f"shard-000/{'1' * 5000}")
        for bad in (*known, "other/0000000000", "", "0000000000"):
            with pytest.raises(KeyError):
                pack.position(bad)


def test_shuffled_order_is_the_hash_of_the_ordinal_but_for_page_filling(
    make_pack: MakePack,
) -> None:
    path = make_pack(60, shard_records=60)
    with lmdb.open(str(path / "shard-000.mdb"), subdir=False, readonly=True, lock=False) as env:
        with env.begin() as transaction:
            extra = fmt.unpack_reserved(fmt.EXTRA, transaction.get(fmt.EXTRA))
    ordinals = fmt.unpack_column(extra["ordinal"], 60) + extra["first"]
    assert sorted(ordinals.tolist()) == list(range(60))
    expected = np.argsort(hash64(3, np.arange(60)))
    moved = [abs(int(np.flatnonzero(expected == o)[0]) - i) for i, o in enumerate(ordinals)]
    assert max(moved) < 60 and ordinals.tolist() != list(range(60))


@pytest.mark.parametrize("order", ["source", "identity"])
def test_other_orders(make_pack: MakePack, make_jpeg: MakeJpeg, order: str) -> None:
    with facepack.open(make_pack(60, order=order, shard_records=60)) as pack:
        numbers = list(range(60))
        if order == "identity":
            numbers.sort(key=lambda i: (i % 4, i))
        assert [record.image for record in pack] == [make_jpeg(i) for i in numbers]


def test_positions_outside_are_named(make_pack: MakePack) -> None:
    with facepack.open(make_pack(10)) as pack:
        for bad in (10, -11):
            with pytest.raises(IndexError, match=rf"position {bad}: .* has 10 records"):
                pack[bad]
        assert pack.batch([]) == [] and pack[3:3] == []


def test_views_are_the_bytes_and_outlive_close(make_pack: MakePack) -> None:
    pack = facepack.open(make_pack(60))
    images = [record.image for record in pack]
    with pack.views([59, 0, 30]) as views:
        pack.close()  # the shards stay open while views are held
        assert [bytes(view) for view in views] == [images[59], images[0], images[30]]
    assert pack[4].image == images[4]
    pack.close()


def held_open(path: Path) -> set[tuple[int, int]]:
    """Which of a pack's shards this process has open."""
    statuses = [file.stat() for file in path.glob("*.mdb")]
    return {(status.st_dev, status.st_ino) for status in statuses} & set(environments._registry)


def test_threads_share_a_pack(make_pack: MakePack) -> None:
    pack = facepack.open(make_pack(60))
    images = [record.image for record in pack]
    pack.close()
    start = threading.Barrier(8)

    def read(seed: int) -> bool:
        start.wait()
        order = np.random.default_rng(seed).permutation(60)
        return all(pack[int(i)].image == images[i] for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert len(held_open(pack.path)) == 3
    pack.close()
    assert not held_open(pack.path)


def users(pack: facepack.Pack) -> int:
    """How many hold the pack's first shard open: the pack, and each set of transactions."""
    status = (pack.path / "shard-000.mdb").stat()
    return environments._registry[status.st_dev, status.st_ino].users


def test_transactions_are_used_again(make_pack: MakePack) -> None:
    pack = facepack.open(make_pack(60))
    for _ in range(3):
        assert len(pack.batch(range(60))) == 60
        assert users(pack) == 2
    with pack.views([0]) as outer, pack.views([0]) as inner:
        assert users(pack) == 3
        assert bytes(outer[0]) == bytes(inner[0])
    with pytest.raises(ZeroDivisionError), pack.views([0]):
        raise ZeroDivisionError
    assert users(pack) == 2
    with pack.views([0]) as views:
        pack.close()
        assert users(pack) == 1
        assert len(bytes(views[0])) > 0
    assert not held_open(pack.path)


def test_closing_while_threads_read(make_pack: MakePack) -> None:
    pack = facepack.open(make_pack(60))
    images = [record.image for record in pack]
    stop = threading.Event()

    def read(seed: int) -> bool:
        draw = np.random.default_rng(seed)
        while not stop.is_set():
            positions = draw.integers(-60, 60, 9)
            with pack.views(positions) as views:
                if [bytes(view) for view in views] != [images[i] for i in positions]:
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(read, seed) for seed in range(4)]
        for _ in range(200):
            pack.close()
        stop.set()
        assert all(each.result() for each in reading)
    pack.close()
    assert not held_open(pack.path)


def test_one_damaged_page_spoils_no_other_record(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        for i in range(400):
            writer.add(make_jpeg(i), i)
    pack = facepack.open(tmp_path / "p")
    page_size = pack.manifest["shards"][0]["page_size"]
    images = pack.batch([0, 399])
    with (tmp_path / "p" / "shard-000.mdb").open("r+b") as file:
        leaf = file.read().index(pack[200].image) // page_size * page_size
        file.seek(leaf + 10)
        file.write(bytes(2))  # neither a branch nor a leaf
    for _ in range(2):
        with pytest.raises(DamageError, match=r"/0000000200: LMDB says: .*MDB_CORRUPTED"):
            pack.batch([0, 200])
        assert pack.batch([0, 399]) == images


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_pack(make_pack: MakePack, method: str) -> None:
    with facepack.open(make_pack(60)) as pack:
        records = pack[:]
        with multiprocessing.get_context(method).Pool(2) as pool:
            # A function that any child can import: this file is no module to it.
            assert pool.starmap(operator.getitem, [(pack, slice(None))] * 2) == [records] * 2
        assert pack[:] == records


_inherited: facepack.Pack


def _inherited_records(_: int) -> list[facepack.Record]:
    return _inherited[:]


def test_a_forked_child_uses_an_open_pack(make_pack: MakePack) -> None:
    global _inherited
    with facepack.open(make_pack(60)) as _inherited:
        records = _inherited[:]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(_inherited_records, range(2)) == [records] * 2
        assert _inherited[:] == records


# In a process of its own: an error in the child then ends it and says what it was, where in a child
# of the tests' process it would be reported by a second run of all the tests that follow.
_FORK_WITH_VIEWS = """
import os, sys
import facepack
from facepack.store import environments

def users():
    status = (pack.path / "shard-000.mdb").stat()
    return environments._registry[status.st_dev, status.st_ino].users

pack, reads = facepack.open(sys.argv[1]), sys.argv[2] == "True"
record = pack[7]
with pack.views([7]) as views:
    child = os.fork()
    if child == 0 and reads:
        assert pack[7] == record
if child == 0:
    assert pack[7] == record
    assert users() == 2
    sys.exit()
status = os.waitpid(child, 0)[1]
assert status == 0, status
assert bytes(views[0]) == record.image
assert pack[7] == record
assert users() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("reads", [False, True])
def test_forking_while_views_are_held(make_pack: MakePack, reads: bool) -> None:
    """A child may leave the ``with`` that its parent entered, having read meanwhile or not."""
    command = [sys.executable, "-c", _FORK_WITH_VIEWS, str(make_pack(60)), str(reads)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_two_packs_of_one_folder_share_environments(make_pack: MakePack) -> None:
    path = make_pack(60)
    one, two = facepack.open(path), facepack.open(path)
    first = one[0]
    assert two[0] == first
    one.close()
    assert two[0] == first
    assert held_open(path)
    del two
    assert not held_open(path)
    assert pickle.loads(pickle.dumps(one))[0] == first


def test_opening_says_what_is_wrong(make_pack: MakePack, tmp_path: Path) -> None:
    with pytest.raises(PackError, match="nothing is there; check the name"):
        facepack.open(tmp_path / "nothing")
    with pytest.raises(PackError, match=r"has no pack\.json"):
        facepack.open(tmp_path)
    path = make_pack(60)
    manifest = json.loads((path / "pack.json").read_text())
    for change, text in (
        ({"format": 2}, "format 2; this facepack reads 1"),
        ({"shards": [{**manifest["shards"][0], "name": "../x"}]}, r"shard '\.\./x' has the files"),
        ({"files": {"../x": {"bytes": 0, "xxh3_128": ""}}}, r"'\.\./x' leads outside the pack"),
    ):
        (path / "pack.json").write_text(json.dumps({**manifest, **change}))
        with pytest.raises(PackError, match=text):
            facepack.open(path)
    (path / "pack.json").write_text("{")
    with pytest.raises(DamageError, match="facepack reindex"):
        facepack.open(path)
    (path / "pack.json").unlink()
    with pytest.raises(PackError, match="unfinished pack: run its conversion again with --resume"):
        facepack.open(path)


def test_truncated_missing_and_swapped_shards_are_noticed(make_pack: MakePack) -> None:
    path = make_pack(60)
    shard = path / "shard-001.mdb"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-4096])
    with pytest.raises(DamageError, match=r"shard-001\.mdb has \d+ bytes, the manifest says"):
        facepack.open(path)
    shard.unlink()
    with pytest.raises(DamageError, match=r"shard-001\.mdb is missing"):
        facepack.open(path)
    shard.write_bytes(whole)
    pack = facepack.open(path)
    shard.write_bytes(whole[:-4096])  # after opening: the mapping must not reach behind the end
    with pytest.raises(DamageError, match="was replaced since the pack was opened"):
        pack[30]
    with pytest.raises(DamageError, match="the file is truncated"):
        environments.acquire(shard)


def test_a_broken_image_is_named(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    broken = bytearray(make_jpeg(0, size=112))
    broken[-400:-2] = b""  # the end marker stays: only decoding tells
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add(make_jpeg(1), 0)
        writer.add(bytes(broken), 1)
    with facepack.open(tmp_path / "p") as pack:
        with pytest.raises(DecodeError, match="shard-000/0000000001: the jpeg image"):
            pack.decode(1)


@pytest.mark.parametrize("image", [b"", b"\0" * 100, b"GIF", b"\xff\xd8\xff\xe0"])
def test_the_writer_refuses_what_is_no_image(tmp_path: Path, image: bytes) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer, pytest.raises(DecodeError):
        writer.add(image, 0)
    assert len(facepack.open(tmp_path / "p")) == 0


def test_the_writer_refuses_labels_outside_the_index(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer:
        for label in (-2, 100_000_000):
            with pytest.raises(PackError, match=f"label {label}: allowed are 0 to 99999999"):
                writer.add(make_jpeg(0), label)
        writer.add(make_jpeg(0), -1)
        writer.add(make_jpeg(1), 99_999_999)
    pack = facepack.open(tmp_path / "p")
    assert sorted(pack.labels.tolist()) == [-1, 99_999_999]
    assert (pack.identities, pack.classes) == (1, 100_000_000)


def test_classes_may_exceed_identities_but_not_the_other_way(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    for stated, expected in ((10, 10), (6, 6), (None, 6)):
        with facepack.PackWriter(tmp_path / "p", classes=stated, overwrite=True) as writer:
            writer.add(make_jpeg(0), 5)
        pack = facepack.open(tmp_path / "p")
        assert (pack.classes, pack.identities) == (expected, 1)
    with facepack.PackWriter(tmp_path / "p", classes=5, overwrite=True) as writer:
        with pytest.raises(PackError, match="label 5: the pack was declared to have 5 classes"):
            writer.add(make_jpeg(0), 5)


def test_a_pair_set(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    pairs = np.array([[0, 1, 1], [0, 2, 0]])
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add_table("pairs", pairs)
        with pytest.raises(PackError, match=r"not integers \(P, 3 or 4\)"):
            writer.add_table("pairs", pairs[:, :2])
        for i in range(3):
            writer.add(make_jpeg(i), -1)
    pack = facepack.open(tmp_path / "p")
    assert pack.pairs is not None and pack.pairs.tolist() == pairs.tolist()
    assert pack.pairs.dtype == np.int64 and pack.manifest["kind"] == "pairs"
    with pytest.raises(PackError, match=r"no table 'media'; it has \['pairs'\]"):
        pack.table("media")
    with facepack.PackWriter(tmp_path / "q") as writer:
        with pytest.raises(PackError, match="order='source'"):
            writer.add_table("pairs", pairs)
    with pytest.raises(PackError, match="a position lies outside the 1 records"):
        with facepack.PackWriter(tmp_path / "r", order="source") as writer:
            writer.add_table("pairs", pairs)
            writer.add(make_jpeg(0), -1)
    with pytest.raises(PackError, match="add tables first"):
        with facepack.PackWriter(tmp_path / "s", order="source", shard_records=1) as writer:
            writer.add(make_jpeg(0), -1)
            writer.add(make_jpeg(1), -1)
            writer.add_table("pairs", pairs)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.array([["a", "b", "c"]]), "not integers"),
        (np.array([[0.5, 1.5, 1.0]]), "not integers"),
        (np.zeros((2, 3), [("a", "<i4")]), "not integers"),
        (np.array([[0, 1, 2]]), "1 for the same person, or 0"),
        (np.array([[0, (1 << 64) - 1, 1]], np.uint64), "outside the 2 records"),
    ],
)
def test_pairs_that_are_none_are_refused(
    tmp_path: Path, make_jpeg: MakeJpeg, table: np.ndarray, message: str
) -> None:
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add_table("pairs", np.array([[0, 1, 1]]))
        for i in range(2):
            writer.add(make_jpeg(i), -1)
    data = fmt.npy_bytes(table)
    (tmp_path / "p/pairs.npy").write_bytes(data)
    manifest = json.loads((tmp_path / "p/pack.json").read_text())
    digest = xxhash.xxh3_128_hexdigest(data)
    manifest["files"]["pairs.npy"] = {"bytes": len(data), "xxh3_128": digest}
    (tmp_path / "p/pack.json").write_text(json.dumps(manifest))
    with facepack.open(tmp_path / "p") as pack, pytest.raises(DamageError, match=message):
        _ = pack.pairs


def test_indexes_and_tables_are_compared_with_their_digests(
    make_pack: MakePack, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    index = make_pack(60) / "shard-001.kv"
    lines = index.read_bytes()
    index.write_bytes(lines[:18] + (b"1" if lines[18:19] != b"1" else b"2") + lines[19:])
    with facepack.open(index.parent) as pack:
        with pytest.raises(DamageError, match=r"shard-001\.kv differs from what the manifest"):
            _ = pack.labels
    with facepack.PackWriter(tmp_path / "p", order="source") as writer:
        writer.add_table("scores", np.array([1.5, 2.5]))
        for i in range(2):
            writer.add(make_jpeg(i), -1)
    np.save(tmp_path / "p/scores.npy", np.array([1.5, 2.0]))
    with facepack.open(tmp_path / "p") as pack:
        with pytest.raises(DamageError, match=r"scores\.npy differs from what the manifest"):
            pack.table("scores")


def test_a_label_below_minus_one_is_none(tmp_path: Path) -> None:
    assert fmt.kv_labels(b"0000000000 -0000001\n", "a.kv").tolist() == [-1]
    for field in (b"-0000002", b"-0000000", b"-9999999"):
        with pytest.raises(DamageError, match=r"a\.kv: line 1 is .*not a key and a label"):
            fmt.kv_labels(b"0000000000 " + field + b"\n", "a.kv")


def test_a_link_that_leads_to_itself_is_a_missing_file(make_pack: MakePack) -> None:
    path = make_pack(60)
    for name in ("shard-001.kv", "shard-000.mdb", "labels.txt"):
        whole = (path / name).read_bytes()
        (path / name).unlink()
        (path / name).symlink_to(name)
        with pytest.raises(DamageError, match=f"{name} is missing"):
            facepack.open(path)
        (path / name).unlink()
        (path / name).write_bytes(whole)
    (path / "stranger").symlink_to("stranger")
    assert len(facepack.open(path)) == 60


def test_numbers_of_any_integer_type_and_nothing_else(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p", classes=np.int64(4), seed=np.int32(3)) as writer:
        for i in range(4):
            writer.add(make_jpeg(i), np.int64(i))
        with pytest.raises(TypeError):
            writer.add(make_jpeg(0), 1.7)  # type: ignore[arg-type]
    pack = facepack.open(tmp_path / "p")
    assert sorted(pack.labels.tolist()) == [0, 1, 2, 3]
    assert pack[np.int64(2)] == pack[2]
    with pytest.raises(TypeError):
        pack[1.7]  # type: ignore[call-overload]
    for bad in ([True, False], [0.5]):
        with pytest.raises(IndexError, match="positions must be integers"):
            pack.batch(np.array(bad))
    for options in ({"seed": 1 << 63}, {"seed": -1}, {"shard_bytes": 0}, {"shard_records": 70_000}):
        with pytest.raises(PackError, match="allowed are"):
            facepack.PackWriter(tmp_path / "q", **options)
    with pytest.raises(PackError, match="use the writer in a with block"):
        facepack.PackWriter(tmp_path / "q").add(make_jpeg(0), 0)


def test_an_identity_has_one_name(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0, identity="ann")
        with pytest.raises(PackError, match="label 0 is named 'ann' and 'bob'"):
            writer.add(make_jpeg(1), 0, identity="bob")
    assert len(facepack.open(tmp_path / "p")) == 1


def test_names_of_records(make_pack: MakePack, make_jpeg: MakeJpeg) -> None:
    with facepack.open(make_pack(30)) as pack:
        for i in range(30):
            name = pack.source_name(i)
            assert name is not None and pack[i].image == make_jpeg(int(name[:-4]))


def test_an_overwritten_pack_is_not_mixed_with_the_new_one(make_pack: MakePack) -> None:
    path = make_pack(60)
    pack = facepack.open(path)
    frozen = pickle.dumps(pack)
    first = pack[0]
    make_pack(60, overwrite=True, seed=9)
    assert pack[0] == first  # held open since before
    with pytest.raises(DamageError, match="was replaced since the pack was opened"):
        pack[59]
    with pytest.raises(PackError, match="another pack than the one that was pickled"):
        pickle.loads(frozen)


def test_forking_while_threads_read(make_pack: MakePack) -> None:
    """A child must not inherit the engine in the middle of a call: that hung one time in five."""
    import time

    with facepack.open(make_pack(60)) as pack:
        record, stop = pack[7], threading.Event()

        def read() -> None:
            while not stop.is_set():
                pack.batch(range(0, 60, 3))

        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):
                child = os.fork()
                if child == 0:
                    os._exit(0 if pack[7] == record else 1)
                deadline = time.monotonic() + 20
                while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
                    assert time.monotonic() < deadline, "the child hangs"
                    time.sleep(0.001)
                assert done[1] == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def test_overwriting_touches_only_what_a_conversion_wrote(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("plan.json", "embeddings.npy", "other.mdb", "big.part-01.rar"):
        (folder / name).write_text("{}")
    with pytest.raises(PackError, match=r"holds a plan\.json that facepack did not write"):
        facepack.PackWriter(folder, overwrite=True).__enter__()
    assert len(list(folder.iterdir())) == 4
    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)
    for name in ("notes.txt", "embeddings.npy", "other.mdb", "big.part-01.rar"):
        (tmp_path / "p" / name).write_text("mine")
    with facepack.PackWriter(tmp_path / "p", overwrite=True) as writer:
        writer.add(make_jpeg(1), 0)
    kept = {"notes.txt", "embeddings.npy", "other.mdb", "big.part-01.rar"}
    assert kept <= {file.name for file in (tmp_path / "p").iterdir()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"records": -3}, "'records' is -3"),
        ({"records": 2**63}, "'records' is 9223372036854775808"),
        ({"records": 10**30}, "a number of 31 digits"),
        ({"shards": [{}]}, "shard 0 has no 'name'"),
        ({"images": []}, "no 'images' of type dict"),
        ({"classes": "3"}, "no 'classes' of type int"),
        ({"classes": True}, "no 'classes' of type int"),
        ({"requires": ["label maps"]}, "needs label maps, which this facepack does not know"),
        ({"format": "1"}, "has format '1'; this facepack reads 1"),
    ],
)
def test_manifests_of_any_shape_end_in_words(
    make_pack: MakePack, change: dict[str, object], text: str
) -> None:
    path = make_pack(10)
    manifest = json.loads((path / "pack.json").read_text())
    (path / "pack.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(PackError, match=text):
        facepack.open(path)
    (path / "pack.json").write_text("[" * 100_000)
    with pytest.raises(DamageError):
        facepack.open(path)
    (path / "pack.json").unlink()
    (path / "pack.json").mkdir()
    with pytest.raises(PackError, match="cannot be read"):
        facepack.open(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"formats": 3}, "no 'formats' of counts"),
        ({"channels": {"3": "many"}}, "no 'channels' of counts"),
        ({"oriented": None}, "no count 'oriented'"),
        ({"width": [1]}, "no 'width' of two numbers"),
    ],
)
@pytest.mark.parametrize("where", ["the manifest", "shard 0"])
def test_image_statistics_of_any_shape_end_in_words(
    make_pack: MakePack, where: str, change: dict[str, object], text: str
) -> None:
    """Subsets, merging and appending join them."""
    path = make_pack(10)
    manifest = json.loads((path / "pack.json").read_text())
    (manifest if where == "the manifest" else manifest["shards"][0])["images"] |= change
    (path / "pack.json").write_text(json.dumps(manifest))
    with pytest.raises(DamageError, match=f"{where}: 'images' has {text}: rebuild it with"):
        facepack.open(path)


def test_the_same_records_give_the_same_bytes(make_pack: MakePack) -> None:
    one, two = make_pack(60, "one"), make_pack(60, "two")
    files = sorted(file.name for file in one.iterdir())
    assert files == sorted(file.name for file in two.iterdir())
    assert ".lock" not in files
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    other = make_pack(60, "other", seed=4)
    assert (other / "shard-000.mdb").read_bytes() != (one / "shard-000.mdb").read_bytes()
    assert facepack.open(other).pack_id != facepack.open(one).pack_id


def test_a_writer_that_fails_leaves_no_pack(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with pytest.raises(RuntimeError), facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)
        raise RuntimeError
    with pytest.raises(PackError, match="unfinished"):
        facepack.open(tmp_path / "p")
    with pytest.raises(PackError, match="--overwrite"), facepack.PackWriter(tmp_path / "p"):
        pass
    with facepack.PackWriter(tmp_path / "p", overwrite=True) as writer:
        writer.add(make_jpeg(0), 0)
    assert len(facepack.open(tmp_path / "p")) == 1


def test_of_two_writers_one_is_refused(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    pytest.importorskip("fcntl", reason="without it no file is locked")
    with facepack.PackWriter(tmp_path / "p") as writer:
        writer.add(make_jpeg(0), 0)
        with pytest.raises(PackError, match="another process is writing here"):
            facepack.PackWriter(tmp_path / "p", overwrite=True).__enter__()


def test_strange_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(PackError, match=r"holds no pack \(but 'thesis.tex'\).*mine/NAME"):
            facepack.PackWriter(tmp_path / "mine", overwrite=overwrite).__enter__()
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"


def test_large_records_choose_small_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    import simplejpeg

    noise = rng.integers(0, 256, (160, 160, 3), np.uint8)
    large = simplejpeg.encode_jpeg(noise, quality=95)
    assert len(large) > 20_000
    with facepack.PackWriter(tmp_path / "p") as writer:
        for i in range(30):
            writer.add(large, i)
    pack = facepack.open(tmp_path / "p")
    assert pack.manifest["shards"][0]["page_size"] == 4096
    assert all(record.image == large for record in pack)


def test_real_faces_take_at_most_three_percent_more_than_they_are(
    tmp_path: Path, shared: Path
) -> None:
    from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
    from facepack.convert.formats.rec.source import RecSource

    for name in ("cfp-rec", "lfw-rec"):
        source = RecSource(shared / name)
        result = convert_to_pack(source, tmp_path / name, PackOptions())
        assert result.file_bytes <= 1.03 * result.payload_bytes
        options = PackOptions(order="source")
        result = convert_to_pack(source, tmp_path / f"{name}-source", options)
        assert result.file_bytes <= 1.10 * result.payload_bytes


def test_what_changes_under_an_open_pack_is_told(make_pack: MakePack) -> None:
    path = make_pack(60)
    with facepack.open(path) as pack:
        image = pack[0].image
        shard = path / "shard-000.mdb"
        with shard.open("r+b") as file:  # as no facepack does: it renames files of another name
            size = pack.manifest["shards"][0]["page_size"]
            for meta in (0, 1):
                file.seek(meta * size + 16 + 24 + 48 + 40)  # where each states the tree's root
                file.write((1 << 40).to_bytes(8, "little"))
        with pytest.raises(DamageError, match=r"shard-000\.mdb: LMDB cannot read on: .*verify"):
            pack.source_name(0)
        assert pack[0].image == image  # by a transaction that began before
    with facepack.open(make_pack(60, "other")) as pack:
        (pack.path / "shard-001.kv").write_bytes(b"0000000000 00000001\n")
        with pytest.raises(DamageError, match=r"shard-001\.kv differs from what the manifest"):
            _ = pack.labels
        (pack.path / "shard-001.kv").unlink()
        with pytest.raises(DamageError, match=r"shard-001\.kv: cannot be read: No such file"):
            _ = pack.labels
        (pack.path / "labels.txt").write_bytes(b"ann\n\xff\n")
        with pytest.raises(DamageError, match=r"labels\.txt: .*invalid start byte.*reindex"):
            _ = pack.identity_names
