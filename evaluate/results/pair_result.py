"""The figures of a pair set, as ``facepack eval`` has always told them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from facepack.evaluate.results.result import Figure, Result
from facepack.evaluate.scores.operating_point import far_text

TAR_FARS = (1e-4, 1e-3, 1e-2)
VAL, VAL_FAR = "VAL@1e-3", "FAR of VAL@1e-3"
"""Names of the validation rate at FAR 1e-3 over folds, and of the FAR that folds really have."""


@dataclass(frozen=True, kw_only=True)
class ValidationRate:
    """The validation rate at a wanted FAR, over the folds; all three are shares of one."""

    mean: float
    std: float
    far: float


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """A model's figures on a pair set. Shares are of one, not percent; None is undefined."""

    target: str
    """The set's name."""
    pairs: int
    accuracy: float | None
    """Mean over ten folds."""
    std: float | None
    """Population standard deviation of the folds' accuracies."""
    tar: dict[float, float | None]
    """FAR → the largest TAR of the whole set whose FAR is at most that."""
    val: ValidationRate | None
    """The ten-fold validation rate at FAR 1e-3."""
    auc: float | None
    eer: float | None
    norm: float
    """Mean L2 norm of the embeddings, image plus mirror image, over the pairs' images."""
    notices: tuple[str, ...] = ()
    """What about the set makes figures undefined or differ from the usual protocol."""
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """95 % confidence intervals by the figures' names: ``TAR@1e-4``, …, ``AUC``, ``EER``."""

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON."""
        val = self.val
        return {
            "target": self.target,
            "pairs": self.pairs,
            "accuracy": self.accuracy,
            "std": self.std,
            "tar": {far_text(far): tar for far, tar in self.tar.items()},
            "val_at_far_1e-3": val and {"mean": val.mean, "std": val.std, "far": val.far},
            "auc": self.auc,
            "eer": self.eer,
            "norm": self.norm,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "notices": list(self.notices),
        }

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures as a :class:`~facepack.evaluate.results.result.Result` holds them."""
        rate = self.val

        def figure(name: str, value: float | None) -> Figure:
            return Figure(value=value, interval=self.intervals.get(name))

        return {
            "accuracy": Figure(value=self.accuracy, std=self.std),
            **{
                name: figure(name, tar)
                for name, tar in ((f"TAR@{far_text(far)}", tar) for far, tar in self.tar.items())
            },
            VAL: Figure(value=rate.mean, std=rate.std) if rate else Figure(value=None),
            VAL_FAR: Figure(value=rate.far if rate else None),
            "AUC": figure("AUC", self.auc),
            "EER": figure("EER", self.eer),
            "norm": Figure(value=self.norm, unit="number"),
        }

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> PairResult:
        """The figures that :meth:`as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: these are not.
        """
        val = stated["val_at_far_1e-3"]
        return cls(
            target=str(stated["target"]),
            pairs=int(stated["pairs"]),
            tar={float(far): tar for far, tar in stated["tar"].items()},
            val=None if val is None else ValidationRate(**val),
            notices=tuple(map(str, stated["notices"])),
            intervals={  # earlier versions told none
                str(name): (float(low), float(high))
                for name, (low, high) in stated.get("intervals", {}).items()
            },
            **{name: stated[name] for name in ("accuracy", "std", "auc", "eer", "norm")},
        )

    def as_result(self) -> Result:
        """The result that has these figures, and no curves."""
        return Result(
            target=self.target,
            protocol="pairs",
            counts={"pairs": self.pairs},
            figures=self.figures,
            notices=self.notices,
            versions={},
        )

    @classmethod
    def from_result(cls, result: Result) -> PairResult:
        """Of a result that the protocol ``pairs`` gave."""
        figures = result.figures
        rate, far = figures[VAL], figures[VAL_FAR].value
        val = None
        if rate.value is not None and rate.std is not None and far is not None:
            val = ValidationRate(mean=rate.value, std=rate.std, far=far)
        norm = figures["norm"].value
        assert norm is not None
        return cls(
            target=result.target,
            pairs=result.counts["pairs"],
            accuracy=figures["accuracy"].value,
            std=figures["accuracy"].std,
            tar={far: figures[f"TAR@{far_text(far)}"].value for far in TAR_FARS},
            val=val,
            auc=figures["AUC"].value,
            eer=figures["EER"].value,
            norm=norm,
            notices=result.notices,
            intervals={
                name: figure.interval for name, figure in figures.items() if figure.interval
            },
        )
