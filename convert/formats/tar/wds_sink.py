"""Any source into WebDataset tars: shards of samples ``key.jpg`` and ``key.cls``."""

from __future__ import annotations

import json
import time
from pathlib import Path, PurePosixPath
from typing import Any

from facepack.convert.file_target import (
    DONE,
    STATE,
    begin,
    has_size,
    make_plan,
    remove_beside,
    state_target,
)
from facepack.convert.formats.tar.headers import BLOCK, member_header, padded
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import ASIDE, is_safe_path
from facepack.convert.quarantine import nothing_usable, write_tables
from facepack.convert.result import Result, finished
from facepack.convert.source import Part, Source, Span, cut_spans, deliver, payload_bytes
from facepack.convert.workers import write_spans
from facepack.images import IMAGE_SUFFIXES, SUFFIXES
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.record import Buffer, SourceRecord

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
    plan = make_plan("wds", source, spans, options, classes=source.classes)
    with state_target(out, options) as target, write_errors(out):
        done = begin(target, plan, remove=_remove)
        if done is None:
            written = [_written_bytes(out, span) for span in spans]
            expected = payload_bytes(source) + _EXPECTED_OVERHEAD * len(source)
            target.require_space(expected - sum(filter(None, written)))
            missing = [span for span, size in zip(spans, written, strict=True) if size is None]
            write_spans(_write_span, missing, source, out, options)
            done = _finish(source, out, spans)
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


def _written_bytes(out: Path, span: Span) -> int | None:
    """Bytes of a span's tar if an earlier run wrote it; None if it must be made."""
    try:
        tar = json.loads((out / STATE / f"{span.name}.tar.json").read_bytes())
        return int(tar["bytes"]) if has_size(out / tar["name"], tar["bytes"]) else None
    except (OSError, ValueError, LookupError, TypeError):  # none, or one that is damaged
        return None


def _write_span(part: Part, out: Path, name: str, options: ConvertOptions) -> None:
    """Write a tar and what the state keeps of it; runs in a worker."""
    pieces: list[Buffer] = []
    keys: set[str] = set()
    labels: set[int] = set()
    payload = 0

    def accept(record: SourceRecord) -> None:
        nonlocal payload
        fmt.check_label(record.label)
        image, header = options.check.look(record.image)
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

    refused = deliver(part, accept, strict=options.strict)
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
        raise nothing_usable(out, refused)
    files = {tar["name"]: tar["bytes"] for tar in tars}
    tables, pairs = write_tables(source, out, refused)
    files |= tables
    classes = max(source.classes or 0, max(names, default=-1) + 1)
    if any(names.values()):
        text = fmt.labels_text([names.get(label, "") for label in range(classes)])
        _, files[fmt.LABELS] = write_file(out / fmt.LABELS, [text.encode()])
    if refused:
        _, files[fmt.QUARANTINE] = write_file(out / fmt.QUARANTINE, [fmt.json_lines(refused)])
    summary = {
        "format": fmt.FORMAT_VERSION,
        "kind": source.content,
        "samples": packed,
        "quarantined": len(refused),
        "identities": len({*names} - {fmt.NO_IDENTITY}),
        "classes": classes,
        "payload_bytes": sum(tar["payload_bytes"] for tar in tars),
        "tables": sorted(source.table_names),
        "tars": tars,
    }
    _, files[SUMMARY] = write_file(out / SUMMARY, [fmt.json_text(summary).encode()])
    kept = ("samples", "quarantined", "identities", "classes", "payload_bytes")
    done = {key: summary[key] for key in kept} | {"files": files, "pairs": pairs}
    write_file(out / STATE / DONE, [fmt.json_text(done).encode()])
    return done


def _remove(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    plan = json.loads((out / STATE / fmt.PLAN).read_bytes())
    (out / SUMMARY).unlink(missing_ok=True)
    (out / fmt.LABELS).unlink(missing_ok=True)
    remove_beside(out)
    for stem in filter(fmt.is_plain_name, (shard["name"] for shard in plan.get("shards", []))):
        (out / f"{stem}.tar").unlink(missing_ok=True)
        (out / STATE / f"{stem}.tar.json").unlink(missing_ok=True)


def _finished(source: Source, out: Path, began: float, done: dict[str, Any]) -> Result:
    return finished(
        source,
        out,
        began,
        {**done, "packed": done["samples"]},
        file_bytes=sum(done["files"].values()),
        shards=sum(name.endswith(".tar") for name in done["files"]),
    )
