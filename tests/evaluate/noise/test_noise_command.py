"""``facepack noise``: lists that ``--exclude`` takes, resuming, and what it refuses in words."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.evaluate.noise.lists import find_noise, write_lists
from facepack.evaluate.noise.scores import SCORES
from facepack.store.record_list import read_record_list
from facepack.train.data import ImageTree
from tests.evaluate.conftest import make_face, make_jpeg

PLANTED = {7, 15, 23}


@pytest.fixture(scope="session")
def found(pack_path: Path, run_path: Path, run_cli, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("found") / "out"
    words = ("--device", "cpu", "--threshold", "0.9", "--confidence", "0.01")
    result = run_cli("noise", pack_path, "--model", run_path, "--out", out, *words)
    assert result.exit_code == 0, result.output
    return out


def test_lists_hold_what_their_rules_say(found: Path, pack_path: Path) -> None:
    scores = np.load(found / "scores.npy")
    assert scores.dtype == SCORES
    with facepack.open(pack_path) as pack:
        other = (scores["predicted"] != pack.labels) & (scores["predicted_p"] >= 0.01)
        for name, expected in (("noise", scores["max_p"] < 0.9), ("wrong_labels", other)):
            for suffix in ("txt", "csv", "json"):
                positions = read_record_list(found / f"{name}.{suffix}", pack)
                np.testing.assert_array_equal(positions, np.flatnonzero(expected))
        assert PLANTED & {*np.flatnonzero(other).tolist()}


def test_the_text_is_the_published_one(found: Path, pack_path: Path) -> None:
    scores = np.load(found / "scores.npy")
    lines = [line.split(" ") for line in (found / "noise.txt").read_text().splitlines()]
    assert lines, "the threshold should find some"
    largest = [float(line[2]) for line in lines]
    assert largest == sorted(largest)
    for label, position, max_p, own_p in lines:
        assert int(label) == int(position) // 8
        assert np.float32(max_p) == scores["max_p"][int(position)]
        assert np.float32(own_p) == scores["own_p"][int(position)]


def test_tables_say_the_same_as_json(found: Path, pack_path: Path) -> None:
    whole = json.loads((found / "wrong_labels.json").read_text())
    with facepack.open(pack_path) as pack:
        assert whole["content_id"] == pack.content_id
    with (found / "wrong_labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [row["key"] for row in whole["records"]]
    assert [float(row["cosine"]) for row in rows] == [row["cosine"] for row in whole["records"]]


def test_names_of_a_tree_that_are_not_utf8_are_listed(tmp_path: Path) -> None:
    (tmp_path / "tree/p0").mkdir(parents=True)
    (tmp_path / "tree/p0" / os.fsdecode(b"\xff.jpg")).write_bytes(make_jpeg(make_face(0, 0)))
    data, scores = ImageTree(tmp_path / "tree"), np.zeros(1, SCORES)
    found = find_noise(scores, data.labels, threshold=0.5, confidence=0.5)
    write_lists(tmp_path, data, scores, found, {})
    assert "p0/\\udcff.jpg,0,0," in (tmp_path / "noise.csv").read_text()
    (row,) = json.loads((tmp_path / "noise.json").read_text())["records"]
    assert row["key"] == data.key(0)


def test_names_of_a_tree_are_no_formulas(tmp_path: Path) -> None:
    (tmp_path / "tree/=1+1").mkdir(parents=True)
    (tmp_path / "tree/=1+1/0.jpg").write_bytes(make_jpeg(make_face(0, 0)))
    data, scores = ImageTree(tmp_path / "tree"), np.zeros(1, SCORES)
    found = find_noise(scores, data.labels, threshold=0.5, confidence=0.5)
    write_lists(tmp_path, data, scores, found, {})
    assert "\n'=1+1/0.jpg,0,0," in (tmp_path / "noise.csv").read_text()
    assert "=1+1" not in (tmp_path / "noise.txt").read_text()


def test_another_threshold_takes_the_embeddings_that_are_there(
    found: Path, pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(found, out)
    words = ("noise", pack_path, "--model", run_path, "--out", out, "--device", "cpu")
    again = run_cli(*words)
    assert again.exit_code == 1 and "--resume" in again.output
    done = run_cli(*words, "--resume", "--threshold", "1", "--confidence", "0", "--json")
    assert done.exit_code == 0, done.output
    counts = json.loads(done.stdout)
    assert counts["images"] == 48 and counts["wrong_labels"] == counts["argmax_is_not_label"]
    assert (out / "scores.npy").read_bytes() == (found / "scores.npy").read_bytes()


def test_dry_run_says_what_would_be_written_and_writes_nothing(
    pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    words = ("noise", pack_path, "--model", run_path, "--out", out, "--device", "cpu")
    words = (*words, "--neighbours", "--against", pack_path, "--page", page)
    result = run_cli(*words, "--dry-run")
    assert result.exit_code == 0 and "48 images to score by 6 classes" in result.output
    told = json.loads(run_cli(*words, "--dry-run", "--json").stdout)
    assert not list(tmp_path.iterdir())
    assert run_cli(*words).exit_code == 0
    embedded = [Path(each["out"]) for each in told["embedded"]]
    assert embedded == [out / "embeddings", out / "against"]
    written = {entry.name for entry in out.iterdir()} | {str(page)}
    assert {*told["files"]} == written - {"embeddings", "against"}
    again = json.loads(run_cli(*words, "--dry-run", "--json", "--resume").stdout)
    assert [each["target"] for each in again["embedded"]] == ["finished", "finished"]
    assert again["needed_bytes"] < told["needed_bytes"] / 2
    assert "--resume" in run_cli(*words, "--dry-run").output
    other = (*words[:1], run_path.parent / "none", *words[2:])
    assert run_cli(*other, "--dry-run").exit_code == 1


KILLED = """
import os, signal
from facepack.cli import root
from facepack.evaluate.embedding import embedding_folder

write = embedding_folder.BatchWriter.write
embedding_folder._SYNC_EVERY = -1.0

def die(self, batch, rows, **options):
    write(self, batch, rows, **options)
    if os.environ["RANK"] == "1" and batch == 8:
        os.kill(os.getpid(), signal.SIGKILL)

embedding_folder.BatchWriter.write = die
root()
"""


def test_two_processes_of_which_one_is_killed_go_on_to_the_same_lists(
    pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    words = ["noise", pack_path, "--model", run_path, "--device", "cpu", "--batch-size", 4]
    words += ["--threshold", "0.9", "--confidence", "0.01"]
    assert run_cli(*words, "--out", tmp_path / "alone").exit_code == 0
    (tmp_path / "killed.py").write_text(KILLED)

    def launch(*program: object) -> subprocess.CompletedProcess[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        return subprocess.run(
            [sys.executable, *launcher, *map(str, [*program, *words, "--out", tmp_path / "out"])],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    assert launch(tmp_path / "killed.py").returncode != 0
    marks = (tmp_path / "out/embeddings/done").read_bytes()
    assert marks[6:] == bytes([1, 1, 1, 0, 0, 0]), "the second process had got so far"
    assert not (tmp_path / "out/noise.txt").exists()
    words.append("--resume")
    done = launch("-m", "facepack")
    assert done.returncode == 0, done.stderr
    of_both, of_one = (
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in sorted((tmp_path / name).rglob("*.*"))
        }
        for name in ("out", "alone")
    )
    assert of_both == of_one and Path("wrong_labels.txt") in of_one
    assert of_one[Path("wrong_labels.txt")]


def test_the_page_may_be_in_a_folder_that_is_not_there_yet(
    found: Path, pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    shutil.copytree(found, tmp_path / "out")
    words = ("noise", pack_path, "--model", run_path, "--out", tmp_path / "out", "--device", "cpu")
    done = run_cli(*words, "--resume", "--page", tmp_path / "new/below/noise.html")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new/below/noise.html").read_text().startswith("<!")


def test_images_that_do_not_decode_have_no_score(
    pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    """And change nothing for the others; nor do they stop --neighbours or --against."""
    bad = {3, 20}
    with (
        facepack.open(pack_path) as pack,
        facepack.PackWriter(tmp_path / "bad", classes=6, order="source") as writer,
    ):
        for position in range(len(pack)):
            image = bytes(pack[position].image)
            cut = image[: len(image) // 2] + b"\xff\xd9"
            writer.add(cut if position in bad else image, label=position // 8)
    words = ("noise", tmp_path / "bad", "--model", run_path, "--device", "cpu", "--threshold", "1")
    refused = run_cli(*words, "--out", tmp_path / "refused", "--on-bad-image", "raise")
    assert refused.exit_code == 1 and "decode" in refused.stderr, refused.output
    others = ("--neighbours", "--against", tmp_path / "bad", "--page", tmp_path / "noise.html")
    done = run_cli(*words, "--out", tmp_path / "out", *others, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["without_score"] == 2
    assert done.stderr.count("2 of 48 images cannot be decoded") == 2
    scores = np.load(tmp_path / "out/scores.npy")
    assert {*np.flatnonzero(scores["predicted"] < 0).tolist()} == bad
    assert run_cli("noise", pack_path, *words[2:], "--out", tmp_path / "whole").exit_code == 0
    rest = np.setdiff1d(np.arange(48), [*bad])
    whole = np.load(tmp_path / "whole/scores.npy")
    np.testing.assert_allclose(scores["max_p"][rest], whole["max_p"][rest], rtol=1e-4)
    listed = {int(line.split()[1]) for line in (tmp_path / "out/noise.txt").open()}
    assert listed == {*np.flatnonzero(scores["max_p"] < 1).tolist()} and not listed & bad


def test_overwriting_leaves_no_table_of_another_run(
    found: Path, pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(found, out)
    tables = [out / f"{name}.{end}" for name in ("alike", "mixed") for end in ("csv", "json")]
    words = ("noise", pack_path, "--model", run_path, "--out", out, "--device", "cpu")
    assert run_cli(*words, "--resume", "--neighbours").exit_code == 0
    assert run_cli(*words, "--resume").exit_code == 0 and all(each.exists() for each in tables)
    assert run_cli(*words, "--overwrite").exit_code == 0
    assert not any(each.exists() for each in tables)


def test_a_list_leads_to_a_cleaned_pack_that_the_model_still_fits(
    found: Path, pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    listed = len((found / "wrong_labels.txt").read_text().splitlines())
    done = run_cli("select", pack_path, tmp_path / "clean", "--exclude", found / "wrong_labels.txt")
    assert done.exit_code == 0, done.output
    with facepack.open(tmp_path / "clean") as clean:
        assert len(clean) == 48 - listed
    again = run_cli(
        *("noise", tmp_path / "clean", "--model", run_path, "--out", tmp_path / "again"),
        *("--device", "cpu", "--confidence", "0.01"),
    )
    assert again.exit_code == 0, again.output
    assert not (tmp_path / "again/wrong_labels.txt").read_text()


def test_models_and_packs_that_do_not_belong_together_are_refused(
    pack_path: Path, run_path: Path, run_cli, tmp_path: Path
) -> None:
    def refused(pack: Path, model: Path) -> str:
        result = run_cli("noise", pack, "--model", model, "--out", tmp_path / "out")
        assert result.exit_code == 1 and not (tmp_path / "out").exists()
        return result.output

    with facepack.open(pack_path) as pack, facepack.PackWriter(tmp_path / "two", classes=2) as two:
        for position in (0, 8):
            two.add(pack[position].image, label=position // 8)
    assert "6 classes" in refused(tmp_path / "two", run_path)
    folder = tmp_path / "tree"
    with facepack.open(pack_path) as pack:
        for person in range(6):
            (folder / f"p{person}").mkdir(parents=True)
            (folder / f"p{person}" / "0.jpg").write_bytes(pack[8 * person].image)
    assert "other identities" in refused(folder, run_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run_path / "model.pt", alone)
    assert "without its classifier" in refused(pack_path, alone)
    assert "no classifier" in refused(pack_path, alone / "model.pt")
    assert "no such file" in refused(pack_path, tmp_path / "nothing")
    (alone / "checkpoint.pt").write_bytes((run_path / "checkpoint.pt").read_bytes()[:5000])
    assert "damaged" in refused(pack_path, alone) or "cut short" in refused(pack_path, alone)
