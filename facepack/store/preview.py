"""What ``--dry-run`` says of a data set that would be written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from facepack.encoding import WORDS
from facepack.store.target import Found
from facepack.wording import count_of

DOES = {
    Found.NOTHING: "would be made",
    Found.UNFINISHED: "would be completed",
    Found.FINISHED: "is finished, and nothing would be done",
    Found.REPLACED: "would be replaced",
}
"""What a run would do about each, in words."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What a run would do, as far as it can be told without doing it."""

    out: str
    target: str  # new, resumed, finished or replaced
    found: int  # records, some of which may have to be set aside
    identities: int
    classes: int
    payload_bytes: int  # about, of images as they are stored
    needed_bytes: int  # about, that are still to be written
    free_bytes: int  # of the target's file system, with those that overwriting frees
    shards: list[dict[str, Any]]  # name, records and payload_bytes of each file of many records
    files: list[str]  # beside the shards
    pairs: int | None = None
    image_files: int = 0  # images that become a file each
    looked_at: int = 0  # records that were read, spread over the source
    encoded: int = 0  # how many of these would be encoded anew
    # which of these would be set aside, as quarantine.jsonl has them
    refused: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    appended: bool = False  # to a pack that is there
    dry_run: bool = True

    def lines(self) -> Iterator[str]:
        """The same for people to read; the command ends it with ``NOTHING_WRITTEN``."""
        whose = (
            f"{count_of(self.identities, 'identity', 'identities')} of "
            f"{count_of(self.classes, 'class', 'classes')}"
            if self.pairs is None
            else count_of(self.pairs, "pair")
        )
        does = DOES[Found(self.target)]
        if self.appended and self.target == Found.NOTHING.value:
            does = "would grow"
        yield f"{self.out} {does}: {count_of(self.found, 'image')}, {whose}"
        yield (
            f"  images of about {self.payload_bytes / 1e6:,.1f} MB; about "
            f"{self.needed_bytes / 1e6:,.1f} MB to write, {self.free_bytes / 1e6:,.1f} MB free"
        )
        written = [count_of(self.image_files, "image file")] if self.image_files else []
        if self.shards:
            shown = [
                f"{shard['name']} ({count_of(shard['records'], 'image')})" for shard in self.shards
            ]
            shown = shown if len(shown) < 4 else [shown[0], "…", shown[-1]]
            count = count_of(len(self.shards), "shard")
            written.append(f"{count}: {', '.join(shown)}")
        yield "  " + "; ".join([*written, *([", ".join(self.files)] if self.files else [])])
        if self.looked_at:
            aside = (
                f"{len(self.refused):,} would be set aside" if self.refused else "all can be used"
            )
            anew = f", {self.encoded:,} would be encoded anew ({WORDS})" if self.encoded else ""
            yield f"  of {self.looked_at:,} images that were looked at, {aside}{anew}"
        for entry in self.refused[:3]:
            yield f"  {entry['file']}: record {entry['ordinal']}: {entry['reason']}"
