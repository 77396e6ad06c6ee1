from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.pairs import folder_sink as to_pair_folder
from facepack.convert.formats.pairs.folder_sink import convert_to_pair_folder
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.options import ConvertOptions
from facepack.errors import PackError, SourceError
from facepack.evaluate.sets.pairs import load_pair_set
from facepack.store.target import Target

MakeJpeg = Callable[..., bytes]
MakeRec = Callable[..., Path]


def contents(path: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with the time of its last change."""
    files = (file for file in path.rglob("*") if file.is_file())
    return {
        str(file.relative_to(path)): (file.stat().st_mtime_ns, file.read_bytes()) for file in files
    }


@pytest.fixture
def images(make_jpeg: MakeJpeg) -> list[bytes]:
    return [make_jpeg(i % 7) for i in range(40)]


FLAGS = [i % 3 == 0 for i in range(20)]


@pytest.fixture
def source(images: list[bytes], tmp_path: Path) -> BinSource:
    write_bin(tmp_path / "lfw.bin", images, FLAGS)
    return BinSource(tmp_path / "lfw.bin")


def test_a_bin_becomes_a_pair_folder(
    source: BinSource, images: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "lfw"
    result = convert_to_pair_folder(source, out, ConvertOptions())
    assert (result.packed, result.pairs) == (40, 20)
    for i, image in enumerate(images):
        assert (out / "imgs" / f"{i}.jpg").read_bytes() == image
    assert np.load(out / "pair_label.npy").tolist() == FLAGS
    assert {entry.name for entry in out.iterdir()} == {"imgs", "pair_label.npy", ".facepack.json"}
    pairs = load_pair_set(out)
    assert pairs.issame.tolist() == FLAGS


def test_a_pack_of_a_bin_becomes_the_same_pair_folder(source: BinSource, tmp_path: Path) -> None:
    convert_to_pack(source, tmp_path / "pack", PackOptions(shard_records=3))
    for name, pairs in (("bin", source), ("pack", PackSource(tmp_path / "pack"))):
        convert_to_pair_folder(pairs, tmp_path / "out" / name, ConvertOptions())
    found = [
        {file: data for file, (_, data) in contents(tmp_path / "out" / name).items()}
        for name in ("bin", "pack")
    ]
    for written in found:
        del written[".facepack.json"]
    assert found[0] == found[1]


def test_a_training_set_is_no_pair_folder(make_rec: MakeRec, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no pairs"):
        convert_to_pair_folder(RecSource(make_rec(5)), tmp_path / "out", ConvertOptions())
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_used_stops_the_run(images: list[bytes], tmp_path: Path) -> None:
    images[5] = b"broken"
    write_bin(tmp_path / "bad.bin", images, FLAGS)
    with pytest.raises(SourceError, match=r"bad\.bin: image 5: not an image"):
        convert_to_pair_folder(BinSource(tmp_path / "bad.bin"), tmp_path / "bad", ConvertOptions())
    assert not (tmp_path / "bad").exists()


def test_resuming_writes_what_is_missing(source: BinSource, tmp_path: Path) -> None:
    out = tmp_path / "lfw"
    convert_to_pair_folder(source, out, ConvertOptions())
    good = contents(out)
    with pytest.raises(PackError, match="a finished result: --overwrite replaces it"):
        convert_to_pair_folder(source, out, ConvertOptions())
    convert_to_pair_folder(source, out, ConvertOptions(resume=True))
    kept = contents(out)
    assert kept.pop(".facepack.json")[1] == good[".facepack.json"][1]
    assert kept.items() <= good.items() and len(kept) == len(good) - 1
    (out / "imgs" / "3.jpg").unlink()
    (out / "imgs" / "8.jpg").write_bytes(b"short")
    convert_to_pair_folder(source, out, ConvertOptions(resume=True))
    found = contents(out)
    assert {name: data for name, (_, data) in found.items()} == {
        name: data for name, (_, data) in good.items()
    }
    assert found["imgs/4.jpg"] == good["imgs/4.jpg"]


def test_an_interrupted_set_is_no_set_until_it_is_resumed(
    source: BinSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lfw"
    write = to_pair_folder.write_image

    def stop_at_seven(path: Path, image: bytes) -> None:
        if path.stem == "7":
            raise KeyboardInterrupt
        write(path, image)

    with monkeypatch.context() as patch:
        patch.setattr(to_pair_folder, "write_image", stop_at_seven)
        with pytest.raises(KeyboardInterrupt):
            convert_to_pair_folder(source, out, ConvertOptions())
    assert not (out / "pair_label.npy").exists()
    with pytest.raises(PackError, match="--resume completes it"):
        convert_to_pair_folder(source, out, ConvertOptions())
    convert_to_pair_folder(source, out, ConvertOptions(resume=True))
    assert len(load_pair_set(out).issame) == 20


def test_a_finished_set_of_which_a_part_is_lost_is_unfinished_until_it_is_there_again(
    source: BinSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "lfw"
    convert_to_pair_folder(source, out, ConvertOptions())
    good = {name: data for name, (_, data) in contents(out).items()}
    (out / "imgs" / "7.jpg").unlink()

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(to_pair_folder, "write_image", stop)
        with pytest.raises(KeyboardInterrupt):
            convert_to_pair_folder(source, out, ConvertOptions(resume=True))
    assert not (out / ".facepack.json").exists()
    with pytest.raises(PackError, match="an unfinished conversion"):
        convert_to_pair_folder(source, out, ConvertOptions())
    convert_to_pair_folder(source, out, ConvertOptions(resume=True))
    assert {name: data for name, (_, data) in contents(out).items()} == good


def test_overwriting_removes_only_what_is_ours(
    source: BinSource, images: list[bytes], tmp_path: Path
) -> None:
    out = tmp_path / "lfw"
    convert_to_pair_folder(source, out, ConvertOptions())
    (out / "imgs" / "7.txt").write_text("mine")
    (out / "notes").write_text("mine")
    write_bin(tmp_path / "small.bin", images[:4], FLAGS[:2])
    small = BinSource(tmp_path / "small.bin")
    with pytest.raises(PackError, match="begun under another plan"):
        convert_to_pair_folder(small, out, ConvertOptions(resume=True))
    convert_to_pair_folder(small, out, ConvertOptions(overwrite=True))
    names = {name for name in contents(out) if not name.startswith(".facepack")}
    assert names == {*(f"imgs/{i}.jpg" for i in range(4)), "imgs/7.txt", "notes", "pair_label.npy"}
    (out / ".facepack.json").unlink()
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(PackError, match="is not empty"):
            convert_to_pair_folder(source, out, ConvertOptions(**options))


def test_what_is_refused_before_anything_is_written(
    source: BinSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl", reason="without it no file is locked")
    out = tmp_path / "lfw"
    with pytest.raises(PackError, match="choose one"):
        convert_to_pair_folder(source, out, ConvertOptions(resume=True, overwrite=True))
    with (
        Target(out / ".facepack"),
        pytest.raises(PackError, match="another process is writing here"),
    ):
        convert_to_pair_folder(source, out, ConvertOptions())
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(PackError, match="are needed"):
        convert_to_pair_folder(source, out, ConvertOptions())
    assert not (out / "imgs").exists()
