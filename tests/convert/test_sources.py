"""What the converters ask of a source: spans, refusals, descriptions."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack.convert.delivery import deliver
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import RecordReader, pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.source import Refusal, Source, shard_stem
from facepack.convert.source_file import ReadError, cannot_read, file_name, require_file
from facepack.convert.spans import cut_spans
from facepack.errors import DecodeError, PackError, SourceError
from facepack.progress import Progress
from facepack.store import format as fmt
from facepack.store.record import SourceRecord

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def offsets_of(folder: Path) -> list[int]:
    return [int(line.split("\t")[1]) for line in (folder / "train.idx").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("train", "train"),
        ("lfw_v1.2-a", "lfw_v1.2-a"),
        ("my set", "my_set"),
        ("..-hidden", "hidden"),
        ("a.part-0011aabb", "a_part-0011aabb"),
        ("..part-x", "part-x"),
        ("\udcff\u00e9", "__"),
        ("...", "shard"),
        ("x" * 300, "x" * 100),
    ],
)
def test_stems_are_safe_file_names(name: str, stem: str) -> None:
    assert shard_stem(name) == stem
    assert fmt.check_shard_name(f"{stem}-000") == f"{stem}-000"


def test_the_spans_of_a_bin_respect_both_limits(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images = [make_jpeg(i) for i in range(20)]
    write_bin(tmp_path / "my set.bin", images, [True] * 10)
    source = BinSource(tmp_path / "my set.bin")
    size = 3 * max(map(len, images))
    spans = cut_spans(source, records=1000, size=size)
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans[-1].stop == 20 and spans[0].name == "my_set-000"
    for span in spans:
        assert sum(map(len, images[span.start : span.stop])) <= size
    assert [span.stop for span in cut_spans(source, records=8, size=1 << 30)] == [8, 16, 20]


def test_a_failing_disk_stops_the_reading_and_sets_nothing_aside(
    make_rec: MakeRec, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = RecSource(make_rec(10))

    def fail(descriptor: int, count: int, offset: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(ReadError, match=r"train\.rec: byte \d+: cannot be read.*--resume"):
        list(source.part(0, 10).read())
    with pytest.raises(ReadError):
        source.describe()


def test_refusals_hold_no_paths_and_one_remedy(make_rec: MakeRec) -> None:
    folder = make_rec(20)
    offsets = offsets_of(folder)
    data = bytearray((folder / "train.rec").read_bytes())
    data[offsets[5]] ^= 0xFF  # the magic of image 4
    data[offsets[9] + 5] ^= 0x40  # the length of image 8
    (folder / "train.rec").write_bytes(bytes(data))
    refusals = [r for r in RecSource(folder).part(0, 20).read() if isinstance(r, Refusal)]
    assert [(refusal.ordinal, refusal.offset) for refusal in refusals] == [
        (4, offsets[5]),
        (8, offsets[9]),
    ]
    for refusal in refusals:
        assert str(folder) not in json.dumps(refusal.as_json())
        assert refusal.remedy and refusal.remedy not in refusal.reason
        assert refusal.file == "train.rec" and "byte 0" not in refusal.reason
        assert str(refusal).count("fetch or copy the file again") == 1


def test_a_damaged_header_record_stops_nothing(make_rec: MakeRec) -> None:
    folder = make_rec(20)
    data = bytearray((folder / "train.rec").read_bytes())
    for line in (0, 22):  # the header, an identity
        data[offsets_of(folder)[line]] ^= 0xFF
    (folder / "train.rec").write_bytes(bytes(data))
    records = list(RecSource(folder).part(0, 22).read())
    refusals = [record for record in records if isinstance(record, Refusal)]
    assert [refusal.key for refusal in refusals] == ["0", "22"] and len(records) == 22


def test_the_damaged_part_of_a_record_is_named(make_rec: MakeRec, make_jpeg: MakeJpeg) -> None:
    magic = b"\x0a\x23\xd7\xce"
    folder = make_rec(5, bad={2: pack_header(0, 3) + magic + make_jpeg(2)})
    offset = offsets_of(folder)[3]
    part = offset + 8 + 24  # behind the head of the first part and the header
    data = bytearray((folder / "train.rec").read_bytes())
    data[part] ^= 0xFF
    (folder / "train.rec").write_bytes(bytes(data))
    (refusal,) = (r for r in RecSource(folder).part(0, 5).read() if isinstance(r, Refusal))
    assert refusal.offset == offset and refusal.reason.startswith(f"at byte {part}: ")


def test_a_relabelled_source_is_another(make_rec: MakeRec, make_jpeg: MakeJpeg) -> None:
    one = RecSource(make_rec(10, "a")).describe()
    other = make_rec(10, "b", bad={3: pack_header(1, 4) + make_jpeg(3)})
    two = RecSource(other).describe()
    assert {key for key in one if one[key] != two[key]} == {"sample_xxh3_128"}
    data = bytearray((other / "train.rec").read_bytes())
    data[offsets_of(other)[6]] ^= 0xFF
    (other / "train.rec").write_bytes(bytes(data))
    three = RecSource(other).describe()  # one record of the sample cannot be read
    assert three["sample_xxh3_128"] not in (one["sample_xxh3_128"], two["sample_xxh3_128"])
    assert three == RecSource(other).describe()


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(SourceError, match="is no regular file"):
            require_file(path)
    with pytest.raises(SourceError, match="but a folder; pass the file itself"):
        require_file(tmp_path)
    with pytest.raises(SourceError, match="No such file"):
        require_file(tmp_path / "none")
    denied = str(cannot_read(tmp_path / "a", PermissionError(errno.EACCES, "Permission denied")))
    assert denied.endswith(
        "Permission denied; check its permissions and the disk, then run the command again"
    )
    assert file_name(Path(os.fsdecode(b"/a/caf\xc3\xa9-\xff.rec"))) == "caf\u00e9-\\xff.rec"


def test_delivery(make_rec: MakeRec) -> None:
    folder = make_rec(600, bad={2: b"short", 300: pack_header(9, 301) + b"?"})
    source: Source = RecSource(folder)
    taken = []

    def accept(record: SourceRecord) -> None:
        if record.ordinal == 300:
            raise DecodeError("not an image")
        if record.ordinal == 301:
            raise PackError("label 60: too large")
        taken.append(record.ordinal)

    part = source.part(1, 600)
    with Progress(600) as progress:
        refused = deliver(part, accept, strict=False, progress=progress)
    assert progress.done == 599
    assert [entry["ordinal"] for entry in refused] == [2, 300, 301]
    assert refused[1]["reason"] == "not an image"
    assert taken == np.setdiff1d(np.arange(1, 600), [2, 300, 301]).tolist()
    with (
        pytest.raises(SourceError, match=r"record 2 at byte .*--strict"),
        Progress(600) as progress,
    ):
        deliver(part, accept, strict=True, progress=progress)

    def full(record: SourceRecord) -> None:
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"), Progress(600) as progress:
        deliver(part, full, strict=False, progress=progress)


def test_records_together_are_those_by_themselves(make_rec: MakeRec, make_jpeg: MakeJpeg) -> None:
    image = make_jpeg(0)
    odd = [-1, 0.5, float("nan"), 2.0**24, -0.0, [3, 1], [], float("inf"), -2]
    bad = {k: pack_header(v, k + 1, 2**64 - 1) + image for k, v in enumerate(odd) if v != []}
    bad |= {20: pack_header(3, 21), 21: b"short"}
    source = RecSource(make_rec(30, bad=bad))
    part = source.part(0, len(source))
    with RecordReader(part.rec) as reader:
        payloads = [reader.read_at(offset) for offset in part.offsets.tolist()]
    assert len(payloads) == len(source) >= 28
    for row, (record, payload) in enumerate(zip(part.read(), payloads, strict=True)):
        assert record == part._record(row, payload)
