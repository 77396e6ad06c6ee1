"""What a conversion reports when it is done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepack.convert.source import Source
from facepack.errors import PackError


@dataclass(frozen=True, kw_only=True)
class Result:
    """Found records are packed or quarantined, always; bytes are those of the target's files.

    Where ``held``, an earlier run had put all of them into the target, and these are its figures.
    """

    out: str
    found: int
    packed: int
    quarantined: int
    identities: int
    classes: int
    pairs: int | None
    shards: int
    payload_bytes: int
    file_bytes: int
    seconds: float
    notices: list[str]
    held: bool = False


def finished(
    source: Source,
    out: Path,
    began: float,
    done: Mapping[str, Any],
    *,
    file_bytes: int,
    shards: int = 0,
) -> Result:
    """The result of a conversion that is complete.

    Args:
        source: what was converted.
        out: the target.
        began: monotonic time of the start, seconds.
        done: ``packed``, ``quarantined``, ``identities``, ``classes``, ``payload_bytes``, and
            ``pairs`` of a verification set.
        file_bytes: of the target's files.
        shards: files that hold the records, where there are several.

    Raises:
        PackError: a record of the source is neither packed nor quarantined.
    """
    found = done["packed"] + done["quarantined"]
    if found != len(source):
        raise PackError(
            f"{out}: {len(source)} records were found, {found} are accounted for: "
            "start anew with --overwrite"
        )
    return Result(
        out=str(out),
        found=found,
        packed=done["packed"],
        quarantined=done["quarantined"],
        identities=done["identities"],
        classes=done["classes"],
        pairs=done.get("pairs"),
        shards=shards,
        payload_bytes=done["payload_bytes"],
        file_bytes=file_bytes,
        seconds=round(time.monotonic() - began, 3),
        notices=source.notices,
    )
