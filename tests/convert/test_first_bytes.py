"""Files given to the command of another format."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from click.testing import CliRunner

from facepack.cli import root
from facepack.convert.first_bytes import tell_other_format

MakeJpeg = Callable[..., bytes]


def told(source: str, path: Path) -> str:
    """What a command that must fail says."""
    done = CliRunner().invoke(root, [f"{source}2lmdb", str(path), str(path.parent / "pack")])
    assert done.exit_code == 1, done.output
    return done.output


@pytest.fixture
def files(tmp_path: Path, make_jpeg: MakeJpeg) -> dict[str, Path]:
    """A file of each format, with one image."""
    image = make_jpeg(0)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("ann/0.jpg")
        member.size = len(image)
        archive.addfile(member, io.BytesIO(image))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        zipped.writestr("ann/0.jpg", image)
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=False, lock=False) as database:
        with database.begin(write=True) as transaction:
            transaction.put(b"0", image)
    payload = struct.pack("<IfQQ", 0, 0, 1, 0) + image
    record = struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)
    contents = {
        "a.tar": tar.getvalue(),
        "a.rec": record,
        "a.rec.gz": gzip.compress(record),
        "a.tar.xz": lzma.compress(tar.getvalue()),
        "a.tar.bz2": bz2.compress(tar.getvalue()),
        "quota.bin": b"<!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>",
        "a.jpg": image,
        "a.7z": b"7z\xbc\xaf\x27\x1c" + bytes(600),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        ("zip", "a.tar", "a.tar is a tar by its first bytes: pass it to a tar2… command"),
        ("tar", "a.zip", "a.zip is a zip by its first bytes: pass it to a zip2… command"),
        ("rec", "a.lmdb", "a.lmdb is an LMDB by its first bytes: pass it to a kv2… command"),
        ("bin", "a.rec", "a.rec is a .rec by its first bytes: pass it to a rec2… command"),
        ("rec", "a.rec.gz", "a.rec.gz is gzipped by its first bytes: unpack it, by gzip -dk"),
        ("tar", "a.tar.xz", "is compressed by xz by its first bytes: unpack it, by xz -dk"),
        ("tar", "a.tar.bz2", "is compressed by bzip2 by its first bytes: unpack it"),
        ("bin", "quota.bin", "is a web page by its first bytes: download the file itself"),
        (
            "rec",
            "a.jpg",
            "is a JPEG image by its first bytes: pass the folder of images to an img2…",
        ),
        ("zip", "a.7z", "is a 7z archive by its first bytes: unpack it"),
    ],
)
def test_a_file_of_another_format_is_told(
    files: dict[str, Path], source: str, name: str, words: str
) -> None:
    assert words in told(source, files[name])


def test_of_a_file_of_its_own_nothing_is_told(files: dict[str, Path]) -> None:
    own = {"rec": "a.rec", "tar": "a.tar", "zip": "a.zip", "kv": "a.lmdb"}
    for source, name in own.items():
        assert tell_other_format([files[name]], source) is None
    folder = files["a.zip"].parent
    assert tell_other_format([folder, folder / "none"], "rec") is None
    assert "by its first bytes" not in told("kv", files["a.lmdb"])  # fails for want of labels
