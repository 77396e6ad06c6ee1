"""One shard: gathering records, choosing their order, writing both files, committing them.

A shard's files are a pure function of its records and the plan. The commit is the rename of the
``.mdb`` file, which comes last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepack.hashing import hash64
from facepack.images import ImageHeader
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck, take_usual
from facepack.store.files import write_file
from facepack.store.fill import fill_pages
from facepack.store.lmdb_format import PAGE_HEADER, PAGE_SIZES
from facepack.store.lmdb_write import fill_in_order, lmdb_pages, node_costs, overflow_pages
from facepack.store.record import Buffer, RecordRun, SourceRecord

ENCODED = "encoded"
# Of image statistics; the last only where images were encoded anew.
_IMAGE_FIELDS = ("formats", "channels", "oriented", "height", "width", ENCODED)

_SAMPLE = 1024  # records from which the page size is chosen
# With very many records to a page, cutting in order wastes next to nothing.
_FILL_BELOW = 64


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """What the manifest says of a shard.

    ``own_name``, ``pack_id`` and ``shard`` are those that the shard itself states: its name and
    number in the pack that it was made for. ``name`` is that of its files; it and the labels of the
    index differ from the shard's own where packs were merged: ``label_map`` is the file that takes
    the shard's labels to those of the index. Where the pack has only some of the shard's records,
    ``selection`` describes these (:mod:`facepack.store.selection`), and ``records``,
    ``payload_bytes`` and ``images`` are theirs.
    """

    name: str
    own_name: str
    pack_id: str
    shard: int
    records: int
    payload_bytes: int
    page_size: int
    quarantined: int
    images: dict[str, Any]
    files: dict[str, dict[str, Any]]  # file name → {"bytes", "xxh3_128"}
    label_map: str | None = None
    selection: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The shard's entry in ``pack.json``."""
        entry = dict(vars(self))
        if self.selection is None:
            del entry["selection"]
        return entry

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> ShardInfo:
        """A shard's entry in ``pack.json``; what a later version added is left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{key: value for key, value in entry.items() if key in known})

    @classmethod
    def from_meta(
        cls, meta: dict[str, Any], name: str, quarantined: int, files: dict[str, dict[str, Any]]
    ) -> ShardInfo:
        """The entry of a shard whose ``__meta__`` is ``meta``."""
        same = ("pack_id", "shard", "records", "payload_bytes", "page_size")
        return cls(
            name=name,
            own_name=meta["name"],
            quarantined=quarantined,
            images={key: value for key, value in meta["images"].items() if key in _IMAGE_FIELDS},
            files=files,
            **{key: meta[key] for key in same},
        )


class WrittenShard(NamedTuple):
    """A shard that is on the disk, and what it says for ``labels.txt`` and ``quarantine.jsonl``."""

    info: ShardInfo  # its entry in the manifest
    # of its records, by key: int64 (records,); where nobody asks, empty
    ordinals: np.ndarray = np.zeros(0, np.int64)
    identity_names: Mapping[int, str] = {}  # by label in the pack
    refused: Sequence[dict[str, Any]] = ()  # lines of quarantine.jsonl

    def without_ordinals(self) -> WrittenShard:
        """The same for those who do not ask for them: a pack may have many records."""
        return self._replace(ordinals=self.ordinals[:0].copy())


def image_statistics(headers: Sequence[ImageHeader]) -> dict[str, Any]:
    """``{"formats", "channels", "oriented", "height", "width"}`` of images.

    ``formats`` and ``channels`` count images; ``oriented`` are those whose EXIF orientation says
    that they be turned; ``height`` and ``width`` are ``[min, max]`` in pixels.
    """
    # Most images share a header with others, object and all: few are left to look at.
    different = {id(header): header for header in headers}
    formats: Counter[str] = Counter()
    channels: Counter[int] = Counter()
    oriented = 0
    for identity, count in Counter(map(id, headers)).items():
        header = different[identity]
        formats[header.format] += count
        channels[header.channels] += count
        oriented += count * (header.orientation != 1)
    heights = [header.height for header in different.values()] or [0]
    widths = [header.width for header in different.values()] or [0]
    return {
        "formats": dict(sorted(formats.items())),
        "channels": {str(number): count for number, count in sorted(channels.items())},
        "oriented": oriented,
        "height": [min(heights), max(heights)],
        "width": [min(widths), max(widths)],
    }


def shard_figures(shards: Sequence[ShardInfo]) -> dict[str, Any]:
    """The pack's figures that are those of its shards together, under their names there."""
    return {
        "records": sum(shard.records for shard in shards),
        "quarantined": sum(shard.quarantined for shard in shards),
        "payload_bytes": sum(shard.payload_bytes for shard in shards),
        "images": _merge_statistics([shard.images for shard in shards]),
    }


def _merge_statistics(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the image statistics of shards into the pack's."""
    filled = [part for part in parts if part["formats"]]

    def count(field: str) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(part[field])
        return dict(sorted(counts.items()))

    def span(field: str) -> list[int]:
        bounds = [bound for part in filled for bound in part[field]] or [0]
        return [min(bounds), max(bounds)]

    encoded = sum(part.get(ENCODED, 0) for part in parts)
    return {
        "formats": count("formats"),
        "channels": count("channels"),
        "oriented": sum(part["oriented"] for part in parts),
        "height": span("height"),
        "width": span("width"),
        **({ENCODED: encoded} if encoded else {}),
    }


def content_id(shards: Sequence[ShardInfo], files: Mapping[str, Mapping[str, Any]]) -> str:
    """What tells a pack's content from any other's: the digests of shards and tables."""

    def known(files: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: {key: stated[key] for key in ("bytes", "xxh3_128")}
            for name, stated in files.items()
        }

    tables = {f"{name}.npy": files[f"{name}.npy"] for name in fmt.table_names(files)}
    return fmt.content_id([[known(shard.files) for shard in shards], known(tables)])


class ShardBuilder:
    """Gathers the records of one shard, then writes it.

    ``identity_names`` (of labels present) and ``refused`` (source records that were set aside, as
    lines of ``quarantine.jsonl``) are written with it.
    """

    def __init__(self, *, check: ImageCheck | None = None) -> None:
        self.images: list[Buffer] = []
        self.labels: list[int] = []
        self.ordinals: list[int] = []
        self.names: list[str | None] = []
        self.extras: list[dict[str, float | int] | None] = []  # of runs: None
        self.identity_names: dict[int, str] = {}
        self.refused: list[dict[str, Any]] = []
        self.payload_bytes = 0
        self.encoded = 0  # images that are not stored as they were
        self._check = check or ImageCheck()
        self._headers: list[ImageHeader] = []
        self._run_extras: list[tuple[int, dict[str, np.ndarray]]] = []  # with the first record

    def __len__(self) -> int:
        return len(self.images)

    def add(self, record: SourceRecord) -> None:
        """Take a record.

        Raises:
            DecodeError: the image cannot be decoded, or is not what was asked for.
            PackError: the label lies outside what the index can hold.
        """
        fmt.check_label(record.label)
        image, header = self._check.look(record.image)
        self.encoded += image is not record.image
        self._headers.append(header)
        self.images.append(image)
        self.labels.append(record.label)
        self.ordinals.append(record.ordinal)
        self.names.append(record.name)
        self.extras.append(record.extra)
        self.payload_bytes += len(image)

    def add_run(self, run: RecordRun) -> Iterator[SourceRecord]:
        """Take the usual records of ``run`` at once; yield the others, each in its turn.

        What is yielded is for :meth:`add`, before the next is asked for: then all is as if each
        record had been added by itself.
        """
        return take_usual(run, self._check, self._extend)

    def _extend(self, run: RecordRun, headers: list[ImageHeader]) -> None:
        self._headers += headers
        if run.extra:
            self._run_extras.append((len(self), run.extra))
        self.images += run.images()
        self.labels += run.labels.tolist()
        self.ordinals += run.ordinals.tolist()
        self.names += run.names or [None] * len(run)
        self.extras += [None] * len(run)
        self.payload_bytes += int((run.stops - run.starts).sum())

    def write(
        self, folder: Path, name: str, *, order: str, seed: int, meta: dict[str, Any]
    ) -> WrittenShard:
        """Write and commit ``name.kv`` and ``name.mdb`` in ``folder``.

        ``meta`` is what ``__meta__`` says beside the shard's own figures.

        Raises:
            PackError: the disk is full, or the files cannot be written.
        """
        fmt.check_shard_name(name)
        labels = np.asarray(self.labels, np.int64)
        ordinals = np.asarray(self.ordinals, np.int64)
        sizes = np.fromiter(map(len, self.images), np.int64, len(self.images))
        page_size = choose_page_size(sizes)
        arranged, starts = _arrange(order, seed, ordinals, labels, sizes, page_size)
        listed = arranged.tolist()
        keys = [fmt.record_key(key) for key in range(len(listed))]
        values: list[Buffer] = [self.images[i] for i in listed]
        meta = {
            **meta,
            "version": fmt.FORMAT_VERSION,
            "name": name,
            "records": len(keys),
            "payload_bytes": self.payload_bytes,
            "page_size": page_size,
            "images": image_statistics(self._headers),
        }
        if self.encoded:
            meta["images"][ENCODED] = self.encoded
        reserved = self._reserved(arranged, keys, meta)

        kv = fmt.kv_bytes(labels[arranged])
        kv_path, mdb_path = folder / f"{name}.kv", folder / f"{name}.mdb"
        kv_digest, kv_size = write_file(kv_path, [kv])
        if starts:
            # The reserved records begin in what the last page of images has left.
            costs = _costs(page_size, keys[starts[-1] :], values[starts[-1] :])
            reserved_costs = _costs(page_size, list(reserved), list(reserved.values()))
            tail = fill_in_order(np.concatenate([costs, reserved_costs]), page_size)
            starts = starts[:-1] + [starts[-1] + start for start in tail]
        pages = lmdb_pages(
            keys + list(reserved),
            values + list(reserved.values()),
            page_size=page_size,
            leaf_starts=starts or None,
        )
        mdb_digest, mdb_size = write_file(mdb_path, pages)
        files = {
            kv_path.name: {"bytes": kv_size, "xxh3_128": kv_digest},
            mdb_path.name: {"bytes": mdb_size, "xxh3_128": mdb_digest},
        }
        info = ShardInfo.from_meta(meta, name, len(self.refused), files)
        return WrittenShard(info, ordinals[arranged], self.identity_names, self.refused)

    def _reserved(
        self, arranged: np.ndarray, keys: list[bytes], meta: dict[str, Any]
    ) -> dict[bytes, bytes]:
        """The reserved records, in ascending order of their keys."""
        labels = np.asarray(self.labels, np.int64)[arranged]
        ordinals = np.asarray(self.ordinals, np.int64)[arranged]
        first = int(ordinals.min()) if len(arranged) else 0
        columns = self._extra_columns()
        extra = {
            "first": first,
            "ordinal": fmt.pack_column(fmt.number_column(ordinals - first)),
            "columns": {key: fmt.pack_column(columns[key][arranged]) for key in sorted(columns)},
        }
        # Images lie in memory in the order in which they came: so each is there when it is wanted.
        came = [keys[position] for position in np.argsort(arranged).tolist()]
        checksums = np.fromiter(fmt.record_checksums(came, self.images), np.uint64, len(came))
        bodies: dict[bytes, Any] = {
            fmt.META: meta,
            fmt.LABEL_COLUMN: fmt.pack_column(labels.astype("<i4")),
            fmt.CHECKSUMS: fmt.pack_column(checksums[arranged]),
            fmt.EXTRA: extra,
        }
        if any(name is not None for name in self.names):
            bodies[fmt.NAMES] = [self.names[i] for i in arranged.tolist()]
        if self.identity_names:
            known = sorted(self.identity_names)
            bodies[fmt.IDENTITIES] = {
                "labels": fmt.pack_column(np.asarray(known, "<i4")),
                "names": [self.identity_names[label] for label in known],
            }
        if self.refused:
            bodies[fmt.QUARANTINED] = self.refused
        return {key: fmt.pack_reserved(key, bodies[key]) for key in sorted(bodies)}

    def _extra_columns(self) -> dict[str, np.ndarray]:
        """The numbers of the source's headers, by name, in the order of the records."""
        runs = [extra for _, extra in self._run_extras]
        names = set(runs[0]) if runs else set()
        in_runs = sum(len(next(iter(extra.values()))) for extra in runs)
        if in_runs == len(self) and all(names == set(extra) for extra in runs):
            columns = {name: np.concatenate([extra[name] for extra in runs]) for name in names}
            # NumPy makes floats of integers with and without a sign, where some have 64 bits.
            if all(column.dtype.kind in "iu" for column in columns.values()):
                return {name: fmt.number_column(column) for name, column in columns.items()}
        if not runs and not any(self.extras):
            return {}
        extras = [values or {} for values in self.extras]
        for start, extra in self._run_extras:
            rows = zip(*(values.tolist() for values in extra.values()), strict=True)
            for k, row in enumerate(rows, start):
                extras[k] = dict(zip(extra, row, strict=True))
        columns = {}
        for column in set().union(*extras):
            try:
                numbers: list[float | int | None] = list(map(itemgetter(column), extras))
            except KeyError:
                numbers = [values.get(column) for values in extras]
            columns[column] = fmt.number_column(numbers)
        return columns


def choose_page_size(sizes: np.ndarray) -> int:
    """The page size under which records of these sizes take the fewest bytes.

    It is found by filling pages with a sample of them: 32 KiB for faces of some KB, which then lie
    inline; 4 KiB for values so large that each takes whole pages of its own anyway.
    """
    if not len(sizes):
        return PAGE_SIZES[0]
    sample = sizes[:: -(-len(sizes) // _SAMPLE)]
    keys = np.full(len(sample), 10)

    def total(page_size: int) -> int:
        costs = node_costs(page_size, keys, sample)
        _, starts = _fill(costs, page_size)
        return page_size * (len(starts) + int(overflow_pages(page_size, keys, sample).sum()))

    return min(reversed(PAGE_SIZES), key=total)


def _fill(costs: np.ndarray, page_size: int) -> tuple[np.ndarray, list[int]]:
    room = page_size - PAGE_HEADER
    if costs.mean() * _FILL_BELOW < room:
        return np.arange(len(costs)), fill_in_order(costs, page_size)
    return fill_pages(costs, room)


def _costs(page_size: int, keys: list[bytes], values: list[Any]) -> np.ndarray:
    return node_costs(
        page_size,
        np.fromiter(map(len, keys), np.int64, len(keys)),
        np.fromiter(map(len, values), np.int64, len(values)),
    )


def _arrange(
    order: str,
    seed: int,
    ordinals: np.ndarray,
    labels: np.ndarray,
    sizes: np.ndarray,
    page_size: int,
) -> tuple[np.ndarray, list[int] | None]:
    """The order of the records, and the first record of each page where that was chosen too."""
    if order == "source":
        return np.argsort(ordinals, kind="stable"), None
    if order == "identity":
        return np.lexsort((ordinals, labels)), None
    shuffled = np.argsort(hash64(seed, ordinals), kind="stable")
    if not len(shuffled):
        return shuffled, None
    costs = node_costs(page_size, np.full(len(sizes), 10), sizes[shuffled])
    filled, starts = _fill(costs, page_size)
    return shuffled[filled], starts
