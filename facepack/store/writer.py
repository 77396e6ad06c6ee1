"""Writing packs: from Python record by record, and the manifest that finishes every pack."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import PackError
from facepack.reading import read_bytes
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck
from facepack.store.files import write_file
from facepack.store.labelmap import label_map_bytes
from facepack.store.record import Buffer, SourceRecord
from facepack.store.shard import ShardBuilder, ShardInfo, merge_statistics
from facepack.store.target import Target
from facepack.system import sync_folder


def make_plan(
    *,
    kind: str,
    source: dict[str, Any],
    order: str = "shuffled",
    seed: int = 0,
    check: ImageCheck | None = None,
    classes: int | None = None,
    tables: Sequence[str] = (),
    shards: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The plan of a pack, as ``plan.json`` holds it: whatever its content depends on.

    Args:
        kind: ``train``, ``pairs``, ``templates`` or ``megaface``.
        source: what is packed: its kind, files, sizes, hashes.
        order: of the records in a shard: ``shuffled``, ``source`` or ``identity``.
        seed: of the shuffled order.
        check: how closely images are looked at.
        classes: the width of a head, if the source states it.
        tables: names of the tables of an evaluation set.
        shards: name, start and stop (source ordinals) of each; None when records are streamed.

    Raises:
        PackError: an option is not one of those allowed.
    """
    if order not in fmt.ORDERS:
        raise PackError(f"{order!r}: allowed are {', '.join(fmt.ORDERS)}")
    seed = operator.index(seed)
    if not 0 <= seed < 1 << 63:
        raise PackError(f"seed {seed}: allowed are 0 to 2^63 - 1")
    if classes is not None:
        classes = operator.index(classes)
        if not 0 <= classes <= fmt.MAX_LABEL + 1:
            raise PackError(f"classes {classes}: allowed are 0 to {fmt.MAX_LABEL + 1}")
    return {
        "format": fmt.FORMAT_VERSION,
        "kind": kind,
        "source": source,
        "order": order,
        "seed": seed,
        "check": (check or ImageCheck()).as_json(),
        "classes": classes,
        "tables": sorted(tables),
        "shards": shards,
    }


def shard_meta(plan: dict[str, Any], pack_id: str, k: int, shards: int | None) -> dict[str, Any]:
    """What every shard says of its pack, so that the pack can be rebuilt from its shards."""
    header = {key: value for key, value in plan.items() if key != "shards"}
    span = plan["shards"][k] if plan["shards"] else None
    return {"pack_id": pack_id, "shard": k, "shards": shards, "plan": header, "span": span}


def finish_pack(
    folder: Path,
    *,
    plan: dict[str, Any],
    pack_id: str,
    shards: Sequence[ShardInfo],
    refused: Sequence[dict[str, Any]],
    identity_names: Mapping[int, str] | None = None,
    tables: Mapping[str, np.ndarray] | None = None,
    label_maps: Mapping[str, np.ndarray] | None = None,
    partial: bool = False,
    replacing: bool = False,
    before: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write what stands beside the shards, the manifest last, and return the manifest.

    Args:
        folder: the pack.
        plan: becomes ``plan.json``.
        pack_id: of the pack.
        shards: their entries, in order; their indexes are there.
        refused: lines of ``quarantine.jsonl``.
        identity_names: the names of identities, by label.
        tables: tables of an evaluation set, by name.
        label_maps: those that ``shards`` name, by file name.
        partial: shards were left out.
        replacing: the folder holds a finished pack, which stays whole until its manifest is
            replaced: until then, new files have other names, by which readers find them.
        before: the manifests that told of these shards until now; what later versions added to
            them is kept of all that is still the same.
    """
    files: dict[str, dict[str, Any]] = {}

    def put(name: str, data: bytes) -> None:
        waiting = folder / fmt.next_name(name, pack_id)
        digest, size = write_file(waiting if replacing else folder / name, [data])
        files[name] = {"bytes": size, "xxh3_128": digest}
        if not replacing:
            waiting.unlink(missing_ok=True)

    labels = [
        fmt.kv_labels(read_bytes(folder / f"{shard.name}.kv", None), f"{shard.name}.kv")
        for shard in shards
    ]
    if identity_names:
        classes = _class_count(plan, _present_labels(labels))
        names = [identity_names.get(label, "") for label in range(classes)]
        put(fmt.LABELS, fmt.labels_text(names).encode())
    if refused:
        put(fmt.QUARANTINE, fmt.json_lines(refused))
    for name, table in (tables or {}).items():
        put(f"{name}.npy", fmt.npy_bytes(table))
    for name, label_map in (label_maps or {}).items():
        put(name, label_map_bytes(label_map))
    put(fmt.PLAN, fmt.json_text(plan).encode())
    manifest = build_manifest(
        plan=plan,
        pack_id=pack_id,
        shards=shards,
        labels=labels,
        quarantined=len(refused),
        pairs=len(tables["pairs"]) if tables and "pairs" in tables else None,
        partial=partial,
        files=files,
    )
    for old in before:
        _keep_unknown(manifest, old)
    write_file(folder / fmt.MANIFEST, [fmt.json_text(manifest).encode()])
    if replacing:
        settle(folder, manifest)
    return manifest


def _keep_unknown(manifest: dict[str, Any], old: dict[str, Any]) -> None:
    """Take over what a later version said in ``old`` of what is the same in ``manifest``.

    That is the pack while its ``content_id`` stays, and a shard or another file while its digest
    does.
    """

    def by_digest(manifest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for entry in manifest["shards"]:
            mdb = entry["files"][f"{entry['name']}.mdb"]
            yield f"shard {mdb['xxh3_128']}", entry
            yield from ((stated["xxh3_128"], stated) for stated in entry["files"].values())
        yield from ((stated["xxh3_128"], stated) for stated in manifest["files"].values())
        yield f"pack {manifest['content_id']}", manifest

    known = dict(by_digest(old))
    for digest, new in by_digest(manifest):
        new |= {key: value for key, value in known.get(digest, {}).items() if key not in new}


def settle(folder: Path, manifest: dict[str, Any]) -> None:
    """Give the files that came with ``manifest``, which is in place, their own names."""
    for name in manifest["files"]:
        waiting = folder / fmt.next_name(name, manifest["pack_id"])
        if waiting.exists():
            waiting.replace(folder / name)
    sync_folder(folder)


def build_manifest(
    *,
    plan: dict[str, Any],
    pack_id: str,
    shards: Sequence[ShardInfo],
    labels: Sequence[np.ndarray],
    quarantined: int,
    pairs: int | None,
    partial: bool,
    files: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """The manifest that these shards, with these labels, and these other files give."""
    present = _present_labels(labels)
    return {
        "format": fmt.FORMAT_VERSION,
        "requires": [],
        "pack_id": pack_id,
        "content_id": content_id(shards, files),
        "partial": partial,
        "kind": plan["kind"],
        "order": plan["order"],
        "seed": plan["seed"],
        "source": plan["source"],
        "classes": _class_count(plan, present),
        "identities": len(present),
        "records": sum(shard.records for shard in shards),
        "quarantined": quarantined,
        "payload_bytes": sum(shard.payload_bytes for shard in shards),
        "images": merge_statistics(shard.images for shard in shards),
        "pairs": pairs,
        "shards": [shard.as_json() for shard in shards],
        "files": files,
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


def _present_labels(labels: Sequence[np.ndarray]) -> np.ndarray:
    """The different labels, ascending, -1 left out."""
    present = np.unique(np.concatenate([np.unique(part) for part in labels]))
    return present[present >= 0]


def _class_count(plan: dict[str, Any], present: np.ndarray) -> int:
    """The width of a head: what the sources state, unless labels go beyond that."""
    stated = [part["classes"] or 0 for part in (plan, *plan.get("appended", []))]
    return max(*stated, 0, int(present.max(initial=-1)) + 1)


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
        self._plan = make_plan(
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
        self._shards: list[ShardInfo] = []
        self._tables: dict[str, np.ndarray] = {}
        self._identity_names: dict[int, str] = {}
        self._pack_id = ""
        self._count = 0

    def __enter__(self) -> PackWriter:
        self._target.__enter__()
        try:
            self._target.begin(self._plan)
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
        declared = self._plan["classes"]
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
        if self._plan["order"] != "source":
            raise PackError("a table refers to positions: write the pack with order='source'")
        fmt.check_shard_name(name)
        if fmt.is_label_map(f"{name}.npy"):
            raise PackError(f"table {name!r}: label maps have such names; choose another")
        if name == "pairs":
            fmt.check_pairs(table, 1 << 62, "pairs")
            self._plan["kind"] = "pairs"
        self._tables[name] = table
        self._plan["tables"] = sorted(self._tables)

    def _write_shard(self, *, last: bool) -> None:
        k = len(self._shards)
        builder = self._builder
        if not self._pack_id:
            # A stream has no source to be told by: its first shard's content stands for it.
            sums = [fmt.record_sum(b"", bytes(image)) for image in builder.images]
            self._pack_id = fmt.content_id([self._plan, sums, builder.labels])
        meta = shard_meta(self._plan, self._pack_id, k, k + 1 if last else None)
        info, _ = builder.write(
            self.path,
            f"{self._stem}-{k:03d}",
            order=self._plan["order"],
            seed=self._plan["seed"],
            meta=meta,
        )
        self._shards.append(info)
        self._builder = ShardBuilder(check=self._check)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._open = False
        try:
            if kind is None:
                if "pairs" in self._tables:
                    fmt.check_pairs(self._tables["pairs"], self._count, "pairs")
                self._write_shard(last=True)
                finish_pack(
                    self.path,
                    plan=self._plan,
                    pack_id=self._pack_id,
                    shards=self._shards,
                    refused=[],
                    identity_names=self._identity_names,
                    tables=self._tables,
                )
        finally:
            self._target.__exit__()
