"""A pack as a source."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack import images
from facepack.convert.formats.pack.shard import find_images
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.source import Group, Refusal, Source
from facepack.convert.spans import cut_spans
from facepack.errors import DamageError, PackError, SourceError
from facepack.store import format as fmt
from facepack.store.lmdb_format import PAGE_HEADER
from facepack.store.lmdb_read import leaf_numbers, read_page_size
from facepack.store.record import RecordRun, SourceRecord
from facepack.store.sets import add_set
from facepack.store.shard import ShardBuilder
from tests.store.lmdb_twin import scan_leaf

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


class InGroups(RecSource):
    """A ``.rec`` that claims to be several files."""

    def __init__(self, path: Path, groups: list[Group]) -> None:
        super().__init__(path)
        self._groups = groups

    def groups(self) -> list[Group]:
        return self._groups


def plain(records: object) -> list[tuple[object, ...]]:
    """Records by value."""
    found = []
    for record in records:  # type: ignore[attr-defined]
        assert isinstance(record, SourceRecord), record
        image = bytes(record.image)
        found.append((record.ordinal, image, record.label, record.name, record.extra))
    return found


def read(source: Source, start: int = 0, stop: int | None = None) -> list[tuple[object, ...]]:
    return plain(source.part(start, len(source) if stop is None else stop).read())


def pack(source: Source, out: Path, **options: object) -> PackSource:
    convert_to_pack(source, out, PackOptions(**options))  # type: ignore[arg-type]
    return PackSource(out)


@pytest.mark.parametrize("order", fmt.ORDERS)
def test_records_come_in_the_order_of_the_source(
    make_rec: MakeRec, tmp_path: Path, order: str
) -> None:
    rec = RecSource(make_rec(100))
    source = pack(rec, tmp_path / "pack", order=order, shard_records=30)
    assert read(source) == read(rec)
    assert (len(source), source.classes, source.content) == (100, 20, "train")
    assert source.groups() == [Group("train", 0, 100)]


def test_a_part_crosses_shards(make_rec: MakeRec, tmp_path: Path) -> None:
    rec = RecSource(make_rec(100))
    source = pack(rec, tmp_path / "pack", shard_records=30)
    everything = read(rec)
    for start, stop in ((0, 100), (10, 20), (29, 31), (30, 60), (25, 95), (60, 60)):
        part = pickle.loads(pickle.dumps(source.part(start, stop)))
        assert (part.start, part.stop) == (start, stop)
        assert len(pickle.dumps(part)) < 1000
        assert plain(part.read()) == everything[start:stop]
        labels = [record[2] for record in everything[start:stop]]
        assert [entry.label for entry in part.entries()] == labels
        keep = np.arange(start, stop) % 7 == 3
        assert plain(part.read(keep)) == [
            record for record, kept in zip(everything[start:stop], keep, strict=True) if kept
        ]


def test_what_only_some_records_have(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    some = {
        3: pack_header([0, 1.5, 2.5], 4) + make_jpeg(3),
        40: pack_header([8, 0.1], 41, 1 << 63) + make_jpeg(40),
    }
    rec = RecSource(make_rec(50, bad=some))
    source = pack(rec, tmp_path / "pack", shard_records=20)
    found = read(source)
    assert found == read(rec)
    assert found[3][4] == {"flag": 3, "id": 4, "id2": 0, "key": 4, "label_1": 1.5, "label_2": 2.5}
    assert "label_1" not in found[4][4]  # type: ignore[operator]
    types = {name: type(value) for name, value in found[40][4].items()}  # type: ignore[attr-defined]
    assert types == {"flag": int, "id": int, "id2": int, "key": int, "label_1": float}
    # A pack of the pack says the same.
    assert read(pack(source, tmp_path / "again", shard_records=15)) == found


def test_records_come_together_unless_they_are_unusual(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    some = {30: pack_header([6, 1.5], 31) + make_jpeg(30)}
    source = pack(RecSource(make_rec(60, bad=some)), tmp_path / "pack", shard_records=20)
    file = tmp_path / "pack" / "train-002.mdb"
    data = bytearray(file.read_bytes())
    data[data.index(read(source)[45][1]) + 300] ^= 1  # type: ignore[arg-type]
    file.write_bytes(data)
    part = source.part(5, 58)
    kinds, found = [], []
    for item in part.read_runs():
        kinds.append(type(item))
        found += item.records() if isinstance(item, RecordRun) else [item]
    # Shard 1 has a number that is no integer; record 45 is damaged.
    assert kinds == [RecordRun, *[SourceRecord] * 20, RecordRun, Refusal, RecordRun]
    whole = list(part.read())
    assert [record for record in found if isinstance(record, Refusal)] == [
        record for record in whole if isinstance(record, Refusal)
    ]
    assert plain(record for record in found if isinstance(record, SourceRecord)) == plain(
        record for record in whole if isinstance(record, SourceRecord)
    )


def test_numbers_with_and_without_a_sign_stay_integers(make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(0)
    ShardBuilder().add(SourceRecord(0, image, 0))  # so that its header is known
    builder = ShardBuilder()
    for ordinal, number in enumerate((np.int64([-5]), np.uint64([(1 << 63) - 1]))):
        run = RecordRun(
            ordinals=np.array([ordinal]),
            data=memoryview(image),
            starts=np.array([0]),
            stops=np.array([len(image)]),
            labels=np.array([0]),
            names=None,
            extra={"number": number},
        )
        assert not list(builder.add_run(run))
    (column,) = builder._extra_columns().values()
    assert column.tolist() == [-5, (1 << 63) - 1]


def test_names(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    people = ["Zoë", "adam\nb", None]
    with facepack.PackWriter(tmp_path / "pack", shard_records=4) as writer:
        for i in range(9):
            name = f"{people[i % 3]}/{i}.jpg" if i != 4 else None
            writer.add(make_jpeg(i), i % 3, name, people[i % 3])
    source = PackSource(tmp_path / "pack")
    part = source.part(2, 7)
    assert [record[3] for record in plain(part.read())] == [entry.name for entry in part.entries()]
    assert [entry.name for entry in part.entries()][1:3] == ["Zoë/3.jpg", None]
    assert part.identity_names() == {0: "Zoë", 1: "adam\nb"}
    assert source.groups() == [Group("shard", 0, 9)]
    again = pack(source, tmp_path / "again")
    assert read(again) == read(source)
    assert facepack.open(tmp_path / "again").identity_names == ["Zoë", "adam\nb", ""]


def test_shards_of_one_file_are_one_group_again(make_rec: MakeRec, tmp_path: Path) -> None:
    groups = [Group("0_0", 0, 20), Group("0_1", 20, 80), Group("x-000", 80, 90)]
    groups.append(Group("y", 90, 100))
    rec = InGroups(make_rec(100), groups)
    source = pack(rec, tmp_path / "pack", shard_records=25)
    names = ["0_0", "0_1-000", "0_1-001", "0_1-002", "x-000", "y"]
    assert facepack.open(tmp_path / "pack").shard_names == names
    assert source.groups() == groups
    assert read(source) == read(rec)
    again = pack(source, tmp_path / "again", shard_records=40)
    names = ["0_0", "0_1-000", "0_1-001", "x-000", "y"]
    assert facepack.open(tmp_path / "again").shard_names == names
    assert read(again) == read(rec)


def test_names_that_only_look_cut(make_rec: MakeRec, tmp_path: Path) -> None:
    groups = [Group("a-001", 0, 10), Group("a-002", 10, 20), Group("b", 20, 30)]
    groups += [Group("b-000", 30, 40), Group("b-001", 40, 50)]
    source = pack(InGroups(make_rec(50), groups), tmp_path / "pack")
    assert source.groups() == groups


def test_some_shards(make_rec: MakeRec, tmp_path: Path) -> None:
    rec = RecSource(make_rec(100))
    whole = pack(rec, tmp_path / "pack", shard_records=30)
    some = PackSource(tmp_path / "pack", shards=["train-001", "train-003"])
    assert [(name, stop - start) for name, start, stop in some.groups()] == [
        ("train-001", 30),
        ("train-003", 10),
    ]
    chosen = read(rec)[30:60] + read(rec)[90:]
    assert [record[1:] for record in read(some)] == [record[1:] for record in chosen]
    assert some.describe() != whole.describe()
    add_set(tmp_path / "pack", facepack.open(tmp_path / "pack").shard_names, "odd", ["*[13]"])
    assert read(PackSource(tmp_path / "pack:odd")) == read(some)
    with pytest.raises(PackError, match="has no shard set 'even'"):
        PackSource(tmp_path / "pack:even")


def test_sizes_add_up(make_rec: MakeRec, tmp_path: Path) -> None:
    source = pack(RecSource(make_rec(100)), tmp_path / "pack", shard_records=30)
    exact = [len(record[1]) for record in read(source)]  # type: ignore[arg-type]
    sizes = source.sizes()
    assert sizes.dtype == np.uint32 and len(sizes) == 100
    for start in range(0, 100, 30):
        assert sizes[start : start + 30].sum() == sum(exact[start : start + 30])
    assert len(cut_spans(source, records=1000, size=int(sizes.sum()))) == 1


def test_descriptions_tell_packs_apart(make_rec: MakeRec, tmp_path: Path) -> None:
    rec = RecSource(make_rec(20))
    one, two = pack(rec, tmp_path / "one"), pack(rec, tmp_path / "two", order="source")
    assert one.describe() != two.describe()
    (tmp_path / "one").rename(tmp_path / "moved")
    assert PackSource(tmp_path / "moved").describe() == one.describe()


def test_damaged_records_are_refused(make_rec: MakeRec, tmp_path: Path) -> None:
    rec = RecSource(make_rec(40))
    source = pack(rec, tmp_path / "pack", shard_records=20)
    file = tmp_path / "pack" / "train-001.mdb"
    image = read(rec)[25][1]
    data = bytearray(file.read_bytes())
    data[data.index(image) + 300] ^= 1  # type: ignore[arg-type]
    file.write_bytes(data)
    records = list(source.part(0, 40).read())
    (refusal,) = (record for record in records if isinstance(record, Refusal))
    assert refusal.ordinal == 25 and refusal.file == "train-001.mdb"
    assert refusal.reason == "it differs from what was packed"
    assert "facepack verify" in refusal.remedy
    place = source.part(20, 40)
    assert isinstance(records[26], SourceRecord)
    key = place.refuse(records[26], "too small").key
    position = facepack.open(tmp_path / "pack").position(key or "")
    assert facepack.open(tmp_path / "pack")[position].image == bytes(records[26].image)
    good = [record for record in records if record is not refusal]
    assert plain(good) == [record for record in read(rec) if record[0] != 25]


def test_a_lost_page_costs_its_records_alone(make_rec: MakeRec, tmp_path: Path) -> None:
    source = pack(RecSource(make_rec(100)), tmp_path / "pack")
    file = tmp_path / "pack" / "train.mdb"
    data = bytearray(file.read_bytes())
    page_size = read_page_size(data)
    page = next(leaf_numbers(memoryview(data), page_size))
    lost = sum(key.isdigit() for key, _ in scan_leaf(memoryview(data), page, page_size))
    data[page * page_size + 12] ^= 1  # its lower bound
    file.write_bytes(data)
    records = list(source.part(0, 100).read())
    refused = [record for record in records if isinstance(record, Refusal)]
    assert len(records) == 100 and len(refused) == lost
    assert {refusal.reason for refusal in refused} == {"it is missing"}


def test_a_pack_that_changes_stops_the_reading(make_rec: MakeRec, tmp_path: Path) -> None:
    source = pack(RecSource(make_rec(40)), tmp_path / "pack", shard_records=20)
    part = source.part(0, 40)
    file = tmp_path / "pack" / "train-001.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4096])
    with pytest.raises(SourceError, match=r"train-001\.mdb changed since the pack was opened"):
        list(part.read())
    shutil.copy(tmp_path / "pack" / "train-000.mdb", file)
    file.write_bytes(file.read_bytes().ljust(len(whole), b"\0")[: len(whole)])
    with pytest.raises(SourceError, match=r"train-001\.mdb changed"):
        list(part.read())
    file.unlink()
    with pytest.raises(SourceError, match="No such file"):
        list(part.entries())
    with pytest.raises(DamageError, match="is missing"):
        PackSource(tmp_path / "pack")
    for path, why in (
        (tmp_path, r"it has no pack\.json; pass a folder that has one"),
        (tmp_path / "none", "nothing is there; check the name"),
        (tmp_path / "pack" / "pack.json", "it is not a folder; pass the one"),
    ):
        with pytest.raises(PackError, match=f"is not a pack: {why}"):
            PackSource(path)


def test_a_damaged_index_gives_no_labels(make_rec: MakeRec, tmp_path: Path) -> None:
    source = pack(RecSource(make_rec(10)), tmp_path / "pack")
    index = tmp_path / "pack" / "train.kv"
    index.write_bytes(index.read_bytes().replace(b"00000001\n", b"00000003\n"))
    with pytest.raises(DamageError, match="facepack reindex"):
        read(source)


def test_an_image_too_large_is_not_read(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = RecSource(make_rec(10))
    source = pack(rec, tmp_path / "pack")
    sizes = [len(record[1]) for record in read(rec)]  # type: ignore[arg-type]
    monkeypatch.setattr(images, "MAX_BYTES", sorted(sizes)[-2])
    (refusal,) = (r for r in source.part(0, 10).read() if isinstance(r, Refusal))
    assert refusal.ordinal == int(np.argmax(sizes)) and "FACEPACK_MAX_IMAGE_BYTES" in refusal.remedy


@pytest.mark.parametrize("size", [32, 160])
def test_images_are_found_as_by_scanning_pages(
    make_jpeg: MakeJpeg, tmp_path: Path, size: int
) -> None:
    with facepack.PackWriter(tmp_path / "pack") as writer:
        for i in range(70):
            writer.add(make_jpeg(i, size, 95), 0)
    data = memoryview((tmp_path / "pack" / "shard-000.mdb").read_bytes())
    page_size = read_page_size(data)
    found = {}
    for page in leaf_numbers(data, page_size):
        found.update(
            {
                int(key): bytes(value)
                for key, value in scan_leaf(data, page, page_size)
                if key.isdigit()
            }
        )
    offsets, sizes = find_images(data, 70)
    for place, (start, length) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        assert bytes(data[start : start + length]) == found[place]
    assert len(found) == 70
    assert (offsets % page_size == PAGE_HEADER).all() == (size == 160)  # on pages of their own
    offsets, sizes = find_images(data, 72)
    assert sizes[70:].tolist() == [-1, -1]


def test_tables_move_with_their_images(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    faces = [make_jpeg(i % 13) for i in range(60)]
    flags = [i % 3 == 0 for i in range(30)]
    write_bin(tmp_path / "lfw.bin", faces, flags)
    source = pack(BinSource(tmp_path / "lfw.bin"), tmp_path / "one", shard_records=5)
    assert source.table_names == ("pairs",) and source.content == "pairs"
    pack(source, tmp_path / "two", seed=7, shard_records=8)
    for name in ("one", "two"):
        with facepack.open(tmp_path / name) as opened:
            assert opened.pairs is not None
            for (a, b, same), i in zip(opened.pairs.tolist(), range(30), strict=True):
                assert opened[a].image == faces[2 * i] and opened[b].image == faces[2 * i + 1]
                assert same == flags[i]
    assert source.tables(np.arange(13))["pairs"].tolist() == (
        BinSource(tmp_path / "lfw.bin").tables(np.arange(13))["pairs"].tolist()
    )
    positions = np.arange(13) - 1  # the first is refused
    assert len(source.tables(positions)["pairs"]) < 30
    assert "pairs are left out" in source.notices[-1]


def test_a_table_of_unknown_meaning_is_left_out(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    with facepack.PackWriter(tmp_path / "pack", order="source") as writer:
        writer.add_table("scores", np.array([0.5, 0.25]))
        writer.add_table("mine", np.zeros(3))
        writer.add(make_jpeg(0), 0)
        writer.add(make_jpeg(1), 0)
    source = PackSource(tmp_path / "pack")
    assert source.table_names == ("scores",)
    assert source.notices[0].startswith("mine.npy is left out")
    assert source.tables(np.array([1, 0]))["scores"].tolist() == [0.25, 0.5]
