from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facepack.errors import ConfigError
from facepack.limits import limit
from facepack.reading import (
    decode_text,
    parse_json,
    parse_npy,
    parse_toml,
    read_bytes,
    read_json,
    read_text,
)
from facepack.store import format as fmt

NESTED = 200  # containers within containers, as deep as is taken


def test_text_is_utf8_with_a_mark_or_without(tmp_path: Path) -> None:
    file = tmp_path / "names"
    file.write_bytes("\ufeffAnné\n".encode())
    assert read_text(file) == "Anné\n"
    with pytest.raises(ValueError, match=r"line 2: the byte 0xe9 is not UTF-8.*save it as UTF-8"):
        decode_text("Bob\nAnné\n".encode("latin-1"))
    for encoding in ("utf-16", "utf-16-be"):
        text = ("" if encoding == "utf-16" else "\ufeff") + "Anné"
        with pytest.raises(ValueError, match="UTF-16: save it as UTF-8"):
            decode_text(text.encode(encoding))


def test_what_is_no_regular_file_is_told_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, reason in (
        (Path("/dev/zero"), "it is a device, no regular file"),
        (tmp_path / "fifo", "it is a pipe, no regular file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(OSError) as caught:
            read_bytes(path)
        assert caught.value.strerror == reason
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent")


def test_a_pipe_that_a_shell_made_is_read(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from facepack.reading import read_text; "
        "print(read_text(Path(sys.argv[1])), end='')"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$0" <(sleep 0.2; printf "a\\nb\\n")', program],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "a\nb\n"), done.stderr


def test_sizes_come_before_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "list"
    with file.open("wb") as sparse:
        sparse.truncate(1 << 40)
    with pytest.raises(OSError) as caught:
        read_bytes(file)
    assert "1,099,511,627,776 bytes; at most 268,435,456" in caught.value.strerror
    file.write_bytes(b"[1, 2]")
    monkeypatch.setenv("FACEPACK_MAX_JSON_BYTES", "5")
    with pytest.raises(OSError) as caught:
        read_json(file)
    assert "FACEPACK_MAX_JSON_BYTES" in caught.value.strerror
    monkeypatch.setenv("FACEPACK_MAX_JSON_BYTES", "6")
    assert read_json(file) == [1, 2]
    monkeypatch.setenv("FACEPACK_MAX_JSON_BYTES", "much")
    with pytest.raises(ConfigError, match="FACEPACK_MAX_JSON_BYTES=much: allowed is a whole"):
        limit("FACEPACK_MAX_JSON_BYTES")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("9" * 100_000, "a number of 100,000 digits"),
        ("18446744073709551616", "beyond 64 bits"),
        ("-9223372036854775809", "beyond 64 bits"),
        ("[" * 100_000, "nested more than 200 deep"),
        ('{"a":' * (NESTED + 1) + "1" + "}" * (NESTED + 1), "nested more than 200 deep"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"\\udfff": 1}', "surrogates not allowed"),
        ("{", "Expecting"),
        ("", "Expecting"),
    ],
)
def test_json_that_nobody_should_meet(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_that_is_taken() -> None:
    deep = "[" * NESTED + "]" * NESTED
    assert "".join(fmt.json_text(parse_json(deep)).split()) == deep
    assert parse_json("\ufeff[18446744073709551615, -9223372036854775808]".encode()) == [
        2**64 - 1,
        -(2**63),
    ]
    assert parse_json('"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "9" * 4000, "beyond 64 bits|digits"),
        ("a = " + "9" * 60_000, "digits"),
        ("a = " + "[" * 30_000, "nested more than 200 deep"),
        (".".join(["a"] * 30_000) + " = 1", "line 1: more than 1,000 dots"),
        ("\n" + "[" + ".".join(["a"] * 900) + "]", "nested more than 200 deep"),
        ("#" * 70_000, "70,000 characters; settings have at most 65,536"),
        ("a = ", "Invalid value"),
        ("a = 1\na = 2", "overwrite"),
    ],
)
def test_toml_that_nobody_should_meet(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_toml(text)


@pytest.mark.filterwarnings("error")
def test_an_array_that_python_2_wrote_is_read_without_a_word() -> None:
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (3L,), }".ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    assert parse_npy(data + np.arange(3).tobytes()).tolist() == [0, 1, 2]


def test_arrays_are_arrays() -> None:
    assert parse_npy(fmt.npy_bytes(np.arange(3))).tolist() == [0, 1, 2]
    good = fmt.npy_bytes(np.arange(3))
    objects = good.replace(b"<i8", b"|O ")
    for data in (b"", good[:20], good[:-1], b"PK\x05\x06" + bytes(18), objects):
        with pytest.raises(ValueError):
            parse_npy(data)
    claims = good.replace(b"(3,), }           ", b"(3000000000000,), }")
    with pytest.raises(ValueError):
        parse_npy(claims[: len(good)])
