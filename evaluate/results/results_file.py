"""``results.json``: all results of a model, one of each target and protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from facepack.errors import EvaluationError
from facepack.evaluate.results.pair_result import PairResult
from facepack.evaluate.results.result import Result
from facepack.reading import read_json
from facepack.store.output import write_output

RESULTS = "results.json"
"""Its name in a run's folder."""


def read_results(path: Path) -> list[Result]:
    """The results in a file, which may also be what ``facepack eval --json`` printed.

    Raises:
        EvaluationError: it cannot be read, or holds something else.
    """
    try:
        stated = read_json(path)
        if not isinstance(stated, list):
            raise ValueError("it is no list of results")
        return [_read_result(each) for each in stated]
    except (OSError, ValueError, EvaluationError) as error:
        raise EvaluationError(f"{path} cannot be read as results: {error}") from error


def _read_result(stated: Any) -> Result:
    if not isinstance(stated, dict) or "schema" in stated:
        return Result.from_dict(stated)
    try:
        return PairResult.from_dict(stated).as_result()
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"no figures of a pair set ({type(error).__name__}: {error})") from error


def add_results(path: Path, results: Iterable[Result]) -> None:
    """Write ``results`` into a file, each in the place of one of the same target and protocol.

    Raises:
        EvaluationError: the file that is there holds something else.
        PackError: it cannot be written.
    """
    kept = {_name(result): result for result in (read_results(path) if path.exists() else [])}
    kept.update((_name(result), result) for result in results)
    content = json.dumps([result.as_dict() for result in kept.values()], allow_nan=False)
    write_output(path, content.encode() + b"\n")


def _name(result: Result) -> tuple[str, str, str]:
    return result.target, result.protocol, result.variant
