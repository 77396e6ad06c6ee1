"""Models and runs side by side: what they are read from, and their table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facepack.errors import EvaluationError, SourceError
from facepack.evaluate.report import LEGEND, figure_table, remarks, sort_results
from facepack.evaluate.results.difference import is_within_chance
from facepack.evaluate.results.result import Result
from facepack.evaluate.results.results_file import RESULTS, read_results
from facepack.evaluate.results.short_names import short_names
from facepack.evaluate.training_run import TrainingRun, read_run, settings_table, training_table
from facepack.store.digests import file_digest
from facepack.terminal import printable, table_lines
from facepack.train.loop.checkpoint import METRICS_FILE
from facepack.train.models.pretrained import MODEL_FILE

REPLACED = "of weights that the run has replaced since: evaluate it again"
"""The notice in such results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What is compared: results, each under its model's name in the comparison, and runs."""

    results: Sequence[Result]
    runs: Sequence[TrainingRun]


def read_comparison(paths: Sequence[Path]) -> Comparison:
    """Read what is to be compared.

    Each path is a run's folder, with ``results.json`` or ``metrics.jsonl`` or both; a file of
    results, as ``facepack eval`` keeps and ``--json`` prints them; or a training log.

    Raises:
        EvaluationError: a path holds neither results nor a log.
        SourceError: a log cannot be read.
    """
    results: list[Result] = []
    runs: list[TrainingRun] = []
    for path, name in zip(paths, short_names(paths), strict=True):
        found, run = _read(path, name)
        models = dict.fromkeys(result.model for result in found)
        for result in found:
            # A file of several models' results: each is one of those compared.
            own = f"{name}: {result.model}" if len(models) > 1 else name
            results.append(replace(result, model=own))
        runs += run
    return Comparison(results=results, runs=runs)


def _read(path: Path, name: str) -> tuple[list[Result], list[TrainingRun]]:
    if path.is_dir():
        found = (
            _tell_replaced(path, read_results(path / RESULTS)) if (path / RESULTS).is_file() else []
        )
        runs = [read_run(path, name)] if (path / METRICS_FILE).is_file() else []
        if not found and not runs:
            raise EvaluationError(
                f"{path} holds neither {RESULTS} nor {METRICS_FILE}: give a run's folder, a file "
                "of results, or a training log"
            )
        return found, runs
    if path.suffix == ".json":
        return read_results(path), []
    try:
        return [], [read_run(path, name)]
    except SourceError as error:
        raise EvaluationError(
            f"{error}. If these are results, call the file {path.stem}.json"
        ) from error


def _tell_replaced(run: Path, results: list[Result]) -> list[Result]:
    """The results, with a notice in those of weights that the run has replaced by going on."""
    if not (run / MODEL_FILE).is_file():
        return results
    try:
        now, _ = file_digest(run / MODEL_FILE)
    except OSError as error:
        raise EvaluationError(f"{run / MODEL_FILE} cannot be read: {error}") from error
    return [
        replace(result, notices=(REPLACED, *result.notices))
        if result.weights not in ("", now)
        else result
        for result in results
    ]


def comparison_lines(found: Comparison) -> Iterator[str]:
    """The table as lines of text: each target's figures, then the runs and how they differ."""
    for target in sort_results(found.results):
        yield printable(target.title)
        yield from _lines(figure_table(target.results))
        yield from map(printable, remarks(target.results))
        yield ""
    if found.runs:
        yield from _lines(training_table(found.runs))
        yield ""
        columns, rows = settings_table(found.runs)
        if rows:
            yield from _lines((columns, rows))
            yield ""
    if found.results:
        yield printable(f"shares in percent; {LEGEND}")


def comparison_object(found: Comparison) -> dict[str, Any]:
    """The comparison for JSON: results as ``results.json`` holds them, and how runs ended.

    ``within_chance`` of a result tells of each figure whether its difference from that of the first
    result of the same target lies inside the 95 % interval; null where that is unknown.
    """
    results = []
    for target in sort_results(found.results):
        first = target.results[0].figures
        for result in target.results:
            within = {
                name: is_within_chance(first[name], figure)
                for name, figure in result.figures.items()
                if name in first and result is not target.results[0]
            }
            results.append({**result.as_dict(), "within_chance": within})
    return {
        "results": results,
        "runs": [
            {
                "name": run.name,
                "steps": run.log.total_steps,
                "scores": [
                    {"set": name, "figure": figure, "steps": x.tolist(), "values": y.tolist()}
                    for (name, figure), (x, y) in run.scores.items()
                ],
                "settings": run.settings,
            }
            for run in found.runs
        ],
    }


def _lines(table: tuple[list[str], list[list[str]]]) -> list[str]:
    columns, rows = table
    cells = [[printable(cell) for cell in row] for row in rows]
    return table_lines([printable(column.removeprefix("#")) for column in columns], cells)
