"""Any source into a tree of image files with a key-label index."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.file_target import (
    DONE,
    STATE,
    begin,
    has_files,
    has_size,
    make_plan,
    remove_beside,
    state_target,
    write_image,
)
from facepack.convert.options import ConvertOptions
from facepack.convert.paths import INDEX, image_path, is_safe_path
from facepack.convert.quarantine import nothing_usable, read_refused, write_tables
from facepack.convert.result import Result, finished
from facepack.convert.source import Part, Source, Span, cut_spans, deliver, payload_bytes
from facepack.convert.workers import write_spans
from facepack.errors import PackError, SourceError
from facepack.images import SUFFIXES
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.record import Buffer, SourceRecord

NAMING = ("source", "number")
_SPAN_RECORDS = 16_384  # files between two points from which an interrupted run goes on
_BATCH = 256  # files that are named in the state before they are written


@dataclass(frozen=True, kw_only=True)
class TreeOptions(ConvertOptions):
    """How an image tree is written.

    Attributes:
        naming: ``source`` keeps the source's names of images where they are safe as paths;
            ``number`` calls every file ``<label>/<n>.jpg``, where n counts the source's records.
    """

    naming: str = "source"

    def __post_init__(self) -> None:
        if self.naming not in NAMING:
            raise PackError(f"naming {self.naming!r}: allowed are {', '.join(NAMING)}")


def convert_to_tree(source: Source, out: Path, options: TreeOptions) -> Result:
    """Write the images of ``source`` as files with their original bytes.

    A record that has a name in the source keeps it, as far as it is a safe relative path; others
    become ``<label>/<n>.jpg``, where ``n`` is the record's key in the source, or its ordinal where
    it has none or ``naming`` is ``number``. ``out/index.kv`` has a line ``<path> <label>`` for each
    file, in source order, and is written last; ``out/labels.txt`` has the names of identities.
    Records that are no images go to ``out/quarantine.jsonl``; tables of an evaluation set to
    ``out/NAME.npy``, positions being lines of the index.

    Raises:
        SourceError: the source cannot be read, two records want the same path, or a record is bad
            under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    spans = cut_spans(source, records=_SPAN_RECORDS, size=fmt.MAX_SHARD_BYTES)
    plan = make_plan("tree", source, spans, options, naming=options.naming)
    with state_target(out, options) as target, write_errors(out):
        done = begin(target, plan, remove=_remove_tree, is_whole=_is_whole)
        if done is None:
            written = [_written_bytes(out, span) for span in spans]
            target.require_space(payload_bytes(source) - sum(filter(None, written)))
            missing = [span for span, size in zip(spans, written, strict=True) if size is None]
            write_spans(_write_span, missing, source, out, options)
            done = _finish(source, out, target.folder, spans)
        _remove_states(target.folder, spans)
    size = done["payload_bytes"] + sum(done["files"].values())
    return finished(source, out, began, done, file_bytes=size)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file that was written here, one by one: a name may hold other line ends."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _indexed(path: Path) -> Iterator[str]:
    """The files that an index lists."""
    return (line.rsplit(" ", 1)[0] for line in _lines(path))


def _bytes_of(out: Path, index: Path) -> int | None:
    """Bytes of the files that ``index`` lists; None if one is missing."""
    try:
        return sum((out / path).stat().st_size for path in _indexed(index))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_whole(out: Path, done: dict[str, Any]) -> bool:
    """Whether a finished tree is there in full: every file of its index, as far as sizes tell."""
    return has_files(out, done) and _bytes_of(out, out / INDEX) == done["payload_bytes"]


def _written_bytes(out: Path, span: Span) -> int | None:
    """Bytes of the span's images if an earlier run wrote them and they are there in full.

    Images are left to the system's own write-back, as tar leaves them: after a power cut, files
    that were written may be short. So their sizes are looked at.
    """
    index, size = out / STATE / f"{span.name}.kv", out / STATE / f"{span.name}.bytes"
    if not (index.exists() and size.exists()):
        return None
    total = int(size.read_text())
    return total if _bytes_of(out, index) == total else None


def _write_span(part: Part, out: Path, name: str, options: TreeOptions) -> None:
    """Write the files of a span and what the state keeps of them; runs in a worker."""
    lines: list[str] = []
    labels: set[int] = set()
    folders: set[str] = set()
    batch: list[tuple[str, Buffer]] = []
    size = 0
    state = out / STATE
    root = os.fspath(out)  # joining strings is a tenth of the work of joining paths

    def flush() -> None:
        log.write("".join(f"{path}\n" for path, _ in batch))
        log.flush()  # so that --overwrite knows what to remove, whenever this ends
        for path, image in batch:
            folder = path.rpartition("/")[0]
            try:
                if folder not in folders:
                    (out / folder).mkdir(parents=True, exist_ok=True)
                    folders.add(folder)
                if not (options.resume and has_size(out / path, len(image))):
                    write_image(f"{root}/{path}", image)
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise SourceError(
                    f"{out}: {path!r} cannot be written because a name in the source is a file "
                    "here and a folder there: start anew with --overwrite --naming number"
                ) from error
        batch.clear()

    def accept(record: SourceRecord) -> None:
        nonlocal size
        image, header = options.check.look(record.image)
        keeps_names = options.naming == "source"
        number = record.extra.get("key") if record.extra and keeps_names else None
        path = image_path(
            record.name if keeps_names else None,
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

    with write_errors(out), (state / f"{name}.names").open("a", encoding="utf-8") as log:
        log.write("\n")  # ends what a killed run may have left of a line
        refused = deliver(part, accept, strict=options.strict)
        flush()
    write_file(state / f"{name}.jsonl", [fmt.json_lines(refused)])
    write_file(state / f"{name}.bytes", [str(size).encode()])
    known = part.identity_names()
    names = {label: known[label] for label in labels if label in known}
    write_file(state / f"{name}.identities", [json.dumps(names).encode()])
    write_file(state / f"{name}.kv", ["".join(lines).encode()])


def _finish(source: Source, out: Path, state: Path, spans: list[Span]) -> dict[str, Any]:
    """Join what the spans left, piece by piece: an index may be larger than the memory."""

    def pieces(suffix: str) -> Iterator[bytes]:
        return ((state / f"{span.name}{suffix}").read_bytes() for span in spans)

    refused = b"".join(pieces(".jsonl"))
    paths, labels = _look_through(pieces(".kv"))
    if not len(paths):
        raise nothing_usable(out, read_refused(refused))
    _require_distinct(out, paths, pieces(".kv"))
    names: dict[int, str] = {}
    for identities in pieces(".identities"):
        names |= {int(label): name for label, name in json.loads(identities).items()}
    classes = max(source.classes or 0, max(labels) + 1)

    files, _ = write_tables(source, out, read_refused(refused))
    if names:
        text = fmt.labels_text([names.get(label, "") for label in range(classes)])
        _, files[fmt.LABELS] = write_file(out / fmt.LABELS, [text.encode()])
    if refused:
        _, files[fmt.QUARANTINE] = write_file(out / fmt.QUARANTINE, [refused])
    _, files[INDEX] = write_file(out / INDEX, pieces(".kv"))
    done = {
        "files": files,
        "packed": len(paths),
        "quarantined": refused.count(b"\n"),
        "identities": len(labels - {fmt.NO_IDENTITY}),
        "classes": classes,
        "payload_bytes": sum(map(int, pieces(".bytes"))),
    }
    write_file(state / DONE, [fmt.json_text(done).encode()])
    return done


def _remove_states(state: Path, spans: list[Span]) -> None:
    """Remove what is kept of spans until all are written."""
    for span in spans:
        for suffix in (".kv", ".jsonl", ".bytes", ".names", ".identities"):
            (state / f"{span.name}{suffix}").unlink(missing_ok=True)


def _path_of(line: bytes) -> bytes:
    return line.rsplit(b" ", 1)[0]


def _look_through(indices: Iterable[bytes]) -> tuple[np.ndarray, set[int]]:
    """The XXH3-64 of each path, uint64 (n,), and the labels that there are."""
    hashes, labels = [np.empty(0, np.uint64)], set()
    for index in indices:
        lines = index.split(b"\n")[:-1]
        sums = (xxhash.xxh3_64_intdigest(_path_of(line)) for line in lines)
        hashes.append(np.fromiter(sums, np.uint64, len(lines)))
        labels |= {int(line.rsplit(b" ", 1)[1]) for line in lines}
    return np.concatenate(hashes), labels


def _require_distinct(out: Path, paths: np.ndarray, indices: Iterable[bytes]) -> None:
    """Make sure that no file was written twice: the second would have replaced the first."""
    ordered = np.sort(paths)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(twice):
        return
    lines = (line for index in indices for line in index.split(b"\n")[:-1])
    first = int(np.flatnonzero(paths == twice[0])[0])
    path = _path_of(next(islice(lines, first, None))).decode()
    raise SourceError(
        f"{out}: {len(twice)} names occur more than once in the source, {path!r} for one: start "
        "anew with --overwrite --naming number"
    )


def _remove_tree(out: Path) -> None:
    """Remove what an earlier run wrote, and nothing else."""
    logs = sorted((out / STATE).glob("*.names"))
    lists = [_lines(log) for log in logs]
    if (out / INDEX).exists():
        lists.append(_indexed(out / INDEX))
    folders = set()
    for path in filter(is_safe_path, chain.from_iterable(lists)):
        with suppress(NotADirectoryError, IsADirectoryError):  # of two names, one was written
            (out / path).unlink(missing_ok=True)
        folders.add(path.rpartition("/")[0])
    (out / INDEX).unlink(missing_ok=True)
    (out / fmt.LABELS).unlink(missing_ok=True)
    remove_beside(out)
    for log in logs:
        log.unlink()
        log.with_suffix(".identities").unlink(missing_ok=True)
    for folder in sorted(folders, key=len, reverse=True):
        while folder and (out / folder).is_dir() and not any((out / folder).iterdir()):
            (out / folder).rmdir()
            folder = folder.rpartition("/")[0]
