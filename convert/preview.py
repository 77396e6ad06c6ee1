"""What a conversion would do: ``--dry-run``.

The source is opened and the target looked at as for a run, so that what a run would refuse before
its first step is refused here, too; a few records are read; nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from facepack.convert.delivery import deliver
from facepack.convert.options import ConvertOptions
from facepack.convert.source import Source
from facepack.convert.spans import Span, parts_of, payload_bytes
from facepack.store import format as fmt
from facepack.store.preview import Preview
from facepack.store.record import SourceRecord
from facepack.store.target import Found, Target

_PLACES = 16  # where records are read
_TOGETHER = 16  # how many at each


def preview(
    source: Source,
    target: Target,
    options: ConvertOptions,
    found: Found,
    *,
    out: Path,
    needed: int,
    shards: Sequence[tuple[str, Span]] = (),
    files: Sequence[str] = (),
    image_files: int = 0,
    images: int | None = None,
    payload: int | None = None,
) -> Preview:
    """What a conversion of ``source`` would do.

    Args:
        found: what is in ``target``.
        out: where the result would be.
        needed: bytes that are still to be written.
        shards: file and records of each.
        files: what else is written.
        image_files, images: that become a file each; that are written at all, None being as many as
            the source has.
        payload: bytes of images that are written, counted in ``needed``; None: as many as the
            source has, and where some are encoded anew, as those tell that were looked at.

    Raises:
        PackError: the target cannot be made, or there is no room for it.
        SourceError: the source cannot be read, or a record that was looked at is bad under
            ``strict``.
    """
    target.require_place()
    to_write = 0 if found is Found.FINISHED else max(needed, 0)
    target.require_space(to_write, image_files if found is Found.NOTHING else 0)
    sizes = source.sizes()
    looked_at = encoded = read_bytes = stored_bytes = 0
    refused: list[dict[str, Any]] = []
    labels: set[int] = set()

    def accept(record: SourceRecord) -> None:
        nonlocal encoded, read_bytes, stored_bytes
        image, _ = options.check.look(record.image)
        labels.add(record.label)
        encoded += image is not record.image
        read_bytes += len(record.image)
        stored_bytes += len(image)

    samples = _samples(source)
    named = False
    # In order, and no record twice: some files can only be inflated from their beginning on.
    for part in parts_of(source, chain(samples, samples.values())):
        if part.start in samples:
            looked_at += part.stop - part.start
            refused += deliver(part, accept, strict=options.strict)
            named = named or bool(part.identity_names())
        else:
            labels.update(entry.label for entry in part.entries())
    growth = stored_bytes / read_bytes if encoded else 1.0
    if payload is None:
        payload = int(growth * payload_bytes(source))
        if found is not Found.FINISHED:  # what is there already is left out at its stored size
            to_write = max(needed + payload - payload_bytes(source), 0)
            target.require_space(to_write)
    if not named:
        files = [name for name in files if name != fmt.LABELS]
    # Making tables tells, as that of a run, what they lose.
    tables = source.tables(np.arange(len(source))) if source.table_names else {}
    return Preview(
        out=str(out),
        target=found.value,
        found=len(source) if images is None else images,
        identities=len(labels - {fmt.NO_IDENTITY}),
        classes=max(source.classes or 0, max(labels, default=fmt.NO_IDENTITY) + 1),
        pairs=len(tables["pairs"]) if source.content == "pairs" else None,
        payload_bytes=payload,
        needed_bytes=to_write,
        free_bytes=target.free_bytes(),
        shards=[
            {
                "name": name,
                "records": span.stop - span.start,
                "payload_bytes": int(growth * sizes[span.start : span.stop].sum(dtype=np.int64)),
            }
            for name, span in shards
        ],
        files=list(files),
        image_files=image_files,
        looked_at=looked_at,
        encoded=encoded,
        refused=refused,
        notices=list(dict.fromkeys(source.notices)),
    )


def _samples(source: Source) -> dict[int, int]:
    """A few runs of records here and there: of each the first, and what is behind the last.

    Of a stream, which must be read to get there, it is the first.
    """
    step = max(_TOGETHER, len(source) // _PLACES)
    places = [
        (start, min(start + _TOGETHER, last))
        for _, first, last in source.groups()
        for start in range(first, last, step)
    ]
    thinned = places[:: -(-len(places) // (2 * _PLACES)) or 1] if source.parallel else places[:1]
    return dict(thinned)
