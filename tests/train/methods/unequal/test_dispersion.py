"""Centre dispersion: by hand, against a twin in float64, and by finite differences."""

from __future__ import annotations

import pytest
import torch

from facepack.train.methods.unequal.dispersion import centre_dispersion


def slow_dispersion(embeddings: torch.Tensor, images: int, block: int) -> float:
    """Loops over blocks and pairs, in Python's floats."""

    def unit(vector: list[float]) -> list[float]:
        norm = sum(x * x for x in vector) ** 0.5
        return [x / norm for x in vector]

    rows = [unit(row) for row in embeddings.double().tolist()]
    centres = []
    for start in range(0, len(rows), images):
        columns = zip(*rows[start : start + images], strict=True)
        centres.append(unit([sum(column) / images for column in columns]))
    losses = []
    for start in range(0, len(centres), block):
        part = centres[start : start + block]
        total = 0.0
        for i, one in enumerate(part):
            for j, other in enumerate(part):
                cosine = sum(a * b for a, b in zip(one, other, strict=True))
                total += (cosine - (i == j)) ** 2
        losses.append(total / len(part) ** 2)
    return sum(losses) / len(losses)


def test_by_hand() -> None:
    same = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [1.0, 1.0]])
    assert centre_dispersion(same, 2, 2).item() == pytest.approx(2 / 4)  # both cosines are 1
    assert centre_dispersion(same[:0], 2, 2).item() == 0.0
    apart = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    assert centre_dispersion(apart, 2, 2).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("images", "block"), [(3, 15), (3, 4), (1, 2), (2, 5), (3, 100)])
def test_equals_the_twin(images: int, block: int) -> None:
    torch.manual_seed(images * block)
    embeddings = torch.randn(12 * images, 7, dtype=torch.float64) * 5
    expected = slow_dispersion(embeddings, images, block)
    assert centre_dispersion(embeddings, images, block).item() == pytest.approx(expected, rel=1e-6)


def test_a_block_of_all_dilutes_the_pairs_that_are_close() -> None:
    torch.manual_seed(0)
    near = torch.eye(64)[:8].repeat_interleave(2, 0)  # eight pairs of equal centres
    by_pairs, by_all = centre_dispersion(near, 1, 2), centre_dispersion(near, 1, 16)
    assert by_pairs.item() == pytest.approx(8 * by_all.item())


def test_gradient_by_finite_differences() -> None:
    torch.manual_seed(3)
    embeddings = torch.randn(8, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: centre_dispersion(x, 2, 3), (embeddings,))
