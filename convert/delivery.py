"""Handing the records of a part to what writes them, and setting aside what cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from facepack.convert.source import Part, PartInRuns, Refusal
from facepack.errors import DecodeError, FacepackError, PackError, SourceError
from facepack.progress import Progress
from facepack.store.record import RecordRun, SourceRecord

_PROGRESS_STEP = 256  # records between two looks at the clock


def deliver(
    part: Part,
    accept: Callable[[SourceRecord], object],
    *,
    strict: bool,
    progress: Progress | None = None,
    accept_run: Callable[[RecordRun], Iterator[SourceRecord]] | None = None,
) -> list[dict[str, Any]]:
    """Hand each record of ``part`` to ``accept``.

    Args:
        accept: takes a record, or raises DecodeError or PackError to refuse it. A failure to write
            must be another error.
        progress: counts records, refused ones too; in a worker process there is none.
        accept_run: takes records many at a time, and yields those that ``accept`` must take.

    Returns:
        The refusals, in source order, as lines of ``quarantine.jsonl``.

    Raises:
        SourceError: the source cannot be read on, or a record was refused under ``strict``.
    """
    refused = []
    records = part.read() if accept_run is None else _one_by_one(part, accept_run)
    for count, record in enumerate(records, start=1):
        refusal = record if isinstance(record, Refusal) else None
        if not isinstance(record, Refusal):
            try:
                accept(record)
            except (DecodeError, PackError) as error:
                refusal = refuse(part, record, error)
        if refusal is not None:
            if strict:
                raise SourceError(f"{refusal} (--strict stops here)")
            refused.append(refusal.as_json())
        if progress is not None and count % _PROGRESS_STEP == 0:
            progress.update(_PROGRESS_STEP)
    if progress is not None:
        progress.update((part.stop - part.start) % _PROGRESS_STEP)
    return refused


def refuse(part: Part, record: SourceRecord, error: FacepackError) -> Refusal:
    """The refusal of a record of ``part`` because of ``error``."""
    refusal = part.refuse(record, str(error))
    if isinstance(error, DecodeError) and error.remedy:  # to fetch it again would not help
        return replace(refusal, remedy=error.remedy)
    return refusal


def _one_by_one(
    part: Part, accept_run: Callable[[RecordRun], Iterator[SourceRecord]]
) -> Iterator[SourceRecord | Refusal]:
    """What is left of ``part`` when ``accept_run`` has had all runs of records."""
    for item in part.read_runs() if isinstance(part, PartInRuns) else part.read():
        if isinstance(item, RecordRun):
            yield from accept_run(item)
        else:
            yield item
