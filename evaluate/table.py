"""Results as lines of a table, in percent."""

from __future__ import annotations

from collections.abc import Sequence

from facepack.evaluate.verification import PairResult

_COLUMNS = (
    ("pairs", 7),
    ("accuracy", 15),
    ("TAR@1e-4", 10),
    ("TAR@1e-3", 10),
    ("TAR@1e-2", 10),
    ("AUC", 9),
    ("EER", 8),
    ("norm", 8),
)


def table_header(targets: Sequence[str]) -> str:
    """The heading, as wide as ``targets`` need; figures are in percent but pairs and norm."""
    return "target".ljust(_width(targets)) + "".join(name.rjust(width) for name, width in _COLUMNS)


def table_row(result: PairResult, targets: Sequence[str]) -> str:
    """The line of one result under :func:`table_header` of the same targets."""
    accuracy = _percent(result.accuracy)
    if result.std is not None:
        accuracy += f" ± {_percent(result.std)}"
    cells = (
        f"{result.pairs:,}",
        accuracy,
        *map(_percent, result.tar.values()),
        _percent(result.auc, digits=3),
        _percent(result.eer),
        # An untrained network's may be of any size.
        f"{result.norm:.2f}" if result.norm < 10_000 else f"{result.norm:.1e}",
    )
    return result.target.ljust(_width(targets)) + "".join(
        cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    )


def _width(targets: Sequence[str]) -> int:
    return max(map(len, ["target", *targets]))


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"
