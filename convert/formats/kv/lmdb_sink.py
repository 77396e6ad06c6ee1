"""Any source into an LMDB database through the engine, as trainers' own readers want it."""

from __future__ import annotations

import mmap
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from facepack.convert.delivery import deliver
from facepack.convert.formats.kv.data import DATA, KvData
from facepack.convert.formats.kv.index import read_kv
from facepack.convert.formats.kv.writer import KvItem, KvWriter
from facepack.convert.options import ConvertOptions
from facepack.convert.result import Result
from facepack.convert.sink import SpanSink
from facepack.convert.source import Source
from facepack.convert.spans import Span
from facepack.errors import SourceError
from facepack.progress import Progress
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.lmdb_format import MAX_PAGE_SIZE
from facepack.store.lmdb_write import node_costs, overflow_pages
from facepack.store.record import Buffer, SourceRecord

LMDB = "faces.lmdb"
_STEP = 16_384  # records whose sizes are looked at together
_BATCH_RECORDS = 1_000  # of a transaction
_BATCH_BYTES = 16 << 20
_KEY_BYTES = np.full(1, 24)  # of a key, about


class LmdbSink(SpanSink):
    """Write ``source`` as the database ``out/faces.lmdb``.

    What a value is, and what lists the records, is told by those that derive from it. Records that
    are no images go to ``out/quarantine.jsonl``; tables of an evaluation set to ``out/NAME.npy``,
    positions being those in that list.

    An LMDB database has one writer: everything is done in this process, whatever ``workers`` says.
    """

    kept = (".kv", ".jsonl", ".bytes")
    #: what some records without identity mean to readers, as the end of a sentence
    without_identity: ClassVar[str]

    def __init__(self, source: Source, out: Path, options: ConvertOptions) -> None:
        super().__init__(source, out, options)
        self.counts = LabelCounts()

    @abstractmethod
    def item(self, record: SourceRecord, image: Buffer, stem: str) -> KvItem:
        """The next record, with its ``image`` as it was looked at; counts it.

        ``stem`` is the name of the group that it lies in.
        """

    @abstractmethod
    def write_list(self, figures: dict[str, int]) -> dict[str, int]:
        """Write what lists the records, which readers go by; bytes of the files that it makes.

        ``figures`` are those of all records, by :meth:`LabelCounts.summary`.
        """

    def classes(self, figures: dict[str, int]) -> int:
        """The width of a head."""
        return max(self.source.classes or 0, figures["classes"])

    def expected_bytes(self) -> int:
        """About how large the database will be."""
        return _needed_bytes(self.source.sizes())

    def left_bytes(self) -> int:
        """How large it is; 0 where it is damaged."""
        try:
            return KvData.look(self.out / LMDB / DATA).size
        except (OSError, SourceError):
            return 0

    def outcome(self) -> dict[str, Any]:
        """The database, and what stands beside it."""
        outcome = super().outcome()
        return outcome | {"files": [f"{LMDB}/{DATA}", *outcome["files"]]}

    def writer(self) -> KvWriter:
        """The database, to be opened for writing."""
        # Room beyond what it should need costs nothing: it is address space.
        return KvWriter(self.out / LMDB, map_size=2 * self.expected_bytes() + (64 << 20))

    def write(self) -> None:
        """Write the missing spans, and count the labels of all."""
        if not self.left_bytes():  # the engine must not see it: a truncated map kills the process
            (self.out / LMDB / DATA).unlink(missing_ok=True)
        with (
            Progress(len(self.source), unit="images", label=self.out.name) as progress,
            self.writer() as writer,
        ):
            for span, stem in zip(self.spans, _stems(self.source, self.spans), strict=True):
                if self._is_written(span, writer):
                    self.counts.add(read_kv(self.state / f"{span.name}.kv").labels)
                    progress.skip(span.stop - span.start)
                else:
                    self._write_span(span, stem, writer, progress)
            writer.sync()

    def _is_written(self, span: Span, writer: KvWriter) -> bool:
        """Whether an earlier run wrote the span and its records are all there."""
        state = [self.state / f"{span.name}{suffix}" for suffix in self.kept]
        if not all(path.exists() for path in state):
            return False
        lines = state[0].read_bytes().splitlines()
        return writer.has(line.partition(b" ")[0] for line in lines)

    def _write_span(self, span: Span, stem: str, writer: KvWriter, progress: Progress) -> None:
        batch: list[KvItem] = []
        labels: list[int] = []
        keys: list[str] = []
        batch_bytes = payload = 0

        def accept(record: SourceRecord) -> None:
            nonlocal batch_bytes, payload
            fmt.check_label(record.label)
            image, _ = self.options.check.look(record.image)
            batch.append(self.item(record, image, stem))
            labels.append(record.label)
            batch_bytes += len(image)
            payload += len(image)
            if len(batch) == _BATCH_RECORDS or batch_bytes >= _BATCH_BYTES:
                flush()

        def flush() -> None:
            nonlocal batch_bytes
            keys.extend(writer.put(batch))
            batch.clear()
            batch_bytes = 0

        part = self.source.part(span.start, span.stop)
        refused = deliver(part, accept, strict=self.options.strict, progress=progress)
        flush()
        writer.sync()
        lines = "".join(f"{key} {label}\n" for key, label in zip(keys, labels, strict=True))
        write_file(self.state / f"{span.name}.jsonl", [fmt.json_lines(refused)])
        write_file(self.state / f"{span.name}.bytes", [str(payload).encode()])
        write_file(self.state / f"{span.name}.kv", [lines.encode()])

    def finish(self) -> dict[str, Any]:
        """Write what stands beside the database, and what lists its records."""
        refused = b"".join(self.pieces(".jsonl"))
        figures = self.counts.summary()
        self.require_usable(figures["packed"], refused)
        files, pairs = self.write_beside(refused)
        files |= self.write_list(figures)
        files[f"{LMDB}/{DATA}"] = (self.out / LMDB / DATA).stat().st_size
        return {
            **figures,
            "quarantined": refused.count(b"\n"),
            "pairs": pairs,
            "payload_bytes": sum(map(int, self.pieces(".bytes"))),
            "files": files,
        }

    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        super().remove()
        (self.out / LMDB / DATA).unlink(missing_ok=True)
        if (self.out / LMDB).is_dir() and not any((self.out / LMDB).iterdir()):
            (self.out / LMDB).rmdir()

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, with a notice of records that readers cannot use."""
        if done["no_identity"]:
            self.source.notices.append(
                f"{done['no_identity']:,} of {done['packed']:,} records have no identity: "
                f"{self.without_identity}"
                if done["no_identity"] < done["packed"]
                else "no record has an identity: trainers, which this format is for, cannot use "
                "it; facepack eval takes a set of pairs as a pack (…2lmdb) or .bin"
            )
        return super().result({**done, "classes": self.classes(done)}, began)


class LabelCounts:
    """How many records each label has; -1 (no identity) is a label here."""

    def __init__(self) -> None:
        self._counts = np.zeros(1024, np.int32)  # of label - 1
        self.total = 0  # how many records there are

    def add(self, labels: np.ndarray) -> None:
        """Count these labels."""
        self._reach(int(labels.max(initial=fmt.NO_IDENTITY)))
        np.add.at(self._counts, labels + 1, 1)
        self.total += len(labels)

    def next(self, label: int) -> int:
        """Count one record of ``label``; returns how many there were before."""
        self._reach(label)
        count = int(self._counts[label + 1])
        self._counts[label + 1] += 1
        self.total += 1
        return count

    def _reach(self, label: int) -> None:
        if label + 1 >= len(self._counts):
            grown = np.zeros(max(label + 2, 2 * len(self._counts)), np.int32)
            grown[: len(self._counts)] = self._counts
            self._counts = grown

    def summary(self) -> dict[str, int]:
        """Records, identities, classes (the greatest label + 1), records without identity."""
        present = np.flatnonzero(self._counts[1:])
        return {
            "packed": self.total,
            "identities": len(present),
            "classes": int(present[-1]) + 1 if len(present) else 0,
            "no_identity": int(self._counts[0]),
        }


def _needed_bytes(sizes: np.ndarray) -> int:
    """About how many bytes images of these sizes take in the database, in pages of the system's."""
    page_size = min(mmap.PAGESIZE, MAX_PAGE_SIZE)
    needed = 0
    for start in range(0, len(sizes), _STEP):
        some = sizes[start : start + _STEP].astype(np.int64)
        needed += page_size * int(overflow_pages(page_size, _KEY_BYTES, some).sum())
        # Keys that come in no order leave leaf pages half full.
        needed += 2 * int(node_costs(page_size, _KEY_BYTES, some).sum())
    return needed


def _stems(source: Source, spans: list[Span]) -> Iterator[str]:
    """The name of the group that each span lies in."""
    groups = source.groups()
    starts = [group.start for group in groups]
    for span in spans:
        yield groups[bisect_right(starts, span.start) - 1].stem
