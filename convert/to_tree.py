"""Any source into a tree of image files with a key-label index."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import format as fmt
from facepack.checks import ImageCheck
from facepack.convert.file_target import DONE, STATE, forget, has_size, state_target, write_image
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import image_path, is_safe_path
from facepack.convert.result import Result
from facepack.convert.source import (
    Part,
    Refusal,
    Source,
    Span,
    cut_spans,
    deliver,
    payload_bytes,
)
from facepack.convert.workers import Workers
from facepack.errors import PackError, SourceError
from facepack.images import SUFFIXES
from facepack.lmdbfile import Buffer
from facepack.progress import Progress
from facepack.shard import SourceRecord, write_error, write_file

INDEX = "index.kv"
NAMING = ("source", "number")
_SPAN_RECORDS = 16_384  # files between two points from which an interrupted run goes on
_BATCH = 256  # files that are named in the state before they are written


@dataclass(frozen=True, kw_only=True)
class TreeOptions(ConvertOptions):
    """How an image tree is written.

    Attributes:
        naming: ``source`` keeps the source's names of images where they are safe as paths;
            ``number`` calls every file ``<label>/<n>.jpg``.
    """

    naming: str = "source"

    def __post_init__(self) -> None:
        if self.naming not in NAMING:
            raise PackError(f"naming {self.naming!r}: allowed are {', '.join(NAMING)}")


def convert_to_tree(source: Source, out: Path, options: TreeOptions) -> Result:
    """Write the images of ``source`` as files with their original bytes.

    A record that has a name in the source keeps it, as far as it is a safe relative path; others
    become ``<label>/<n>.jpg``, where ``n`` is the record's key in the source, or its ordinal where
    keys are missing or repeat. ``out/index.kv`` has a line ``<path> <label>`` for each file, in
    source order, and is written last; ``out/labels.txt`` has the names of identities. Records that
    are no images go to ``out/quarantine.jsonl``; tables of an evaluation set to ``out/NAME.npy``,
    positions being lines of the index.

    Raises:
        SourceError: the source cannot be read, two records want the same path, or a record is bad
            under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    spans = cut_spans(source, records=_SPAN_RECORDS, size=fmt.MAX_SHARD_BYTES)
    plan = {
        "format": fmt.FORMAT_VERSION,
        "kind": "tree",
        "source": source.describe(),
        "check": options.check.as_json(),
        "naming": options.naming,
        "tables": sorted(source.table_names),
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
            target.require_space(payload_bytes(source) - sum(filter(None, complete)))
            _write_spans(source, out, spans, complete, options)
            done = _finish(source, out, target.folder, spans)
        except OSError as error:
            raise write_error(out, error) from error
    return _result(out, done, source, began)


def _write_spans(
    source: Source, out: Path, spans: list[Span], complete: list[int | None], options: TreeOptions
) -> None:
    missing = [span for span, size in zip(spans, complete, strict=True) if size is None]

    def tasks() -> Iterator[tuple[Any, ...]]:
        for span in missing:
            part = source.part(span.start, span.stop)
            yield (
                part,
                out,
                span.name,
                options.check,
                options.naming,
                (options.strict),
                options.resume,
            )

    count = min(options.workers, len(missing)) if source.parallel else 1
    with (
        Progress(len(source), unit="images", label=out.name) as progress,
        Workers(max(count, 1), options.dask if source.parallel else None) as workers,
    ):
        progress.skip(len(source) - sum(span.stop - span.start for span in missing))
        for k, _ in workers.run(_write_span, tasks()):
            progress.update(missing[k].stop - missing[k].start)


def _bytes_of(out: Path, index: str) -> int | None:
    """Bytes of the files that these lines of an index list; None if one is missing."""
    try:
        return sum((out / line.rsplit(" ", 1)[0]).stat().st_size for line in index.splitlines())
    except FileNotFoundError:
        return None


def _intact(out: Path, done: dict[str, Any]) -> bool:
    """Whether a finished tree is there in full: every file of its index, as far as sizes tell."""
    lists = [out / INDEX] + [out / fmt.QUARANTINE] * bool(done["quarantined"])
    lists += [out / fmt.LABELS] * done["named"]
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
    part: Part,
    out: Path,
    name: str,
    check: ImageCheck,
    naming: str,
    strict: bool,
    resume: bool,
) -> None:
    """Write the files of a span and what the state keeps of them; runs in a worker."""
    lines: list[str] = []
    labels: set[int] = set()
    folders: set[str] = set()
    batch: list[tuple[str, Buffer]] = []
    size = 0
    state = out / STATE

    def flush() -> None:
        log.write("".join(f"{path}\n" for path, _ in batch))
        log.flush()  # so that --overwrite knows what to remove, whenever this ends
        for path, image in batch:
            folder = path.rpartition("/")[0]
            if folder not in folders:
                (out / folder).mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            if not (resume and has_size(out / path, len(image))):
                write_image(out / path, image)
        batch.clear()

    def accept(record: SourceRecord) -> None:
        nonlocal size
        image, header = check.look(record.image)
        number = record.extra.get("key") if record.extra else None
        path = image_path(
            record.name if naming == "source" else None,
            record.label,
            record.ordinal if number is None else int(number),
            SUFFIXES[header.format],
        )
        batch.append((path, image))
        labels.add(record.label)
        lines.append(f"{path} {record.label}\n")
        size += len(image)
        if len(batch) == _BATCH:
            flush()

    try:
        with (state / f"{name}.names").open("w", encoding="utf-8") as log:
            refused = deliver(part, accept, strict=strict)
            flush()
    except OSError as error:
        raise write_error(out, error) from error
    text = "".join(
        json.dumps(entry, sort_keys=True, ensure_ascii=False) + "\n" for entry in refused
    )
    write_file(state / f"{name}.jsonl", [text.encode()])
    write_file(state / f"{name}.bytes", [str(size).encode()])
    known = part.identity_names()
    names = {label: known[label] for label in labels if label in known}
    write_file(state / f"{name}.identities", [json.dumps(names).encode()])
    write_file(state / f"{name}.kv", ["".join(lines).encode()])


def _finish(source: Source, out: Path, state: Path, spans: list[Span]) -> dict[str, Any]:
    def joined(suffix: str) -> list[bytes]:
        return [(state / f"{span.name}{suffix}").read_bytes() for span in spans]

    index, refused = b"".join(joined(".kv")), b"".join(joined(".jsonl"))
    if not index:
        first = Refusal(**json.loads(refused.splitlines()[0]))
        raise SourceError(f"{out}: no record at all can be used; the first is {first}")
    lines = index.split(b"\n")[:-1]
    _require_distinct(out, lines)
    labels = {int(line.rsplit(b" ", 1)[1]) for line in lines}
    positions = np.full(len(source), -1, np.int64)
    away = [json.loads(line)["ordinal"] for line in refused.splitlines()]
    positions[np.delete(np.arange(len(source)), away)] = np.arange(len(lines))
    for name, table in source.tables(positions).items() if source.table_names else ():
        np.save(out / f"{name}.npy", table, allow_pickle=False)
    names: dict[int, str] = {}
    for identities in joined(".identities"):
        names |= {int(label): name for label, name in json.loads(identities).items()}
    classes = max(source.classes or 0, max(labels, default=-1) + 1)
    text = fmt.labels_text([names.get(label, "") for label in range(classes)]) if names else ""
    if names:
        write_file(out / fmt.LABELS, [text.encode()])
    if refused:
        write_file(out / fmt.QUARANTINE, [refused])
    write_file(out / INDEX, [index])
    done = {
        "packed": index.count(b"\n"),
        "quarantined": refused.count(b"\n"),
        "identities": len(labels - {fmt.NO_IDENTITY}),
        "classes": classes,
        "payload_bytes": sum(int(size) for size in joined(".bytes")),
        "index_bytes": len(index) + len(refused) + len(text.encode()),
        "named": bool(names),
    }
    write_file(state / DONE, [fmt.json_text(done).encode()])
    for span in spans:
        for suffix in (".kv", ".jsonl", ".bytes", ".names", ".identities"):
            (state / f"{span.name}{suffix}").unlink()
    return done


def _require_distinct(out: Path, lines: list[bytes]) -> None:
    """Make sure that no file was written twice: the second would have replaced the first."""
    paths = np.fromiter(
        (xxhash.xxh3_64_intdigest(line.rsplit(b" ", 1)[0]) for line in lines), np.uint64, len(lines)
    )
    order = np.argsort(paths, kind="stable")
    twice = np.flatnonzero(paths[order][1:] == paths[order][:-1])
    if len(twice):
        path = lines[order[twice[0]]].rsplit(b" ", 1)[0].decode()
        raise SourceError(
            f"{out}: {len(twice)} names occur more than once in the source, first {path!r}: start "
            "anew with --overwrite --naming number"
        )


def _remove_tree(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    index = out / INDEX
    paths = (
        [line.rsplit(" ", 1)[0] for line in index.read_text().splitlines()]
        if (index.exists())
        else []
    )
    for names in (out / STATE).glob("*.names"):
        paths += names.read_text().splitlines()
    tables = json.loads((out / STATE / fmt.PLAN).read_bytes()).get("tables", [])
    for name in (INDEX, fmt.LABELS, fmt.QUARANTINE, *(f"{table}.npy" for table in tables)):
        (out / name).unlink(missing_ok=True)
    folders = set()
    for path in filter(is_safe_path, paths):
        (out / path).unlink(missing_ok=True)
        folders.add(path.rpartition("/")[0])
    for folder in sorted(folders, key=len, reverse=True):
        while folder and (out / folder).is_dir() and not any((out / folder).iterdir()):
            (out / folder).rmdir()
            folder = folder.rpartition("/")[0]


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
        classes=done["classes"],
        pairs=None,
        shards=0,
        payload_bytes=done["payload_bytes"],
        file_bytes=done["payload_bytes"] + done["index_bytes"],
        seconds=round(time.monotonic() - began, 3),
        notices=source.notices,
    )
