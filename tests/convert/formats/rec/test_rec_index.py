"""The text index of a .rec, parsed as arrays."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facepack.convert.formats.rec import index as rec_index
from facepack.convert.formats.rec.index import read_index
from facepack.errors import SourceError

numbers = st.integers(0, 10**18 - 1) | st.integers(0, 30)


def slow_index(text: bytes) -> tuple[list[int], list[int]]:
    """The twin: line by line; empty ones can only be the last ones."""
    pairs = [line.split(b"\t") for line in text.splitlines() if line]
    return [int(key) for key, _ in pairs], [int(offset) for _, offset in pairs]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(st.tuples(numbers, numbers), max_size=40),
    newline=st.sampled_from([b"\n", b"\r\n"]),
    final=st.integers(0, 3),
    block=st.sampled_from([48, 100, 512 << 10]),
)
def test_the_same_as_line_by_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[tuple[int, int]],
    newline: bytes,
    final: int,
    block: int,
) -> None:
    monkeypatch.setattr(rec_index, "_BLOCK", block)
    text = newline.join(b"%d\t%d" % row for row in rows) + newline * final
    path = tmp_path / "train.idx"
    path.write_bytes(text)
    keys, offsets = read_index(path)
    assert (keys.tolist(), offsets.tolist()) == slow_index(text)
    assert keys.dtype == offsets.dtype == "int64"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"5",
        b"5\t",
        b"\t5",
        b"5 6",
        b"5\t6\t7",
        b"-5\t6",
        b"5\t-6",
        b"5\t6 ",
        b"5.0\t6",
        b"5\t0x6",
        b"key\t6",
        b"5\t" + b"9" * 19,
        b"\xff\x00\n",
        b"5\r\t6",
    ],
)
@pytest.mark.parametrize("before", [0, 1, 2000])
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, before: int) -> None:
    path = tmp_path / "train.idx"
    path.write_bytes(b"12345\t67890\n" * before + line + b"\n" + b"1\t2\n" * 3)
    with pytest.raises(SourceError) as raised:
        read_index(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: line {before + 1} is ")
    assert "expected a key, a tab and a byte offset" in message
    assert "remove it and the .rec will be scanned" in message


def test_a_malformed_line_beyond_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rec_index, "_BLOCK", 64)
    path = tmp_path / "train.idx"
    path.write_bytes(b"1\t2\n" * 100 + b"3\n" + b"1\t2\n" * 100)
    with pytest.raises(SourceError, match="line 101 is '3'"):
        read_index(path)


def test_empty_lines_before_others_or_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rec_index, "_BLOCK", 64)
    path = tmp_path / "train.idx"
    for text, line in ((b"1\t2\n" * 16 + b"\n1\t2\n", 17), (b"1\t2\n" + b"\r\n" * 500, 2)):
        path.write_bytes(text)
        with pytest.raises(SourceError, match=f"line {line} is ''"):
            read_index(path)


def test_a_file_without_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rec_index, "_BLOCK", 1 << 10)
    path = tmp_path / "train.idx"
    path.write_bytes(bytes(1 << 20))
    with pytest.raises(SourceError, match=r"line 1 is '(\\x00){40}'"):
        read_index(path)


def test_an_absent_index(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train\.idx: cannot be read: No such file"):
        read_index(tmp_path / "train.idx")
