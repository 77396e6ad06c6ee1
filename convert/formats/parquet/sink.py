"""Any source into Parquet files, as ``datasets`` and the Hugging Face Hub read them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack.convert.delivery import deliver
from facepack.convert.file_target import STATE, has_size
from facepack.convert.formats.pairs.pair_set import read_pair_set
from facepack.convert.formats.parquet.engine import arrow
from facepack.convert.formats.parquet.writer import IMAGE, classes, integers, writing_table
from facepack.convert.options import ConvertOptions
from facepack.convert.result import Result
from facepack.convert.sink import ParallelSink, Sink
from facepack.convert.source import Part, Source
from facepack.convert.spans import Span
from facepack.images import ImageHeader
from facepack.store import format as fmt
from facepack.store.checks import take_usual
from facepack.store.files import write_file
from facepack.store.preview import Preview
from facepack.store.record import RecordRun, SourceRecord

SUMMARY = "dataset.json"
CARD = "README.md"
_TEXT_IN_FILES = 4 << 20  # bytes of identities' names, which every file would repeat
_TRAIN, _TEST = "train", "test"


@dataclass(frozen=True, kw_only=True)
class TableOptions(ConvertOptions):
    """How Parquet files are written."""

    # of all identities, by label; None: labels are plain integers. The sink finds them
    names: tuple[str, ...] | None = None


class ParquetSink(ParallelSink):
    """Write ``source`` as files ``out/train-00000-of-00003.parquet``, with a row for each image.

    Rows are in source order; a file has at most 384 MiB of images. The column ``image`` is an
    Image of ``datasets``: the bytes as they are, uncompressed, and as the path the record's name,
    where it has one. ``label`` is a ClassLabel where identities have names, no two the same, of 4
    MiB at most together; else integers (-1: none). Numbers of a ``.rec`` header beside the label
    are not kept.

    ``out/README.md`` says to ``load_dataset(out)`` that these files are the data;
    ``out/dataset.json``, written last, has the counts, and for each file its name, rows, bytes and
    XXH3-128; ``out/labels.txt`` the names of identities, if there are any. Records that are no
    images go to ``out/quarantine.jsonl``; tables of an evaluation set to ``out/NAME.npy``,
    positions counting rows through all files.
    """

    kind = "parquet"
    span_records = fmt.MAX_SHARD_RECORDS
    written = (SUMMARY, CARD, fmt.LABELS)
    overhead = 64  # path, label, what pages and indexes say of them
    shard_suffix = ".parquet"
    shard_state = (".json",)
    options: TableOptions

    def __init__(self, source: Source, out: Path, options: TableOptions) -> None:
        arrow()
        super().__init__(source, out, options)
        count = len(self.spans)
        # In the order of their names, whatever the source calls its files.
        self.spans = [
            replace(span, name=f"{_TRAIN}-{k:05d}-of-{count:05d}")
            for k, span in enumerate(self.spans)
        ]
        self._names = self._identity_names()
        names, self._notices = _class_names(self._names, source.classes)
        self.options = replace(self.options, names=names)

    def _identity_names(self) -> dict[int, str]:
        """The names of all identities, by label."""
        names: dict[int, str] = {}
        for span in self.spans:
            names |= self.source.part(span.start, span.stop).identity_names()
        return names

    def plan(self) -> dict[str, Any]:
        """What the target is a function of, the names that are written into all files among it."""
        names = "\n".join(self.options.names or ()).encode()
        own = {
            "classes": self.source.classes,
            "named": self.options.names is not None,
            "identity_names_xxh3_128": xxhash.xxh3_128_hexdigest(names),
        }
        return super().plan() | own

    def written_bytes(self, span: Span) -> int | None:
        """Bytes of a span's file if an earlier run wrote it."""
        try:
            told = json.loads((self.state / f"{span.name}.json").read_bytes())
            size = int(told["bytes"])
            return size if has_size(self.out / told["name"], size) else None
        except (OSError, ValueError, LookupError, TypeError):  # none, or one that is damaged
            return None

    @staticmethod
    def write_span(part: Part, out: Path, name: str, options: TableOptions) -> None:
        """Write a file and what the state keeps of it; runs in a worker."""
        label = integers() if options.names is None else classes(options.names)
        labels: set[int] = set()
        with writing_table(out / f"{name}.parquet", {"image": IMAGE, "label": label}) as (
            table,
            file,
        ):

            def accept(record: SourceRecord) -> None:
                fmt.check_label(record.label)
                image, _ = options.check.look(record.image)
                table.add([image], [record.name], [record.label])
                labels.add(record.label)

            def take(run: RecordRun, headers: list[ImageHeader]) -> None:
                table.add_run(run)
                labels.update(np.unique(run.labels).tolist())

            refused = deliver(
                part,
                accept,
                accept_run=lambda run: take_usual(run, options.check, take),
                strict=options.strict,
            )
        told = {
            "name": f"{name}.parquet",
            "rows": table.rows,
            "bytes": file.size,
            "xxh3_128": file.digest,
            "payload_bytes": table.payload,
            "labels": sorted(labels),
            "refused": refused,
        }
        write_file(out / STATE / f"{name}.json", [fmt.json_text(told).encode()])

    def finish(self) -> dict[str, Any]:
        """Write what stands beside the files, and the summary."""
        labels: set[int] = set()
        tables: list[dict[str, Any]] = []
        entries: list[dict[str, Any]] = []
        for piece in self.pieces(".json"):
            told = json.loads(piece)
            labels.update(told.pop("labels"))
            entries += told.pop("refused")
            tables.append(told)
        packed = sum(told["rows"] for told in tables)
        refused = fmt.json_lines(entries)
        self.require_usable(packed, refused)
        count = max(self.source.classes or 0, max(labels, default=-1) + 1)
        known = {label: self._names[label] for label in labels if self._names.get(label)}
        files, pairs = self.write_beside(refused, known, count)
        files |= {told["name"]: told["bytes"] for told in tables}
        _, files[CARD] = write_file(self.out / CARD, [_card(_TRAIN)])
        summary = {
            "format": fmt.FORMAT_VERSION,
            "kind": self.source.content,
            "rows": packed,
            "quarantined": len(entries),
            "identities": len(labels - {fmt.NO_IDENTITY}),
            "classes": count,
            "payload_bytes": sum(told["payload_bytes"] for told in tables),
            "tables": sorted(self.source.table_names),
            "files": tables,
        }
        _, files[SUMMARY] = write_file(self.out / SUMMARY, [fmt.json_text(summary).encode()])
        kept = ("quarantined", "identities", "classes", "payload_bytes")
        figures = {key: summary[key] for key in kept}
        return figures | {"packed": packed, "files": files, "pairs": pairs}

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, with what was found out about the names of identities."""
        self.source.notices.extend(self._notices)
        return super().result(done, began)


class ParquetPairSink(Sink):
    """Write a verification set as ``out/test-00000-of-00001.parquet``, with a row for each pair.

    The columns are ``image1``, ``image2`` and ``label``, a ClassLabel of ``different`` (0) and
    ``same`` (1). An image that cannot be used stops the run before anything is written.
    """

    kind = "parquet-pairs"
    _FILE = f"{_TEST}-00000-of-00001.parquet"

    def plan(self) -> dict[str, Any]:
        """What the target is a function of. The set is read here: a bad one leaves no folder."""
        arrow()
        plan = super().plan()
        self._pairs = read_pair_set(self.source, self.options.check)
        self._payload = sum(len(self._pairs.images[use]) for use in self._pairs.uses.tolist())
        return plan

    def expected_bytes(self) -> int:
        """Bytes of all images of all pairs."""
        return self._payload

    def outcome(self) -> dict[str, Any]:
        """One file, and the card; a pair has two images."""
        return {"files": [self._FILE, CARD], "images": len(self._pairs.uses)}

    def write(self) -> None:
        """Write the file."""
        features = {
            "image1": IMAGE,
            "image2": IMAGE,
            "label": classes(["different", "same"]),
        }
        images, names = self._pairs.images, self._pairs.names
        with writing_table(self.out / self._FILE, features) as (table, file):
            uses = self._pairs.uses.reshape(-1, 2).tolist()
            for (a, b), same in zip(uses, self._pairs.issame.tolist(), strict=True):
                table.add([images[a], images[b]], [names[a], names[b]], [int(same)])
        self._written = file.size

    def finish(self) -> dict[str, Any]:
        """Write the card."""
        _, size = write_file(self.out / CARD, [_card(_TEST)])
        return {"files": {self._FILE: self._written, CARD: size}}

    def remove(self) -> None:
        """Remove what an earlier run wrote, and nothing else."""
        for name in (self._FILE, CARD):
            (self.out / name).unlink(missing_ok=True)

    def result(self, done: dict[str, Any], began: float) -> Result:
        """The result, of images that may be used several times."""
        size = sum(done["files"].values())
        figures = self._pairs.counts() | {"payload_bytes": self._payload, "file_bytes": size}
        return Result.of(self.source, self.out, began, **figures)


def convert_to_parquet(source: Source, out: Path, options: TableOptions) -> Result | Preview:
    """Write ``source`` into the folder ``out``: rows of images, or of pairs.

    Raises:
        MissingExtraError: ``pyarrow`` is not installed.
        SourceError: the source cannot be read, or a record is bad under ``strict``.
        PackError: the target cannot be written, is in use, or holds something else.
        WorkerError: a worker process died.
    """
    kind = ParquetPairSink if source.content == "pairs" else ParquetSink
    return kind.convert(source, out, options)


def _class_names(
    names: dict[int, str], stated: int | None
) -> tuple[tuple[str, ...] | None, list[str]]:
    """The names of a ClassLabel, and what the user should know; None where it cannot be one.

    Labels that have no name are called by their number.
    """
    if not any(names.values()):
        return None, []
    count = max(stated or 0, max(names) + 1)
    size = sum(map(len, names.values())) + count
    if size > _TEXT_IN_FILES:
        return None, [
            f"the names of identities take {size:,} bytes, which each file would repeat: labels "
            "are plain integers, and labels.txt has the names"
        ]
    listed = tuple(names.get(label) or str(label) for label in range(count))
    name, times = Counter(listed).most_common(1)[0]
    if times > 1:
        return None, [
            f"{times:,} identities are called {name!r}, and a ClassLabel has each name once: "
            "labels are plain integers, and labels.txt has the names"
        ]
    return listed, []


def _card(split: str) -> bytes:
    """A data set's card that says which files are the data."""
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: {split}\n"
        f'    path: "{split}-*.parquet"\n---\n'
    ).encode()
