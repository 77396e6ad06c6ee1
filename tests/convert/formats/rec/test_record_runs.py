"""Records read and packed many at a time, against the same one by one."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from facepack.convert.delivery import deliver
from facepack.convert.formats.rec import framing, recordio
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.recordio import RecordReader, pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.zip.part import ZipPart
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import PartInRuns, Refusal
from facepack.errors import DecodeError
from facepack.images import check_image, known_headers
from facepack.store.checks import ImageCheck
from facepack.store.record import RecordRun, SourceRecord
from facepack.store.shard import ShardBuilder

MakeJpeg = Callable[..., bytes]
MakeRec = Callable[..., Path]
MAGIC = b"\x0a\x23\xd7\xce"


def flat(items: Iterable[RecordRun | SourceRecord | Refusal]) -> list[Any]:
    """Records one by one, as what can be compared."""
    listed: list[Any] = []
    for item in items:
        some = item.records() if isinstance(item, RecordRun) else [item]
        for record in some:
            if isinstance(record, SourceRecord):
                record = (
                    record.ordinal,
                    bytes(record.image),
                    record.label,
                    record.name,
                    record.extra,
                )
            listed.append(record)
    return listed


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), seed, np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[Any]]:
    """``slowly(part)``: its records, each by the parser that takes any record."""

    def find_none(block: memoryview, offsets: np.ndarray, count: int) -> Any:
        return offsets[:count], offsets[:count], np.zeros(count, bool)

    def read(part: Any) -> list[Any]:
        with monkeypatch.context() as patch:
            for module in (recordio, framing):  # the latter for records in tars
                patch.setattr(module, "find_usual", find_none)
            items = list(part.read())
        assert not any(isinstance(item, RecordRun) for item in items)
        return flat(items)

    return read


@pytest.fixture
def unusual(make_jpeg: MakeJpeg) -> dict[int, bytes]:
    """Payloads with unusual labels and headers, of several parts, and longer than a block."""
    header = pack_header(1, 7)
    return {
        3: pack_header([4, 5], 4) + make_jpeg(3),
        4: pack_header(-1, 5) + make_jpeg(4),
        5: pack_header(0.5, 6) + make_jpeg(5),
        8: pack_header(float("nan"), 6) + make_jpeg(5),
        9: header + MAGIC + make_jpeg(9),  # stored in two parts
        10: header + b"abc",
        11: header[:10],
        12: header + png(3),
        13: header + make_jpeg(13, size=64, quality=60),
        14: header + make_jpeg(14)[:-9],
        15: pack_header(2.0, (1 << 64) - 1, 1 << 40) + make_jpeg(15),
        20: header + make_jpeg(20, size=64) * 400,  # longer than what is read at once
        21: header + simplejpeg.encode_jpeg(np.zeros((8, 8, 1), np.uint8), colorspace="GRAY"),
    }


@pytest.fixture
def odd_rec(make_rec: MakeRec, unusual: dict[int, bytes]) -> Path:
    """All kinds of records: unusual ones, broken ones."""
    folder = make_rec(60, bad=unusual)
    offsets = read_index(folder / "train.idx")[1].tolist()
    data = bytearray((folder / "train.rec").read_bytes())
    data[offsets[31]] ^= 0xFF  # a magic
    data[offsets[36] + 5] ^= 0x40  # a length, too large
    data[offsets[41] + 4] ^= 0x08  # a length, slightly wrong
    data[offsets[44] + 7] ^= 0x20  # a kind of part
    (folder / "train.rec").write_bytes(bytes(data))
    return folder


def test_runs_of_a_rec_are_its_records(odd_rec: Path, slowly: Callable[[Any], list[Any]]) -> None:
    source = RecSource(odd_rec)
    for start, stop in (
        (0, len(source)),
        (0, 3),
        (2, 17),
        (30, 45),
        (len(source) - 1, len(source)),
    ):
        part = source.part(start, stop)
        assert isinstance(part, PartInRuns)
        assert flat(part.read_runs()) == flat(part.read()) == slowly(part)
        some = np.arange(start, stop) % 3 == 1
        expected = [record for record, kept in zip(slowly(part), some, strict=True) if kept]
        assert flat(part.read(some)) == expected
    kinds = {type(item) for item in source.part(0, len(source)).read_runs()}
    assert kinds == {RecordRun, SourceRecord, Refusal}


@pytest.mark.parametrize("kind", ["w", "w:gz"])
def test_runs_of_a_rec_in_a_tar_are_those_of_the_rec(
    make_rec: MakeRec,
    unusual: dict[int, bytes],
    slowly: Callable[[Any], list[Any]],
    tmp_path: Path,
    kind: str,
) -> None:
    folder = make_rec(60, bad=unusual)
    with tarfile.open(tmp_path / "a.tar", kind) as tar:
        for name in ("train.rec", "train.idx", "property"):
            tar.add(folder / name, name)
    source, bare = TarSource([tmp_path / "a.tar"]), RecSource(folder)
    for start, stop in ((0, len(bare)), (2, 17), (19, 22), (30, 30)):
        part = source.part(start, stop)
        expected = slowly(bare.part(start, stop))
        assert flat(part.read_runs()) == flat(part.read()) == slowly(part) == expected
        some = np.arange(start, stop) % 3 == 1
        assert flat(part.read(some)) == [r for r, kept in zip(expected, some, strict=True) if kept]


def test_payloads_together_are_those_one_by_one(make_rec: MakeRec) -> None:
    folder = make_rec(300)
    offsets = np.sort(read_index(folder / "train.idx")[1])
    rng = np.random.default_rng(1)
    with RecordReader(folder / "train.rec") as reader:
        for chosen in (offsets, offsets[:1], offsets[::7], np.sort(rng.choice(offsets, 50, False))):
            found = []
            for item in reader.iter_blocks(chosen):
                if isinstance(item, memoryview):
                    found.append(bytes(item))
                    continue
                data, starts, stops = item
                found += [bytes(data[a:b]) for a, b in zip(starts, stops, strict=True)]
            assert found == [bytes(reader.read_at(offset)) for offset in chosen.tolist()]


@pytest.mark.parametrize("once", [False, True])
def test_unusual_records_are_read_with_those_around_them(
    make_rec: MakeRec, make_jpeg: MakeJpeg, once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several parts, or broken: the block that holds them is not read again for each."""
    parts = {k: pack_header(1, k) + MAGIC + make_jpeg(k) for k in range(1, 400, 4)}
    folder = make_rec(400, bad=parts)
    rec = folder / "train.rec"
    offsets = read_index(folder / "train.idx")[1]
    data = bytearray(rec.read_bytes())
    for offset in offsets[2:399:4].tolist():
        data[offset] ^= 0xFF
    rec.write_bytes(bytes(data))
    part = RecSource(folder).part(0, 400)
    counts = []
    for name in ("read", "read_block"):
        read = getattr(RecordReader, name)

        def count(self: RecordReader, size: int, offset: int, read: Any = read) -> Any:
            counts.append(size)
            return read(self, size, offset)

        monkeypatch.setattr(RecordReader, name, count)
    items = flat(part.read_runs() if once else part.read())
    assert sum(isinstance(item, Refusal) for item in items) == 100
    assert sum(counts) < 1.1 * len(data) + (64 << 10)


def test_runs_of_a_zip_are_its_images(
    make_jpeg: MakeJpeg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "0_0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(400):
            kind = zipfile.ZIP_DEFLATED if number in (50, 51, 399) else zipfile.ZIP_STORED
            name = (
                f"faces/id_{number // 7:0{1 + number % 3}d}/{'é' * (number % 5 == 0)}{number}.jpg"
            )
            archive.writestr(name, make_jpeg(number % 30), kind)
        archive.writestr("no_folder.jpg", make_jpeg(1))
    whole = path.read_bytes()
    offsets = [info.header_offset for info in zipfile.ZipFile(path).infolist()]
    for damage in ({}, {100: 0, 150: 32, 200: 28, 250: 200, 300: 26}):
        data = bytearray(whole)
        for number, byte in damage.items():  # a magic, a name, lengths, an image
            data[offsets[number] + byte] ^= 0x11
        path.write_bytes(bytes(data))
        source = ZipSource([path])
        for start, stop in ((0, len(source)), (60, 90), (90, 399), (7, 7)):
            part = source.part(start, stop)
            with monkeypatch.context() as patch:  # each member by itself
                patch.setattr(ZipPart, "_run", lambda *_: None)
                singly = list(part.read())
            assert not any(isinstance(item, RecordRun) for item in singly)
            assert flat(part.read_runs()) == flat(part.read()) == flat(singly)
            if not damage:
                with zipfile.ZipFile(path) as archive:
                    for record, info in zip(singly, archive.infolist()[start:stop], strict=True):
                        if info.filename != "no_folder.jpg":
                            assert record.image == archive.read(info)
        kinds = {type(item) for item in source.part(60, 90).read_runs()}
        assert kinds == {RecordRun}


@pytest.mark.parametrize(
    "check",
    [
        ImageCheck(),
        ImageCheck(size=(32, 32)),
        ImageCheck(color="refuse"),
        ImageCheck(color="convert"),
        ImageCheck(decode=True),
    ],
)
@pytest.mark.parametrize("order", ["shuffled", "source"])
def test_shards_of_runs_are_those_of_records(
    odd_rec: Path, tmp_path: Path, check: ImageCheck, order: str
) -> None:
    source = RecSource(odd_rec)
    files = []
    for together in (False, True):
        folder = tmp_path / f"{together}"
        folder.mkdir()
        builder = ShardBuilder(check=check)
        builder.refused = deliver(
            source.part(0, len(source)),
            builder.add,
            strict=False,
            accept_run=builder.add_run if together else None,
        )
        meta = {"pack_id": "0" * 32, "shard": 0}
        builder.write(folder, "one", order=order, seed=1, meta=meta)
        files.append([(folder / name).read_bytes() for name in ("one.mdb", "one.kv")])
    assert files[0] == files[1]


def test_headers_told_by_their_beginning(make_jpeg: MakeJpeg) -> None:
    images = [make_jpeg(i, size=32 + 32 * (i % 2), quality=60 + i % 3) for i in range(40)]
    images[7] = images[7][:-1]
    images[9], images[11], images[13] = b"", b"\xff", b"\xff\xd9"
    images[15], images[17] = png(1), images[17][:300] + b"\xff\xd9"
    images.append(images[0][:200])  # the last one ends before the beginning that it is held against
    ends = np.cumsum([len(image) for image in images])
    starts = ends - [len(image) for image in images]
    data = memoryview(b"".join(images))
    expected = []
    for image in images:
        try:
            expected.append(check_image(image))
        except DecodeError:
            expected.append(None)
    for header, found in zip(expected, known_headers(data, starts, ends), strict=True):
        assert found is None or found == header
    told = [header is not None for header in known_headers(data, starts, ends)]
    assert sum(told) > 20 and not any(told[i] for i in (7, 9, 11, 13, 15, 40))
    assert known_headers(memoryview(b""), np.zeros(1, int), np.zeros(1, int)) == [None]
