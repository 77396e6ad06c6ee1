"""Labels with large gaps and labels that look like boxes: told when they are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.cli import root
from facepack.convert.formats.pack.label_notes import looks_like_boxes
from facepack.convert.formats.rec.recordio import RecordWriter, pack_header
from facepack.store.gaps import note_on_gaps

MakeJpeg = Callable[..., bytes]


def run(*words: object) -> Result:
    done = CliRunner().invoke(root, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def write(
    path: Path,
    labels: Sequence[float | Sequence[float]],
    make_jpeg: MakeJpeg,
    first: int = 0,
) -> Path:
    path.mkdir()
    with RecordWriter(path / "train.rec", path / "train.idx") as writer:
        for k, label in enumerate(labels):
            writer.write(k, pack_header(label, k) + make_jpeg(first + k))
    return path


@pytest.mark.parametrize(
    ("identities", "classes", "told"),
    [
        (10, 900_001, True),
        (10, 1_010, False),  # little is lost
        (10, 1_011, True),
        (5_000, 10_000, False),  # not even half of them
        (5_000, 10_001, True),
        (85_742, 85_742, False),
        (0, 5_000, False),  # no identity at all: another matter
    ],
)
def test_from_where_gaps_are_told(identities: int, classes: int, told: bool) -> None:
    assert (note_on_gaps(identities, classes) is not None) == told


def test_what_a_small_head_takes_is_told_in_megabytes() -> None:
    # 1,676 × 512 × 4 bytes, and that three times
    assert "takes 3 MB, and about 10 MB with" in (note_on_gaps(454, 1_676) or "")


def test_gaps_are_told_and_closed(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    source = write(tmp_path / "src", [100_000 * (k // 5) for k in range(50)], make_jpeg)
    said = run("rec2lmdb", source, tmp_path / "wide").stderr
    # 900,001 × 512 × 4 bytes, and that three times
    assert "10 identities have labels up to 900,000: a head of 900,001 classes takes 1.8 GB" in said
    assert "5.5 GB" in said and "--min-images 1" in said
    for command, path in (("rec2lmdb", source), ("lmdb2lmdb", tmp_path / "wide")):
        out = tmp_path / command
        assert run(command, path, out, "--min-images", 1).stderr == ""
        with facepack.open(out) as pack:
            assert pack.classes == pack.identities == 10 and len(pack) == 50
            assert np.unique(pack.labels).tolist() == list(range(10))


def boxes(header: int, width: int, count: int) -> list[float]:
    """A detection label of ``count`` objects, with random further numbers in header and objects."""
    rng = np.random.default_rng(header * 100 + width * 10 + count)
    label = [header, width, *rng.uniform(1, 900, header - 2)]
    for k in range(count):
        left, top, right, bottom = 0.1, 0.2 + k / 100, 0.5, 0.7
        label += [k, left, top, right, bottom, *rng.uniform(0, 9, width - 5)]
    return [float(value) for value in label]


@pytest.mark.parametrize("header", [2, 4, 7])
@pytest.mark.parametrize("width", [5, 6, 15])
@pytest.mark.parametrize("count", [1, 3])
def test_labels_of_detection(header: int, width: int, count: int) -> None:
    assert looks_like_boxes(np.array(boxes(header, width, count)[1:]))


@pytest.mark.parametrize(
    "label",
    [
        [7.0],
        [7.0, 1.0],  # face2rec2: class, aligned
        [7.0, 1.0, *np.linspace(30, 80, 14)],  # and box and landmarks in pixels
        [3.0, 5.0, 7.0],
        [float(k) for k in range(81)],
        [0.0, 6.0, 0.0, 0.5, 0.5, 0.1, 0.1, 0.0],  # corners in no order
        [4.0, 5.5, 0.0, 0.1, 0.2, 0.5, 0.7, 0.0],
        [1.0, *np.random.default_rng(0).normal(size=128)],  # an embedding
    ],
)
def test_labels_of_faces(label: list[float]) -> None:
    assert not looks_like_boxes(np.array(label[1:]))


def test_boxes_are_told(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    vectors = [boxes(4, 5, 1 + k % 2) for k in range(6)]
    source = write(tmp_path / "src", vectors, make_jpeg)
    assert "look like boxes" in run("rec2lmdb", source, tmp_path / "pack").stderr
    faces = write(tmp_path / "faces", [[k // 2, 1.0] for k in range(6)], make_jpeg, 50)
    assert run("rec2lmdb", faces, tmp_path / "other").stderr == ""
    said = run("append", tmp_path / "other", source, "--source", "rec").stderr
    assert "look like boxes" in said
    mixed = write(tmp_path / "mixed", [*vectors, [3.0, 1.0]], make_jpeg)
    assert run("rec2lmdb", mixed, tmp_path / "third", "--order", "source").stderr == ""


def test_a_list_of_keys_is_told_that_images_have_no_names(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    run("rec2lmdb", write(tmp_path / "src", [0, 0, 1], make_jpeg), tmp_path / "pack")
    (tmp_path / "keys.txt").write_text("0\n2\n")
    said = run(
        "lmdb2lmdb", tmp_path / "pack", tmp_path / "out", "--exclude", tmp_path / "keys.txt"
    ).stderr
    assert "0 images are left out by the list of 2 names: images have no names" in said
