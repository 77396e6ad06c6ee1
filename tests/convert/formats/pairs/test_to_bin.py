"""A verification set into a ``.bin``."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import facepack
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.pairs import bin_sink as to_bin
from facepack.convert.formats.pairs.bin_sink import convert_to_bin
from facepack.convert.formats.pairs.pickles import read_bin, write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.options import ConvertOptions
from facepack.errors import PackError, SourceError

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]

FLAGS = [i % 3 == 0 for i in range(20)]


@pytest.fixture
def images(make_jpeg: MakeJpeg) -> list[bytes]:
    return [make_jpeg(i % 7) for i in range(40)]


@pytest.fixture
def source(images: list[bytes], tmp_path: Path) -> BinSource:
    write_bin(tmp_path / "lfw.bin", images, FLAGS)
    return BinSource(tmp_path / "lfw.bin")


@pytest.mark.parametrize("order", ["shuffled", "source"])
def test_a_bin_comes_back(
    source: BinSource, images: list[bytes], tmp_path: Path, order: str
) -> None:
    convert_to_pack(source, tmp_path / "pack", PackOptions(order=order, shard_records=3))
    out = tmp_path / "again.bin"
    result = convert_to_bin(PackSource(tmp_path / "pack"), out, ConvertOptions())
    assert (result.packed, result.pairs) == (40, 20)
    assert result.file_bytes == out.stat().st_size < sum(map(len, images))  # each image once
    found = read_bin(out)
    assert found.images == images and found.issame.tolist() == FLAGS
    with out.open("rb") as file:  # as arcface_torch and InsightFace load it
        bins, issame = pickle.load(file, encoding="bytes")
    assert bins == images and issame == FLAGS


def test_where_the_file_goes(source: BinSource, tmp_path: Path) -> None:
    result = convert_to_bin(source, tmp_path / "sets" / "of mine", ConvertOptions())
    assert result.out == str(tmp_path / "sets" / "of mine" / "lfw.bin")
    result = convert_to_bin(source, tmp_path / "sets" / "x.bin", ConvertOptions())
    assert result.out == str(tmp_path / "sets" / "x.bin")
    assert sorted(file.name for file in (tmp_path / "sets").iterdir()) == ["of mine", "x.bin"]


def test_what_is_there_is_kept_or_replaced_as_asked(
    source: BinSource, images: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out.bin"
    convert_to_bin(source, out, ConvertOptions())
    before = out.stat()
    with pytest.raises(PackError, match="is there already: --overwrite"):
        convert_to_bin(source, out, ConvertOptions())
    convert_to_bin(source, out, ConvertOptions(resume=True))
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    for content in (images[:4], [images[0], images[1], images[5], images[3]]):
        write_bin(out, content, FLAGS[: len(content) // 2])
        with pytest.raises(PackError, match="another verification set: --overwrite"):
            convert_to_bin(source, out, ConvertOptions(resume=True))
    out.write_text("mine")
    with pytest.raises(PackError, match="--overwrite replaces it"):
        convert_to_bin(source, out, ConvertOptions(resume=True))
    convert_to_bin(source, out, ConvertOptions(overwrite=True))
    assert read_bin(out).images == images
    with pytest.raises(PackError, match="choose one"):
        convert_to_bin(source, out, ConvertOptions(overwrite=True, resume=True))


def test_a_training_set_is_no_bin(make_rec: MakeRec, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no pairs \(but train\).*choose img or rec"):
        convert_to_bin(RecSource(make_rec(5)), tmp_path / "x.bin", ConvertOptions())
    assert not (tmp_path / "x.bin").exists()


def test_an_image_that_cannot_be_used_stops_the_run(images: list[bytes], tmp_path: Path) -> None:
    images[5] = b"broken"
    write_bin(tmp_path / "bad.bin", images, FLAGS)
    with pytest.raises(SourceError, match=r"bad\.bin: image 5: not an image.*or pack the set"):
        convert_to_bin(BinSource(tmp_path / "bad.bin"), tmp_path / "out.bin", ConvertOptions())
    # As the message says, a pack leaves out its pairs.
    convert_to_pack(BinSource(tmp_path / "bad.bin"), tmp_path / "pack", PackOptions())
    convert_to_bin(PackSource(tmp_path / "pack"), tmp_path / "out.bin", ConvertOptions())
    assert len(read_bin(tmp_path / "out.bin")) == 19
    file = next((tmp_path / "pack").glob("*.mdb"))
    data = bytearray(file.read_bytes())
    data[data.index(facepack.open(tmp_path / "pack")[2].image) + 300] ^= 1
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r"bad\.mdb: image bad/0000000002: it differs"):
        convert_to_bin(PackSource(tmp_path / "pack"), tmp_path / "x.bin", ConvertOptions())


def test_a_full_disk_leaves_nothing(
    source: BinSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, images: object, issame: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(to_bin, "write_bin", full)
    with pytest.raises(PackError, match="the disk is full"):
        convert_to_bin(source, tmp_path / "out" / "x.bin", ConvertOptions())
    assert not (tmp_path / "out").exists()


def test_a_real_set_comes_back(shared: Path, tmp_path: Path) -> None:
    real = BinSource(shared / "bins" / "cfp_fp.bin")
    convert_to_pack(real, tmp_path / "pack", PackOptions())
    convert_to_bin(PackSource(tmp_path / "pack"), tmp_path / "out.bin", ConvertOptions())
    mine, its = read_bin(tmp_path / "out.bin"), read_bin(shared / "bins" / "cfp_fp.bin")
    assert mine.images == its.images and mine.issame.tolist() == its.issame.tolist()


def test_what_a_killed_run_left_goes(source: BinSource, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    left, other = out / "x.bin.part-0123abcd", out / "xx.bin.part-0123abcd"
    for path in (left, other):
        path.touch()
    convert_to_bin(source, out / "x.bin", ConvertOptions(resume=True))
    assert not left.exists() and other.exists()
