"""Embeddings from files: found by key, checked, and as good to a protocol as a model's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embedding_folder import BatchWriter, begun
from facepack.evaluate.embedding.embeddings import ROWS, open_embeddings
from facepack.evaluate.faces.faces import EncodedFaces
from facepack.evaluate.protocols.verification import PairVerification
from facepack.evaluate.run import embed_faces, evaluate, evaluate_embeddings
from facepack.evaluate.sets.pairs import PairSet

KEYS = ["a/1", "ü/2", "b/3", "c/4"]


@pytest.fixture
def faces() -> EncodedFaces:
    return EncodedFaces("set", [b"1", b"2", b"3", b"4"], KEYS)


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (4, 5)).astype(np.float32)


def test_rows_are_found_by_key(tmp_path: Path, faces: EncodedFaces, rows: np.ndarray) -> None:
    order = [2, 0, 3, 1]
    np.save(tmp_path / "E.npy", np.concatenate([rows[order], rows[:1] * 9]))
    keys = [*(KEYS[i] for i in order), "of/another"]
    (tmp_path / "E.keys.txt").write_text("\n".join(keys), encoding="utf-8")
    np.save(tmp_path / "keys.npy", np.array(keys))
    for given in (None, tmp_path / "keys.npy"):
        found, notices = open_embeddings(tmp_path / "E.npy", given).of(faces)
        np.testing.assert_array_equal(found, rows)
        assert notices == []


def test_rows_without_keys_are_taken_in_order_and_that_is_said(
    tmp_path: Path, faces: EncodedFaces, rows: np.ndarray
) -> None:
    np.save(tmp_path / "E.npy", rows.astype(np.float16))
    found, (notice,) = open_embeddings(tmp_path / "E.npy").of(faces)
    np.testing.assert_array_equal(found, rows.astype(np.float16).astype(np.float32))
    assert found.dtype == np.float32 and "row i is taken to be image i" in notice
    np.save(tmp_path / "E.npy", rows[:3])
    with pytest.raises(EvaluationError, match=r"3 embeddings without keys, .* 4 images"):
        open_embeddings(tmp_path / "E.npy").of(faces)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["a/1", "x", "b/3", "y"], "none for 2 of 4 images of set, first for ü/2, c/4"),
        (["a/1", "a/1", "ü/2", "b/3"], "none for 1 of 4"),
        (["a/1", "ü/2", "b/3"], "3 keys for 4 embeddings"),
    ],
)
def test_keys_that_do_not_suit_are_told(
    tmp_path: Path, faces: EncodedFaces, rows: np.ndarray, keys: list[str], told: str
) -> None:
    np.save(tmp_path / "E.npy", rows)
    (tmp_path / "E.keys.txt").write_text("\n".join(keys), encoding="utf-8")
    with pytest.raises(EvaluationError, match=told):
        open_embeddings(tmp_path / "E.npy").of(faces)


def test_a_repeated_key_is_told(tmp_path: Path, faces: EncodedFaces, rows: np.ndarray) -> None:
    np.save(tmp_path / "E.npy", np.concatenate([rows, rows[:1]]))
    (tmp_path / "E.keys.txt").write_text("\n".join([*KEYS, KEYS[0]]), encoding="utf-8")
    with pytest.raises(EvaluationError, match="several for 1 of 4 images of set, first for a/1"):
        open_embeddings(tmp_path / "E.npy").of(faces)


@pytest.mark.parametrize("array", [np.zeros(4), np.zeros((4, 2), np.int64), np.zeros((0, 5))])
def test_arrays_that_are_no_embeddings_are_told(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "E.npy", array)
    with pytest.raises(EvaluationError, match="floating point"):
        open_embeddings(tmp_path / "E.npy")


def test_damaged_heads_of_arrays_are_told(tmp_path: Path, rows: np.ndarray) -> None:
    """They are Python's syntax, of which NumPy lets any error out."""
    path = tmp_path / "damaged.npy"
    np.save(path, rows)
    good = path.read_bytes()
    for old, new in (
        (b"{", b"("),
        (b"}", b" "),
        (b"'<f4'", b"'<f4 "),
        (b"(", b"{"),
        (b"4", b"\xff"),
    ):
        path.write_bytes(good.replace(old, new, 1))
        with pytest.raises(EvaluationError, match=r"damaged\.npy is no array of embeddings"):
            open_embeddings(path)


def test_a_damaged_head_ends_no_resuming_in_a_traceback(tmp_path: Path) -> None:
    plan = {"images": 4, "features": 5, "batch_size": 2}
    for resume in (False, True):
        with begun(tmp_path / "e", plan, resume=resume, overwrite=False, shown=tmp_path / "e"):
            rows = tmp_path / "e" / ROWS
            if not resume:
                BatchWriter(tmp_path / "e", plan).__enter__().__exit__()
                rows.write_bytes(rows.read_bytes().replace(b"{", b"(", 1))
                continue
            with pytest.raises(EvaluationError, match=r"is damaged .*--overwrite"):
                BatchWriter(tmp_path / "e", plan).__enter__()


def test_files_that_are_no_arrays_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    np.savez(tmp_path / "archive.npy.npz", a=np.zeros(3))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "folder").mkdir()
    for name in ("objects.npy", "archive.npy.npz", "text.npy", "folder", "missing.npy"):
        with pytest.raises(EvaluationError, match=name.partition(".")[0]):
            open_embeddings(tmp_path / name)


def test_a_protocol_finds_the_same_of_a_model_and_of_its_embeddings(
    tmp_path: Path, pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module
) -> None:
    images, issame = pair_images
    protocol = PairVerification(
        PairSet.from_images(
            "people",
            images,
            keys=[f"image {i}" for i in range(40)],
            pairs=np.arange(40).reshape(-1, 2),
            issame=np.random.default_rng(3).permutation(issame),
        )
    )
    wanted = evaluate(averages, protocol, name="averages")
    rows = embed_faces(averages, protocol.faces, batch_size=7)
    order = np.random.default_rng(4).permutation(len(rows))
    np.save(tmp_path / "E.npy", rows[order])
    keys = [protocol.faces.key(i) for i in order.tolist()]
    (tmp_path / "E.keys.txt").write_text("\n".join(keys))
    found = evaluate_embeddings(protocol, open_embeddings(tmp_path / "E.npy"))
    assert {name: figure.value for name, figure in found.figures.items()} == pytest.approx(
        {name: figure.value for name, figure in wanted.figures.items()}, abs=1e-6
    )
    assert wanted.model == "averages" and found.model == str(tmp_path / "E.npy")
    assert [pair.kind for pair in found.hardest] == ["false accept"] * 10 + ["false reject"] * 10
    scores = [pair.score for pair in wanted.hardest]
    assert scores[:10] == sorted(scores[:10], reverse=True) and scores[10:] == sorted(scores[10:])


def test_embeddings_that_are_not_finite_are_left_out_and_said(
    pair_images: tuple[list[bytes], np.ndarray], averages: nn.Module
) -> None:
    images, issame = pair_images
    protocol = PairVerification(
        PairSet.from_images(
            "people",
            images,
            keys=[f"image {i}" for i in range(40)],
            pairs=np.arange(40).reshape(-1, 2),
            issame=issame,
        )
    )
    rows = embed_faces(averages, protocol.faces)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    norms[1] = np.nan
    result = protocol.measure(rows, norms)
    assert result.counts["pairs"] == 19 and result.figures["AUC"].value == 1.0
    assert "of 1 of 25 images are not finite, first of image 1" in result.notices[0]
    assert "1 of 20 pairs are left out" in result.notices[1]
    rows[2], norms[1:3] = 0, (1, 0)
    zero = protocol.measure(rows, norms)
    assert "of 1 of 25 images are zero, first of image 3" in zero.notices[0]
    assert zero.counts["pairs"] == 20
