"""What a protocol finds out of a model: figures, curves, groups and the hardest pairs, as data.

Every protocol gives a :class:`Result`, and everything that shows one (tables, JSON, pages,
comparisons) takes nothing else.
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, get_args

import numpy as np

from facepack.errors import EvaluationError
from facepack.version import __version__

SCHEMA = 1
"""Of the JSON: raised when a reader of before would misread it."""

HardKind = Literal["false accept", "false reject"]


@cache
def current_versions() -> dict[str, str]:
    """Of what figures depend on."""
    import torch

    return {
        "facepack": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a protocol; what it does not define is None, never NaN."""

    value: float | None
    std: float | None = None
    """Population standard deviation over folds."""
    interval: tuple[float, float] | None = None
    """Ends of the confidence interval; how it was made stands in the result's notices."""
    unit: Literal["share", "number"] = "share"
    """``share``: of one, shown in percent; ``number``: shown as it is."""

    def __post_init__(self) -> None:
        if self.unit not in ("share", "number"):
            raise EvaluationError(f"the unit of a figure is share or number, not {self.unit!r}")
        for number in (self.value, self.std, *(self.interval or ())):
            if number is not None and not math.isfinite(number):
                raise EvaluationError(
                    f"a figure is {number}: what is undefined must be None, with a notice"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Points of a curve: ``x`` and ``y`` are (n,) float64, and x does not fall.

    Which is which, the curve's name in :attr:`Result.curves` says: ``roc`` FAR and TAR, ``det``
    FAR and FRR, ``cmc`` rank and share of probes. Some thousand points draw any of them: whoever
    makes a longer curve thins it.
    """

    x: np.ndarray
    y: np.ndarray

    def __post_init__(self) -> None:
        if self.x.ndim != 1 or self.x.shape != self.y.shape:
            raise EvaluationError(
                f"a curve of x {self.x.shape} and y {self.y.shape}: both are (n,)"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram:
    """How scores are spread: counts of pairs between ``edges``.

    ``edges`` is (b + 1,) float64 and rises; ``same`` and ``different`` are (b,) int64.
    """

    edges: np.ndarray
    same: np.ndarray
    different: np.ndarray

    def __post_init__(self) -> None:
        shapes = {(len(self.edges) - 1,), self.same.shape, self.different.shape}
        if len(shapes) > 1 or not (np.diff(self.edges) > 0).all():
            raise EvaluationError(
                f"a histogram of {self.edges.shape} edges with {self.same.shape} and "
                f"{self.different.shape} counts: one edge more is needed, rising"
            )


@dataclass(frozen=True, kw_only=True)
class HardPair:
    """A pair that a model tells wrong with most certainty."""

    kind: HardKind
    first: str
    """Key of one image."""
    second: str
    """Key of the other."""
    score: float
    """Cosine similarity."""

    def __post_init__(self) -> None:
        texts = isinstance(self.first, str) and isinstance(self.second, str)
        if self.kind not in get_args(HardKind) or not texts or not math.isfinite(self.score):
            raise EvaluationError(f"{self.kind!r} of score {self.score!r} is no pair told wrong")


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """All that a protocol says of a model on a target."""

    target: str
    """What the user called it."""
    protocol: str
    """The protocol's name, as ``facepack eval`` knows it."""
    variant: str = ""
    """Which reading of the protocol, where there are several: ``exact``, ``published``."""
    model: str = ""
    """What the user called the model, or where embeddings came from."""
    weights: str = ""
    """XXH3-128 of the model's file, in hexadecimal; nothing of embeddings from elsewhere."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was measured on: ``pairs``, ``images``, ``identities``, …."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Name → figure, in the order of a table's columns: ``TAR@1e-4``, ``rank-1``, …."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """Name (``roc``, ``det``, ``cmc``) → curve."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """Name → histogram; ``scores`` is that of all pairs."""
    groups: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    """Group → its own figures."""
    hardest: tuple[HardPair, ...] = ()
    """The worst first, of each kind."""
    notices: tuple[str, ...] = ()
    """What leaves figures undefined, or makes them differ from the usual protocol."""
    versions: Mapping[str, str] = field(default_factory=current_versions)
    """Of what computed it."""

    @property
    def gaps(self) -> dict[str, float]:
        """Figure → the largest less the smallest value of the groups that define it.

        A figure that fewer than two groups define has no gap.
        """
        found = {}
        for name in dict.fromkeys(name for group in self.groups.values() for name in group):
            figures = [group[name].value for group in self.groups.values() if name in group]
            values = [value for value in figures if value is not None]
            if len(values) > 1:
                found[name] = max(values) - min(values)
        return found

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON; :meth:`from_dict` reads it back."""
        return {
            "schema": SCHEMA,
            **{each.name: _plain(getattr(self, each.name)) for each in fields(self)},
            "gaps": self.gaps,
        }

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Result:
        """The result that :meth:`as_dict` told.

        Raises:
            EvaluationError: it tells of something else, or of a later schema.
        """
        if not isinstance(stated, Mapping) or stated.get("schema") != SCHEMA:
            schema = stated.get("schema") if isinstance(stated, Mapping) else None
            raise EvaluationError(
                f"no result of schema {SCHEMA} (schema {schema!r}): give a results.json of this "
                "version of facepack"
            )
        try:
            return cls(
                **{
                    name: _text(stated[name]) for name in ("target", "protocol", "variant", "model")
                },
                weights=_text(stated.get("weights", "")),
                counts={str(name): int(count) for name, count in stated["counts"].items()},
                figures=_figures(stated["figures"]),
                curves={
                    name: Curve(x=_array(curve["x"]), y=_array(curve["y"]))
                    for name, curve in stated["curves"].items()
                },
                histograms={
                    name: Histogram(
                        edges=_array(histogram["edges"]),
                        same=_array(histogram["same"], np.int64),
                        different=_array(histogram["different"], np.int64),
                    )
                    for name, histogram in stated["histograms"].items()
                },
                groups={name: _figures(figures) for name, figures in stated["groups"].items()},
                hardest=tuple(HardPair(**pair) for pair in stated["hardest"]),
                notices=tuple(map(_text, stated["notices"])),
                versions={name: _text(version) for name, version in stated["versions"].items()},
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"no result of facepack ({type(error).__name__}: {error}): give a results.json "
                "that facepack wrote"
            ) from error


def _plain(value: Any) -> Any:
    """``value`` in the types that JSON has."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, Figure | Curve | Histogram | HardPair):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    return value.item() if isinstance(value, np.generic) else value


def _figures(stated: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {}
    for name, figure in stated.items():
        interval = figure["interval"]
        figures[name] = Figure(
            value=_number(figure["value"]),
            std=_number(figure["std"]),
            interval=None if interval is None else (float(interval[0]), float(interval[1])),
            unit=figure["unit"],
        )
    return figures


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _array(values: Any, dtype: type = np.float64) -> np.ndarray:
    return np.array(values, dtype)
