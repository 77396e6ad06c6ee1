"""Evaluation: models, verification sets, embedding, protocols.

The names below are the public interface; they load on first use, so that the command's help does
not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facepack.evaluate.models import load_model as load_model
    from facepack.evaluate.protocols.verification import evaluate_pairs as evaluate_pairs
    from facepack.evaluate.results.pair_result import PairResult as PairResult
    from facepack.evaluate.sets.pairs import PairSet as PairSet
    from facepack.evaluate.sets.pairs import load_pair_set as load_pair_set

_HOMES = {
    "load_model": "facepack.evaluate.models",
    "PairSet": "facepack.evaluate.sets.pairs",
    "load_pair_set": "facepack.evaluate.sets.pairs",
    "PairResult": "facepack.evaluate.results.pair_result",
    "evaluate_pairs": "facepack.evaluate.protocols.verification",
}

__all__ = ["PairResult", "PairSet", "evaluate_pairs", "load_model", "load_pair_set"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'facepack.evaluate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
