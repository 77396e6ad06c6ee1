"""``facepack embed``: the same file from one process, after kills and from two; what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import facepack
from facepack.cli import root
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.evaluate.embedding.embed import embed
from facepack.evaluate.embedding.embedding_folder import BatchWriter, runs
from facepack.evaluate.embedding.embeddings import open_embeddings
from facepack.evaluate.models import load_model
from facepack.train.backbones import build
from facepack.train.config import TrainConfig, dump_config

IMAGES = 50
FILES = ("embeddings.npy", "norms.npy", "keys.npy", "meta.json")


@pytest.fixture
def pack(tmp_path: Path, make_pack: Callable[..., Path], make_jpeg: Callable[..., bytes]) -> Path:
    with facepack.PackWriter(tmp_path / "faces", shard_records=20, seed=3) as writer:
        for i in range(IMAGES):
            writer.add(make_jpeg(i, size=112), i % 4)
    return tmp_path / "faces"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", 0)


def make_run(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    folder.mkdir()
    torch.save(build("tiny", features=16).state_dict(), folder / "model.pt")
    config = TrainConfig(shards="faces", backbone="tiny", features=16)
    (folder / "config.toml").write_text(dump_config(config))
    return folder


def facepack_embed(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["embed", *map(str, arguments)])


def content(folder: Path) -> dict[str, bytes]:
    assert sorted(entry.name for entry in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


def test_rows_norms_and_keys_are_those_of_the_images(pack: Path, run: Path, tmp_path: Path) -> None:
    result = facepack_embed(pack, "--model", run, "--out", tmp_path / "E", "--batch-size", 8)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'E'}: 50 × 16\n"
    model = load_model(run)
    with facepack.open(pack) as opened:
        slow = [embed(model, [opened.decode(i)[None]])[0] for i in range(IMAGES)]
        keys = [opened.key(i) for i in range(IMAGES)]
    found = open_embeddings(tmp_path / "E")
    np.testing.assert_allclose(found.rows, slow, rtol=1e-4, atol=1e-5 * np.abs(slow).max())
    assert found.rows.dtype == np.float32 and found.norms is not None and found.keys is not None
    np.testing.assert_allclose(found.norms, np.linalg.norm(slow, axis=1), rtol=1e-4)
    assert [key.decode() for key in found.keys] == keys
    assert found.meta["flip"] is True and len(found.meta["model_xxh3_128"]) == 32
    assert str(tmp_path) not in (tmp_path / "E" / "meta.json").read_text()


def test_without_mirror_images(pack: Path, run: Path, tmp_path: Path) -> None:
    assert not facepack_embed(
        pack, "--model", run, "--out", tmp_path / "E", "--no-flip", "--batch-size", 8
    ).exit_code
    with facepack.open(pack) as opened:
        faces = np.stack([opened.decode(i) for i in range(8)])
    wanted = embed(load_model(run), [faces], flip=False)
    np.testing.assert_array_equal(open_embeddings(tmp_path / "E").rows[:8], wanted)


@pytest.mark.parametrize(
    ("at", "by"),
    [*((at, "replace") for at in range(4)), *((at, "unlink") for at in range(5)), (999, "write")],
)
def test_killed_and_resumed_it_is_the_same(
    pack: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: Callable[..., None],
    at: int,
    by: str,
) -> None:
    own = [pack, "--model", run, "--batch-size", 8, "--device", "cpu"]
    assert facepack_embed(*own, "--out", tmp_path / "whole").exit_code == 0
    monkeypatch.setattr("facepack.evaluate.embedding.embedding_folder._SYNC_EVERY", -1.0)
    torch.set_num_threads(1)  # a forked child has none of torch's threads
    write = BatchWriter.write

    def die(self: BatchWriter, batch: int, rows: np.ndarray, **options: bool) -> None:
        write(self, batch, rows, **options)
        if by == "write" and batch == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(BatchWriter, "write", die)
        killed(
            lambda: facepack_embed(*own, "--out", tmp_path / "E"),
            at,
            "unlink" if by == "unlink" else "replace",
        )
    if by == "write":
        assert (tmp_path / "E" / "done").read_bytes() == bytes([1, 1, 1, 1, 1, 0, 0])
    result = facepack_embed(*own, "--out", tmp_path / "E", "--resume")
    assert result.exit_code == 0, result.output
    assert content(tmp_path / "E") == content(tmp_path / "whole")
    again = facepack_embed(*own, "--out", tmp_path / "E", "--resume", "--json")
    assert json.loads(again.stdout)["new"] == 0


@pytest.mark.parametrize("name", ["E", "E.safetensors"])
def test_what_an_error_leaves_is_completed_from_there(
    pack: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own = [pack, "--model", run, "--batch-size", 8, "--out", tmp_path / name]
    write = BatchWriter.write

    def fail(self: BatchWriter, batch: int, rows: np.ndarray, **options: bool) -> None:
        if batch == 3:
            raise KeyboardInterrupt
        write(self, batch, rows, **options)

    dry = (*own, "--dry-run", "--json")
    new = json.loads(facepack_embed(*dry).stdout)
    monkeypatch.setattr(BatchWriter, "write", fail)
    stopped = facepack_embed(*own)
    assert stopped.exit_code == 130 and "--resume" in stopped.stderr
    monkeypatch.undo()
    left = json.loads(facepack_embed(*dry, "--resume").stdout)
    assert (left["target"], left["new"]) == ("resumed", IMAGES - 24)
    assert new["needed_bytes"] - left["needed_bytes"] == 24 * (16 + 1) * 4
    with pytest.raises(facepack.errors.EvaluationError):
        open_embeddings(tmp_path / name)
    assert "--resume completes" in facepack_embed(*own).stderr
    result = facepack_embed(*own, "--resume", "--json")
    assert json.loads(result.stdout) == {
        "out": str(tmp_path / name),
        "images": IMAGES,
        "features": 16,
        "new": IMAGES - 24,
        "bad_images": [],
        "bad_reasons": [],
        "not_finite": 0,
        "first": None,
    }
    own[-1] = tmp_path / "whole"
    facepack_embed(*own)
    whole, found = open_embeddings(tmp_path / "whole"), open_embeddings(tmp_path / name)
    for wanted, made in ((whole.rows, found.rows), (whole.keys, found.keys)):
        np.testing.assert_array_equal(wanted, made)
    assert found.meta == whole.meta and not (tmp_path / "E.safetensors.part").exists()


def test_two_processes_write_the_same(pack: Path, run: Path, tmp_path: Path) -> None:
    own = [str(pack), "--model", str(run), "--batch-size", "8", "--device", "cpu", "--out"]
    assert facepack_embed(*own, tmp_path / "alone").exit_code == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "facepack", "embed", *own, str(tmp_path / "E")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'E'}: 50 × 16\n"
    assert content(tmp_path / "E") == content(tmp_path / "alone")


def test_the_safetensors_package_reads_what_is_written(
    pack: Path, run: Path, tmp_path: Path
) -> None:
    numpy = pytest.importorskip("safetensors.numpy")
    out = tmp_path / "E.safetensors"
    assert facepack_embed(pack, "--model", run, "--out", out).exit_code == 0
    tensors = numpy.load_file(out)
    found = open_embeddings(out)
    np.testing.assert_array_equal(tensors["embeddings"], found.rows)
    np.testing.assert_array_equal(tensors["norms"], found.norms)
    keys = [bytes(row).rstrip(b"\0") for row in tensors["keys"]]
    assert found.keys is not None and keys == found.keys.tolist() and len(set(keys)) == IMAGES
    numpy.save_file({"features": tensors["embeddings"]}, tmp_path / "other.safetensors")
    np.testing.assert_array_equal(open_embeddings(tmp_path / "other.safetensors").rows, found.rows)


def test_a_folder_of_images_is_embedded_by_path(
    run: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    names = ["a.jpg", "b/c.jpg", "b/d/é.jpg", "b/x.png.jpeg"]
    for number, name in enumerate(names):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(make_jpeg(number, size=112))
    (tmp_path / "faces" / "b" / "notes.txt").write_text("none")
    result = facepack_embed(tmp_path / "faces", "--model", run, "--out", tmp_path / "E")
    assert result.exit_code == 0 and "1 files that are no images" in result.stderr
    keys = open_embeddings(tmp_path / "E").keys
    assert keys is not None and [key.decode() for key in keys] == names


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--batch-size": 16}, "batch_size = 8, and 16 is asked for"),
        ({"--no-flip": None}, "flip = true, and false"),
        ({"--model": "other"}, "model_xxh3_128"),
    ],
)
def test_embeddings_of_something_else_are_not_gone_on_with(
    pack: Path, run: Path, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    make_run(tmp_path / "other", 1)
    options = {"--model": run, "--batch-size": 8, "--out": tmp_path / "E"}

    def call(options: dict[str, Any], *more: str) -> Result:
        words = [word for item in options.items() for word in item if word is not None]
        return facepack_embed(pack, *words, *more)

    assert call(options).exit_code == 0
    if "--model" in change:
        change = {"--model": tmp_path / "other"}
    result = call({**options, **change}, "--resume")
    assert result.exit_code == 1 and told in result.stderr
    assert call({**options, **change}, "--overwrite").exit_code == 0
    assert "choose one" not in call(options, "--resume", "--overwrite").stderr


def test_a_folder_of_something_else_is_left_alone(pack: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "E").mkdir()
    (tmp_path / "E" / "thesis.tex").write_text("x")
    result = facepack_embed(pack, "--model", run, "--out", tmp_path / "E", "--overwrite")
    assert result.exit_code == 1 and "'thesis.tex'" in result.stderr
    assert (tmp_path / "E" / "thesis.tex").read_text() == "x"


def test_images_of_another_size_and_broken_ones_are_told(
    make_pack: Callable[..., Path], run: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    result = facepack_embed(make_pack(), "--model", run, "--out", tmp_path / "E")
    assert result.exit_code == 1 and "images of 32×32 pixels" in result.stderr
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(make_jpeg(number, size=112))
    image = tmp_path / "images" / "1.jpg"
    image.write_bytes(image.read_bytes()[:900])
    own = [tmp_path / "images", "--model", run, "--on-bad-image", "raise"]
    result = facepack_embed(*own, "--out", tmp_path / "F")
    assert result.exit_code == 1 and "1.jpg" in result.stderr
    result = facepack_embed(tmp_path / "none", "--model", run, "--out", tmp_path / "F")
    assert result.exit_code == 1 and "none" in result.stderr


def test_what_was_embedded_is_evaluated_in_the_models_place(
    run: Path, tmp_path: Path, pack: Path, pair_images: tuple[list[bytes], np.ndarray]
) -> None:
    images, issame = pair_images
    write_bin(tmp_path / "lfw.bin", images, issame)
    CliRunner().invoke(root, ["bin2lmdb", str(tmp_path / "lfw.bin"), str(tmp_path / "lfw")])
    lfw = tmp_path / "lfw"
    assert facepack_embed(lfw, "--model", run, "--out", tmp_path / "E").exit_code == 0

    def evaluated(*words: object) -> Any:
        result = CliRunner().invoke(root, ["eval", str(lfw), *map(str, words), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)[0]

    of_model, of_file = (
        evaluated("--model", run),
        evaluated("--embeddings", tmp_path / "E"),
    )
    assert of_model.pop("norm") == pytest.approx(of_file.pop("norm"), rel=1e-5)
    assert of_model == of_file
    # Keys of packs count records, so those of another pack would fit as well.
    assert facepack_embed(pack, "--model", run, "--out", tmp_path / "other").exit_code == 0
    result = CliRunner().invoke(root, ["eval", str(lfw), "--embeddings", str(tmp_path / "other")])
    assert result.exit_code == 1 and "made of other images" in result.stderr


def test_runs_are_the_stretches_of_ascending_numbers() -> None:
    assert list(runs(np.array([0, 1, 2, 5, 7, 8]))) == [(0, 3), (5, 6), (7, 9)]
    assert list(runs(np.array([], int))) == []


@pytest.mark.parametrize("name", ["E", "E.safetensors"])
def test_dry_run_says_what_would_be_written_and_writes_nothing(
    pack: Path, run: Path, tmp_path: Path, name: str
) -> None:
    own = [pack, "--model", run, "--out", tmp_path / name]
    before = sorted(tmp_path.iterdir())
    result = facepack_embed(*own, "--dry-run")
    assert result.exit_code == 0 and "would be made: 50 × 16" in result.stdout
    new = json.loads(facepack_embed(*own, "--dry-run", "--json").stdout)
    assert (new["target"], new["images"], new["new"], new["refused"]) == ("new", IMAGES, IMAGES, [])
    assert sorted(tmp_path.iterdir()) == before
    assert facepack_embed(*own).exit_code == 0
    files = [tmp_path / name] if "." in name else sorted((tmp_path / name).iterdir())
    assert sorted(new["files"]) == [file.name for file in files]
    size = sum(file.stat().st_size for file in files) * (2 if "." in name else 1)
    assert 0.7 < new["needed_bytes"] / size <= 1
    assert "--overwrite replaces" in facepack_embed(*own, "--dry-run").stderr
    for option, target, count in (("--resume", "finished", 0), ("--overwrite", "replaced", IMAGES)):
        told = json.loads(facepack_embed(*own, "--dry-run", "--json", option).stdout)
        assert (told["target"], told["new"]) == (target, count)
        assert (told["needed_bytes"], told["files"]) == (
            (0, []) if not count else (new["needed_bytes"], new["files"])
        )


def test_dry_run_refuses_what_a_run_would(
    make_pack: Callable[..., Path], run: Path, tmp_path: Path, make_jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "images").mkdir()
    for i in range(40):
        jpeg = make_jpeg(i, size=112)
        (tmp_path / "images" / f"{i:02}.jpg").write_bytes(jpeg[:900] if i in (3, 5) else jpeg)
    own = ["--model", run, "--out", tmp_path / "E", "--dry-run"]
    told = facepack_embed(tmp_path / "images", *own)
    assert "of 40 images that were looked at, 2 cannot be decoded" in told.stdout
    assert "03.jpg" in told.stdout and "05.jpg" in told.stdout
    refused = facepack_embed(tmp_path / "images", *own, "--on-bad-image", "raise")
    assert refused.exit_code == 1 and "03.jpg" in refused.stderr
    refused = facepack_embed(make_pack(), *own)
    assert refused.exit_code == 1 and "images of 32×32 pixels" in refused.stderr
    own[3] = tmp_path / "images" / "00.jpg" / "E"
    refused = facepack_embed(tmp_path / "images", *own)
    assert refused.exit_code == 1 and "cannot write" in refused.stderr
    assert not (tmp_path / "E").exists()


def test_a_run_that_finds_no_room_removes_nothing(
    pack: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = [pack, "--model", run, "--out", tmp_path / "E"]
    assert facepack_embed(*own).exit_code == 0
    before = content(tmp_path / "E")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda path: SimpleNamespace(total=0, used=0, free=-1_000_000)
    )
    for dry in ([], ["--dry-run"]):
        refused = facepack_embed(*own, "--overwrite", *dry)
        assert refused.exit_code == 1 and "are needed" in refused.stderr
    assert content(tmp_path / "E") == before


@pytest.mark.parametrize("suffix", ["", ".safetensors"])
def test_an_image_that_does_not_decode_is_named_and_marked(
    tmp_path: Path,
    run: Path,
    make_jpeg: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
) -> None:
    folder, bad = tmp_path / "images", [3, 17]
    folder.mkdir()
    for i in range(20):
        jpeg = make_jpeg(i, size=112)
        (folder / f"{i:02}.jpg").write_bytes(jpeg[:900] if i in bad else jpeg)
    own = [folder, "--model", run, "--batch-size", 4]
    out = tmp_path / f"E{suffix}"
    write = BatchWriter.write

    def stop(self: BatchWriter, batch: int, rows: np.ndarray, **options: bool) -> None:
        write(self, batch, rows, **options)
        if batch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(BatchWriter, "write", stop)
        assert facepack_embed(*own, "--out", out).exit_code
    told = facepack_embed(*own, "--out", out, "--resume", "--json")
    assert told.exit_code == 0, told.output
    stated = json.loads(told.stdout)
    assert stated["bad_images"] == ["03.jpg", "17.jpg"] and stated["not_finite"] == 0
    assert "2 of 20 images cannot be decoded and have no embedding, first 03.jpg: " in told.stderr
    assert [why.partition(": ")[0] for why in stated["bad_reasons"]] == stated["bad_images"]
    assert str(tmp_path) not in json.dumps(stated["bad_reasons"])
    found = open_embeddings(out)
    assert np.flatnonzero(np.isnan(found.rows).all(axis=1)).tolist() == bad
    assert np.isfinite(np.delete(found.rows, bad, axis=0)).all()
    assert found.meta["bad_images"] == ["03.jpg", "17.jpg"]
    again = facepack_embed(*own, "--out", out, "--resume")
    assert again.exit_code == 0 and "(0 of them new)" in again.stdout
    refused = facepack_embed(*own, "--out", tmp_path / "F", "--on-bad-image", "raise")
    assert refused.exit_code and "03.jpg" in refused.stderr


def test_a_pack_of_several_sizes_has_no_embeddings_of_those_that_do_not_fit(
    tmp_path: Path, run: Path, make_jpeg: Callable[..., bytes]
) -> None:
    for name, sizes in (("some", [112, 64, 112, 112, 80]), ("none", [64, 80])):
        with facepack.PackWriter(tmp_path / name, order="source") as writer:
            for i, size in enumerate(sizes):
                writer.add(make_jpeg(i, size=size), i)
    own = [tmp_path / "some", "--model", run, "--batch-size", 2]
    told = facepack_embed(*own, "--out", tmp_path / "E")
    assert told.exit_code == 0, told.output
    assert "2 of 5 images cannot be decoded and have no embedding" in told.stderr
    rows = open_embeddings(tmp_path / "E").rows
    assert np.flatnonzero(np.isnan(rows).all(axis=1)).tolist() == [1, 4]
    refused = facepack_embed(*own, "--out", tmp_path / "F", "--on-bad-image", "raise")
    assert refused.exit_code == 1 and "images of several sizes" in refused.stderr
    refused = facepack_embed(tmp_path / "none", "--model", run, "--out", tmp_path / "G")
    assert refused.exit_code == 1 and "112×112" in refused.stderr


def test_images_that_are_refused_for_several_reasons(
    tmp_path: Path, run: Path, make_jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "images").mkdir()
    for i in range(9):
        image = make_jpeg(i, size=112 if i < 7 else 50)
        image = {1: image[:900], 3: b"no image", 5: image[:800]}.get(i, image)
        (tmp_path / "images" / f"{i}.jpg").write_bytes(image)
    own = [tmp_path / "images", "--model", run, "--out", tmp_path / "E"]
    for more in ([], ["--resume"]):
        said = facepack_embed(*own, *more).stderr
        assert "5 of 9 images cannot be decoded and have no embedding: 2 such as 1.jpg: " in said
        assert "; 1 such as 3.jpg: " in said and "; 2 such as 7.jpg is " in said, said


def test_where_no_image_decodes_it_is_an_error(
    tmp_path: Path, run: Path, make_jpeg: Callable[..., bytes]
) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(make_jpeg(i, size=112)[:900])
    result = facepack_embed(tmp_path / "images", "--model", run, "--out", tmp_path / "E")
    assert result.exit_code and "none of 3 images" in result.stderr and "0.jpg" in result.stderr
    assert not (tmp_path / "E" / "meta.json").exists()
