from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facepack.convert import to_tree
from facepack.convert.bin import BinSource
from facepack.convert.pickles import write_bin
from facepack.convert.rec import RecSource
from facepack.convert.recordio import pack_header
from facepack.convert.to_tree import TreeOptions, convert_to_pair_folder, convert_to_tree
from facepack.errors import PackError, SourceError

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_a_rec_becomes_a_tree(make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    result = convert_to_tree(RecSource(make_rec(20)), tmp_path / "out", TreeOptions())
    assert (result.packed, result.identities, result.classes) == (20, 4, 4)
    for i in range(20):
        assert (tmp_path / "out" / f"{i // 5}" / f"{i + 1}.jpg").read_bytes() == make_jpeg(i)
    index = (tmp_path / "out" / "index.kv").read_text().splitlines()
    assert index == [f"{i // 5}/{i + 1}.jpg {i // 5}" for i in range(20)]


def test_png_keeps_its_bytes_and_bad_records_are_set_aside(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    bad = {2: pack_header(0, 3) + buffer.getvalue(), 3: pack_header(0, 4) + b"nothing"}
    source = make_rec(10, bad=bad)
    result = convert_to_tree(RecSource(source), tmp_path / "out", TreeOptions())
    assert (result.packed, result.quarantined) == (9, 1)
    assert (tmp_path / "out" / "0" / "3.png").read_bytes() == buffer.getvalue()
    entry = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert entry["key"] == "4"
    with pytest.raises(SourceError, match="--strict"):
        convert_to_tree(RecSource(source), tmp_path / "strict", TreeOptions(strict=True))


def test_an_interrupted_tree_is_completed(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_tree, "_SPAN_RECORDS", 6)
    source = RecSource(make_rec(20))
    convert_to_tree(source, tmp_path / "whole", TreeOptions())
    write, calls = to_tree._write, 0

    def stop_at_fifteen(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 15:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(to_tree, "_write", stop_at_fifteen)
    with pytest.raises(KeyboardInterrupt):
        convert_to_tree(source, tmp_path / "out", TreeOptions())
    assert not (tmp_path / "out" / "index.kv").exists()
    with pytest.raises(PackError, match="--resume completes it"):
        convert_to_tree(source, tmp_path / "out", TreeOptions())
    lost = tmp_path / "out" / "0" / "3.jpg"
    lost.write_bytes(b"")  # as a power cut may leave it
    convert_to_tree(source, tmp_path / "out", TreeOptions(resume=True))
    assert calls == 15 + 8 + 6  # two spans of six were there, one of them not in full
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    convert_to_tree(source, tmp_path / "out", TreeOptions(resume=True))
    assert calls == 15 + 8 + 6


def test_overwriting_removes_the_old_tree_and_nothing_else(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert_to_tree(RecSource(make_rec(40)), out, TreeOptions())
    (out / "7" / "notes.txt").write_text("mine")
    convert_to_tree(RecSource(make_rec(5, "small")), out, TreeOptions(overwrite=True))
    names = {name for name in contents(out) if not name.startswith(".facepack")}
    assert names == {*(f"0/{i}.jpg" for i in range(1, 6)), "index.kv", "7/notes.txt"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").touch()
    with pytest.raises(PackError, match="holds no image tree of ours"):
        convert_to_tree(
            RecSource(tmp_path / "small"), tmp_path / "mine", TreeOptions(overwrite=True)
        )


def test_a_bin_becomes_a_pair_folder(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    images = [make_jpeg(i % 7) for i in range(40)]
    flags = [i % 3 == 0 for i in range(20)]
    write_bin(tmp_path / "lfw.bin", images, flags)
    source = BinSource(tmp_path / "lfw.bin")
    result = convert_to_pair_folder(source, tmp_path / "lfw", TreeOptions())
    assert (result.packed, result.pairs) == (40, 20)
    for i, image in enumerate(images):
        assert (tmp_path / "lfw" / "imgs" / f"{i}.jpg").read_bytes() == image
    assert np.load(tmp_path / "lfw" / "pair_label.npy").tolist() == flags
    with pytest.raises(PackError, match="is not empty"):
        convert_to_pair_folder(source, tmp_path / "lfw", TreeOptions())
    convert_to_pair_folder(source, tmp_path / "lfw", TreeOptions(overwrite=True))
    images[5] = b"broken"
    write_bin(tmp_path / "bad.bin", images, flags)
    with pytest.raises(SourceError, match=r"bad\.bin: image 5: not an image"):
        convert_to_pair_folder(BinSource(tmp_path / "bad.bin"), tmp_path / "bad", TreeOptions())
    assert not (tmp_path / "bad" / "pair_label.npy").exists()
