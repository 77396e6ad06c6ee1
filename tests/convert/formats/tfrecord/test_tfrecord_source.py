"""TFRecord files: plain and compressed, whole and damaged, whatever features are called."""

from __future__ import annotations

import gzip
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matrix.command import facepack, invoke
from matrix.makers import example, masked_crc32c, submessage, tfrecord

from facepack import images
from facepack.convert import workers
from facepack.convert.formats.tfrecord import files, framing
from facepack.convert.formats.tfrecord import source as tfrecord_source
from facepack.convert.formats.tfrecord.files import InflatedFile
from facepack.convert.formats.tfrecord.source import TfRecordSource
from facepack.convert.formats.tree.tree_sink import TreeOptions, convert_to_tree
from facepack.convert.source import Refusal
from facepack.errors import FacepackError, SourceError
from facepack.store.record import SourceRecord

Compress = Callable[[bytes], bytes]

COUNT = 12
WAYS: dict[str, Compress] = {"plain": bytes, "gzip": gzip.compress, "zlib": zlib.compress}
every_way = pytest.mark.parametrize("compress", WAYS.values(), ids=list(WAYS))


@pytest.fixture
def records(make_jpeg: Callable[..., bytes]) -> list[bytes]:
    """Examples of arcface-tf2, framed."""
    return [
        tfrecord(
            example(
                {
                    "image/source_id": k // 3,
                    "image/encoded": make_jpeg(k, size=16),
                    "image/filename": f"{k // 3}/{k}.jpg".encode(),
                }
            )
        )
        for k in range(COUNT)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """``write(data, compress)``: a file."""

    def write(data: bytes, compress: Compress = bytes, name: str = "faces.tfrecord") -> Path:
        path = tmp_path / name
        path.write_bytes(compress(data))
        return path

    return write


def read(source: TfRecordSource) -> list[SourceRecord | Refusal]:
    """Every record, by parts of five."""
    return [
        record
        for group in source.groups()
        for start in range(group.start, group.stop, 5)
        for record in source.part(start, min(start + 5, group.stop)).read()
    ]


def told(record: SourceRecord | Refusal) -> Any:
    """What there is of it to compare."""
    if isinstance(record, Refusal):
        return record.ordinal, record.offset, record.reason
    return record.ordinal, bytes(record.image), record.label, record.name


def whole(made: Sequence[bytes]) -> list[Any]:
    """What is to be read of records that are whole: the image lies between its markers."""
    found = []
    for k, record in enumerate(made):
        image = record[record.index(b"\xff\xd8\xff") : record.rindex(b"\xff\xd9") + 2]
        found.append((k, image, k // 3, f"{k // 3}/{k}.jpg"))
    return found


@every_way
def test_records_are_read_as_they_were_written(
    records: list[bytes], write: Callable[..., Path], compress: Compress
) -> None:
    source = TfRecordSource([write(b"".join(records), compress)])
    assert list(map(told, read(source))) == whole(records)
    assert source.notices == []
    assert source.sizes().tolist() == [len(record) - 16 for record in records]
    part = source.part(2, 11)
    entries = [(entry.label, entry.name) for entry in part.entries()]
    assert entries == [(label, name) for _, _, label, name in whole(records)[2:11]]
    keep = np.arange(9) % 4 != 1
    kept = [told(record) for record in part.read(keep)]
    assert kept == [row for row, wanted in zip(whole(records)[2:11], keep, strict=True) if wanted]


def test_usual_records_come_in_runs(records: list[bytes], write: Callable[..., Path]) -> None:
    records[4] = tfrecord(submessage(9, b"odd") + records[4][12:-4])
    source = TfRecordSource([write(b"".join(records))])
    runs = list(source.part(0, COUNT).read_runs())
    assert [1 if isinstance(run, SourceRecord) else len(run) for run in runs] == [4, 1, 7]
    assert list(map(told, read(source))) == whole(records)


def damaged_spans(damaged: Sequence[bytes], bad: Sequence[int]) -> list[tuple[int, int]]:
    """Ordinal and offset of each."""
    offsets = [0, *accumulate(map(len, damaged))]
    return [(k, offsets[k]) for k in bad]


@every_way
@pytest.mark.parametrize("at", [0, 5, 9, 12, 300, -1])
def test_a_flipped_bit_costs_one_record(
    records: list[bytes], write: Callable[..., Path], compress: Compress, at: int
) -> None:
    damaged = list(records)
    for k in (0, 6, COUNT - 1):
        one = bytearray(damaged[k])
        one[at] ^= 16
        damaged[k] = bytes(one)
    found = read(TfRecordSource([write(b"".join(damaged), compress)]))
    refused = [record for record in found if isinstance(record, Refusal)]
    assert [(one.ordinal, one.offset) for one in refused] == damaged_spans(
        damaged, (0, 6, COUNT - 1)
    )
    fault = framing.WRONG_LENGTH if 0 <= at < 12 else framing.WRONG_DATA
    assert all(fault in one.reason for one in refused)
    assert [told(one) for one in found if isinstance(one, SourceRecord)] == [
        row for row in whole(records) if row[0] not in (0, 6, COUNT - 1)
    ]


@every_way
@pytest.mark.parametrize("missing", [1, 3, 4, 100])
def test_a_file_that_ends_early_costs_the_last_record(
    records: list[bytes], write: Callable[..., Path], compress: Compress, missing: int
) -> None:
    found = read(TfRecordSource([write(b"".join(records)[:-missing], compress)]))
    assert list(map(told, found[:-1])) == whole(records)[:-1]
    last = found[-1]
    assert isinstance(last, Refusal) and framing.CUT in last.reason
    assert (last.ordinal, last.offset) == damaged_spans(records, (COUNT - 1,))[0]


def test_bytes_that_are_no_record_are_one(records: list[bytes], write: Callable[..., Path]) -> None:
    rubbish = bytes(200_000) + b"rubbish"
    data = b"".join([*records[:3], rubbish, *records[3:], b"short"])
    found = read(TfRecordSource([write(data)]))
    refused = [(one.ordinal, one.reason) for one in found if isinstance(one, Refusal)]
    assert [ordinal for ordinal, _ in refused] == [3, COUNT + 1]
    assert "200,007 bytes" in refused[0][1] and "5 bytes" in refused[1][1]
    assert len(found) == COUNT + 2


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_data_that_are_cut_or_damaged(
    records: list[bytes], write: Callable[..., Path], compress: Compress
) -> None:
    data = compress(b"".join(records))
    expected = whole(records)
    for cut in (1, 4, len(data) // 2):
        found = read(TfRecordSource([write(data[:-cut])]))
        last = found[-1]
        assert isinstance(last, Refusal) and "the compressed data are cut short" in last.reason
        assert list(map(told, found[:-1])) == expected[: len(found) - 1]
        assert len(found) == COUNT + 1 or cut > 4
    wrong = data[:-1] + bytes([data[-1] ^ 1])
    found = read(TfRecordSource([write(wrong)]))
    assert list(map(told, found[:-1])) == expected
    assert isinstance(found[-1], Refusal) and "nothing can be inflated" in found[-1].reason
    assert found[-1].offset == sum(map(len, records))


def test_members_and_padding_are_one_file(records: list[bytes], write: Callable[..., Path]) -> None:
    cut = len(records[0]) + 100  # within a record
    data = b"".join(records)
    joined = gzip.compress(data[:cut]) + bytes(7) + gzip.compress(b"") + gzip.compress(data[cut:])
    found = read(TfRecordSource([write(joined + bytes(1000))]))
    assert list(map(told, found)) == whole(records)


def test_a_process_inflates_a_file_once(
    records: list[bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(b"".join(records), gzip.compress)
    source = TfRecordSource([path])
    begun = []
    begin = InflatedFile._begin
    monkeypatch.setattr(InflatedFile, "_begin", lambda file: (begun.append(1), begin(file))[1])
    monkeypatch.setattr(files, "_INFLATED", 100)
    files._left.clear()
    assert list(map(told, read(source))) == whole(records)
    assert len(begun) == 1
    assert list(map(told, source.part(3, 5).read())) == whole(records)[3:5]
    assert len(begun) == 2


def test_a_dry_run_inflates_a_file_once(
    records: list[bytes],
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = TfRecordSource([write(b"".join(60 * records), gzip.compress)])
    begun = []
    begin = InflatedFile._begin
    monkeypatch.setattr(InflatedFile, "_begin", lambda file: (begun.append(1), begin(file))[1])
    monkeypatch.setattr(files, "_INFLATED", 100)
    monkeypatch.setattr(tfrecord_source, "_BLOCK", 2000)
    files._left.clear()
    told = convert_to_tree(source, tmp_path / "out", TreeOptions(naming="number", dry_run=True))
    assert (told.looked_at, told.identities) == (256, COUNT // 3)
    assert len(begun) == 2  # for the first records, which tell what they have, and for all


def test_a_file_that_changed_is_not_mistaken_for_the_last(
    records: list[bytes], write: Callable[..., Path]
) -> None:
    path = write(b"".join(records), lambda data: zlib.compress(data, 0))
    assert list(map(told, read(TfRecordSource([path])))) == whole(records)
    records[1] = records[1].replace(b"0/1.jpg", b"9/9.jpg")
    records[1] = records[1][:-4] + masked_crc32c(records[1][12:-4])
    source = TfRecordSource([write(b"".join(records), lambda data: zlib.compress(data, 0))])
    assert [record.name for record in read(source) if isinstance(record, SourceRecord)][1] == (
        "9/9.jpg"
    )
    path.write_bytes(b"shorter")
    with pytest.raises(SourceError, match="changed"):
        read(source)


def test_what_inflates_to_more_than_images_do_is_refused(
    records: list[bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_FREE", 1 << 20)
    empty = tfrecord(b"") * 100_000
    with pytest.raises(SourceError, match=r"inflate to more than 100 times as many"):
        TfRecordSource([write(b"".join(records) + empty, gzip.compress)])
    assert len(TfRecordSource([write(b"".join(records) + empty)])) == 100_000 + COUNT


def test_a_length_that_could_begin_a_zlib_stream_is_a_length(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    features = {"label": 1, "image": make_jpeg(1)}
    size = 0x9C78  # 78 9c, as zlib begins
    for _ in range(3):
        features["note"] = bytes(size - len(example({**features, "note": b""})) - 4)
        data = example(features)
        if len(data) == size:
            break
        features["note"] = bytes(len(features["note"]) + size - len(data))  # type: ignore[arg-type]
        data = example(features)
    assert len(data) == size
    (record,) = read(TfRecordSource([write(tfrecord(data))]))
    assert isinstance(record, SourceRecord) and record.label == 1


@pytest.mark.parametrize("block", [1, 700, 5000])
def test_blocks_make_no_difference(
    records: list[bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    for k in (2, 3, 8):
        records[k] = records[k][:20] + b"?" + records[k][21:]
    records[5] = b"?" + records[5][1:]
    data = b"".join(records)
    expected = [list(map(told, read(TfRecordSource([write(data, c)])))) for c in WAYS.values()]
    monkeypatch.setattr(tfrecord_source, "_BLOCK", block)
    monkeypatch.setattr(framing, "_BLOCK", max(block, 12))
    monkeypatch.setattr(framing, "_WINDOWS", (12, max(block, 40)))
    monkeypatch.setattr(files, "_SQUEEZED", block)
    files._left.clear()
    found = [list(map(told, read(TfRecordSource([write(data, c)])))) for c in WAYS.values()]
    assert found == expected


# Features -----------------------------------------------------------------------------------------


def features_of(path: Path, **wanted: str) -> tuple[TfRecordSource, list[Any]]:
    source = TfRecordSource([path], **wanted)
    return source, list(map(told, read(source)))


def test_features_of_other_names_are_found_and_told(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    made = [
        example({"height": 112, "label": k, "image_raw": make_jpeg(k), "comment": b"x"})
        for k in range(3)
    ]
    source, found = features_of(write(b"".join(map(tfrecord, made))))
    assert found == [(k, make_jpeg(k), k, None) for k in range(3)]
    (notice,) = source.notices
    assert "'image_raw'" in notice and "'label'" in notice and "--label-feature" in notice
    _, found = features_of(
        write(b"".join(map(tfrecord, made))), label_feature="height", name_feature="comment"
    )
    assert found == [(k, make_jpeg(k), 112, "x") for k in range(3)]


@pytest.mark.parametrize(
    ("features", "wanted", "complaint"),
    [
        ({"image/source_id": 1, "image/img_path": b"1/a.jpg"}, {}, "where they name files"),
        ({"a": b"\xff\xd8\xff", "b": b"\xff\xd8\xff", "label": 1}, {}, "2 features hold .*'a' .*"),
        ({"a": b"\xff\xd8\xff", "age": 1, "who": 2}, {}, "2 features may be the label"),
        ({"a": b"\xff\xd8\xff", "image/width": 112}, {}, "0 features may be the label"),
        ({"a": b"\xff\xd8\xff"}, {}, "0 features may be the label"),
        ({"a": b"\xff\xd8\xff", "b": 1}, {"label_feature": "c"}, "no record has the feature 'c'"),
    ],
)
def test_features_that_are_not_clear_are_asked_for(
    write: Callable[..., Path], features: dict[str, Any], wanted: dict[str, str], complaint: str
) -> None:
    with pytest.raises(SourceError, match=complaint):
        TfRecordSource([write(tfrecord(example(features)))], **wanted)


def test_labels_may_be_floats_or_digits_and_all_else_is_refused(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    labels = [3, 3.0, b"3", -1, 0.5, b"anna", 10**9, -2, float("nan")]
    made = [example({"image/encoded": make_jpeg(1), "image/source_id": label}) for label in labels]
    two = submessage(
        1, submessage(1, b"image/source_id") + submessage(2, submessage(3, b"\x08\1\x08\2"))
    )
    made.append(example({"image/encoded": make_jpeg(1)}) + submessage(1, two))
    made.append(example({"image/encoded": make_jpeg(1)}))
    made.append(example({"image/source_id": 1}))
    made.append(example({"image/encoded": 7, "image/source_id": 1}))
    made.append(b"no example")
    _, found = features_of(write(b"".join(map(tfrecord, made))))
    assert [row[2] for row in found[:4]] == [3, 3, 3, -1]
    for row, complaint in zip(
        found[4:],
        [
            "0.5",
            "'anna'",
            "1000000000",
            "-2",
            "nan",
            "2 values",
            "no feature 'image/source_id'",
            "no feature 'image/encoded'",
            "values of int64",
            "not a",
        ],
        strict=True,
    ):
        assert complaint in row[2]


def test_names_that_are_odd(make_jpeg: Callable[..., bytes], write: Callable[..., Path]) -> None:
    names = [b"1/a.jpg", b"\xff\n.jpg", b"", b"n" * 5000]
    made = [
        example({"image/encoded": make_jpeg(1), "image/source_id": 1, "image/filename": name})
        for name in names
    ]
    made.append(example({"image/encoded": make_jpeg(1), "image/source_id": 1}))
    _, found = features_of(write(b"".join(map(tfrecord, made))))
    assert [row[3] for row in found[:3]] == ["1/a.jpg", "\\xff\n.jpg", None]
    assert "5,000 bytes" in found[3][2]
    assert found[4][3] is None


# Files --------------------------------------------------------------------------------------------


def test_folders_are_searched_and_missing_files_told(
    records: list[bytes], write: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "lower").mkdir()
    for name, some in {
        "set-00002-of-00004": records[:2],
        "lower/set-00000-of-00004": records[2:5],
        "b.tfrecords.gz": [],
        "a.tfrec": records[5:6],
        "._a.tfrec": records,
        "a.tfrec.index": records,
    }.items():
        write(b"".join(some), name=name)
    source = TfRecordSource([tmp_path])
    assert [tuple(group) for group in source.groups()] == [
        ("a", 0, 1),
        ("set-00000-of-00004", 1, 4),
        ("set-00002-of-00004", 4, 6),
    ]
    assert sorted(source.notices) == [
        "b.tfrecords.gz: has no records",
        "set-…: 1 of 4 files are given",
        "set-…: 1 of 4 files are given",
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no file called NAME\.tfrecord"):
        TfRecordSource([tmp_path / "empty"])


def test_what_is_no_tfrecord_file_is_refused(
    write: Callable[..., Path], make_jpeg: Callable[..., bytes]
) -> None:
    for data in (make_jpeg(1), b"short", gzip.compress(b"no record at all"), bytes(5000)):
        with pytest.raises(SourceError, match="is no TFRecord file"):
            TfRecordSource([write(data)])
    with pytest.raises(SourceError, match="there are no records"):
        TfRecordSource([write(b"")])
    with pytest.raises(SourceError, match="none of the first records"):
        TfRecordSource([write(tfrecord(b"x"))])
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    with pytest.raises(SourceError, match="git lfs pull"):
        TfRecordSource([write(lfs)])


def test_records_larger_than_any_image_are_not_read(
    records: list[bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecord_source, "_BESIDE", 100)
    monkeypatch.setattr(tfrecord_source, "_BLOCK", 2000)
    monkeypatch.setattr(images, "MAX_BYTES", 2000)
    large = tfrecord(bytes(3000))
    source = TfRecordSource([write(b"".join([*records[:3], large, *records[3:]]))])
    found = read(source)
    assert isinstance(found[3], Refusal) and "FACEPACK_MAX_IMAGE_BYTES" in found[3].remedy
    assert sum(isinstance(record, SourceRecord) for record in found) == COUNT
    assert source.sizes()[3] == 0


def test_the_command_says_what_it_set_aside(
    records: list[bytes], write: Callable[..., Path], tmp_path: Path
) -> None:
    records[4] = records[4][:-1] + b"?"
    path = write(b"".join(records))
    result = invoke("tfrecord2lmdb", path, tmp_path / "pack")
    assert result.exit_code == 0 and "1 of 12 records were set aside" in result.stderr
    line = (tmp_path / "pack" / "quarantine.jsonl").read_text()
    offset = sum(map(len, records[:4]))
    assert f'"offset": {offset}, "ordinal": 4' in line and "faces.tfrecord" in line
    facepack("verify", tmp_path / "pack")
    result = invoke("tfrecord2lmdb", path, tmp_path / "strict", "--strict")
    assert result.exit_code == 1 and "--strict stops here" in result.stderr


def test_tensorboard_writes_the_same_framing(tmp_path: Path, records: list[bytes]) -> None:
    writers = pytest.importorskip("tensorboard.summary.writer.record_writer")
    with (tmp_path / "events").open("wb") as file:
        writer = writers.RecordWriter(file)
        for record in records:
            writer.write(record[12:-4])
        writer.flush()
        assert (tmp_path / "events").read_bytes() == b"".join(records)
    assert list(map(told, read(TfRecordSource([tmp_path / "events"])))) == whole(records)


def test_damage_gives_words_or_the_truth(
    records: list[bytes],
    write: Callable[..., Path],
    mutated: Callable[[bytes, random.Random], bytes],
) -> None:
    """Whatever is read of a damaged file is a record of the whole one, byte for byte."""
    rng = random.Random(0)
    truth = {row[1:] for row in whole(records)}
    plain = b"".join(records)
    goods = [plain, gzip.compress(plain), zlib.compress(plain)]
    kept = 0
    for run in range(300):
        try:
            found = read(TfRecordSource([write(mutated(goods[run % 3], rng))]))
        except FacepackError as error:
            assert str(error)
            continue
        for record in found:
            if isinstance(record, SourceRecord):
                assert told(record)[1:] in truth
                kept += 1
            else:
                assert record.reason and record.remedy
    assert kept > 300


def test_lengths_up_to_the_largest_are_only_numbers(
    records: list[bytes], write: Callable[..., Path]
) -> None:
    for length in (2**64 - 1, 2**63, 2**62 - 1, 2**40):
        head = struct.pack("<Q", length)
        data = b"".join(records[:3]) + head + masked_crc32c(head) + b"".join(records[3:])
        for compress in WAYS.values():
            found = read(TfRecordSource([write(data, compress)]))
            assert list(map(told, found[:3])) == whole(records)[:3]
            assert len(found) == 4 and isinstance(found[3], Refusal)


def test_a_file_that_is_damaged_throughout_is_refused(
    records: list[bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framing, "_MOST_DAMAGED", 50)
    data = b"".join(records) + (b"?" + tfrecord(b"")) * 51
    with pytest.raises(SourceError, match="damaged throughout"):
        TfRecordSource([write(data)])


def test_bounds_are_those_of_a_slow_walk(records: list[bytes], write: Callable[..., Path]) -> None:
    path = write(b"".join(records))
    with files.open_records(path) as file:
        bounds = framing.find_bounds(file).tolist()
    at, expected = 0, [0]
    data = path.read_bytes()
    while at < len(data):
        at += 16 + struct.unpack_from("<Q", data, at)[0]
        expected.append(at)
    assert bounds == expected
    assert [stop - start for start, stop in pairwise(bounds)] == list(map(len, records))


# Labels that are names ----------------------------------------------------------------------------


def named(make_jpeg: Callable[..., bytes], labels: Sequence[Any], feature: str = "label") -> bytes:
    """Records of these labels, beside which there is all that no label is taken from."""
    beside = {"width": 112, "height": b"112", "filename": b"a.jpg", "image/format": b"jpeg"}
    return b"".join(
        tfrecord(
            example({"image": make_jpeg(k)} | beside | ({} if label is None else {feature: label}))
        )
        for k, label in enumerate(labels)
    )


@pytest.mark.parametrize("feature", ["label", "image/class/text", "person"])
def test_labels_may_be_names(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path], tmp_path: Path, feature: str
) -> None:
    labels = [b"zoe", b"ann", "Zoë".encode(), b" ann ", b"zoe"]
    path = write(named(make_jpeg, labels, feature))
    source, found = features_of(path)
    assert [row[2] for row in found] == [2, 1, 0, 1, 2] and source.classes == 3
    assert "(names of identities)" in source.notices[0] and f"{feature!r}" in source.notices[0]
    assert source.part(0, 5).identity_names() == {0: "Zoë", 1: "ann", 2: "zoe"}
    assert [entry.label for entry in source.part(1, 4).entries()] == [1, 0, 1]
    facepack("tfrecord2lmdb", path, tmp_path / "pack")
    assert (tmp_path / "pack" / "labels.txt").read_text(encoding="utf-8") == "Zoë\nann\nzoe\n"


def test_names_of_several_files_are_one_set(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    paths = [
        write(named(make_jpeg, labels), name=f"{k}.tfrecord", compress=compress)
        for k, (labels, compress) in enumerate(
            [([b"c", b"a"], bytes), ([b"b", b"c"], gzip.compress)]
        )
    ]
    source = TfRecordSource(paths)
    assert [record.label for record in read(source)] == [2, 0, 1, 2]  # type: ignore[union-attr]


def test_files_that_several_processes_look_at_are_the_same(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    people = [[b"eve", b"ann"], [b"bob"], [b"ann", b"zoe", b"bob"]]
    ways: list[Compress] = [bytes, gzip.compress, zlib.compress]
    paths = [
        write(named(make_jpeg, labels), way, f"{k}.tfrecord")
        for k, (labels, way) in enumerate(zip(people, ways, strict=True))
    ]
    paths.append(write(b"", name="3.tfrecord"))

    def found() -> object:
        source = TfRecordSource(paths)
        return source.describe(), source.notices, source.classes, [*map(told, read(source))]

    here = found()
    monkeypatch.setattr(workers, "_WORTH_A_PROCESS", 1)
    with workers.started_early(paths, 2, [TfRecordSource.__module__]):
        assert found() == here


def test_what_is_no_name_among_names_is_set_aside(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    """A number that is text is a name, as in lists; most labels decide."""
    labels = [b"ann", b"", 7, b"a\nb", b"x" * 5000, b"12", b"bob", None, b"ann", b"cy"]
    data = named(make_jpeg, labels)
    source, found = features_of(write(data[:-40] + bytes(1) + data[-39:]))
    assert source.classes == 3  # of what is whole
    assert [row[2] for row in found if row[0] in (0, 5, 6, 8)] == [1, 0, 2, 1]
    for row, complaint in zip(
        (row for row in found if row[0] not in (0, 5, 6, 8)),
        ["a name of an identity", "label 7", "a name of", "a name of", "no feature", "checksum"],
        strict=True,
    ):
        assert complaint in row[2]


def test_texts_of_other_features_are_taken_where_they_are_asked_for(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    path = write(named(make_jpeg, [b"ann", b"bob"], "who"))
    with pytest.raises(SourceError, match=r"0 features may be the label; .* names of identities"):
        TfRecordSource([path])
    source, found = features_of(path, label_feature="who")
    assert [row[2] for row in found] == [0, 1] and source.classes == 2


def test_identities_that_come_later_are_told(
    make_jpeg: Callable[..., bytes], write: Callable[..., Path]
) -> None:
    source = TfRecordSource([write(named(make_jpeg, [b"ann", b"bob"]))])
    write(named(make_jpeg, [b"ann", b"eve"]))
    with pytest.raises(SourceError, match="has other identities now"):
        read(source)
