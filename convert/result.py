"""What a conversion reports when it is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """Found records are packed or quarantined, always; bytes are those of the target's files."""

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
