"""RecordIO: what is written, what is read back, and what is refused."""

import errno
import os
import pickle
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facepack.convert.formats.rec import recordio
from facepack.convert.formats.rec.framing import FramingError, RecordError, padded
from facepack.convert.formats.rec.index import read_index
from facepack.convert.formats.rec.recordio import (
    RecordReader,
    RecordWriter,
    are_blank,
    class_label,
    pack_header,
    unpack_header,
)
from facepack.convert.source_file import ReadError
from facepack.errors import SourceError

MAGIC = bytes.fromhex("0a23d7ce")

# Payloads in which the magic is as likely as anything else, at any alignment.
payloads = st.lists(st.binary(max_size=9) | st.just(MAGIC), max_size=8).map(b"".join)
quick = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(folder: Path, records: list[bytes]) -> Path:
    path = folder / "train.rec"
    with RecordWriter(path, folder / "train.idx") as writer:
        for key, payload in enumerate(records):
            writer.write(key, payload)
    return path


def slow_records(data: bytes) -> list[tuple[int, bytes]]:
    """The twin: offset and payload of each record, straight from the format's description."""
    records = []
    position = 0
    while position < len(data):
        offset = position
        parts = []
        flag = None
        while flag not in (0, 3):
            magic, word = struct.unpack("<4sI", data[position : position + 8])
            assert magic == MAGIC
            flag, length = word >> 29, word % 2**29
            assert flag in ((0, 1) if not parts else (2, 3))
            parts.append(data[position + 8 : position + 8 + length])
            assert len(parts[-1]) == length
            position += 8 + length + -length % 4
        records.append((offset, MAGIC.join(parts)))
    assert position == len(data)
    return records


@pytest.fixture(params=[16, 64, 1 << 20], ids="block={}".format)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that records straddle them, and the real one."""
    monkeypatch.setattr(recordio, "_BLOCK", request.param)
    monkeypatch.setattr(recordio, "_TAIL", min(request.param, 64 << 10))


class TestRoundTrip:
    @quick
    @given(records=st.lists(payloads, min_size=1, max_size=12))
    def test_every_way_of_reading_gives_what_was_written(
        self, block: None, tmp_path: Path, records: list[bytes]
    ) -> None:
        path = write(tmp_path, records)
        twin = slow_records(path.read_bytes())
        assert [payload for _, payload in twin] == records
        keys, offsets = read_index(tmp_path / "train.idx")
        assert keys.tolist() == list(range(len(records)))
        assert offsets.tolist() == [offset for offset, _ in twin]
        with RecordReader(path) as reader:
            assert reader.offsets().tolist() == offsets.tolist()
            assert [bytes(p) for p in reader.iter_at(offsets)] == records
            assert [bytes(p) for p in reader.iter_at(offsets[::2])] == records[::2]
            assert [bytes(reader.read_at(o)) for o in offsets.tolist()] == records
            ends = [*offsets.tolist()[1:], reader.size]
            assert [reader.end_of(o) for o in offsets.tolist()] == ends
            some = slice(len(records) // 4, len(records) // 2)
            assert [bytes(p) for p in reader.iter_at(offsets[some])] == records[some]

    @pytest.mark.parametrize(
        ("payload", "stored"),
        [
            (b"", "0a23d7ce 00000000"),
            (b"abcde", "0a23d7ce 05000000 6162636465 000000"),
            (MAGIC, "0a23d7ce 00000020 0a23d7ce 00000060"),
            (b"abcd" + MAGIC + b"e", "0a23d7ce 04000020 61626364 0a23d7ce 01000060 65 000000"),
            (
                MAGIC + MAGIC + b"abcd",
                "0a23d7ce 00000020 0a23d7ce 00000040 0a23d7ce 04000060 61626364",
            ),
            (b"ab" + MAGIC, "0a23d7ce 06000000 6162 0a23d7ce 0000"),
        ],
        ids=["empty", "padded", "magic", "magic-inside", "magic-twice", "magic-unaligned"],
    )
    def test_the_bytes_of_a_record(self, tmp_path: Path, payload: bytes, stored: str) -> None:
        path = write(tmp_path, [payload])
        assert path.read_bytes() == bytes.fromhex(stored)

    def test_the_index_is_text_in_the_order_of_writing(self, tmp_path: Path) -> None:
        with RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx") as writer:
            assert writer.write(7, b"abcde") == 0
            assert writer.write(0, b"") == 16
        assert (tmp_path / "a.idx").read_bytes() == b"7\t0\n0\t16\n"

    def test_a_record_larger_than_a_block(self, tmp_path: Path) -> None:
        large = bytes(9 << 20)
        path = write(tmp_path, [b"before", large, b"after"])
        with RecordReader(path) as reader:
            offsets = reader.offsets()
            assert [bytes(p) for p in reader.iter_at(offsets)] == [b"before", large, b"after"]

    def test_offsets_beyond_32_bits(self, tmp_path: Path) -> None:
        path = write(tmp_path, [b"first"])
        far = 5 << 32
        with path.open("r+b") as file:
            file.seek(far)
            file.write(MAGIC + struct.pack("<I", 4) + b"last")
        with RecordReader(path) as reader:
            assert [bytes(p) for p in reader.iter_at(np.array([far]))] == [b"last"]
            assert reader.read_at(far) == b"last"

    def test_payloads_outlive_the_reader(self, tmp_path: Path) -> None:
        path = write(tmp_path, [b"one", b"two"])
        with RecordReader(path) as reader:
            kept = list(reader.iter_at(reader.offsets()))
        path.unlink()
        assert [bytes(p) for p in kept] == [b"one", b"two"]
        assert all(p.readonly for p in kept)

    def test_threads_share_a_reader(self, tmp_path: Path) -> None:
        records = [bytes([i]) * i for i in range(200)]
        path = write(tmp_path, records)
        with RecordReader(path) as reader, ThreadPoolExecutor(4) as threads:
            read = threads.map(reader.read_at, reader.offsets().tolist())
            assert [bytes(p) for p in read] == records

    def test_the_writer_refuses_what_the_format_cannot_hold(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recordio, "MAX_PAYLOAD", 8)
        with RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx") as writer:
            with pytest.raises(ValueError, match=r"key 3: a payload of 9 bytes.* at most 8"):
                writer.write(3, bytes(9))
            with pytest.raises(ValueError, match="key -1 is negative"):
                writer.write(-1, b"")


class TestHeader:
    @quick
    @given(
        label=st.floats(width=32, allow_nan=False)
        | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
        id=st.integers(0, 2**64 - 1),
        id2=st.integers(0, 2**64 - 1),
        image=st.binary(max_size=20),
    )
    def test_round_trip(self, label: float | list[float], id: int, id2: int, image: bytes) -> None:
        header = unpack_header(pack_header(label, id, id2) + image)
        vector = isinstance(label, list)
        assert header.flag == (len(label) if vector else 0)
        assert list(header.labels) == (label if vector else [label])
        assert (header.id, header.id2, bytes(header.image)) == (id, id2, image)

    def test_the_bytes_of_a_header(self) -> None:
        assert pack_header(2, 3, 4) == struct.pack("<IfQQ", 0, 2.0, 3, 4)
        assert pack_header(np.float32(2), 3) == struct.pack("<IfQQ", 0, 2.0, 3, 0)
        assert pack_header([2, 1], 3) == struct.pack("<IfQQ2f", 2, 0.0, 3, 0, 2.0, 1.0)

    @pytest.mark.parametrize("label", [[], [[1.0, 2.0]]])
    def test_a_label_vector_has_one_axis_and_is_not_empty(self, label: list) -> None:
        with pytest.raises(ValueError, match="one axis, not empty"):
            pack_header(label, 0)

    def test_the_image_is_not_copied(self) -> None:
        payload = bytearray(pack_header(1, 2) + b"image")
        image = unpack_header(memoryview(payload)).image
        payload[-1:] = b"!"
        assert bytes(image) == b"imag!"

    def test_a_payload_too_short_for_a_header(self) -> None:
        with pytest.raises(RecordError) as raised:
            unpack_header(bytes(23))
        error = raised.value
        assert str(error).startswith("record: its payload has 23 bytes")
        assert "at least 24" in error.reason
        assert "fetch" in error.remedy

    def test_more_labels_announced_than_there_is_room_for(self) -> None:
        payload = struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0) + bytes(9)
        with pytest.raises(RecordError, match=r"announces 4294967295 labels.* room for 2"):
            unpack_header(payload)

    def test_the_error_survives_the_way_from_a_worker(self) -> None:
        error = RecordError(Path("x.rec"), 8, 1, "reason", "remedy")
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error) == "x.rec: record at byte 8 (key 1): reason; remedy"
        assert vars(copy) == vars(error)


class TestClassLabel:
    @pytest.mark.parametrize(
        ("label", "expected"),
        [
            (0, 0),
            (-0.0, 0),
            (-1, -1),
            (7, 7),
            ([7, 1], 7),
            ([7, 0.5, -3], 7),
            (2**24 - 1, 2**24 - 1),
        ],
    )
    def test_a_class(self, label: float | list[float], expected: int) -> None:
        found = class_label(unpack_header(pack_header(label, 0)))
        assert found == expected
        assert type(found) is int

    @pytest.mark.parametrize(
        "label", [float("nan"), float("inf"), -float("inf"), -2, -0.5, 0.5, 2**24, 1e30, [-2, 1]]
    )
    def test_no_class(self, label: float | list[float]) -> None:
        header = unpack_header(pack_header(label, 0))
        with pytest.raises(RecordError) as raised:
            class_label(header)
        message = str(raised.value)
        assert message.startswith("record: its label is ")
        assert "a whole number from 0 to 16777215" in message
        assert "leave the record out" in message


class TestFaults:
    """Each names the file, the byte, what was expected and what to do."""

    def refusal(self, path: Path, offset: int = 0) -> str:
        """The message, which is the same whichever way the record is met."""
        with RecordReader(path) as reader:
            with pytest.raises(SourceError) as raised:
                reader.read_at(offset)
            with pytest.raises(SourceError) as again:
                list(reader.iter_at(np.array([offset])))
            assert str(again.value) == str(raised.value)
            if offset == 0:
                with pytest.raises(SourceError) as again:
                    reader.offsets()
                assert str(again.value) == str(raised.value)
        message = str(raised.value)
        assert message.startswith(f"{path}: byte ")
        return message

    @pytest.fixture
    def rec(self, tmp_path: Path) -> Path:
        return write(tmp_path, [b"abcd" + MAGIC + b"efgh" + MAGIC + b"i", b"second"])

    def patch(self, path: Path, offset: int, data: bytes) -> None:
        with path.open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(
            SourceError, match=r"none\.rec: cannot be read: No such file.*check the name"
        ):
            RecordReader(tmp_path / "none.rec")

    def test_an_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.rec").touch()
        with pytest.raises(SourceError, match=r"a\.rec: the file is empty; fetch"):
            RecordReader(tmp_path / "a.rec")

    def test_a_folder(self, tmp_path: Path) -> None:
        with RecordReader(tmp_path) as reader, pytest.raises(SourceError, match="cannot be read"):
            reader.read_at(0)

    def test_no_recordio_file(self, tmp_path: Path) -> None:
        path = tmp_path / "a.rec"
        path.write_bytes(b"\xff\xd8\xff\xe0" * 10)
        message = self.refusal(path)
        assert "byte 0: 0xe0ffd8ff where a part's magic 0xced7230a must be" in message
        assert "this is not the start of a record, or it is damaged: if" in message

    @pytest.mark.parametrize("offset", [-4, 60, 2**40])
    def test_an_offset_outside_the_file(self, rec: Path, offset: int) -> None:
        message = self.refusal(rec, offset)
        assert f"byte {offset}: lies outside the file, which has 52 bytes" in message
        assert "remove it and the .rec will be scanned" in message

    def test_an_offset_that_is_no_record(self, rec: Path) -> None:
        assert "not the start of a record" in self.refusal(rec, 4)

    def test_an_offset_inside_a_record_of_parts(self, rec: Path) -> None:
        assert "byte 12: a part with cflag 2 where 0 or 1 must be" in self.refusal(rec, 12)

    @pytest.mark.parametrize("flag", [0, 1, 4, 7])
    def test_parts_out_of_order(self, rec: Path, flag: int) -> None:
        self.patch(rec, 16, struct.pack("<I", flag << 29 | 4))
        message = self.refusal(rec)
        assert f"byte 12: a part with cflag {flag} where 2 or 3 must be" in message

    def test_an_impossible_flag_at_the_start(self, rec: Path) -> None:
        self.patch(rec, 4, struct.pack("<I", 5 << 29 | 4))
        assert "byte 0: a part with cflag 5 where 0 or 1 must be" in self.refusal(rec)

    def test_a_length_beyond_the_file(self, rec: Path) -> None:
        self.patch(rec, 4, struct.pack("<I", 2**29 - 1))
        message = self.refusal(rec)
        assert "a part of 536870911 bytes reaches to byte 536870920" in message
        assert "the file ends at byte 52" in message
        assert "cut short" in message

    def test_a_first_part_that_would_need_padding(self, rec: Path) -> None:
        self.patch(rec, 4, struct.pack("<I", 1 << 29 | 3))
        assert "parts before the last are multiples of 4" in self.refusal(rec)

    def test_a_record_of_too_many_parts(self, tmp_path: Path) -> None:
        path = tmp_path / "a.rec"
        part = 400 << 20
        with path.open("wb") as file:
            for start, flag in ((0, 1), (part + 8, 3)):
                file.seek(start)
                file.write(MAGIC + struct.pack("<I", flag << 29 | part))
            file.truncate(2 * (part + 8))
        with (
            RecordReader(path) as reader,
            pytest.raises(SourceError, match="a record has at most 536870911"),
        ):
            reader.end_of(0)

    def test_a_file_cut_inside_the_head_of_a_part(self, rec: Path) -> None:
        os.truncate(rec, 17)
        message = self.refusal(rec)
        assert "byte 0: the file ends at byte 17, inside the head of a part" in message
        assert "begins at byte 12; the file is cut short: fetch" in message

    @pytest.mark.parametrize(
        ("length", "found"),
        [
            (24, "the record reaches to byte 32, over the next one at byte 16"),
            (4, "the record ends at byte 12, where no other begins"),
        ],
    )
    def test_a_record_that_does_not_end_at_the_next(
        self, tmp_path: Path, length: int, found: str
    ) -> None:
        path = write(tmp_path, [b"firstone", b"2nd", b"third"])
        self.patch(path, 4, struct.pack("<I", length))
        with RecordReader(path) as reader, pytest.raises(SourceError, match=found):
            list(reader.iter_at(np.array([0, 16, 28])))

    def test_a_file_that_shrinks_while_it_is_read(self, rec: Path) -> None:
        with RecordReader(rec) as reader:
            os.truncate(rec, 20)
            message = "byte 20: the file ends here, it had 52 bytes.*--resume"
            with pytest.raises(ReadError, match=message):
                list(reader.iter_at(np.array([0])))
            with pytest.raises(ReadError, match="changed while it was read, from 52 to 20 bytes"):
                reader.check()

    def test_a_disk_that_fails(self, rec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(descriptor: int, count: int, offset: int) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with RecordReader(rec) as reader:
            monkeypatch.setattr(os, "pread", fail, raising=False)
            for read in (reader.read_at, reader.end_of):
                with pytest.raises(ReadError, match=r"byte 36: cannot be read: .*--resume"):
                    read(36)

    def test_a_fault_says_its_parts(self, rec: Path) -> None:
        with RecordReader(rec) as reader, pytest.raises(FramingError) as raised:
            reader.read_at(4)
        error = raised.value
        assert (error.path, error.offset) == (rec, 4) and isinstance(error, RecordError)
        assert str(error) == f"{rec}: byte 4: {error.reason}; {error.remedy}"
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


class TestFuzz:
    """Damage gives the right records or a SourceError, never another end and never much memory."""

    records = (
        pack_header([7, 9], 0),
        pack_header(1, 1) + b"jpeg one",
        pack_header([2, 1], 2)
        + b"jp"
        + MAGIC
        + b"g"
        + bytes(13)
        + MAGIC
        + b"more"
        + MAGIC
        + b"\xff\xd9",
        b"",
        pack_header(3, 4) + b"last one",
    )

    def outcome(
        self, path: Path, index: np.ndarray | None = None
    ) -> tuple[list[bytes] | None, list[bytes] | None]:
        """The payloads by a walk and by an index, None in the place of a SourceError."""

        def walk(reader: RecordReader) -> list[bytes]:
            payloads, offset = [], 0
            while offset < reader.size:
                payloads.append(bytes(reader.read_at(offset)))
                offset = reader.end_of(offset)
            return payloads

        def scan(reader: RecordReader) -> list[bytes]:
            return [bytes(p) for p in reader.iter_at(reader.offsets())]

        def lookup(reader: RecordReader) -> list[bytes]:
            return [bytes(p) for p in reader.iter_at(index if index is not None else np.array([0]))]

        ends: list[list[bytes] | None] = []
        for way in (walk, scan, lookup):
            try:
                with RecordReader(path) as reader:
                    payloads = way(reader)
            except SourceError as error:
                assert str(path) in str(error)
                ends.append(None)
                continue
            for payload in payloads:
                try:
                    class_label(unpack_header(payload))
                except RecordError as error:
                    assert error.reason and error.remedy
            ends.append(payloads)
        assert ends[0] == ends[1]
        return ends[0], ends[2]

    def test_every_flipped_bit(self, tmp_path: Path) -> None:
        path = write(tmp_path, list(self.records))
        data = path.read_bytes()
        index = np.array([offset for offset, _ in slow_records(data)])
        # The bits that say where parts begin and how long they are. Two bits of a length escape:
        # they move its end within the padding, which no reader can tell.
        structure = np.zeros(8 * len(data), bool)
        position = 0
        while position < len(data):
            (word,) = struct.unpack_from("<I", data, position + 4)
            structure[8 * position : 8 * position + 64] = True
            structure[8 * position + 32 : 8 * position + 34] = False
            length = word % 2**29
            position += 8 + length + -length % 4
        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            walked, looked_up = self.outcome(path, index)
            if structure[bit]:
                # A length that swallows whole records takes an index to be noticed; one that cuts
                # the last record short takes a walk.
                assert walked is None or looked_up is None, f"bit {bit} was not noticed"

    def test_the_memory_of_large_lengths(self, tmp_path: Path) -> None:
        path = write(tmp_path, list(self.records))
        data = path.read_bytes()
        tracemalloc.start()
        try:
            for at in range(len(data)):
                path.write_bytes(data[:at] + bytes([data[at] ^ 0x90]) + data[at + 1 :])
                self.outcome(path)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()

    def test_every_truncation(self, tmp_path: Path) -> None:
        path = write(tmp_path, list(self.records))
        data = path.read_bytes()
        starts = {offset: count for count, (offset, _) in enumerate(slow_records(data))}
        for length in range(len(data)):
            path.write_bytes(data[:length])
            # A cut between two records leaves a shorter file in which nothing is wrong.
            whole = starts.get(length) or None
            expected = None if whole is None else list(self.records[:whole])
            assert self.outcome(path)[0] == expected, f"cut at byte {length}"

    @quick
    @given(data=st.binary(min_size=1, max_size=80))
    def test_any_bytes(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "a.rec"
        path.write_bytes(data)
        self.outcome(path)


def test_payloads_without_an_image_are_told_as_one_by_one() -> None:
    random = np.random.default_rng(0)
    payloads = []
    for _ in range(400):
        flag = int(random.choice([0, 1, 2, 3, 2**32 - 1]))
        size = int(random.choice([0, 3, 20, 23, 24, 28, 32, 36, 40, 41]))
        payloads.append(struct.pack("<I", flag).ljust(size, b"\0")[:size])
    starts = np.cumsum([0, *(padded(len(payload)) for payload in payloads)])[:-1]
    stops = starts + [len(payload) for payload in payloads]
    data = b"".join(payload.ljust(padded(len(payload)), b"\xff") for payload in payloads)

    def is_blank(payload: bytes) -> bool:
        try:
            return not unpack_header(payload).image
        except RecordError:
            return False

    found = are_blank(memoryview(data), starts, stops)
    assert found.tolist() == [is_blank(payload) for payload in payloads]
    assert 20 < found.sum() < 200
