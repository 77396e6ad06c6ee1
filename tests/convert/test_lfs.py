"""Pointers of Git LFS in the place of files: said as what they are, wherever a file is read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack import lfs
from facepack.cli import root
from facepack.errors import DamageError, PointerImageError
from facepack.images import read_header

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 7340032\n"
)


def run(*words: object) -> str:
    """What a command that must fail with exit status 1 says."""
    done = CliRunner().invoke(root, [str(word) for word in words])
    assert done.exit_code == 1, done.output
    return done.output


def pointer(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(POINTER)
    return path


def test_what_is_a_pointer(tmp_path: Path) -> None:
    assert lfs.is_pointer(POINTER) and lfs.is_pointer(memoryview(POINTER))
    assert not lfs.is_pointer(b"") and not lfs.is_pointer(POINTER[:30])
    lfs.require_content(tmp_path / "none", DamageError)  # who reads it tells
    with pytest.raises(DamageError, match="git lfs pull"):
        lfs.require_content(pointer(tmp_path / "file"), DamageError)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("rec", ["train.rec"]),
        ("bin", ["lfw.bin"]),
        ("pairs", ["pairs.txt"]),
        ("zip", ["0_0.zip"]),
        ("tar", ["a.tar"]),
        ("tar", ["a.tar.gz_0", "a.tar.gz_1"]),
        ("kv", ["faces.lmdb"]),
        ("kv", ["faces.lmdb", "faces.kv"]),
        ("lst", ["train.lst"]),
    ],
)
def test_sources(tmp_path: Path, source: str, names: list[str]) -> None:
    paths = [pointer(tmp_path / name) for name in names]
    said = run(f"{source}2lmdb", *paths, tmp_path / "out")
    assert f"{paths[0]}: is a pointer of Git LFS" in said and "git lfs pull" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["train.idx", "property"])
def test_files_beside_a_source(make_rec: Callable[..., Path], tmp_path: Path, name: str) -> None:
    source = make_rec(5)
    pointer(source / name)
    assert f"{name}: is a pointer of Git LFS" in run("rec2lmdb", source, tmp_path / "out")


def test_images_are_set_aside_with_the_remedy(
    tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    with pytest.raises(PointerImageError):
        read_header(POINTER)
    tree = tmp_path / "tree"
    pointer(tree / "ann" / "0.jpg").with_name("1.jpg").write_bytes(make_jpeg(0))
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        archive.writestr("ann/0.jpg", POINTER)
        archive.writestr("ann/1.jpg", make_jpeg(0))
    for command, path in (("img2lmdb", tree), ("zip2lmdb", tmp_path / "faces.zip")):
        out = tmp_path / command
        assert CliRunner().invoke(root, [command, str(path), str(out)]).exit_code == 0
        (line,) = map(json.loads, (out / "quarantine.jsonl").read_text().splitlines())
        assert "git lfs pull" in line["reason"] and line["remedy"] == PointerImageError.remedy
        with facepack.open(out) as pack:
            assert len(pack) == 1


def test_packs(make_rec: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert CliRunner().invoke(root, ["rec2lmdb", str(make_rec(5)), str(out)]).exit_code == 0
    for name in ("train.mdb", "train.kv", "pack.json"):
        pointer(out / name)
        with pytest.raises(DamageError, match=f"{name}: is a pointer of Git LFS"):
            facepack.open(out)


def test_models_logs_and_settings(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "imgs").mkdir()
    np.save(tmp_path / "pair_label.npy", np.ones(1, bool))
    for name in ("model.pt", "model.safetensors", "model.onnx"):
        # An .onnx is a whole network, which says itself what it is.
        named = () if name.endswith(".onnx") else ("--backbone", "r18")
        said = run("eval", tmp_path, "--model", pointer(tmp_path / name), *named)
        assert f"{name}: is a pointer of Git LFS" in said
    log = pointer(tmp_path / "training.log")
    assert "training.log: is a pointer" in run("schedule", log, "--schedule", "mhlr")
    run_folder = pointer(tmp_path / "run" / "checkpoint.pt").parent
    from facepack.errors import ConfigError, TrainingError
    from facepack.train.collect import read_settings
    from facepack.train.loop.checkpoint import load_checkpoint

    with pytest.raises(TrainingError, match="is a pointer of Git LFS"):
        load_checkpoint(run_folder / "checkpoint.pt")
    with pytest.raises(ConfigError, match="is a pointer of Git LFS"):
        read_settings(str(pointer(tmp_path / "recipe.toml")))


def test_verification_sets(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from facepack.errors import SourceError
    from facepack.evaluate.sets.pairs import load_pair_set

    with pytest.raises(SourceError, match="is a pointer of Git LFS"):
        load_pair_set(pointer(tmp_path / "lfw.bin"))
    folder = pointer(tmp_path / "set" / "pair_label.npy").parent
    pointer(folder / "imgs" / "0.jpg")
    with pytest.raises(SourceError, match="is a pointer of Git LFS"):
        load_pair_set(folder)
