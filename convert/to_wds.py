"""Any source into WebDataset tars: shards of samples ``key.jpg`` and ``key.cls``."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from facepack import format as fmt
from facepack.checks import ImageCheck
from facepack.convert.file_target import (
    DONE,
    STATE,
    forget,
    has_size,
    kept_positions,
    remove_parts,
    state_target,
)
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import ASIDE, is_safe_path
from facepack.convert.result import Result, finished
from facepack.convert.source import Part, Refusal, Source, Span, cut_spans, deliver, payload_bytes
from facepack.convert.tar_headers import BLOCK, member_header, padded
from facepack.convert.workers import Workers
from facepack.errors import PackError, SourceError
from facepack.images import IMAGE_SUFFIXES, SUFFIXES
from facepack.lmdbfile import Buffer
from facepack.progress import Progress
from facepack.shard import SourceRecord, write_error, write_file

SUMMARY = "dataset.json"
_SPAN_RECORDS = 10_000
_EXPECTED_OVERHEAD = 4 * BLOCK  # bytes a record: two headers, the label, padding
_LONGEST_SUFFIX = max(IMAGE_SUFFIXES, key=len)
_END = bytes(2 * BLOCK)


def convert_to_wds(source: Source, out: Path, options: ConvertOptions) -> Result:
    """Write ``source`` as tars ``out/NAME.tar`` of samples, as the ``webdataset`` library has them.

    A tar has at most 10,000 samples and 384 MiB of images, in source order. A sample is the image,
    byte for byte under its format's suffix, and ``key.cls``, its label in decimal (-1: none). The
    key is the record's name in the source without an image's suffix, if it is a safe relative path
    whose last part has no dot; the record's ordinal in ten digits if it has no name; and below
    ``_renamed/`` otherwise, or if another sample of the tar has that key. Headers have no times and
    no owners, so that the same source gives the same bytes.

    ``out/dataset.json``, written last, has the counts, and for each tar its name, samples, bytes
    and XXH3-128; ``out/labels.txt`` the names of identities, if there are any. Records that are no
    images go to ``out/quarantine.jsonl``; tables of an evaluation set to ``out/NAME.npy``,
    positions counting samples through all tars. Numbers of a ``.rec`` header beside the label are
    not kept.

    Raises:
        SourceError: the source cannot be read, or a record is bad under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    spans = cut_spans(source, records=_SPAN_RECORDS, size=fmt.MAX_SHARD_BYTES)
    plan = {
        "format": fmt.FORMAT_VERSION,
        "kind": "wds",
        "source": source.describe(),
        "check": options.check.as_json(),
        "classes": source.classes,
        "tables": sorted(source.table_names),
        "shards": [vars(span) for span in spans],
    }
    with state_target(out, overwrite=options.overwrite, resume=options.resume) as target:
        try:
            if options.overwrite and forget(target, plan):
                _remove(out)
            if target.begin(plan):
                done = json.loads((target.folder / DONE).read_bytes())
                if all(has_size(out / name, size) for name, size in done["files"].items()):
                    return _finished(source, out, began, done)
                forget(target, plan)
            remove_parts(out)
            written = [_written(out, span) for span in spans]
            expected = payload_bytes(source) + _EXPECTED_OVERHEAD * len(source)
            target.require_space(expected - sum(tar["bytes"] for tar in written if tar))
            _write_spans(source, out, spans, written, options)
            done = _finish(source, out, spans)
        except OSError as error:
            raise write_error(out, error) from error
    return _finished(source, out, began, done)


def sample_key(record: SourceRecord) -> str | None:
    """The key that a record's name gives a sample; None where it can give none."""
    if record.name is None:
        return f"{record.ordinal:010d}"
    suffix = PurePosixPath(record.name).suffix
    known = suffix.lower() in IMAGE_SUFFIXES
    key = record.name.removesuffix(suffix) if known else record.name
    parts = key.split("/")
    usable = "." not in parts[-1] and parts[0] != ASIDE and is_safe_path(key + _LONGEST_SUFFIX)
    return key if usable else None


def _written(out: Path, span: Span) -> dict[str, Any] | None:
    """What the state tells of a span that an earlier run wrote; None if it must be made."""
    try:
        tar: dict[str, Any] = json.loads((out / STATE / f"{span.name}.tar.json").read_bytes())
    except FileNotFoundError:
        return None
    return tar if has_size(out / tar["name"], tar["bytes"]) else None


def _write_spans(
    source: Source,
    out: Path,
    spans: list[Span],
    written: list[dict[str, Any] | None],
    options: ConvertOptions,
) -> None:
    missing = [span for span, tar in zip(spans, written, strict=True) if tar is None]

    def tasks() -> Iterator[tuple[Any, ...]]:
        for span in missing:
            part = source.part(span.start, span.stop)
            yield part, out, span.name, options.check, options.strict

    count = min(options.workers, len(missing)) if source.parallel else 1
    with (
        Progress(len(source), unit="images", label=out.name) as progress,
        Workers(max(count, 1), options.dask if source.parallel else None) as workers,
    ):
        progress.skip(len(source) - sum(span.stop - span.start for span in missing))
        for k, _ in workers.run(_write_span, tasks()):
            progress.update(missing[k].stop - missing[k].start)


def _write_span(part: Part, out: Path, name: str, check: ImageCheck, strict: bool) -> None:
    """Write a tar and what the state keeps of it; runs in a worker."""
    pieces: list[Buffer] = []
    keys: set[str] = set()
    labels: set[int] = set()
    payload = 0

    def accept(record: SourceRecord) -> None:
        nonlocal payload
        if not fmt.NO_IDENTITY <= record.label <= fmt.MAX_LABEL:
            raise PackError(
                f"label {record.label}: allowed are 0 to {fmt.MAX_LABEL}, and -1 for no identity"
            )
        image, header = check.look(record.image)
        key = sample_key(record)
        if key is None or key in keys:
            key = f"{ASIDE}/{record.ordinal:010d}"
        for suffix, data in (
            (SUFFIXES[header.format], image),
            (".cls", b"%d" % record.label),
        ):
            pieces.append(member_header(key + suffix, len(data)))
            pieces.append(data)
            pieces.append(bytes(padded(len(data)) - len(data)))
        keys.add(key)
        labels.add(record.label)
        payload += len(image)

    refused = deliver(part, accept, strict=strict)
    names = part.identity_names()
    digest, size = write_file(out / f"{name}.tar", [*pieces, _END])
    state = {
        "name": f"{name}.tar",
        "samples": len(keys),
        "bytes": size,
        "xxh3_128": digest,
        "payload_bytes": payload,
        "labels": {str(label): names.get(label, "") for label in sorted(labels)},
        "refused": refused,
    }
    write_file(out / STATE / f"{name}.tar.json", [fmt.json_text(state).encode()])


def _finish(source: Source, out: Path, spans: list[Span]) -> dict[str, Any]:
    names: dict[int, str] = {}
    tars: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for span in spans:
        tar = json.loads((out / STATE / f"{span.name}.tar.json").read_bytes())
        names |= {int(label): name for label, name in tar.pop("labels").items()}
        refused += tar.pop("refused")
        tars.append(tar)
    packed = sum(tar["samples"] for tar in tars)
    if refused and not packed:
        first = Refusal(**refused[0])
        raise SourceError(f"{out}: no record at all can be used; the first is {first}")
    files = {tar["name"]: tar["bytes"] for tar in tars}
    tables = _tables(source, refused)
    for name, table in tables.items():
        buffer = io.BytesIO()
        np.save(buffer, table, allow_pickle=False)
        _, files[f"{name}.npy"] = write_file(out / f"{name}.npy", [buffer.getvalue()])
    classes = max(source.classes or 0, max(names, default=-1) + 1)
    if any(names.values()):
        text = fmt.labels_text([names.get(label, "") for label in range(classes)])
        _, files[fmt.LABELS] = write_file(out / fmt.LABELS, [text.encode()])
    if refused:
        lines = [json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in refused]
        _, files[fmt.QUARANTINE] = write_file(out / fmt.QUARANTINE, ["".join(lines).encode()])
    summary = {
        "format": fmt.FORMAT_VERSION,
        "kind": source.content,
        "samples": packed,
        "quarantined": len(refused),
        "identities": len({*names} - {fmt.NO_IDENTITY}),
        "classes": classes,
        "payload_bytes": sum(tar["payload_bytes"] for tar in tars),
        "tables": sorted(tables),
        "tars": tars,
    }
    _, files[SUMMARY] = write_file(out / SUMMARY, [fmt.json_text(summary).encode()])
    kept = ("samples", "quarantined", "identities", "classes", "payload_bytes")
    done = {key: summary[key] for key in kept} | {"files": files}
    done["pairs"] = len(tables["pairs"]) if "pairs" in tables else None
    write_file(out / STATE / DONE, [fmt.json_text(done).encode()])
    return done


def _tables(source: Source, refused: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    if not source.table_names:
        return {}
    ordinals = (entry["ordinal"] for entry in refused)
    return source.tables(kept_positions(len(source), ordinals))


def _remove(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    plan = json.loads((out / STATE / fmt.PLAN).read_bytes())
    stems = [shard["name"] for shard in plan.get("shards", [])]
    names = [f"{stem}.tar" for stem in stems] + [f"{table}.npy" for table in plan.get("tables", [])]
    for name in (SUMMARY, fmt.LABELS, fmt.QUARANTINE, *filter(fmt.is_plain_name, names)):
        (out / name).unlink(missing_ok=True)
    for stem in filter(fmt.is_plain_name, stems):
        (out / STATE / f"{stem}.tar.json").unlink(missing_ok=True)


def _finished(source: Source, out: Path, began: float, done: dict[str, Any]) -> Result:
    return finished(
        source,
        out,
        began,
        {**done, "packed": done["samples"]},
        file_bytes=sum(done["files"].values()),
        pairs=done["pairs"],
        shards=sum(name.endswith(".tar") for name in done["files"]),
    )
