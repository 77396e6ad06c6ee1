from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.care.shard_check import check_shard
from facepack.care.verify import verify
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.spans import cut
from facepack.errors import PackError, SourceError
from facepack.store.checks import ImageCheck

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def pack_rec(source: Path, out: Path, **options: object) -> dict[str, object]:
    return vars(convert_to_pack(RecSource(source), out, PackOptions(**options)))


@pytest.mark.parametrize("vector", [False, True])
def test_a_rec_becomes_a_pack(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path, vector: bool
) -> None:
    result = pack_rec(make_rec(100, vector=vector), tmp_path / "out", shard_records=30)
    assert (result["found"], result["packed"], result["quarantined"]) == (100, 100, 0)
    assert (result["identities"], result["classes"], result["shards"]) == (20, 20, 4)
    files = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert result["file_bytes"] == files
    with facepack.open(tmp_path / "out") as pack:
        expected = sorted((make_jpeg(i), i // 5) for i in range(100))
        assert sorted((record.image, record.label) for record in pack) == expected
    assert verify(tmp_path / "out").damage == []
    content = check_shard(tmp_path / "out", "train-001")
    assert sorted(content.ordinals.tolist()) == list(range(30, 60))


def test_order_source_keeps_the_file_s_order(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    pack_rec(make_rec(50), tmp_path / "out", order="source", shard_records=20)
    with facepack.open(tmp_path / "out") as pack:
        assert [record.image for record in pack] == [make_jpeg(i) for i in range(50)]


def test_shards_respect_both_limits() -> None:
    sizes = np.array([10, 10, 10, 50, 10, 10])
    spans = cut("x", sizes, records=2, size=25)
    assert [(span.start, span.stop) for span in spans] == [(0, 2), (2, 3), (3, 4), (4, 6)]
    assert [span.name for span in spans] == ["x-000", "x-001", "x-002", "x-003"]
    assert [span.name for span in cut("x", sizes, records=9, size=999)] == ["x"]
    assert len(cut("x", sizes[:0], records=9, size=999)) == 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (pack_header(float("nan"), 3) + b"x", "its label is nan"),
        (pack_header(-4, 3) + b"x", "its label is -4.0"),
        (pack_header(1.5, 3) + b"x", "its label is 1.5"),
        (pack_header(2, 3) + b"no image here", "not an image"),
        (pack_header(2, 3) + b"\xff\xd8\xff\xe0" + bytes(50), "the jpeg header cannot be read"),
        (struct.pack("<IfQQ", 1 << 30, 0, 0, 0) + b"x", "its flag announces 1073741824 labels"),
        (b"short", "its payload has 5 bytes"),
    ],
)
def test_records_that_cannot_be_packed_are_set_aside_with_their_place(
    make_rec: MakeRec, tmp_path: Path, payload: bytes, reason: str
) -> None:
    source = make_rec(60, bad={17: payload})
    result = pack_rec(source, tmp_path / "out", shard_records=25)
    assert (result["packed"], result["quarantined"]) == (59, 1)
    (line,) = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["ordinal"], entry["key"], entry["file"]) == (17, "18", "train.rec")
    offset = int((source / "train.idx").read_text().splitlines()[18].split("\t")[1])
    assert entry["offset"] == offset
    assert reason in entry["reason"] and entry["remedy"]
    assert verify(tmp_path / "out").damage == []
    with pytest.raises(SourceError, match=rf"record 17 at byte {offset} \(key 18\).*--strict"):
        pack_rec(source, tmp_path / "strict", strict=True)


def test_a_truncated_jpeg_is_set_aside_and_a_dented_one_only_when_decoding(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    whole = make_jpeg(3, size=112)
    header = pack_header(0, 4)
    bad = {3: header + whole[:-300], 4: header + whole[:-400] + whole[-2:]}
    source = make_rec(20, bad=bad)
    assert pack_rec(source, tmp_path / "a")["quarantined"] == 1
    assert pack_rec(source, tmp_path / "b", check=ImageCheck(decode=True))["quarantined"] == 2


def test_a_broken_frame_costs_only_its_own_record(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(40)
    rec = source / "train.rec"
    data = bytearray(rec.read_bytes())
    offset = int((source / "train.idx").read_text().splitlines()[6].split("\t")[1])
    data[offset] ^= 0xFF  # the magic of the sixth image
    rec.write_bytes(bytes(data))
    result = pack_rec(source, tmp_path / "out")
    assert (result["packed"], result["quarantined"]) == (39, 1)
    entry = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert entry["offset"] == offset and "magic" in entry["reason"]


def test_a_source_that_shrinks_while_it_is_read_stops_the_run(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    folder = make_rec(40)
    source = RecSource(folder)
    data = (folder / "train.rec").read_bytes()
    (folder / "train.rec").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="changed while it was read"):
        convert_to_pack(source, tmp_path / "out", PackOptions())
    assert not (tmp_path / "out" / "pack.json").exists()


def test_resuming_from_any_state_gives_the_same_bytes(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(100, bad={33: pack_header(1, 1) + b"?"})
    options = {"shard_records": 30}
    pack_rec(source, tmp_path / "whole", **options)
    good = contents(tmp_path / "whole")
    order = ["plan.json"]
    for k in range(4):
        order += [f"train-{k:03d}.kv", f"train-{k:03d}.mdb"]
    order += ["quarantine.jsonl", "pack.json"]
    assert sorted(order) == sorted(good)
    for stop in range(1, len(order) + 1):  # whatever had been committed when the run was killed
        out = tmp_path / f"cut-{stop}"
        out.mkdir()
        for name in order[:stop]:
            (out / name).write_bytes(good[name])
        (out / "train-002.mdb.part-0011aabb").write_bytes(b"half a shard")
        (out / ".lock").touch()
        pack_rec(source, out, resume=True, **options)
        assert contents(out) == good


def test_resuming_makes_a_damaged_shard_anew(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(100), tmp_path / "out"
    pack_rec(source, out, shard_records=30)
    good = contents(out)
    (out / "pack.json").unlink()
    (out / "train-001.mdb").write_bytes(good["train-001.mdb"][:-1] + b"\1")
    (out / "train-002.mdb").write_bytes(good["train-002.mdb"][:5000])
    (out / "train-003.kv").write_bytes(b"?")
    pack_rec(source, out, resume=True, shard_records=30)
    assert contents(out) == good


def test_resuming_a_finished_pack_makes_what_is_missing(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(100), tmp_path / "out"
    pack_rec(source, out, shard_records=30)
    good = contents(out)
    (out / "train-001.mdb").unlink()
    result = pack_rec(source, out, shard_records=30, resume=True)
    assert contents(out) == good and "was made again" in str(result["notices"])


def test_a_shard_under_another_s_name_is_made_anew(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(90), tmp_path / "out"
    pack_rec(source, out, shard_records=30)
    good = contents(out)
    (out / "pack.json").unlink()
    (out / "train-001.mdb").write_bytes(good["train-000.mdb"])
    pack_rec(source, out, shard_records=30, resume=True)
    assert contents(out) == good


def test_a_relabelled_source_is_another_source(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(50), tmp_path / "out"
    pack_rec(source, out)
    rec = source / "train.rec"
    data = rec.read_bytes()
    old, new = struct.pack("<IfQQ", 0, 3.0, 17, 0), struct.pack("<IfQQ", 0, 4.0, 17, 0)
    assert data.count(old) == 1
    rec.write_bytes(data.replace(old, new))
    with pytest.raises(PackError, match=r"begun under another plan .*source"):
        pack_rec(source, out, resume=True)


def test_a_source_without_a_single_image_fails(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(5, bad={i: pack_header(0, i) + b"nothing" for i in range(5)})
    with pytest.raises(SourceError, match="none of the 5 records can be packed"):
        pack_rec(source, tmp_path / "out")


def test_more_labels_than_the_source_states_are_noticed(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(50)
    (source / "property").write_text("3,32,32")
    result = pack_rec(source, tmp_path / "out")
    assert result["classes"] == 10
    assert "states 3 classes, its labels reach 9" in str(result["notices"])


def test_overwriting_needs_room_only_for_the_difference(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    source, out = make_rec(50), tmp_path / "out"
    pack_rec(source, out)
    good = contents(out)
    usage = shutil.disk_usage(out)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=0))
    with pytest.raises(PackError, match="are needed and"):
        pack_rec(make_rec(800, "large"), out, overwrite=True)
    assert contents(out) == good  # the old pack stays until the new one can be made
    usage = usage._replace(free=50_000)
    pack_rec(source, out, overwrite=True)
    assert contents(out) == good


def test_a_differing_plan_is_refused(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(100), tmp_path / "out"
    pack_rec(source, out, shard_records=30)
    (out / "pack.json").unlink()
    before = contents(out)
    for options, text in (
        ({"shard_records": 40}, "shards:"),
        ({"shard_records": 30, "seed": 5}, "seed: 0 there, 5 now"),
        ({"shard_records": 30, "order": "source"}, 'order: "shuffled" there, "source" now'),
    ):
        with pytest.raises(PackError, match=f"begun under another plan .*{text}"):
            pack_rec(source, out, resume=True, **options)
    other = make_rec(100, "other", bad={5: pack_header(1, 1) + b"?"})
    with pytest.raises(PackError, match="source:"):
        pack_rec(other, out, resume=True, shard_records=30)
    assert contents(out) == before


def test_what_a_target_may_hold(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(40), tmp_path / "out"
    pack_rec(source, out)
    good = contents(out)
    with pytest.raises(PackError, match="holds a finished result: --overwrite replaces it"):
        pack_rec(source, out)
    pack_rec(source, out, resume=True)  # finished already: nothing to do
    assert contents(out) == good
    pack_rec(source, out, overwrite=True, shard_records=10)
    assert len(list(out.glob("*.mdb"))) == 4
    pack_rec(source, out, overwrite=True)
    assert contents(out) == good
    (out / "pack.json").unlink()
    with pytest.raises(PackError, match=r"an unfinished conversion: --overwrite .*--resume"):
        pack_rec(source, out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(PackError, match="cannot write"):
        pack_rec(source, tmp_path / "file" / "out")


def test_the_engine_s_map_plays_no_part(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes depend on records and plan alone: how the writer cuts its output changes nothing."""
    source = make_rec(60)
    pack_rec(source, tmp_path / "one")
    from facepack.store import direct

    monkeypatch.setattr(direct, "BLOCK", 4096)
    pack_rec(source, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_bin_becomes_a_pair_set(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images = [make_jpeg(i % 7) for i in range(40)]
    flags = [i % 3 == 0 for i in range(20)]
    write_bin(tmp_path / "lfw.bin", images, flags)
    result = convert_to_pack(BinSource(tmp_path / "lfw.bin"), tmp_path / "lfw", PackOptions())
    assert (result.packed, result.pairs, result.identities, result.classes) == (7, 20, 0, 0)
    with facepack.open(tmp_path / "lfw") as pack:
        assert pack.labels.tolist() == [-1] * 7 and pack.pairs is not None
        for i, (first, second, same) in enumerate(pack.pairs.tolist()):
            assert pack[first].image == images[2 * i] and pack[second].image == images[2 * i + 1]
            assert bool(same) == flags[i]
    assert verify(tmp_path / "lfw").damage == []
    manifest = json.loads((tmp_path / "lfw" / "pack.json").read_text())
    assert (manifest["kind"], manifest["pairs"]) == ("pairs", 20)


def test_pairs_of_a_broken_image_are_left_out_with_a_notice(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    images = [make_jpeg(i) for i in range(10)]
    images[4] = b"broken"
    write_bin(tmp_path / "x.bin", images, [True] * 5)
    result = convert_to_pack(BinSource(tmp_path / "x.bin"), tmp_path / "x", PackOptions())
    assert (result.packed, result.quarantined, result.pairs) == (9, 1, 4)
    assert "1 of 5 pairs are left out" in result.notices[0]
    assert "later folds shift" in result.notices[0]
    entry = json.loads((tmp_path / "x" / "quarantine.jsonl").read_text())
    assert (entry["file"], entry["key"]) == ("x.bin", "4")
    with facepack.open(tmp_path / "x") as pack:
        assert pack.pairs is not None
        firsts = [pack[first].image for first in pack.pairs[:, 0].tolist()]
        assert firsts == [images[i] for i in (0, 2, 6, 8)]


def test_number_columns_keep_their_values() -> None:
    from facepack.store import format as fmt

    for values in ([0, 0], [1, 300], [-1, 5], [2**40, 0], [0.5, None], [0.1], [None, 3], [2**63]):
        column = fmt.pack_column(fmt.number_column(values))
        back = fmt.unpack_column(column, len(values)).tolist()
        expected = [float("nan") if v is None else v for v in values]
        np.testing.assert_array_equal(back, expected)
        if all(isinstance(value, int) for value in values):
            whole = fmt.number_column(np.array(values))  # an array gives the same column
            assert fmt.pack_column(whole) == column
    with pytest.raises(PackError, match="beyond 64 bits"):
        fmt.number_column([-1, 2**63])


def test_the_rest_of_the_header_is_kept(make_rec: MakeRec, tmp_path: Path) -> None:
    from facepack.store import format as fmt
    from facepack.store.lmdb_read import leaf_numbers, read_page_size
    from tests.store.lmdb_twin import scan_leaf

    pack_rec(make_rec(30, vector=True), tmp_path / "out", order="source")
    data = memoryview((tmp_path / "out" / "train.mdb").read_bytes())
    size = read_page_size(data)
    records = dict(
        item for page in leaf_numbers(data, size) for item in scan_leaf(data, page, size)
    )
    extra = fmt.unpack_reserved(fmt.EXTRA, records[fmt.EXTRA])
    columns = {k: fmt.unpack_column(v, 30).tolist() for k, v in extra["columns"].items()}
    assert columns["flag"] == [2] * 30 and columns["label_1"] == [1.0] * 30
    assert columns["id"] == columns["key"] == list(range(1, 31)) and columns["id2"] == [0] * 30


def test_real_sets_come_out_whole(shared: Path, tmp_path: Path) -> None:
    """7,000 / 500 and 9,164 / 1,680; every value equals the source's bytes."""
    from facepack.convert.formats.rec.layout import read_layout
    from facepack.convert.formats.rec.recordio import RecordReader, unpack_header

    for name, records, identities in (("cfp-rec", 7000, 500), ("lfw-rec", 9164, 1680)):
        result = pack_rec(shared / name, tmp_path / name)
        assert (result["packed"], result["identities"]) == (records, identities)
        layout = read_layout(shared / name)
        ordinals = check_shard(tmp_path / name, "train").ordinals
        with RecordReader(layout.rec) as reader, facepack.open(tmp_path / name) as pack:
            for position, ordinal in enumerate(ordinals.tolist()):
                header = unpack_header(reader.read_at(int(layout.offsets[ordinal])))
                record = pack[position]
                assert record.image == header.image and record.label == header.labels[0]
