"""The sinks of plain files: what each must say of itself, and the one way in which all are run.

A run states its plan, takes the lock, looks at what an earlier run left, writes what is missing,
finishes, and notes what is done: only then is the target whole. Killed at any point, it goes on
from there under ``resume``. Packs have their own way (``formats/pack/sink.py``), and a ``.bin``,
one file that is there whole or not at all, needs neither a plan nor a lock.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from facepack.convert.file_target import (
    DONE,
    STATE,
    FileTarget,
    has_size,
    remove_parts,
    state_target,
)
from facepack.convert.left_out import Keeps, note_left_out
from facepack.convert.options import ConvertOptions
from facepack.convert.preview import preview
from facepack.convert.result import Result
from facepack.convert.source import Part, Refusal, Source
from facepack.convert.spans import Span, cut_spans, payload_bytes
from facepack.convert.workers import write_spans
from facepack.encoding import WORDS
from facepack.errors import PackError, SourceError
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.preview import Preview
from facepack.store.target import Found


class Sink(ABC):
    """A kind of target, a folder, and the source that is written into it."""

    kind: ClassVar[str]  #: of the target, in its plan
    keeps: ClassVar[Keeps] = Keeps()  #: of a record, beside image and label

    def __init__(self, source: Source, out: Path, options: ConvertOptions) -> None:
        self.source = source
        self.out = out
        self.options = options.for_source(source)
        note_changes(source, self.options, out)
        note_left_out(source, self.keeps)
        self.state = out / STATE  #: the folder for what is kept of an unfinished run

    @classmethod
    def convert(cls, source: Source, out: Path, options: Any) -> Result | Preview:
        """Write ``source`` into ``out``, as :func:`convert_into`, or say what that would do."""
        sink = cls(source, out, options)
        return _preview(sink) if options.dry_run else convert_into(sink)

    def plan(self) -> dict[str, Any]:
        """What the target is a function of: an interrupted run goes on under the same plan."""
        return {
            "format": fmt.FORMAT_VERSION,
            "kind": self.kind,
            "source": self.source.describe(),
            "check": self.options.check.as_json(),
        }

    def is_whole(self, done: dict[str, Any]) -> bool:
        """Whether all that an earlier run noted as ``done`` is there, as far as sizes tell."""
        files = done.get("files")
        return isinstance(files, dict) and all(
            has_size(self.out / name, size) for name, size in files.items()
        )

    @abstractmethod
    def expected_bytes(self) -> int:
        """About how many bytes all records take in the target."""

    def left_bytes(self) -> int:
        """How many of these an earlier run left; looks only. :meth:`write` comes after it."""
        return 0

    def look_ahead(self) -> None:  # noqa: B027
        """Make sure, before anything is written or removed, that what can be known is in order.

        Raises:
            SourceError: the end of the run would be an error.
        """

    @abstractmethod
    def outcome(self) -> dict[str, Any]:
        """What would be written: what :func:`~facepack.convert.preview.preview` takes of it."""

    @abstractmethod
    def write(self) -> None:
        """Write the records that are missing."""

    @abstractmethod
    def finish(self) -> dict[str, Any]:
        """Write what follows from all records, and the file that readers go by last.

        Returns:
            What is noted as done, JSON-able, which :meth:`result` tells of in a later run, too.
        """

    @abstractmethod
    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else; its plan is still there."""

    def state_files(self) -> list[Path]:
        """The files in ``state`` that are kept only until all is written; removed in this order."""
        return []

    @abstractmethod
    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result of a run that ``began`` at this monotonic time, in seconds."""


def note_changes(source: Source, options: ConvertOptions, out: Path) -> None:
    """Tell of swapped colours and other sizes, of which no format tells but a pack."""
    if options.check.resize is not None:
        height, width = options.check.resize
        source.notices.append(
            f"images of another size than {width}×{height} are encoded anew ({WORDS})"
        )
    if options.check.stored_channels == "bgr":
        source.notices.append(
            f"red and blue of the images are swapped, as in the source, which {out} cannot tell: "
            "whoever reads it must be told (--channels bgr); --color convert encodes them as RGB"
        )


def convert_into(sink: Sink) -> Result:
    """Write the source of ``sink`` into its target, or go on with it.

    Raises:
        SourceError: the source cannot be read, or a record is bad under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    target = state_target(sink.out, sink.options)
    plan = sink.plan()
    with target, write_errors(sink.out):
        done = _begin(sink, target, plan)
        if done is None:
            target.require_space(sink.expected_bytes() - sink.left_bytes())
            sink.write()
            done = sink.finish()
            write_file(sink.state / DONE, [fmt.json_text(done).encode()])
        for file in sink.state_files():
            file.unlink(missing_ok=True)
    return sink.result(done, began)


def _preview(sink: Sink) -> Preview:
    """What :func:`convert_into` would do, and what it would raise before its first step."""
    target = state_target(sink.out, sink.options)
    found = target.look(sink.plan())
    if found is Found.FINISHED and not sink.is_whole(target.done() or {}):
        found = Found.UNFINISHED
    if found in (Found.NOTHING, Found.REPLACED):
        sink.look_ahead()
    needed = sink.expected_bytes()
    if found is Found.UNFINISHED:
        needed -= sink.left_bytes()
    return preview(
        sink.source, target, sink.options, found, out=sink.out, needed=needed, **sink.outcome()
    )


def _begin(sink: Sink, target: FileTarget, plan: dict[str, Any]) -> dict[str, Any] | None:
    """Begin to write under ``plan``, or to go on.

    Returns:
        What an earlier run noted as done, if nothing is left to do; else None.

    Raises:
        PackError: the target holds something that may not be touched, or another plan; or there is
            no room to begin.
    """
    found = target.look(plan)
    if found in (Found.NOTHING, Found.REPLACED):  # before a plan is written, or anything removed
        images = sink.outcome().get("image_files", 0) if found is Found.NOTHING else 0
        target.require_space(sink.expected_bytes(), images)
        sink.look_ahead()
    if found is Found.REPLACED:
        target.forget()
        sink.remove()
    if target.begin(plan):
        done = target.done()  # a damaged one is as good as none: the files are looked at again
        if done is not None and sink.is_whole(done):
            return done
        target.forget()
    remove_parts(sink.out)
    return None


class SpanSink(Sink):
    """A sink that writes the source span by span, and goes on behind the spans that are written."""

    span_records: int = 16_384  #: a span's greatest number of records
    span_bytes: int = fmt.MAX_SHARD_BYTES  #: a span's greatest sum of bytes
    overhead: ClassVar[int] = 0  #: bytes that a record takes beside its image, at most
    #: suffixes of the files in state that are kept of a span until all are written
    kept: ClassVar[tuple[str, ...]] = ()
    #: names of the files in out that remove() knows beforehand
    written: ClassVar[tuple[str, ...]] = ()
    shard_suffix: ClassVar[str] = ""  #: of the file in out that each span makes, if it makes one
    shard_state: ClassVar[tuple[str, ...]] = ()  #: of the files in state that stay as long as it

    def __init__(self, source: Source, out: Path, options: ConvertOptions) -> None:
        super().__init__(source, out, options)
        #: the source's, in order
        self.spans = cut_spans(
            source,
            records=self.span_records,
            size=self.span_bytes,
            overhead=self.overhead,
            least=self.options.check.resized_bytes,
        )

    def plan(self) -> dict[str, Any]:
        """What the target is a function of, its tables and spans among it."""
        return super().plan() | {
            "tables": sorted(self.source.table_names),
            "shards": [vars(span) for span in self.spans],
        }

    def outcome(self) -> dict[str, Any]:
        """What would be written: a shard of each span, if that is so, and what stands beside."""
        suffix = self.shard_suffix
        shards = [(f"{span.name}{suffix}", span) for span in self.spans] if suffix else []
        tables = (f"{table}.npy" for table in sorted(self.source.table_names))
        return {"shards": shards, "files": [*self.written, *tables]}

    def expected_bytes(self) -> int:
        """About how many bytes the images take, and what is beside each."""
        return payload_bytes(self.source) + self.overhead * len(self.source)

    def pieces(self, suffix: str) -> Iterator[bytes]:
        """What is kept of each span under ``suffix``, read as it is asked for."""
        return ((self.state / f"{span.name}{suffix}").read_bytes() for span in self.spans)

    def require_usable(self, packed: int, refused: bytes) -> None:
        """Make sure that there is anything to finish.

        Raises:
            SourceError: all records are among ``refused``, lines of a ``quarantine.jsonl``.
        """
        if refused and not packed:
            first = Refusal(**next(_entries(refused)))
            raise SourceError(f"{self.out}: no record at all can be used; the first is {first}")

    def write_beside(
        self, refused: bytes, names: Mapping[int, str] | None = None, classes: int = 0
    ) -> tuple[dict[str, int], int | None]:
        """Write what stands beside the records: quarantine, names of identities, tables.

        Args:
            refused: lines of ``quarantine.jsonl``.
            names: of identities, by label; without any, no file of them is written.
            classes: the greatest label + 1, or more.

        Returns:
            The bytes of each file, and the pairs of a verification set.
        """
        files: dict[str, int] = {}
        tables: dict[str, np.ndarray] = {}
        if self.source.table_names:  # positions in them count the records that were not refused
            there = np.ones(len(self.source), bool)
            there[[entry["ordinal"] for entry in _entries(refused)]] = False
            tables = self.source.tables(np.where(there, np.cumsum(there) - 1, -1))
        for name, table in tables.items():
            _, files[f"{name}.npy"] = write_file(self.out / f"{name}.npy", [fmt.npy_bytes(table)])
        if names:
            text = fmt.labels_text(names, classes)
            _, files[fmt.LABELS] = write_file(self.out / fmt.LABELS, [text.encode()])
        if refused:
            _, files[fmt.QUARANTINE] = write_file(self.out / fmt.QUARANTINE, [refused])
        return files, len(tables["pairs"]) if "pairs" in tables else None

    def remove(self) -> None:
        """Remove what an earlier run wrote: :attr:`written`, quarantine, tables and shards."""
        plan = read_json(self.state / fmt.PLAN)
        tables = filter(fmt.is_plain_name, plan.get("tables", []))
        for name in (*self.written, fmt.QUARANTINE, *(f"{table}.npy" for table in tables)):
            (self.out / name).unlink(missing_ok=True)
        stems = (shard["name"] for shard in plan.get("shards", []) if self.shard_suffix)
        for stem in filter(fmt.is_plain_name, stems):
            (self.out / f"{stem}{self.shard_suffix}").unlink(missing_ok=True)
            for suffix in self.shard_state:
                (self.state / f"{stem}{suffix}").unlink(missing_ok=True)

    def state_files(self) -> list[Path]:
        """What is kept of spans until all are written."""
        return [self.state / f"{span.name}{kept}" for span in self.spans for kept in self.kept]

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, of files that are all among ``done["files"]``.

        Raises:
            PackError: a record of the source is neither packed nor quarantined.
        """
        found = done["packed"] + done["quarantined"]
        if found != len(self.source):
            raise PackError(
                f"{self.out}: {len(self.source)} records were found, {found} are accounted for: "
                "start anew with --overwrite"
            )
        kept = ("packed", "quarantined", "identities", "classes", "payload_bytes")
        files = done["files"]
        return Result.of(
            self.source,
            self.out,
            began,
            **{key: done[key] for key in kept},
            pairs=done.get("pairs"),
            shards=sum(name.endswith(self.shard_suffix) for name in files if self.shard_suffix),
            file_bytes=sum(files.values()),
        )


def _entries(refused: bytes) -> Iterator[dict[str, Any]]:
    """The entries of a ``quarantine.jsonl``."""
    return map(json.loads, refused.splitlines())


class ParallelSink(SpanSink):
    """A sink whose spans are written side by side, each by a worker."""

    @abstractmethod
    def written_bytes(self, span: Span) -> int | None:
        """Bytes that an earlier run wrote for ``span``; None if it must be made."""

    @staticmethod
    @abstractmethod
    def write_span(part: Part, out: Path, name: str, options: Any) -> None:
        """Write the span ``name``, and last what the state keeps of it; runs in a worker."""

    def left_bytes(self) -> int:
        """Bytes of the spans that are there."""
        written = [self.written_bytes(span) for span in self.spans]
        self._missing = [
            span for span, size in zip(self.spans, written, strict=True) if size is None
        ]
        return sum(filter(None, written))

    def write(self) -> None:
        """Write the spans that are missing."""
        write_spans(self.write_span, self._missing, self.source, self.out, self.options)
