"""Checking packs: every file's digest, every shard's structure, every record's sum.

The engine is never handed a file here: structure is walked by ``lmdb.verify`` and records are read
by offsets that are checked first. The file digest decides whether a shard is sound; walk and sums
tell where it is not.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lmdb.verify
import numpy as np

from facepack import format as fmt
from facepack.errors import DamageError, DecodeError
from facepack.images import decode as decode_image
from facepack.lmdbfile import ScanError, leaf_numbers, lmdb_pages, read_page_size, scan_leaf
from facepack.pack import manifest_files, read_manifest
from facepack.progress import Progress
from facepack.shard import ShardInfo, write_file
from facepack.writer import build_manifest

_CHUNK = 16 << 20
_OUTSIDE = "bytes of a header or of unused space have changed, though every record is sound"

_META_SHAPE: dict[str, type | tuple[type, ...]] = {
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
    """What a shard says of itself, apart from its images, and what is wrong with it."""

    info: ShardInfo | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ordinals: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    identity_names: dict[int, str] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)

    def write_index(self, folder: Path) -> ShardInfo:
        """Write the key-label index of a sound shard anew; return its entry in the manifest."""
        assert self.info is not None
        path = folder / f"{self.info.name}.kv"
        digest, size = write_file(path, [fmt.kv_bytes(self.labels)])
        files = {path.name: {"bytes": size, "xxh3_128": digest}, **self.info.files}
        return replace(self.info, files=files)


def check_shard(
    folder: Path, name: str, *, decode: bool = False, canonical: bool = False
) -> ShardContent:
    """Check ``name.mdb`` against itself: structure, reserved records, every record's sum.

    The key-label index is not looked at; :func:`check_index` compares it with the labels.

    Args:
        folder: the pack.
        name: the shard.
        decode: also decode every image.
        canonical: also write the file anew, in memory, and compare every byte: it tells what
            changed outside the records where no digest from elsewhere is at hand.
    """
    content = ShardContent()
    path = folder / f"{name}.mdb"

    def report(reason: str, key: str | None = None) -> None:
        content.damage.append(Damage(shard=name, key=key, reason=reason))

    try:
        if path.stat().st_size == 0:
            raise ScanError("the file is empty")
        problems = lmdb.verify.verify(str(path), subdir=False)
        for problem in problems[:5]:
            report(f"structure: {problem}")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as data,
        ):
            _check_records(data, content, report, decode)
            if canonical and not content.damage and not _is_canonical(data):
                report(_OUTSIDE)
            digest, size = _digest(data), len(data)
    except FileNotFoundError:
        report("the shard is missing")
    except (ScanError, lmdb.verify.VerifyError) as error:
        report(f"not an LMDB file: {error}")
    else:
        if content.meta and not any(damage.key is None for damage in content.damage):
            content.info = ShardInfo(
                name=name,
                pack_id=content.meta["pack_id"],
                shard=content.meta["shard"],
                records=content.meta["records"],
                payload_bytes=content.meta["payload_bytes"],
                page_size=content.meta["page_size"],
                quarantined=len(content.refused),
                images=content.meta["images"],
                files={f"{name}.mdb": {"bytes": size, "xxh3_128": digest}},
            )
    return content


def _is_canonical(data: memoryview) -> bool:
    """Whether the file is, byte for byte, what its records make of it."""
    page_size = read_page_size(data)
    keys: list[bytes] = []
    values: list[Any] = []
    starts: list[int] = []
    for page in leaf_numbers(data, page_size):
        starts.append(len(keys))
        for key, value in scan_leaf(data, page, page_size):
            keys.append(key)
            values.append(value)
    at = 0
    for piece in lmdb_pages(keys, values, page_size=page_size, leaf_starts=starts):
        if data[at : at + len(piece)] != piece:
            return False
        at += len(piece)
    return at == len(data)


def _check_meta(meta: Any) -> None:
    """A ValueError for the first field of ``__meta__`` that is not as it must be."""
    if not isinstance(meta, dict):
        raise ValueError("__meta__ is no map")
    if meta.get("version") != fmt.FORMAT_VERSION:
        raise ValueError(
            f"the shard has format {meta.get('version')!r}, this facepack reads "
            f"{fmt.FORMAT_VERSION}: upgrade it"
        )
    for key, kind in _META_SHAPE.items():
        value = meta.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"__meta__ has no sound {key!r}")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"__meta__: {key!r} is {value}")
    if meta["records"] > fmt.MAX_SHARD_RECORDS:
        raise ValueError(f"__meta__ claims {meta['records']} records")


def _digest(data: memoryview) -> str:
    digest = fmt.file_digest()
    for start in range(0, len(data), _CHUNK):
        digest.update(data[start : start + _CHUNK])
    return str(digest.hexdigest())


def _check_records(data: memoryview, content: ShardContent, report: Any, decode: bool) -> None:
    page_size = read_page_size(data)
    reserved: dict[bytes, Any] = {}
    found: dict[int, int] = {}  # place → sum
    lengths = 0
    for page in leaf_numbers(data, page_size):
        try:
            for key, value in scan_leaf(data, page, page_size):
                if key.startswith(b"__"):
                    try:
                        reserved[key] = fmt.unpack_reserved(key, value)
                    except DamageError as error:
                        report(str(error))
                elif len(key) == 10 and key.isdigit():
                    found[int(key)] = fmt.record_sum(key, value)
                    lengths += len(value)
                    if decode:
                        try:
                            decode_image(value)
                        except DecodeError as error:
                            report(str(error), key.decode())
                else:
                    report(f"page {page} holds the key {key[:32]!r}, which no shard has")
        except ScanError as error:
            report(f"structure: {error}")
    missing = [
        key.decode()
        for key in (fmt.META, fmt.LABEL_COLUMN, fmt.SUMS, fmt.EXTRA)
        if key not in reserved
    ]
    if missing:
        report(f"the reserved records {', '.join(missing)} are missing or damaged")
        return
    meta = reserved[fmt.META]
    try:
        _check_meta(meta)
        count = meta["records"]
        sums = fmt.unpack_column(reserved[fmt.SUMS], count)
        content.labels = fmt.unpack_column(reserved[fmt.LABEL_COLUMN], count).astype(np.int64)
        extra = reserved[fmt.EXTRA]
        offsets = fmt.unpack_column(extra["ordinal"], count).astype(np.int64)
        content.ordinals = int(extra["first"]) + offsets
        content.identity_names = _identity_names(reserved.get(fmt.IDENTITIES))
        content.refused = [dict(entry) for entry in reserved.get(fmt.QUARANTINED, [])]
    except (DamageError, KeyError, TypeError, ValueError, OverflowError) as error:
        report(f"the reserved records are not sound: {error}")
        return
    content.meta = meta
    for place, stated in enumerate(sums.tolist()):
        if place not in found:
            report("the record is missing", f"{place:010d}")
        elif found[place] != stated:
            report("the record differs from what was packed", f"{place:010d}")
    if beyond := sorted(place for place in found if place >= count):
        report(f"{len(beyond)} records beyond the {count} that were packed", f"{beyond[0]:010d}")
    if len(found) == count and not content.damage and lengths != meta["payload_bytes"]:
        report(f"{lengths} bytes of images, but {meta['payload_bytes']} were packed")


def _identity_names(packed: Any) -> dict[int, str]:
    if packed is None:
        return {}
    labels = fmt.unpack_column(packed["labels"], len(packed["names"]))
    return dict(zip(labels.tolist(), packed["names"], strict=True))


def check_index(folder: Path, name: str, labels: np.ndarray) -> Iterator[Damage]:
    """Compare the key-label index ``name.kv`` with the labels that the shard itself holds."""
    path = folder / f"{name}.kv"
    try:
        stated = fmt.kv_labels(path.read_bytes(), path.name, check_keys=True)
    except FileNotFoundError:
        yield Damage(shard=name, key=None, reason=f"{path.name} is missing: facepack reindex")
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


def verify(path: Path, *, decode: bool = False) -> Report:
    """Check a finished pack, every byte of it.

    Args:
        path: the pack's folder.
        decode: also decode every image.

    Raises:
        PackError: no finished pack is there.
        DamageError: the manifest cannot be read.
    """
    manifest = read_manifest(path)
    damage: list[Damage] = []
    contents: list[ShardContent] = []
    files = manifest_files(manifest)
    size = sum(stated["bytes"] for stated in files.values())
    with Progress(size, unit="bytes", label="verify") as progress:
        for name in manifest["files"]:
            damage += _check_file(path, name, files[name])
            progress.update(files[name]["bytes"])
        for shard in manifest["shards"]:
            name = fmt.check_shard_name(shard["name"])
            content = check_shard(path, name, decode=decode)
            contents.append(content)
            found = content.damage
            if content.meta:
                found += check_index(path, name, content.labels)
            found += _compare_with_manifest(path, shard, content)
            damage += found
            progress.update(sum(stated["bytes"] for stated in shard["files"].values()))
    if not damage:
        damage += _check_manifest(path, manifest, contents)
    return Report(records=manifest["records"], file_bytes=size, damage=damage)


def _check_file(path: Path, name: str, stated: dict[str, Any]) -> Iterator[Damage]:
    try:
        data = (path / name).read_bytes()
    except FileNotFoundError:
        yield Damage(shard=name, key=None, reason="the file is missing")
        return
    if len(data) != stated["bytes"] or _digest(memoryview(data)) != stated["xxh3_128"]:
        reason = "the file differs from what the manifest states"
        yield Damage(shard=name, key=None, reason=reason)


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
            digest = own["xxh3_128"] if own else _digest(memoryview(target.read_bytes()))
            if digest != stated["xxh3_128"]:
                yield Damage(shard=name, key=None, reason=f"{file}: {_OUTSIDE}")
    if not content.meta:
        return
    if content.meta["pack_id"] != entry["pack_id"]:
        reason = f"it is of another pack ({content.meta['pack_id']}, not {entry['pack_id']})"
        yield Damage(shard=name, key=None, reason=reason)
    elif (content.meta["name"], content.meta["shard"]) != (name, entry["shard"]):
        reason = f"it is another shard: {content.meta['name']}, number {content.meta['shard']}"
        yield Damage(shard=name, key=None, reason=reason)


def _check_manifest(
    path: Path, manifest: dict[str, Any], contents: list[ShardContent]
) -> Iterator[Damage]:
    """Compare the manifest with the one that the shards give, field by field."""
    shards = []
    for content, entry in zip(contents, manifest["shards"], strict=True):
        assert content.info is not None
        shards.append(replace(content.info, files=entry["files"]))
    plan = json.loads((path / fmt.PLAN).read_bytes())
    pairs = path / "pairs.npy"
    count = None
    if pairs.name in manifest["files"]:
        table = np.load(pairs, allow_pickle=False)
        count = len(table)
        try:
            fmt.check_pairs(table, manifest["records"], pairs.name)
        except DamageError as error:
            yield Damage(shard=pairs.name, key=None, reason=str(error))
    rebuilt = build_manifest(
        plan=plan,
        pack_id=manifest["pack_id"],
        shards=shards,
        labels=[content.labels for content in contents],
        quarantined=sum(len(content.refused) for content in contents),
        pairs=count,
        partial=manifest["partial"],
        files=manifest["files"],
    )
    if plan["shards"] and not manifest["partial"] and fmt.content_id(plan) != manifest["pack_id"]:
        yield Damage(shard=fmt.MANIFEST, key=None, reason="the pack id is not that of the plan")
    # What later versions may add is left to them.
    for key in sorted(rebuilt):
        if rebuilt[key] != manifest.get(key):
            reason = f"{key!r} differs from what the shards say: facepack reindex"
            yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)
            return
    differs = fmt.json_text(rebuilt).encode() != (path / fmt.MANIFEST).read_bytes()
    if differs and set(manifest) == set(rebuilt):
        reason = "the text differs, though it says the same: facepack reindex"
        yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)
