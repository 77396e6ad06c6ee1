"""Any source into a pack: plan, shards side by side, manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack.care.shard_check import check_shard
from facepack.convert.delivery import deliver
from facepack.convert.formats.pack.label_notes import notes_on_labels
from facepack.convert.options import ConvertOptions
from facepack.convert.preview import preview
from facepack.convert.result import Result
from facepack.convert.source import Part, Source
from facepack.convert.spans import Span, cut_spans, payload_bytes
from facepack.convert.turns import reading_turn
from facepack.convert.workers import Workers
from facepack.encoding import WORDS
from facepack.errors import DamageError, PackError, SourceError
from facepack.progress import Progress
from facepack.store import format as fmt
from facepack.store.finish import finish_pack
from facepack.store.manifest import check_sizes, manifest_files, read_manifest
from facepack.store.plan import PackPlan
from facepack.store.preview import Preview
from facepack.store.shard import ENCODED, ShardBuilder, WrittenShard
from facepack.store.target import Found, Target

_EXPECTED_OVERHEAD = 1.12  # all files over payload, at the worst of the orders


@dataclass(frozen=True, kw_only=True)
class PackOptions(ConvertOptions):
    """How a pack is made."""

    order: str = "shuffled"  # of records in a shard: shuffled, source or identity
    seed: int = 0  # of the shuffled order
    shard_records: int = fmt.MAX_SHARD_RECORDS  # a shard's greatest number of records
    shard_bytes: int = fmt.MAX_SHARD_BYTES  # a shard's greatest payload

    def __post_init__(self) -> None:
        if not 1 <= self.shard_records <= fmt.MAX_SHARD_RECORDS:
            raise PackError(
                f"--shard-records {self.shard_records}: allowed are 1 to {fmt.MAX_SHARD_RECORDS}"
            )
        if not 1 <= self.shard_bytes <= fmt.MAX_SHARD_BYTES:
            raise PackError(
                f"--shard-size of {self.shard_bytes} bytes: at most {fmt.MAX_SHARD_BYTES} "
                "(384 MiB), at least 1 MiB"
            )


def convert_to_pack(source: Source, out: Path, options: PackOptions) -> Result | Preview:
    """Pack ``source`` into the folder ``out``, or say what that would do.

    Raises:
        SourceError: the source cannot be read, or a record cannot be packed under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    options = options.for_source(source)
    plan = plan_pack(source, options)
    target = Target(out, overwrite=options.overwrite, resume=options.resume)
    if options.dry_run:
        found = _standing(out, target.look(plan.fields))
        return preview_pack(source, out, target, plan, options, found)
    with target:
        target.require_space(space_needed(source, out, plan, resume=options.resume))
        if target.begin(plan.fields):
            manifest = read_manifest(out)
            try:
                check_sizes(out, manifest)
                return _result(out, manifest, source, began)
            except DamageError as error:
                source.notices.append(f"{error}; what is missing was made again")
                (out / fmt.MANIFEST).unlink()
        shards = write_shards(source, out, plan, options)
        target.remove_parts()  # of a worker that died while another did its work
        tables = source.tables(_positions(len(source), shards)) if source.table_names else {}
        manifest = finish_pack(out, plan, shards, tables=tables)
        if source.classes is not None and manifest["classes"] > source.classes:
            source.notices.append(
                f"the source states {source.classes} classes, its labels reach "
                f"{manifest['classes'] - 1}: the pack has {manifest['classes']}"
            )
    return _result(out, manifest, source, began)


def plan_pack(source: Source, options: PackOptions) -> PackPlan:
    """The plan of a pack of ``source``, with the spans of records that make its shards."""
    spans = cut_spans(
        source,
        records=options.shard_records,
        size=options.shard_bytes,
        least=options.check.resized_bytes,
    )
    return PackPlan.make(
        kind=source.content,
        source=source.describe(),
        order=options.order,
        seed=options.seed,
        check=options.check,
        classes=source.classes,
        tables=source.table_names,
        shards=[vars(span) for span in spans],
    )


def _standing(out: Path, found: Found) -> Found:
    """What is found in ``out``, of a finished pack whether its files are all there, as well."""
    if found is Found.FINISHED:
        try:
            check_sizes(out, read_manifest(out))
        except DamageError:
            return Found.UNFINISHED
    return found


def preview_pack(
    source: Source, out: Path, target: Target, plan: PackPlan, options: PackOptions, found: Found
) -> Preview:
    """What would become of ``source`` under ``plan``, of which this much is ``found``."""
    spans = [Span(**span) for span in plan.fields["shards"]]
    needed = space_needed(source, out, plan, resume=found is Found.UNFINISHED)
    shards = [(f"{span.name}.mdb", span) for span in spans]
    tables = (f"{table}.npy" for table in sorted(source.table_names))
    files = [fmt.MANIFEST, fmt.PLAN, fmt.LABELS, *tables]
    return preview(
        source, target, options, found, out=out, needed=needed, shards=shards, files=files
    )


def space_needed(source: Source, out: Path, plan: PackPlan, *, resume: bool) -> int:
    """Bytes that the shards of ``plan`` will take, when resuming less what an earlier run left."""
    files = (out / f"{span['name']}.mdb" for span in plan.fields["shards"] if resume)
    present = sum(file.stat().st_size for file in files if file.exists())
    return int(payload_bytes(source) * _EXPECTED_OVERHEAD) - present


def write_shards(
    source: Source, out: Path, plan: PackPlan, options: PackOptions
) -> list[WrittenShard]:
    """Write and commit a shard for each span of ``plan``, by the workers that ``options`` name.

    Shards that an earlier run committed are checked and kept.

    Raises:
        SourceError: the source cannot be read, changed, or a record was refused under ``strict``.
        PackError: a shard cannot be written.
        WorkerError: a worker process died.
    """
    spans = plan.fields["shards"]

    def tasks() -> Iterator[tuple[Any, ...]]:
        for k, span in enumerate(spans):
            part = source.part(span["start"], span["stop"])
            yield part, out, span["name"], options, plan.shard_meta(k)

    parallel = source.parallel and len(spans) > 1
    shards: list[WrittenShard | None] = [None] * len(spans)
    with (
        Progress(len(source), label=out.name) as progress,
        Workers(
            min(options.workers, len(spans)) if parallel else 1,
            options.dask if source.parallel else None,
        ) as workers,
    ):
        for k, (shard, made) in workers.run(_make_shard, tasks()):
            shards[k] = shard
            count = spans[k]["stop"] - spans[k]["start"]
            progress.update(count) if made else progress.skip(count)
    written = [shard for shard in shards if shard is not None]
    packed = sum(shard.info.records for shard in written)
    refused = [entry for shard in written for entry in shard.refused]
    if packed + len(refused) != len(source):
        raise PackError(
            f"{out}: {len(source)} records were found, {packed} packed and {len(refused)} set "
            "aside: the source changed while it was read; start over with --overwrite"
        )
    if refused and not packed:
        raise SourceError(
            f"none of the {len(source)} records can be packed; the first: "
            f"{refused[0]['file']}: {refused[0]['reason']}; {refused[0]['remedy']}"
        )
    return written


def _make_shard(
    part: Part, out: Path, name: str, options: PackOptions, meta: dict[str, Any]
) -> tuple[WrittenShard, bool]:
    """The shard, and whether it had to be made; runs in a worker."""
    written = _committed(out, name, meta) if options.resume else None
    if written is not None:
        return written, False
    builder = ShardBuilder(check=options.check)
    computes = options.check.decode or options.check.encodes
    with reading_turn() if part.waits_for_disk and not computes else nullcontext():
        builder.refused = deliver(
            part, builder.add, accept_run=builder.add_run, strict=options.strict
        )
    names = part.identity_names()
    builder.identity_names = {k: names[k] for k in set(builder.labels) if k in names}
    return builder.write(out, name, order=options.order, seed=options.seed, meta=meta), True


def _committed(out: Path, name: str, meta: dict[str, Any]) -> WrittenShard | None:
    """A shard that an earlier run committed, read back and checked; None: it must be made."""
    if not (out / f"{name}.mdb").exists():
        return None
    content = check_shard(out, name, canonical=True)
    same = all(content.meta.get(key) == value for key, value in (meta | {"name": name}).items())
    if content.damage or content.info is None or not same:
        return None
    return content.write_index(out)


def _positions(count: int, shards: Sequence[WrittenShard]) -> np.ndarray:
    """Each source record's position in the pack, -1 for those that were refused: int64 (n,)."""
    positions = np.full(count, -1, np.int64)
    packed = 0
    for shard in shards:
        positions[shard.ordinals] = packed + np.arange(len(shard.ordinals))
        packed += len(shard.ordinals)
    return positions


def notes_on_encoding(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Tell how many images of these shards are not stored as they were."""
    encoded = sum(entry["images"].get(ENCODED, 0) for entry in entries)
    packed = sum(entry["records"] for entry in entries)
    return [f"{encoded:,} of {packed:,} images were encoded anew ({WORDS})"] if encoded else []


def _result(out: Path, manifest: dict[str, Any], source: Source, began: float) -> Result:
    files = sum(stated["bytes"] for stated in manifest_files(manifest).values())
    kept = ("quarantined", "identities", "classes", "pairs", "payload_bytes")
    return Result.of(
        source,
        out,
        began,
        packed=manifest["records"],
        **{key: manifest[key] for key in kept},
        shards=len(manifest["shards"]),
        file_bytes=files + (out / fmt.MANIFEST).stat().st_size,
        notices=[
            *source.notices,
            *notes_on_encoding(manifest["shards"]),
            *notes_on_labels(out, manifest, manifest["shards"]),
        ],
    )
