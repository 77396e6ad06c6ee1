"""Checking packs: every file's digest, every shard's structure, every record's sum.

The engine is never handed a file here: structure is walked by ``lmdb.verify`` and records are read
by offsets that are checked first. The file digest decides whether a shard is sound; walk and sums
tell where it is not.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lmdb.verify
import numpy as np

from facepack import format as fmt
from facepack.errors import DamageError, DecodeError
from facepack.images import decode as decode_image
from facepack.lmdbfile import ScanError, leaf_numbers, read_page_size, scan_leaf
from facepack.pack import manifest_files, read_manifest
from facepack.progress import Progress
from facepack.shard import ShardInfo
from facepack.writer import build_manifest

_CHUNK = 16 << 20


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


def check_shard(folder: Path, name: str, *, decode: bool = False) -> ShardContent:
    """Check ``name.mdb`` against itself: structure, reserved records, every record's sum.

    The key-label index is not looked at; :func:`check_index` compares it with the labels.
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
            digest, size = _digest(data), len(data)
    except FileNotFoundError:
        report("the shard is missing")
    except (ScanError, lmdb.verify.VerifyError) as error:
        report(f"not an LMDB file: {error}")
    else:
        if content.meta and not any(damage.key is None for damage in content.damage):
            content.info = ShardInfo(
                name=name,
                records=content.meta["records"],
                payload_bytes=content.meta["payload_bytes"],
                page_size=content.meta["page_size"],
                quarantined=len(content.refused),
                images=content.meta["images"],
                files={f"{name}.mdb": {"bytes": size, "xxh3_128": digest}},
            )
    return content


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
        count = int(meta["records"])
        sums = fmt.unpack_column(reserved[fmt.SUMS], count)
        content.labels = fmt.unpack_column(reserved[fmt.LABEL_COLUMN], count).astype(np.int64)
        extra = reserved[fmt.EXTRA]
        offsets = fmt.unpack_column(extra["ordinal"], count).astype(np.int64)
        content.ordinals = int(extra["first"]) + offsets
    except (DamageError, KeyError, TypeError) as error:
        report(f"the reserved records contradict each other: {error}")
        return
    content.meta = meta
    content.identity_names = dict(reserved.get(fmt.IDENTITIES, {}))
    content.refused = list(reserved.get(fmt.QUARANTINED, []))
    for place, stated in enumerate(sums.tolist()):
        if place not in found:
            report("the record is missing", f"{place:010d}")
        elif found[place] != stated:
            report("the record differs from what was packed", f"{place:010d}")
    if beyond := sorted(place for place in found if place >= count):
        report(f"{len(beyond)} records beyond the {count} that were packed", f"{beyond[0]:010d}")
    if len(found) == count and not content.damage and lengths != meta["payload_bytes"]:
        report(f"{lengths} bytes of images, but {meta['payload_bytes']} were packed")


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
            found += _compare_with_manifest(path, manifest, name, content)
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
    path: Path, manifest: dict[str, Any], name: str, content: ShardContent
) -> list[Damage]:
    """Sizes and digests of a shard's two files, and whose shard it says it is."""
    entry = next(shard for shard in manifest["shards"] if shard["name"] == name)
    damage = []
    for file, stated in entry["files"].items():
        target = path / file
        if not target.exists():
            continue  # said already
        size = target.stat().st_size
        if size != stated["bytes"]:
            kind = "truncated" if size < stated["bytes"] else "too long"
            reason = f"{file} is {kind}: {size} bytes, the manifest states {stated['bytes']}"
            damage.append(Damage(shard=name, key=None, reason=reason))
        elif not content.damage:
            with target.open("rb") as opened:
                digest = fmt.file_digest()
                while chunk := opened.read(_CHUNK):
                    digest.update(chunk)
            if digest.hexdigest() != stated["xxh3_128"]:
                reason = (
                    f"{file}: the digest does not match, though every record does: "
                    "bytes of a header or of unused space have changed"
                )
                damage.append(Damage(shard=name, key=None, reason=reason))
    stated_id = content.meta.get("pack_id")
    if content.meta and stated_id != manifest["pack_id"]:
        reason = f"the shard is of another pack ({stated_id}, not {manifest['pack_id']})"
        damage.append(Damage(shard=name, key=None, reason=reason))
    return damage


def _check_manifest(
    path: Path, manifest: dict[str, Any], contents: list[ShardContent]
) -> Iterator[Damage]:
    """Compare the manifest with the one that the shards give, field by field."""
    plan_path, pairs = path / fmt.PLAN, path / "pairs.npy"
    shards = []
    for content, entry in zip(contents, manifest["shards"], strict=True):
        assert content.info is not None
        shards.append(ShardInfo(**{**content.info.as_json(), "files": entry["files"]}))
    rebuilt = build_manifest(
        plan=json.loads(plan_path.read_bytes()),
        pack_id=manifest["pack_id"],
        shards=shards,
        labels=[content.labels for content in contents],
        quarantined=sum(len(content.refused) for content in contents),
        pairs=len(np.load(pairs, allow_pickle=False)) if pairs.exists() else None,
        files=manifest["files"],
    )
    for key in sorted({*rebuilt, *manifest}):
        if rebuilt.get(key) != manifest.get(key):
            reason = f"{key!r} differs from what the shards say: facepack reindex"
            yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)
            return
    if fmt.json_text(rebuilt).encode() != (path / fmt.MANIFEST).read_bytes():
        reason = "the text differs, though it says the same: facepack reindex"
        yield Damage(shard=fmt.MANIFEST, key=None, reason=reason)
