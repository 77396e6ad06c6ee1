"""Growing a pack by new shards, whatever happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from facepack.convert.formats.pack.growing import GrowingPack
from facepack.convert.formats.pack.held import HeldShard
from facepack.convert.formats.pack.label_notes import notes_on_labels
from facepack.convert.formats.pack.relabel import Relabelled
from facepack.convert.formats.pack.sink import (
    PackOptions,
    notes_on_encoding,
    plan_pack,
    preview_pack,
    space_needed,
    write_shards,
)
from facepack.convert.registry import SOURCES
from facepack.convert.result import Result
from facepack.convert.source import Source
from facepack.errors import PackError
from facepack.store import format as fmt
from facepack.store.manifest import read_manifest
from facepack.store.plan import PackPlan
from facepack.store.preview import Preview
from facepack.store.target import Found, Target


def append(
    path: Path, source: Source, options: PackOptions, *, discard: bool = False
) -> Result | Preview:
    """Add the images of ``source`` to the pack in ``path``, as new shards.

    No shard is rewritten. Identities that the pack has by name keep their label, others are
    numbered from its ``classes`` up. Until its manifest is replaced, the pack is the one that it
    was; from then on it is the new one, killed or not.

    ``resume`` completes an interrupted append, and finds nothing to do where the source is in the
    pack; ``discard`` first removes what an interrupted append left.

    Returns:
        Figures of what was appended; ``identities`` and ``classes`` are those of the pack.

    Raises:
        SourceError: the source cannot be read, or a record cannot be packed under ``strict``.
        PackError: no training pack is there, it has the source already or a part of it, another
            append was interrupted, or the pack cannot be written.
        DamageError: a file beside the shards differs from the manifest.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    if source.content != "train":
        raise PackError(
            f"a source of kind {source.kind!r} that holds {source.content!r} is not a training "
            "set: convert it to a pack of its own"
        )
    read_manifest(path)  # before a lock is put into what may be no pack
    options = options.for_source(source)
    target = Target(path)
    if options.dry_run:
        return _preview(GrowingPack.read(path, mend=False), target, source, options, discard)
    with target:
        pack = GrowingPack.read(path)
        if discard:
            pack.discard()
        held = _held(pack, source, options)
        if held is not None:
            first, *others = (group.stem for group in source.groups())
            source.notices.append(
                f"{path} already has this source ({first}{' …' if others else ''}), and nothing is "
                "left to do: the figures are those of the run that appended it"
            )
            result = _result(pack, [shard.entry for shard in held], source, began)
            return replace(result, held=True)
        relabelled = pack.relabel(source)
        plan = _plan(pack, relabelled, options)
        target.require_space(space_needed(relabelled, path, plan, resume=True))
        pack.begin(plan.fields, resume=options.resume)
        shards = write_shards(relabelled, path, plan, options)
        target.remove_parts()
        pack.finish(plan, shards)
        grown = GrowingPack.read(path)
        return _result(grown, grown.shards_of(plan), source, began)


def _require_order(pack: GrowingPack, channels: str) -> None:
    """Refuse images whose colours are in another order than those of the pack, which has one."""
    own = fmt.stored_channels(pack.manifest)
    if own != channels:
        remedy = (
            "--color convert encodes them anew as RGB"
            if own == "rgb"
            else "if theirs are swapped too, say so with --channels bgr; else make an RGB pack of "
            f"it first by: facepack lmdb2lmdb {pack.path} OUT --color convert"
        )
        raise PackError(
            f"{pack.path} has channels {own}, and the images of the source {channels}: {remedy}"
        )


def _held(pack: GrowingPack, source: Source, options: PackOptions) -> list[HeldShard] | None:
    """The shards that hold ``source``, which is allowed when resuming; None: it is not there."""
    _require_order(pack, options.check.stored_channels)
    held = pack.find(source)
    if held is not None and not options.resume:
        raise PackError(
            f"{pack.path} already has this source (shards: {len(held)}): there is nothing to append"
        )
    return held


def _plan(pack: GrowingPack, relabelled: Relabelled, options: PackOptions) -> PackPlan:
    return plan_pack(relabelled, options).with_fields(
        onto=pack.plan.pack_id, labels_xxh3_128=relabelled.labels_digest
    )


def _preview(
    pack: GrowingPack, target: Target, source: Source, options: PackOptions, discard: bool
) -> Preview:
    """What an append would do, under the labels that it would give."""
    held = _held(pack, source, options)
    relabelled = pack.relabel(source)
    plan = _plan(pack, relabelled, options)
    if held is not None:
        found = Found.FINISHED
    elif discard or not pack.look(plan.fields, resume=options.resume):
        found = Found.NOTHING
    else:
        found = Found.UNFINISHED
    told = preview_pack(relabelled, pack.path, target, plan, options, found)
    return replace(told, appended=True)


def _result(
    pack: GrowingPack, entries: Sequence[dict[str, Any]], source: Source, began: float
) -> Result:
    return Result.of(
        source,
        pack.path,
        began,
        packed=sum(entry["records"] for entry in entries),
        quarantined=sum(entry["quarantined"] for entry in entries),
        identities=pack.manifest["identities"],
        classes=pack.manifest["classes"],
        pairs=None,
        shards=len(entries),
        payload_bytes=sum(entry["payload_bytes"] for entry in entries),
        file_bytes=sum(stated["bytes"] for entry in entries for stated in entry["files"].values()),
        notices=[
            *source.notices,
            *notes_on_encoding(entries),
            *notes_on_labels(pack.path, pack.manifest, entries),
        ],
    )


def separate_sources(kind: str, paths: Sequence[Path]) -> list[list[Path]]:
    """The paths of each source among ``paths``: each zip and each ``.rec`` is one of its own.

    Raises:
        SourceError: a folder has no zip in it.
    """
    given = list(paths)
    apart = SOURCES[kind].command.separate(given)
    return apart or ([given] if SOURCES[kind].many else [[path] for path in given])
