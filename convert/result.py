"""What a conversion reports when it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepack.convert.source import Source


@dataclass(frozen=True, kw_only=True)
class Result:
    """Found records are packed or quarantined, always; bytes are those of the target's files.

    Where ``held``, an earlier run had put all of them into the target, and these are its figures.
    """

    out: str
    found: int
    packed: int
    quarantined: int = 0
    identities: int = 0
    classes: int = 0
    pairs: int | None
    shards: int = 0
    payload_bytes: int
    file_bytes: int
    seconds: float
    notices: list[str]
    held: bool = False

    @classmethod
    def of(cls, source: Source, out: Path, began: float, **figures: Any) -> Result:
        """What became of ``source`` in ``out``, in a run that began at this monotonic time."""
        return cls(
            out=str(out),
            found=figures["packed"] + figures.get("quarantined", 0),
            seconds=round(time.monotonic() - began, 3),
            **{"notices": source.notices} | figures,
        )
