"""Checking packs: every file's digest, and where one is wrong, structure and records.

The file digest decides whether a shard is sound. Where it is not, ``lmdb.verify`` walks the
structure and every record's sum is computed, to tell where. The engine is never handed a file here:
records are read by offsets that are checked first.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lmdb.verify
import numpy as np
import xxhash

from facepack.errors import DamageError, DecodeError, NewerFormatError
from facepack.images import check_decodes
from facepack.processors import usable_processors
from facepack.progress import Progress
from facepack.reading import open_regular, parse_npy, read_bytes
from facepack.store import format as fmt
from facepack.store.digests import digest_ahead, file_digest
from facepack.store.files import write_file
from facepack.store.finish import build_manifest
from facepack.store.labelmap import apply_label_map, read_label_map
from facepack.store.lmdb_read import (
    Nodes,
    ScanError,
    leaf_numbers,
    leaves_from,
    read_nodes,
    read_page_size,
)
from facepack.store.lmdb_write import lmdb_pages
from facepack.store.manifest import manifest_files, read_manifest
from facepack.store.pack_files import read_file, read_plan
from facepack.store.plan import PackPlan, check_plan
from facepack.store.sets import split_set, subset_manifest
from facepack.store.shard import IMAGE_FIELDS, ShardInfo, WrittenShard

MAX_NODES = fmt.MAX_SHARD_RECORDS + 64  # a shard's records, and room for reserved ones
_KEY = 10  # bytes of a record's key
_SHOWN = 5  # findings of the structure that are told
_BY_NAME = ("files", "formats", "channels")  # fields of maps whose keys are names
_OUTSIDE = "bytes of a header or of unused space have changed, though every record is sound"

_META_SHAPE: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "pack_id": str,
    "name": str,
    "shard": int,
    "shards": (int, type(None)),
    "records": int,
    "payload_bytes": int,
    "page_size": int,
    "images": dict,
    "plan": dict,
    "span": (dict, type(None)),
}


@dataclass(frozen=True, kw_only=True)
class Damage:
    """One thing that is wrong: in which shard (or other file), at which key, and what."""

    shard: str
    key: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}{'/' + self.key if self.key else ''}: {self.reason}"


@dataclass(kw_only=True)
class ShardContent:
    """What a shard says of itself, apart from its images, and what is wrong with it.

    ``is_foreign`` says that it is an LMDB database without a single key of a shard.
    """

    info: ShardInfo | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ordinals: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    identity_names: dict[int, str] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    is_foreign: bool = False

    def write_index(self, folder: Path) -> WrittenShard:
        """Write the key-label index of a sound shard anew."""
        assert self.info is not None
        path = folder / f"{self.info.name}.kv"
        digest, size = write_file(path, [fmt.kv_bytes(self.labels)])
        files = {path.name: {"bytes": size, "xxh3_128": digest}, **self.info.files}
        info = replace(self.info, files=files)
        return WrittenShard(info, self.ordinals, self.identity_names, self.refused)


def check_shard(
    folder: Path,
    name: str,
    *,
    decode: bool = False,
    canonical: bool = False,
    deep: bool = False,
    digest: str | None = None,
    read: Callable[[], tuple[str, int]] | None = None,
) -> ShardContent:
    """Check ``name.mdb``: by its digest, or against itself.

    Against itself: its structure, its reserved records, every record's sum. A file that still has
    the digest that it was written with is what it was, and so are they: there, only the reserved
    records are read.

    The key-label index is not looked at; :func:`check_index` compares it with the labels.

    Args:
        folder: the pack.
        name: the shard.
        decode: also decode every image.
        canonical: also write the file anew, in memory, and compare every byte: it tells what
            changed outside the records where no digest from elsewhere is at hand.
        deep: look at every record whatever the digest.
        digest: the XXH3-128 that the file is known to have had when it was written.
        read: gives what :func:`file_digest` gives of the file, as :func:`digest_ahead` does.
    """
    whole = decode or canonical or deep or digest is None
    content = ShardContent()
    path = folder / f"{name}.mdb"

    def report(reason: str, key: str | None = None) -> None:
        content.damage.append(Damage(shard=name, key=key, reason=reason))

    def walk() -> None:
        for problem in lmdb.verify.verify(str(path), subdir=False)[:_SHOWN]:
            report(f"structure: {problem}")

    try:
        own, size = read() if read else file_digest(path, cached=whole)
        if size == 0:
            raise ScanError("the file is empty")
        if own != digest and not canonical:
            walk()
        data = map_file(path)
        if whole or own != digest:
            _check_records(data, content, report, decode)
        else:
            _read_own_account(data, content, report)
        if canonical and not content.damage and not is_canonical(data, *shard_nodes(data)):
            walk()
            if not content.damage:
                report(_OUTSIDE)
    except NewerFormatError as error:
        raise NewerFormatError(f"{path}: {error}") from error
    except FileNotFoundError:
        report("the shard is missing")
    except OSError as error:
        report(f"the shard cannot be read: {error.strerror or error}")
    except (ScanError, lmdb.verify.VerifyError, RecursionError) as error:
        report(f"not an LMDB file: {error}")
    else:
        if content.meta and not any(damage.key is None for damage in content.damage):
            content.info = ShardInfo(
                name=name,
                own_name=content.meta["name"],
                pack_id=content.meta["pack_id"],
                shard=content.meta["shard"],
                records=content.meta["records"],
                payload_bytes=content.meta["payload_bytes"],
                page_size=content.meta["page_size"],
                quarantined=len(content.refused),
                images={k: v for k, v in content.meta["images"].items() if k in IMAGE_FIELDS},
                files={f"{name}.mdb": {"bytes": size, "xxh3_128": own}},
            )
    return content


def map_file(path: Path) -> memoryview:
    """The bytes of a file that is not empty, as a map that lasts as long as a view of it."""
    with open_regular(path) as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def shard_nodes(data: memoryview) -> tuple[int, Nodes]:
    """The page size of a shard, and where its records lie.

    Raises:
        ScanError: not an LMDB file, or it claims more records than a shard can have.
    """
    page_size = read_page_size(data)
    pages = np.fromiter(leaf_numbers(data, page_size), np.int64)
    return page_size, read_nodes(data, pages, page_size, most=MAX_NODES)


def is_canonical(data: memoryview, page_size: int, nodes: Nodes) -> bool:
    """Whether a shard is, byte for byte, what facepack makes of its records.

    Then its B+tree is sound: safe to hand to the engine, whoever wrote the file.

    Args:
        data: the file.
        page_size: as :func:`shard_nodes` gives it.
        nodes: as :func:`shard_nodes` gives them.
    """
    if nodes.errors or nodes.overlap.any() or not len(nodes):
        return False
    keys = [bytes(data[a : a + n]) for a, n in _together(nodes.key_starts, nodes.key_sizes)]
    values = [data[a : a + n] for a, n in _together(nodes.starts, nodes.sizes)]
    at = 0
    try:
        for piece in lmdb_pages(
            keys, values, page_size=page_size, leaf_starts=nodes.page_starts.tolist()
        ):
            if bytes(data[at : at + len(piece)]) != piece:  # a view compares item by item
                return False
            at += len(piece)
    except ValueError:  # keys that no file of ours can have
        return False
    return at == len(data)


def _together(*arrays: np.ndarray) -> Iterator[tuple[int, ...]]:
    return zip(*(array.tolist() for array in arrays), strict=True)


def record_places(data: memoryview, nodes: Nodes) -> np.ndarray:
    """The place that the key of each of ``nodes`` says; -1 where it is no record's key (int64)."""
    places = np.full(len(nodes), -1, np.int64)
    long = np.flatnonzero(nodes.key_sizes == _KEY)
    octets = np.frombuffer(data, np.uint8)
    digits = octets[nodes.key_starts[long][:, None] + np.arange(_KEY)] - np.uint8(ord("0"))
    values = digits.astype(np.int64) @ 10 ** np.arange(_KEY - 1, -1, -1)
    places[long] = np.where((digits <= 9).all(axis=1), values, -1)
    return places


def record_sums(data: memoryview, nodes: Nodes, which: np.ndarray) -> np.ndarray:
    """The sums (uint64) of the nodes that ``which`` lists, as ``__sums__`` holds them."""
    key_starts, starts = nodes.key_starts[which], nodes.starts[which]
    key_ends, ends = key_starts + nodes.key_sizes[which], starts + nodes.sizes[which]
    digest = xxhash.xxh3_64_intdigest
    # Inside a leaf page, the value follows its key: no copy is needed to join them.
    sums = [
        digest(data[a:d]) if b == c else digest(bytes(data[a:b]) + data[c:d])
        for a, b, c, d in _together(key_starts, key_ends, starts, ends)
    ]
    return np.asarray(sums, np.uint64)


def check_meta(meta: Any) -> None:
    """A ValueError for the first field of ``__meta__`` that is not as it must be.

    Raises:
        NewerFormatError: the shard is of another version, or requires what is not known here.
    """
    if not isinstance(meta, dict):
        raise ValueError("__meta__ is no map")
    fmt.require_known(meta, "the shard", version="version")
    for key, kind in _META_SHAPE.items():
        value = meta.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"__meta__ has no sound {key!r}")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"__meta__: {key!r} is {value}")
    fmt.require_known(meta["plan"], "the shard's plan")
    check_plan({**meta["plan"], "shards": meta["span"] and [meta["span"]]})
    if meta["records"] > fmt.MAX_SHARD_RECORDS:
        raise ValueError(f"__meta__ claims {meta['records']} records")


def _check_records(data: memoryview, content: ShardContent, report: Any, decode: bool) -> None:
    """Look at all records of a shard; fill ``content`` with what it says of itself."""
    _, nodes = shard_nodes(data)
    for error in nodes.errors[:_SHOWN]:
        report(f"structure: {error}")
    if nodes.overlap.any():
        report(f"structure: {int(nodes.overlap.sum())} records run into others")
    places = np.where(nodes.overlap, -2, record_places(data, nodes))
    which = np.flatnonzero(places >= 0)
    if decode:
        for index, reason in _undecodable(data, nodes, which):
            report(reason, f"{places[index]:010d}")
    others = np.flatnonzero(places == -1)
    if 0 < len(others) == len(nodes):
        keys = (nodes.record(data, index)[0] for index in others.tolist())
        content.is_foreign = not any(key.startswith(fmt.RESERVED) for key in keys)
    stated = _read_reserved(data, nodes, others, content, report)
    if stated is None:
        return
    count = len(stated)
    found, inside = places[which], places[which] < count
    have = np.zeros(count, bool)
    have[found[inside]] = True
    sums = np.zeros(count, np.uint64)
    sums[found[inside]] = record_sums(data, nodes, which[inside])
    for place in np.flatnonzero(~have | (sums != stated)).tolist():
        reason = "differs from what was packed" if have[place] else "is missing"
        report(f"the record {reason}", f"{place:010d}")
    if not inside.all():
        beyond = found[~inside]
        reason = f"{len(beyond)} records beyond the {count} that were packed"
        report(reason, f"{beyond.min():010d}")
    if inside.sum() > have.sum():
        report(f"{inside.sum() - have.sum()} records under the key of another")
    size = int(nodes.sizes[which].sum())
    if not content.damage and size != content.meta["payload_bytes"]:
        report(f"{size} bytes of images, but {content.meta['payload_bytes']} were packed")


def _read_own_account(data: memoryview, content: ShardContent, report: Any) -> None:
    """Fill ``content`` from the reserved records alone; the file is what was once written."""
    page_size = read_page_size(data)
    pages = leaves_from(data, page_size, fmt.RESERVED)
    nodes = read_nodes(data, np.array(pages, np.int64), page_size, most=MAX_NODES)
    for error in nodes.errors[:_SHOWN]:
        report(f"structure: {error}")
    reserved = np.flatnonzero(record_places(data, nodes) == -1)
    _read_reserved(data, nodes, reserved, content, report)


def _read_reserved(
    data: memoryview, nodes: Nodes, which: np.ndarray, content: ShardContent, report: Any
) -> np.ndarray | None:
    """Fill ``content`` from the reserved records, the nodes ``which``.

    Returns:
        The records' sums that they state; None where they are not sound.
    """
    if content.is_foreign:
        report("it is no shard of a pack, but an LMDB database that something else wrote")
        return None
    reserved: dict[bytes, Any] = {}
    for index in which.tolist():
        key, value = nodes.record(data, index)
        if not key.startswith(fmt.RESERVED):
            report(f"it holds the key {key[:32]!r}, which no shard has")
            continue
        try:
            reserved[key] = fmt.unpack_reserved(key, value)
        except DamageError as error:
            report(str(error))
    missing = [
        key.decode()
        for key in (fmt.META, fmt.LABEL_COLUMN, fmt.SUMS, fmt.EXTRA)
        if key not in reserved
    ]
    if missing:
        report(f"the reserved records {', '.join(missing)} are missing or damaged")
        return None
    meta = reserved[fmt.META]
    try:
        check_meta(meta)
        count = meta["records"]
        stated = fmt.unpack_column(reserved[fmt.SUMS], count)
        if stated.dtype != np.uint64:
            raise ValueError(f"sums of type {stated.dtype}")
        content.labels = fmt.unpack_column(reserved[fmt.LABEL_COLUMN], count).astype(np.int64)
        extra = reserved[fmt.EXTRA]
        offsets = fmt.unpack_column(extra["ordinal"], count).astype(np.int64)
        content.ordinals = int(extra["first"]) + offsets
        content.identity_names = _identity_names(reserved.get(fmt.IDENTITIES))
        content.refused = [dict(entry) for entry in reserved.get(fmt.QUARANTINED, [])]
    except (DamageError, KeyError, TypeError, ValueError, OverflowError) as error:
        report(f"the reserved records are not sound: {error}")
        return None
    content.meta = meta
    return stated


def _undecodable(data: memoryview, nodes: Nodes, which: np.ndarray) -> Iterator[tuple[int, str]]:
    """Those of the nodes ``which`` whose images do not decode, and why."""

    def look(index: int) -> tuple[int, str] | None:
        try:
            check_decodes(nodes.record(data, index)[1])
        except DecodeError as error:
            return index, str(error)
        return None

    with ThreadPoolExecutor(usable_processors()) as threads:
        for found in threads.map(look, which.tolist()):
            if found:
                yield found


def _identity_names(packed: Any) -> dict[int, str]:
    if packed is None:
        return {}
    labels = fmt.unpack_column(packed["labels"], len(packed["names"]))
    return dict(zip(labels.tolist(), packed["names"], strict=True))


def check_index(folder: Path, name: str, labels: np.ndarray) -> Iterator[Damage]:
    """Compare the key-label index ``name.kv`` with the labels that the shard itself holds."""
    path = folder / f"{name}.kv"
    try:
        stated = fmt.kv_labels(read_bytes(path, None), path.name, check_keys=True)
    except FileNotFoundError:
        yield Damage(shard=name, key=None, reason=f"{path.name} is missing: facepack reindex")
        return
    except OSError as error:
        reason = f"{path.name} cannot be read: {error.strerror or error}"
        yield Damage(shard=name, key=None, reason=reason)
        return
    except DamageError as error:
        yield Damage(shard=name, key=None, reason=str(error))
        return
    if len(stated) != len(labels):
        reason = f"{path.name} has {len(stated)} lines for {len(labels)} records: facepack reindex"
        yield Damage(shard=name, key=None, reason=reason)
        return
    for place in np.flatnonzero(stated != labels).tolist():
        reason = f"{path.name} says label {stated[place]}, the shard {labels[place]}"
        yield Damage(shard=name, key=f"{place:010d}", reason=f"{reason}: facepack reindex")


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of verifying a pack."""

    records: int
    file_bytes: int
    damage: list[Damage]

    def as_json(self) -> dict[str, Any]:
        """``{"ok", "records", "file_bytes", "damage": [{"shard", "key", "reason"}]}``."""
        return {
            "ok": not self.damage,
            "records": self.records,
            "file_bytes": self.file_bytes,
            "damage": [vars(damage) for damage in self.damage],
        }


def verify(path: Path, *, deep: bool = False, decode: bool = False) -> Report:
    """Check a finished pack, every byte of it; of a shard set, its shards and the pack's own files.

    Args:
        path: the pack's folder, or ``PACK:SET``.
        deep: compute every record's sum, also in shards whose digest is right: it finds what went
            wrong in writing, where the digest finds what changed since.
        decode: also decode every image.

    Raises:
        PackError: no finished pack is there.
        DamageError: the manifest cannot be read.
    """
    path, shard_set = split_set(path)
    manifest = read_manifest(path)
    if shard_set is not None:
        manifest = subset_manifest(path, manifest, shard_set)
    damage: list[Damage] = []
    contents: list[ShardContent] = []
    stated = manifest_files(manifest)
    size = sum(entry["bytes"] for entry in stated.values())
    with Progress(size, unit="bytes", label="verify") as progress:
        for name in manifest["files"]:
            damage += _check_file(path, manifest, name)
            progress.update(stated[name]["bytes"])
        label_maps = _label_maps(path, manifest)
        names = [fmt.check_shard_name(shard["name"]) for shard in manifest["shards"]]
        reads = digest_ahead([path / f"{name}.mdb" for name in names], cached=deep or decode)
        for name, shard, read in zip(names, manifest["shards"], reads, strict=True):
            digest = shard["files"][f"{name}.mdb"]["xxh3_128"]
            content = check_shard(path, name, deep=deep, decode=decode, digest=digest, read=read)
            content.ordinals = content.ordinals[:0]  # of no use here, and there may be many shards
            contents.append(content)
            found = content.damage
            if content.meta:
                found += _map_labels(content, shard["label_map"], label_maps)
                found += check_index(path, name, content.labels)
            found += _compare_with_manifest(path, shard, content)
            damage += found
            progress.update(sum(entry["bytes"] for entry in shard["files"].values()))
    if not damage and shard_set is None:  # the manifest's figures are those of all shards
        damage += _check_manifest(path, manifest, contents)
    records = sum(shard["records"] for shard in manifest["shards"])
    return Report(records=records, file_bytes=size, damage=damage)


def _check_file(path: Path, manifest: dict[str, Any], name: str) -> Iterator[Damage]:
    stated = manifest["files"][name]
    try:
        data = read_file(path, manifest, name)
    except FileNotFoundError:
        yield Damage(shard=name, key=None, reason="the file is missing")
        return
    except OSError as error:
        reason = f"the file cannot be read: {error.strerror or error}"
        yield Damage(shard=name, key=None, reason=reason)
        return
    if len(data) != stated["bytes"] or xxhash.xxh3_128_hexdigest(data) != stated["xxh3_128"]:
        reason = "the file differs from what the manifest states"
        yield Damage(shard=name, key=None, reason=reason)


def _label_maps(path: Path, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """The label maps of a merged pack, by file name; those that are none are left out."""
    label_maps = {}
    for name in filter(fmt.is_label_map, manifest["files"]):
        with contextlib.suppress(OSError, DamageError):  # the file's digest tells
            label_maps[name] = read_label_map(read_file(path, manifest, name), name)
    return label_maps


def _map_labels(
    content: ShardContent, name: str | None, label_maps: dict[str, np.ndarray]
) -> Iterator[Damage]:
    """Take the labels of a shard to those of the pack, by the label map ``name``."""
    if name is None or name not in label_maps:
        return
    try:
        content.labels = apply_label_map(label_maps[name], content.labels)
    except DamageError as error:
        yield Damage(shard=content.meta["name"], key=None, reason=f"{name}: {error}")


def _compare_with_manifest(
    path: Path, entry: dict[str, Any], content: ShardContent
) -> Iterator[Damage]:
    """A shard's sizes and digests, and whether it is the shard that the manifest means."""
    name = entry["name"]
    for file, stated in entry["files"].items():
        target = path / file
        if not target.exists():
            continue  # said already
        size = target.stat().st_size
        if size != stated["bytes"]:
            kind = "truncated" if size < stated["bytes"] else "too long"
            reason = f"{file} is {kind}: {size} bytes, the manifest states {stated['bytes']}"
            yield Damage(shard=name, key=None, reason=reason)
        elif not content.damage:
            own = content.info.files.get(file) if content.info else None
            digest = own["xxh3_128"] if own else file_digest(target)[0]
            if digest != stated["xxh3_128"]:
                yield Damage(shard=name, key=None, reason=f"{file}: {_OUTSIDE}")
    if not content.meta:
        return
    if content.meta["pack_id"] != entry["pack_id"]:
        reason = f"it is of another pack ({content.meta['pack_id']}, not {entry['pack_id']})"
        yield Damage(shard=name, key=None, reason=reason)
    elif (content.meta["name"], content.meta["shard"]) != (entry["own_name"], entry["shard"]):
        reason = f"it is another shard: {content.meta['name']}, number {content.meta['shard']}"
        yield Damage(shard=name, key=None, reason=reason)


def _check_manifest(
    path: Path, manifest: dict[str, Any], contents: list[ShardContent]
) -> Iterator[Damage]:
    """Compare the manifest with the one that the shards give, field by field."""
    shards = []
    for content, entry in zip(contents, manifest["shards"], strict=True):
        assert content.info is not None
        stated = {key: entry[key] for key in ("files", "label_map")}
        shards.append(replace(content.info, **stated))
    plan = read_plan(path, manifest)
    if untold := sorted(_expected_files(plan, contents) - manifest["files"].keys()):
        reason = f"it does not tell of {untold[0]}: facepack reindex"
        yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)
    for name, digest in sorted(plan.fields.get("label_maps", {}).items()):
        if manifest["files"].get(name, {}).get("xxh3_128", digest) != digest:
            reason = "it is not the label map that the packs were merged with: copy that back"
            yield Damage(shard=name, key=None, reason=reason)
        return
    pairs = "pairs.npy"
    count = None
    if pairs in manifest["files"]:
        try:
            table = parse_npy(read_file(path, manifest, pairs))
            fmt.check_pairs(table, manifest["records"], pairs)
            count = len(table)
        except (DamageError, ValueError) as error:
            yield Damage(shard=pairs, key=None, reason=str(error))
            return
    rebuilt = build_manifest(
        plan,
        shards,
        labels=[content.labels for content in contents],
        quarantined=sum(len(content.refused) for content in contents),
        pairs=count,
        partial=manifest["partial"],
        files=manifest["files"],
    )
    # The id of a stream has its content.
    planned = plan.fields["shards"] or plan.fields.get("appended")
    if planned and not manifest["partial"] and plan != PackPlan.of(plan.fields):
        yield Damage(shard=fmt.MANIFEST, key=None, reason="the pack id is not that of the plan")
    for key in sorted(rebuilt):
        if not states(manifest.get(key), rebuilt[key]):
            reason = f"{key!r} differs from what the shards say: facepack reindex"
            yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)
            return
    # How a later version writes its text is left to it.
    text = fmt.json_text(rebuilt).encode()
    if manifest == rebuilt and text != read_bytes(path / fmt.MANIFEST):
        reason = "the text differs, though it says the same: facepack reindex"
        yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)


def _expected_files(plan: PackPlan, contents: list[ShardContent]) -> set[str]:
    """What must stand beside shards that say this, made under this plan."""
    files = {fmt.PLAN, *plan.fields.get("label_maps", {})}
    files |= {f"{table}.npy" for table in plan.fields["tables"]}
    if any(any(content.identity_names.values()) for content in contents):
        files.add(fmt.LABELS)
    if any(content.refused for content in contents):
        files.add(fmt.QUARANTINE)
    return files


def states(stated: Any, known: Any, *, exact: bool = False) -> bool:
    """Whether ``stated`` says all that ``known`` does; keys that later versions add may be there.

    With ``exact``, and in maps by name, there may be no others.
    """
    if isinstance(known, dict) and isinstance(stated, dict):
        fits = known.keys() == stated.keys() if exact else known.keys() <= stated.keys()
        return fits and all(states(stated[key], known[key], exact=key in _BY_NAME) for key in known)
    if isinstance(known, list) and isinstance(stated, list):
        return len(known) == len(stated) and all(map(states, stated, known))
    return bool(stated == known)
