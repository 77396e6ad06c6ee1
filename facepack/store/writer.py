"""Writing packs from Python, record by record."""

from __future__ import annotations

import operator
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from facepack.errors import PackError
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck
from facepack.store.finish import finish_pack
from facepack.store.plan import PackPlan
from facepack.store.record import Buffer, SourceRecord
from facepack.store.shard import ShardBuilder, WrittenShard
from facepack.store.target import Target


class PackWriter:
    """Writes a pack record by record; leaving the ``with`` block finishes it.

    >>> with facepack.PackWriter("faces", classes=2) as writer:
    ...     writer.add(jpeg_bytes, 0)
    ...     writer.add(other_bytes, 1)

    Args:
        path: a new or empty folder.
        classes: the width of a head, which labels must lie below; default is the highest + 1.
        order: of records in a shard: ``shuffled``, ``source``, or ``identity`` (grouped).
        seed: of the shuffled order.
        check: how closely images are looked at; their headers by default.
        overwrite: replace the pack that the folder holds.
        shard_records: a shard's greatest number of records.
        shard_bytes: a shard's greatest payload, as far as one record does not exceed it.
        stem: shards are called ``stem-000``, ``stem-001``, ….
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        classes: int | None = None,
        order: str = "shuffled",
        seed: int = 0,
        check: ImageCheck | None = None,
        overwrite: bool = False,
        shard_records: int = fmt.MAX_SHARD_RECORDS,
        shard_bytes: int = fmt.MAX_SHARD_BYTES,
        stem: str = "shard",
    ) -> None:
        for option, value, top in (
            ("shard_records", shard_records, fmt.MAX_SHARD_RECORDS),
            ("shard_bytes", shard_bytes, fmt.MAX_SHARD_BYTES),
        ):
            if not 1 <= value <= top:
                raise PackError(f"{option}={value}: allowed are 1 to {top}")
        self.path = Path(path)
        self._plan = PackPlan.make(
            kind="train",
            source={"kind": "stream", "stem": fmt.check_shard_name(stem)},
            order=order,
            seed=seed,
            check=check,
            classes=classes,
        )
        self._target = Target(self.path, overwrite=overwrite)
        self._shard_records = shard_records
        self._shard_bytes = shard_bytes
        self._stem = stem
        self._open = False
        self._check = check
        self._builder = ShardBuilder(check=check)
        self._shards: list[WrittenShard] = []
        self._tables: dict[str, np.ndarray] = {}
        self._identity_names: dict[int, str] = {}
        self._count = 0

    def __enter__(self) -> PackWriter:
        self._target.__enter__()
        try:
            self._target.begin(self._plan.fields)
        except BaseException:
            self._target.__exit__(None, None, None)
            raise
        self._open = True
        return self

    def add(
        self, image: Buffer, label: int, name: str | None = None, identity: str | None = None
    ) -> None:
        """Append a record.

        Args:
            image: the encoded image; stored byte for byte.
            label: the identity's number from 0, or -1 for none.
            name: the record's name in its source.
            identity: the identity's name in its source.

        Raises:
            DecodeError: the image cannot be decoded.
            PackError: the label is out of range.
        """
        self._require_open()
        label = operator.index(label)
        declared = self._plan.fields["classes"]
        if declared is not None and label >= declared:
            raise PackError(f"label {label}: the pack was declared to have {declared} classes")
        if identity is not None and label >= 0:
            known = self._identity_names.get(label, identity)
            if known != identity:
                raise PackError(f"label {label} is named {known!r} and {identity!r}: choose one")
        builder = self._builder
        full = len(builder) >= self._shard_records
        if full or (len(builder) and builder.payload_bytes + len(image) > self._shard_bytes):
            self._write_shard(last=False)
            builder = self._builder
        builder.add(SourceRecord(self._count, bytes(image), label, name))
        self._count += 1
        if identity is not None and label >= 0:
            self._identity_names[label] = builder.identity_names[label] = identity

    def _require_open(self) -> None:
        if not self._open:
            raise PackError("use the writer in a with block: leaving it finishes the pack")

    def add_table(self, name: str, table: np.ndarray) -> None:
        """Put a table of an evaluation set beside the shards; ``pairs`` makes it a pair set.

        Tables refer to records by position, so the pack's order must be ``source``; and every shard
        says which tables there are, so they come before the first shard is full.

        Raises:
            PackError: another order, too late, or ``pairs`` that are not integers of shape (P, 3).
        """
        self._require_open()
        if self._shards:
            raise PackError(f"table {name!r}: add tables first, before the records")
        if self._plan.fields["order"] != "source":
            raise PackError("a table refers to positions: write the pack with order='source'")
        fmt.check_shard_name(name)
        if fmt.is_label_map(f"{name}.npy"):
            raise PackError(f"table {name!r}: label maps have such names; choose another")
        if name == "pairs":
            fmt.check_pairs(table, 1 << 62, "pairs")
            self._plan = self._plan.with_fields(kind="pairs")
        self._tables[name] = table
        self._plan = self._plan.with_fields(tables=sorted(self._tables))

    def _write_shard(self, *, last: bool) -> None:
        k = len(self._shards)
        builder, fields = self._builder, self._plan.fields
        if not k:
            # A stream has no source to be told by: its first shard's content stands for it.
            checksums = [fmt.record_checksum(b"", bytes(image)) for image in builder.images]
            pack_id = fmt.content_id([fields, checksums, builder.labels])
            self._plan = replace(self._plan, pack_id=pack_id)
        written = builder.write(
            self.path,
            f"{self._stem}-{k:03d}",
            order=fields["order"],
            seed=fields["seed"],
            meta=self._plan.shard_meta(k, last=last),
        )
        self._shards.append(written.without_ordinals())
        self._builder = ShardBuilder(check=self._check)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._open = False
        try:
            if kind is None:
                if "pairs" in self._tables:
                    fmt.check_pairs(self._tables["pairs"], self._count, "pairs")
                self._write_shard(last=True)
                finish_pack(self.path, self._plan, self._shards, tables=self._tables)
        finally:
            self._target.__exit__()
