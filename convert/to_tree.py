"""Any source into a tree of files ``label/n.jpg`` with a key-label index."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepack import format as fmt
from facepack.convert.file_target import (
    DONE,
    STATE,
    forget,
    has_size,
    image_suffix,
    remove_images,
    state_target,
    write_image,
)
from facepack.convert.result import Result
from facepack.convert.source import Refusal, Source, Span, deliver
from facepack.errors import PackError, SourceError
from facepack.progress import Progress
from facepack.shard import SourceRecord, write_error, write_file

INDEX = "index.kv"
_SPAN_RECORDS = 16_384  # files between two points from which an interrupted run goes on


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
    spans = source.spans(records=_SPAN_RECORDS, size=fmt.MAX_SHARD_BYTES)
    plan = {
        "format": fmt.FORMAT_VERSION,
        "kind": "tree",
        "source": source.describe(),
        "check": "decode" if options.decode else "header",
        "shards": [vars(span) for span in spans],
    }
    target = state_target(out, overwrite=options.overwrite, resume=options.resume)
    with target:
        try:
            if options.overwrite and forget(target):
                _remove_tree(out)
            if target.begin(plan):
                done = json.loads((target.folder / DONE).read_bytes())
                if _intact(out, done):
                    return _result(out, done, source, began)
                forget(target)
            complete = [_written_bytes(out, span) for span in spans]
            target.require_space(source.payload_bytes - sum(filter(None, complete)))
            with Progress(len(source), unit="images", label=out.name) as progress:
                for span, size in zip(spans, complete, strict=True):
                    if size is not None:
                        progress.skip(span.stop - span.start)
                    else:
                        _write_span(source, out, span, options, progress)
            done = _finish(out, target.folder, spans)
        except OSError as error:
            raise write_error(out, error) from error
    return _result(out, done, source, began)


def _bytes_of(out: Path, index: str) -> int | None:
    """Bytes of the files that these lines of an index list; None if one is missing."""
    try:
        return sum((out / line.rsplit(" ", 1)[0]).stat().st_size for line in index.splitlines())
    except FileNotFoundError:
        return None


def _intact(out: Path, done: dict[str, Any]) -> bool:
    """Whether a finished tree is there in full: every file of its index, as far as sizes tell."""
    lists = [out / INDEX] + [out / fmt.QUARANTINE] * bool(done["quarantined"])
    if not all(path.exists() for path in lists):
        return False
    sizes = sum(path.stat().st_size for path in lists), _bytes_of(out, lists[0].read_text())
    return sizes == (done["index_bytes"], done["payload_bytes"])


def _written_bytes(out: Path, span: Span) -> int | None:
    """Bytes of the span's images if an earlier run wrote them and they are there in full.

    Images are left to the system's own write-back, as tar leaves them: after a power cut, files
    that were written may be short. So their sizes are looked at.
    """
    index, size = out / STATE / f"{span.name}.kv", out / STATE / f"{span.name}.bytes"
    if not (index.exists() and size.exists()):
        return None
    total = int(size.read_text())
    return total if _bytes_of(out, index.read_text()) == total else None


def _write_span(
    source: Source, out: Path, span: Span, options: TreeOptions, progress: Progress
) -> None:
    lines: list[str] = []
    folders: set[str] = set()
    size = 0

    def accept(record: SourceRecord) -> None:
        nonlocal size
        number = record.extra.get("key") if record.extra else None
        suffix = image_suffix(record.image, decode_it=options.decode)
        folder, name = str(record.label), f"{record.ordinal if number is None else number}{suffix}"
        if folder not in folders:
            (out / folder).mkdir(exist_ok=True)
            folders.add(folder)
        path = out / folder / name
        if not (options.resume and has_size(path, len(record.image))):
            write_image(path, record.image)
        lines.append(f"{folder}/{name} {record.label}\n")
        size += len(record.image)

    refused = deliver(source, span, accept, strict=options.strict, progress=progress)
    state = out / STATE
    text = "".join(
        json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in refused
    )
    write_file(state / f"{span.name}.jsonl", [text.encode()])
    write_file(state / f"{span.name}.bytes", [str(size).encode()])
    write_file(state / f"{span.name}.kv", ["".join(lines).encode()])


def _finish(out: Path, state: Path, spans: list[Span]) -> dict[str, Any]:
    def joined(suffix: str) -> list[bytes]:
        return [(state / f"{span.name}{suffix}").read_bytes() for span in spans]

    index, refused = b"".join(joined(".kv")), b"".join(joined(".jsonl"))
    if not index:
        first = Refusal(**json.loads(refused.splitlines()[0]))
        raise SourceError(f"{out}: no record at all can be used; the first is {first}")
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
    write_file(state / DONE, [fmt.json_text(done).encode()])
    for span in spans:
        for suffix in (".kv", ".jsonl", ".bytes"):
            (state / f"{span.name}{suffix}").unlink()
    return done


def _remove_tree(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    for name in (INDEX, fmt.QUARANTINE):
        (out / name).unlink(missing_ok=True)
    for folder in list(out.iterdir()):
        if folder.name.isdecimal() and folder.is_dir() and not folder.is_symlink():
            remove_images(folder)


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
