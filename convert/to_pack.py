"""Any source into a pack: plan, shards one by one, manifest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepack import format as fmt
from facepack.convert.result import Result
from facepack.convert.source import Source, Span, deliver
from facepack.errors import DamageError, PackError, SourceError
from facepack.pack import check_sizes, manifest_files, read_manifest
from facepack.progress import Progress
from facepack.shard import ShardBuilder, ShardInfo
from facepack.target import Target
from facepack.verify import check_shard
from facepack.writer import finish_pack, make_plan, shard_meta

_EXPECTED_OVERHEAD = 1.12  # all files over payload, at the worst of the orders


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How a pack is made.

    Attributes:
        order: of records in a shard: ``shuffled``, ``source`` or ``identity``.
        seed: of the shuffled order.
        decode: decode every image instead of reading its header.
        strict: stop at the first record that cannot be packed, instead of setting it aside.
        overwrite: replace what the target holds.
        resume: complete what the target holds.
        shard_records: a shard's greatest number of records.
        shard_bytes: a shard's greatest payload.
    """

    order: str = "shuffled"
    seed: int = 0
    decode: bool = False
    strict: bool = False
    overwrite: bool = False
    resume: bool = False
    shard_records: int = fmt.MAX_SHARD_RECORDS
    shard_bytes: int = fmt.MAX_SHARD_BYTES

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


def convert_to_pack(source: Source, out: Path, options: PackOptions) -> Result:
    """Pack ``source`` into the folder ``out``.

    Raises:
        SourceError: the source cannot be read, or a record cannot be packed under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
    """
    began = time.monotonic()
    spans = source.spans(records=options.shard_records, size=options.shard_bytes)
    plan = make_plan(
        kind=source.content,
        source=source.describe(),
        order=options.order,
        seed=options.seed,
        check="decode" if options.decode else "header",
        classes=source.classes,
        tables=["pairs"] if source.content == "pairs" else [],
        shards=[vars(span) for span in spans],
    )
    pack_id = fmt.content_id(plan)
    with Target(out, overwrite=options.overwrite, resume=options.resume) as target:
        target.require_space(int(source.payload_bytes * _EXPECTED_OVERHEAD) - _present(out, spans))
        if target.begin(plan):
            manifest = read_manifest(out)
            try:
                check_sizes(out, manifest)
                return _result(out, manifest, source, began)
            except DamageError as error:
                source.notices.append(f"{error}; what is missing was made anew")
                (out / fmt.MANIFEST).unlink()
        shards: list[ShardInfo] = []
        refused: list[dict[str, Any]] = []
        positions = np.full(len(source), -1, np.int64)
        identity_names: dict[int, str] = {}
        packed = 0
        with Progress(len(source), label=out.name) as progress:
            for k, span in enumerate(spans):
                written = _committed(out, span, plan, pack_id, k) if options.resume else None
                if written is None:
                    meta = shard_meta(plan, pack_id, k, len(spans))
                    written = _write_span(source, out, span, plan, meta, options.strict, progress)
                else:
                    progress.skip(span.stop - span.start)
                shards.append(written.info)
                refused += written.refused
                identity_names |= written.identity_names
                positions[written.ordinals] = packed + np.arange(len(written.ordinals))
                packed += len(written.ordinals)
        tables = source.tables(positions)
        once = np.count_nonzero(positions >= 0)
        if not once == packed == len(source) - len(refused):
            raise PackError(
                f"{out}: {len(source)} records were found, {packed} packed and {len(refused)} set "
                "aside: the source changed while it was read; start anew with --overwrite"
            )
        if refused and not packed:
            raise SourceError(
                f"none of the {len(source)} records can be packed; the first: "
                f"{refused[0]['file']}: {refused[0]['reason']}; {refused[0]['remedy']}"
            )
        manifest = finish_pack(
            out,
            plan=plan,
            pack_id=pack_id,
            shards=shards,
            refused=refused,
            identity_names=identity_names,
            tables=tables,
        )
        if source.classes is not None and manifest["classes"] > source.classes:
            source.notices.append(
                f"the source states {source.classes} classes, its labels reach "
                f"{manifest['classes'] - 1}: the pack has {manifest['classes']}"
            )
    return _result(out, manifest, source, began)


def _present(out: Path, spans: list[Span]) -> int:
    """Bytes of the shards that an earlier run left."""
    files = (out / f"{span.name}.mdb" for span in spans)
    return sum(file.stat().st_size for file in files if file.exists())


class _Written(NamedTuple):
    """A committed shard: its manifest entry, its ordinals by place, its names, its refusals."""

    info: ShardInfo
    ordinals: np.ndarray
    identity_names: dict[int, str]
    refused: list[dict[str, Any]]


def _write_span(
    source: Source,
    out: Path,
    span: Span,
    plan: dict[str, Any],
    meta: dict[str, Any],
    strict: bool,
    progress: Progress,
) -> _Written:
    builder = ShardBuilder(check=plan["check"])
    builder.refused = deliver(source, span, builder.add, strict=strict, progress=progress)
    for label in set(builder.labels):
        name = source.identity_name(label)
        if name is not None:
            builder.identity_names[label] = name
    info, ordinals = builder.write(
        out, span.name, order=plan["order"], seed=plan["seed"], meta=meta
    )
    return _Written(info, ordinals, builder.identity_names, builder.refused)


def _committed(
    out: Path, span: Span, plan: dict[str, Any], pack_id: str, k: int
) -> _Written | None:
    """A shard that an earlier run committed, read back and checked; None: it must be made."""
    if not (out / f"{span.name}.mdb").exists():
        return None
    content = check_shard(out, span.name, canonical=True)
    expected = shard_meta(plan, pack_id, k, len(plan["shards"])) | {"name": span.name}
    same = all(content.meta.get(key) == value for key, value in expected.items())
    if content.damage or content.info is None or not same:
        return None
    info = content.write_index(out)
    return _Written(info, content.ordinals, content.identity_names, content.refused)


def _result(out: Path, manifest: dict[str, Any], source: Source, began: float) -> Result:
    files = sum(stated["bytes"] for stated in manifest_files(manifest).values())
    return Result(
        out=str(out),
        found=manifest["records"] + manifest["quarantined"],
        packed=manifest["records"],
        quarantined=manifest["quarantined"],
        identities=manifest["identities"],
        classes=manifest["classes"],
        pairs=manifest["pairs"],
        shards=len(manifest["shards"]),
        payload_bytes=manifest["payload_bytes"],
        file_bytes=files + (out / fmt.MANIFEST).stat().st_size,
        seconds=round(time.monotonic() - began, 3),
        notices=source.notices,
    )
