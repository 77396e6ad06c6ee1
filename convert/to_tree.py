"""Any source into files: a tree ``label/n.jpg`` with a key-label index, or a pair set's folder."""

from __future__ import annotations

import io
import json
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack import format as fmt
from facepack.convert.bin import BinSource
from facepack.convert.result import Result
from facepack.convert.source import Refusal, Source, Span
from facepack.errors import DecodeError, PackError, SourceError
from facepack.images import SUFFIXES, check_image, decode
from facepack.progress import Progress
from facepack.shard import SourceRecord, write_error, write_file
from facepack.target import Target

INDEX = "index.kv"
STATE = ".facepack"  # the plan and what is done of it
_DONE = "done.json"
_SPAN_RECORDS = 16_384  # files between two points from which an interrupted run goes on
_OURS = re.compile(r"\d+\.[a-z]{3,4}")


@dataclass(frozen=True, kw_only=True)
class TreeOptions:
    """How files are written: decode every image first, stop at a bad record, replace, go on."""

    decode: bool = False
    strict: bool = False
    overwrite: bool = False
    resume: bool = False


def convert_to_tree(source: Source, out: Path, options: TreeOptions) -> Result:
    """Write ``source`` as ``out/<label>/<n>.jpg`` with the original bytes.

    ``n`` is the record's key in the source, or its ordinal where keys are missing or repeat.
    ``out/index.kv`` has a line ``<label>/<n>.jpg <label>`` for each file, in source order, and is
    written last. Records that are no images go to ``out/quarantine.jsonl``.

    Raises:
        SourceError: the source cannot be read, or a record is bad under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
    """
    began = time.monotonic()
    state = out / STATE
    if out.is_dir() and not state.is_dir() and any(out.iterdir()):
        raise PackError(
            f"{out} is not empty and holds no image tree of ours: choose another target"
        )
    spans = source.spans(records=_SPAN_RECORDS, size=fmt.MAX_SHARD_BYTES)
    plan = {
        "format": fmt.FORMAT_VERSION,
        "kind": "tree",
        "source": source.describe(),
        "check": "decode" if options.decode else "header",
        "shards": [vars(span) for span in spans],
    }
    target = Target(state, overwrite=options.overwrite, resume=options.resume, finished=_DONE)
    with target:
        if options.overwrite:
            _remove_tree(out)
        if target.begin(plan):
            done = json.loads((state / _DONE).read_bytes())
            return _result(out, done, source, began)
        target.require_space(source.payload_bytes)
        with Progress(len(source), unit="images", label=out.name) as progress:
            for span in spans:
                if _span_done(out, span):
                    progress.skip(span.stop - span.start)
                else:
                    _write_span(source, out, span, options, progress)
        done = _finish(out, state, spans)
    return _result(out, done, source, began)


def _span_done(out: Path, span: Span) -> bool:
    """Whether an earlier run wrote the span's images, and they are there in full.

    Images are left to the system's own write-back, as tar leaves them: after a power cut, files
    that were written may be short. So their sizes are looked at.
    """
    marks = out / STATE / f"{span.name}.kv", out / STATE / f"{span.name}.bytes"
    if not all(mark.exists() for mark in marks):
        return False
    lines, total = marks[0].read_text().splitlines(), int(marks[1].read_text())
    files = [out / line.rsplit(" ", 1)[0] for line in lines]
    return all(file.exists() for file in files) and total == sum(
        file.stat().st_size for file in files
    )


def _write_span(
    source: Source, out: Path, span: Span, options: TreeOptions, progress: Progress
) -> None:
    lines: list[str] = []
    refused: list[dict[str, Any]] = []
    folders: set[str] = set()
    size = 0
    for record in source.read(span.start, span.stop):
        refusal = record if isinstance(record, Refusal) else None
        if not isinstance(record, Refusal):
            try:
                name = _file_name(record, options.decode)
                folder = str(record.label)
                if folder not in folders:
                    (out / folder).mkdir(exist_ok=True)
                    folders.add(folder)
                _write(out / folder / name, record.image)
                lines.append(f"{folder}/{name} {record.label}\n")
                size += len(record.image)
            except DecodeError as error:
                refusal = source.refuse(record, str(error))
            except OSError as error:
                raise write_error(out, error) from error
        if refusal is not None:
            if options.strict:
                raise SourceError(f"{refusal} (--strict stops here)")
            refused.append(refusal.as_json())
        progress.update()
    state = out / STATE
    text = "".join(
        json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in refused
    )
    write_file(state / f"{span.name}.jsonl", [text.encode()])
    write_file(state / f"{span.name}.bytes", [str(size).encode()])
    write_file(state / f"{span.name}.kv", ["".join(lines).encode()])


def _file_name(record: SourceRecord, decode_it: bool) -> str:
    header = check_image(record.image)
    if decode_it:
        decode(record.image)
    number = record.extra.get("key") if record.extra else None
    return f"{record.ordinal if number is None else number}{SUFFIXES[header.format]}"


def _write(path: Path, data: Any) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def _finish(out: Path, state: Path, spans: list[Span]) -> dict[str, Any]:
    def joined(suffix: str) -> list[bytes]:
        return [(state / f"{span.name}{suffix}").read_bytes() for span in spans]

    index, refused = b"".join(joined(".kv")), b"".join(joined(".jsonl"))
    labels = {int(line.rsplit(b" ", 1)[1]) for line in index.splitlines()}
    if refused:
        write_file(out / fmt.QUARANTINE, [refused])
    write_file(out / INDEX, [index])
    done = {
        "packed": index.count(b"\n"),
        "quarantined": refused.count(b"\n"),
        "identities": len(labels),
        "classes": max(labels, default=-1) + 1,
        "payload_bytes": sum(int(size) for size in joined(".bytes")),
        "index_bytes": len(index) + len(refused),
    }
    write_file(state / _DONE, [fmt.json_text(done).encode()])
    for span in spans:
        for suffix in (".kv", ".jsonl", ".bytes"):
            (state / f"{span.name}{suffix}").unlink()
    return done


def _remove_tree(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for name in (INDEX, fmt.QUARANTINE):
        (out / name).unlink(missing_ok=True)
    for folder in list(out.iterdir()):
        if not folder.name.isdecimal() or not folder.is_dir() or folder.is_symlink():
            continue
        for file in list(folder.iterdir()):
            if _OURS.fullmatch(file.name):
                file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _result(out: Path, done: dict[str, Any], source: Source, began: float) -> Result:
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
        classes=max(source.classes or 0, done["classes"]),
        pairs=None,
        shards=0,
        payload_bytes=done["payload_bytes"],
        file_bytes=done["payload_bytes"] + done["index_bytes"],
        seconds=round(time.monotonic() - began, 3),
        notices=source.notices,
    )


def convert_to_pair_folder(source: BinSource, out: Path, options: TreeOptions) -> Result:
    """Write a verification set as ``out/imgs/0.jpg …`` and ``out/pair_label.npy``.

    Pair i is images 2i and 2i + 1, as the MHLR project reads them. An image that does not decode
    stops the run, for the numbering leaves no room for a gap.

    Raises:
        SourceError: an image is broken.
        PackError: the target cannot be written or holds something else.
    """
    began = time.monotonic()
    images, labels = out / "imgs", out / "pair_label.npy"
    if out.is_dir() and any(out.iterdir()):
        ours = {entry.name for entry in out.iterdir()} <= {"imgs", "pair_label.npy"}
        if not ours or not (options.overwrite or options.resume):
            raise PackError(f"{out} is not empty: choose another target, or --overwrite an old one")
    try:
        # The labels are written last: while they are missing, the set is not finished.
        labels.unlink(missing_ok=True)
        images.mkdir(parents=True, exist_ok=True)
        for old in images.iterdir():
            if _OURS.fullmatch(old.name):
                old.unlink()
        size = 0
        with Progress(len(source.uses), unit="images", label=out.name) as progress:
            for place, use in enumerate(source.uses.tolist()):
                record = SourceRecord(use, source.images[use], -1)
                try:
                    suffix = Path(_file_name(record, options.decode)).suffix
                except DecodeError as error:
                    refusal = source.refuse(record, str(error))
                    raise SourceError(
                        f"{refusal.file}: image {refusal.key}: {refusal.reason}; "
                        "fetch the set again"
                    ) from error
                _write(images / f"{place}{suffix}", record.image)
                size += len(record.image)
                progress.update()
        buffer = io.BytesIO()
        np.save(buffer, source.issame, allow_pickle=False)
        write_file(labels, [buffer.getvalue()])
    except OSError as error:
        raise write_error(out, error) from error
    return Result(
        out=str(out),
        found=len(source.uses),
        packed=len(source.uses),
        quarantined=0,
        identities=0,
        classes=0,
        pairs=len(source.issame),
        shards=0,
        payload_bytes=size,
        file_bytes=size + len(buffer.getvalue()),
        seconds=round(time.monotonic() - began, 3),
        notices=source.notices,
    )
