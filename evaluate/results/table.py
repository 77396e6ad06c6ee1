"""Results as lines of a table, in percent, and as objects for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from facepack.evaluate.results.pair_result import PairResult
from facepack.evaluate.results.result import Figure, Result
from facepack.terminal import table_lines

_COLUMNS = (
    ("pairs", 7),
    ("accuracy", 15),
    ("TAR@1e-4", 18),
    ("TAR@1e-3", 18),
    ("TAR@1e-2", 18),
    ("AUC", 20),
    ("EER", 16),
    ("norm", 8),
)


_PAIRS = "pairs"


class TablePrinter:
    """Results as lines, one at a time; the one table of pair sets is as wide as all names need."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = names
        self._in_pairs = False

    def lines(self, result: Result) -> Iterator[str]:
        """The lines of the next result; pair sets that follow each other are one table."""
        if result.protocol != _PAIRS:
            self._in_pairs = False
            yield from result_lines(result)
            return
        names = self._names or [result.target]
        if not self._in_pairs:
            yield table_header(names)
        self._in_pairs = True
        yield from table_rows(PairResult.from_result(result), names)
        if result.groups:
            yield from _group_lines(result)
            self._in_pairs = False


def result_lines(result: Result) -> list[str]:
    """The table of any result: what was measured, its figures, those by group, and the gaps."""
    variant = f", {result.variant}" if result.variant else ""
    counts = ", ".join(f"{count:,} {name}" for name, count in result.counts.items())
    title = f"{result.target}: {result.protocol}{variant}" + (f" ({counts})" if counts else "")
    if result.groups:
        return [title, *_group_lines(result)]
    # Numbers stand on the right of all columns but the first, which is empty.
    cells = ["", *_cells(result.figures, result.figures)]
    return [title, *table_lines(["", *result.figures], [cells])]


def _group_lines(result: Result) -> list[str]:
    columns, rows = group_table(result)
    return table_lines([column.removeprefix("#") for column in columns], rows)


def group_table(result: Result) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table by group: a row for all, one a group, and one of the gaps.

    A column's ``#`` says that it holds numbers, as pages want it.
    """
    of_groups = (name for group in result.groups.values() for name in group)
    names = list(dict.fromkeys([*result.figures, *of_groups]))
    gaps = {name: Figure(value=gap, unit=_unit(result, name)) for name, gap in result.gaps.items()}
    rows = {"all": result.figures, **result.groups, "gap": gaps}
    return ["group", *(f"#{name}" for name in names)], [
        [name, *_cells(row, names)] for name, row in rows.items()
    ]


def _unit(result: Result, name: str) -> Any:
    return next(group[name].unit for group in result.groups.values() if name in group)


def _cells(figures: Mapping[str, Figure], names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    return [figure_text(figures.get(name, _UNDEFINED)) for name in names]


_UNDEFINED = Figure(value=None)


def figure_text(figure: Figure) -> str:
    """A figure as tables show it: a share in percent, ± its deviation, and its interval."""
    if figure.value is None:
        return "–"
    show = _percent if figure.unit == "share" else _number
    text = show(figure.value)
    if figure.std is not None:
        text += f" ± {show(figure.std)}"
    if figure.interval is not None:
        text += f" [{show(figure.interval[0])}, {show(figure.interval[1])}]"
    return text


def json_object(result: Result) -> dict[str, Any]:
    """What ``--json`` prints of a result: of a pair set the keys that it has always had."""
    if result.protocol == _PAIRS and not result.groups:
        return PairResult.from_result(result).as_dict()
    return result.as_dict()


def table_header(targets: Sequence[str]) -> str:
    """The heading, as wide as ``targets`` need; figures are in percent but pairs and norm."""
    return "target".ljust(_width(targets)) + "".join(name.rjust(width) for name, width in _COLUMNS)


def table_rows(result: PairResult, targets: Sequence[str]) -> list[str]:
    """The line of one result under :func:`table_header` of the same targets.

    A second line holds the intervals, where there are any, under their figures.
    """
    accuracy = _percent(result.accuracy)
    if result.std is not None:
        accuracy += f" ± {_percent(result.std)}"
    cells = (
        f"{result.pairs:,}",
        accuracy,
        *map(_percent, result.tar.values()),
        _percent(result.auc, digits=3),
        _percent(result.eer),
        _number(result.norm),
    )
    lines = [_row(result.target, cells, targets)]
    if result.intervals:
        ends = [
            _interval(result.intervals.get(name), digits=3 if name == "AUC" else 2)
            for name, _ in _COLUMNS
        ]
        lines.append(_row("", ends, targets).rstrip())
    return lines


def _row(name: str, cells: Sequence[str], targets: Sequence[str]) -> str:
    return name.ljust(_width(targets)) + "".join(
        cell.rjust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    )


def _interval(ends: tuple[float, float] | None, digits: int) -> str:
    return "" if ends is None else f"[{', '.join(_percent(end, digits) for end in ends)}]"


def _width(targets: Sequence[str]) -> int:
    return max(map(len, ["target", *targets]))


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _number(value: float) -> str:
    # The norm of an untrained network's embeddings may be of any size.
    return f"{value:.2f}" if value < 10_000 else f"{value:.1e}"
