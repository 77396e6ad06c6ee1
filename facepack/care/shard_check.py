"""Checking one shard: by its digest, or, where that is wrong, its structure and every record.

The file digest decides whether a shard is sound. Where it is not, ``lmdb.verify`` walks the
structure and every record's checksum is computed, to tell where. The engine is never handed a file
here: records are read by offsets that are checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lmdb.verify
import numpy as np

from facepack.errors import DamageError, DecodeError, NewerFormatError
from facepack.images import check_decodes
from facepack.processors import usable_processors
from facepack.reading import read_bytes
from facepack.store import format as fmt
from facepack.store.digests import file_digest
from facepack.store.files import write_file
from facepack.store.lmdb_read import Nodes, ScanError, leaves_from, read_nodes, read_page_size
from facepack.store.plan import check_meta
from facepack.store.selection import selected_keys
from facepack.store.shard import ShardInfo, WrittenShard
from facepack.store.shard_nodes import (
    MAX_NODES,
    is_canonical,
    map_file,
    record_checksums,
    record_keys,
    shard_nodes,
)

CHANGED_OUTSIDE = "bytes of a header or of unused space have changed, though every record is sound"
_SHOWN = 5  # findings of the structure that are reported


@dataclass(frozen=True)
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

    name: str = ""
    info: ShardInfo | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ordinals: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    identity_names: dict[int, str] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    is_foreign: bool = False

    def report(self, reason: str, key: int | None = None) -> None:
        """Add to the damage, of one record or of the whole shard."""
        self.damage.append(Damage(self.name, None if key is None else f"{key:010d}", reason))

    def narrow(self, folder: Path, selection: dict[str, Any] | None) -> Sequence[int] | np.ndarray:
        """Keep what concerns the records that a pack has of the shard; None: all of them.

        Returns:
            The keys of these records, ascending.

        Raises:
            DamageError: the index, which alone tells them, is missing or another one.
        """
        if selection is None:
            return range(len(self.labels))
        path = folder / f"{self.name}.kv"
        try:
            data = read_bytes(path, None)
        except OSError as error:
            raise DamageError(
                f"{path.name} cannot be read ({error.strerror or error}), and nothing else tells "
                "the records that were selected: copy it again, or split the pack again"
            ) from error
        fmt.kv_labels(data, path.name)  # its form
        if selection["of"] != len(self.labels):
            raise DamageError(f"its selection is of {selection['of']} records")
        keys = selected_keys(data, {"selection": selection}, path.name)
        self.labels, self.ordinals, self.refused = self.labels[keys], self.ordinals[:0], []
        return keys

    def write_index(
        self, folder: Path, keys: Sequence[int] | np.ndarray | None = None
    ) -> WrittenShard:
        """Write the key-label index of a sound shard anew, of ``keys`` alone if it was narrowed."""
        assert self.info is not None
        path = folder / f"{self.name}.kv"
        listed = None if keys is None else np.asarray(keys, np.int64)
        digest, size = write_file(path, [fmt.kv_bytes(self.labels, listed)])
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

    Against itself: its structure, its reserved records, every record's checksum. A file that still
    has the digest that it was written with is what it was, and so are they: there, only the
    reserved records are read.

    The key-label index is not looked at; :func:`check_index` compares it with the labels.

    Args:
        canonical: also write the file anew, in memory, and compare every byte: it tells what
            changed outside the records where no digest from elsewhere is at hand.
        deep: look at every record whatever the digest.
        digest: the XXH3-128 that the file is known to have had when it was written.
        read: gives what :func:`file_digest` gives of the file, as :func:`digest_ahead` does.
    """
    thorough = decode or canonical or deep or digest is None
    content = ShardContent(name=name)
    path = folder / f"{name}.mdb"

    def walk() -> None:
        for problem in lmdb.verify.verify(str(path), subdir=False)[:_SHOWN]:
            content.report(f"structure: {problem}")

    try:
        own, size = read() if read else file_digest(path, cached=thorough)
        if size == 0:
            raise ScanError("the file is empty")
        if own != digest and not canonical:
            walk()
        data = map_file(path)
        if thorough or own != digest:
            _check_records(data, content, decode)
        else:
            _read_own_account(data, content)
        if canonical and not content.damage and not is_canonical(data, *shard_nodes(data)):
            walk()
            if not content.damage:
                content.report(CHANGED_OUTSIDE)
    except NewerFormatError as error:
        raise NewerFormatError(f"{path}: {error}") from error
    except FileNotFoundError:
        content.report("the shard is missing")
    except OSError as error:
        content.report(f"the shard cannot be read: {error.strerror or error}")
    except (ScanError, lmdb.verify.VerifyError, RecursionError) as error:
        content.report(f"not an LMDB file: {error}")
    else:
        if content.meta and not any(damage.key is None for damage in content.damage):
            files = {path.name: {"bytes": size, "xxh3_128": own}}
            content.info = ShardInfo.from_meta(content.meta, name, len(content.refused), files)
    return content


def _check_records(data: memoryview, content: ShardContent, decode: bool) -> None:
    """Look at all records of a shard; fill ``content`` with what it says of itself."""
    _, nodes = shard_nodes(data)
    for error in nodes.errors[:_SHOWN]:
        content.report(f"structure: {error}")
    if nodes.overlap.any():
        content.report(f"structure: {int(nodes.overlap.sum())} records run into others")
    keys = np.where(nodes.overlap, -2, record_keys(data, nodes))
    images = np.flatnonzero(keys >= 0)
    if decode:
        for index, reason in _undecodable(data, nodes, images):
            content.report(reason, keys[index])
    others = np.flatnonzero(keys == -1)
    if 0 < len(others) == len(nodes):
        found = (nodes.record(data, index)[0] for index in others.tolist())
        content.is_foreign = not any(key.startswith(fmt.RESERVED) for key in found)
    stated = _read_reserved(data, nodes, others, content)
    if stated is None:
        return
    count = len(stated)
    inside = images[keys[images] < count]
    beyond = images[keys[images] >= count]
    have = np.zeros(count, bool)
    have[keys[inside]] = True
    checksums = np.zeros(count, np.uint64)
    checksums[keys[inside]] = record_checksums(data, nodes, inside)
    for key in np.flatnonzero(~have | (checksums != stated)).tolist():
        reason = "differs from what was packed" if have[key] else "is missing"
        content.report(f"the record {reason}", key)
    if len(beyond):
        reason = f"{len(beyond)} records beyond the {count} that were packed"
        content.report(reason, keys[beyond].min())
    if len(inside) > have.sum():
        content.report(f"{len(inside) - have.sum()} records under the key of another")
    size = int(nodes.sizes[images].sum())
    if not content.damage and size != content.meta["payload_bytes"]:
        content.report(f"{size} bytes of images, but {content.meta['payload_bytes']} were packed")


def _read_own_account(data: memoryview, content: ShardContent) -> None:
    """Fill ``content`` from the reserved records alone; the file is what was once written."""
    page_size = read_page_size(data)
    pages = leaves_from(data, page_size, fmt.RESERVED)
    nodes = read_nodes(data, np.array(pages, np.int64), page_size, most=MAX_NODES)
    for error in nodes.errors[:_SHOWN]:
        content.report(f"structure: {error}")
    reserved = np.flatnonzero(record_keys(data, nodes) == -1)
    _read_reserved(data, nodes, reserved, content)


def _read_reserved(
    data: memoryview, nodes: Nodes, which: np.ndarray, content: ShardContent
) -> np.ndarray | None:
    """Fill ``content`` from the reserved records, the nodes ``which``.

    Returns:
        The records' checksums that they state; None where they are not sound.
    """
    if content.is_foreign:
        content.report(
            "it is not a shard of a pack, but an LMDB database written by another program"
        )
        return None
    reserved: dict[bytes, Any] = {}
    for index in which.tolist():
        key, value = nodes.record(data, index)
        if not key.startswith(fmt.RESERVED):
            content.report(f"it holds the key {key[:32]!r}, which no shard has")
            continue
        try:
            reserved[key] = fmt.unpack_reserved(key, value)
        except DamageError as error:
            content.report(str(error))
    if missing := [key.decode() for key in fmt.ALWAYS_RESERVED if key not in reserved]:
        content.report(f"the reserved records {', '.join(missing)} are missing or damaged")
        return None
    meta = reserved[fmt.META]
    try:
        check_meta(meta)
        count = meta["records"]
        stated = fmt.unpack_column(reserved[fmt.CHECKSUMS], count)
        if stated.dtype != np.uint64:
            raise ValueError(f"checksums of type {stated.dtype}")
        content.labels = fmt.unpack_column(reserved[fmt.LABEL_COLUMN], count).astype(np.int64)
        content.ordinals = fmt.unpack_ordinals(reserved[fmt.EXTRA], count)
        content.identity_names = fmt.unpack_identity_names(reserved.get(fmt.IDENTITIES))
        content.refused = [dict(entry) for entry in reserved.get(fmt.QUARANTINED, [])]
    except (DamageError, KeyError, TypeError, ValueError, OverflowError) as error:
        content.report(f"the reserved records are not sound: {error}")
        return None
    content.meta = meta
    return stated


def _undecodable(data: memoryview, nodes: Nodes, which: np.ndarray) -> Iterator[tuple[int, str]]:
    """Those of the nodes ``which`` whose images do not decode, and why."""

    def decode_error(index: int) -> tuple[int, str] | None:
        try:
            check_decodes(nodes.record(data, index)[1])
        except DecodeError as error:
            return index, str(error)
        return None

    with ThreadPoolExecutor(usable_processors()) as threads:
        yield from filter(None, threads.map(decode_error, which.tolist()))


def check_index(
    folder: Path, name: str, labels: np.ndarray, keys: Sequence[int] | np.ndarray | None = None
) -> Iterator[Damage]:
    """Compare the key-label index ``name.kv`` with the labels that the shard itself holds.

    It should list records of these ``labels``, int64 (n,), and ``keys``, (n,); None: 0 to n - 1.
    """
    if keys is None:
        keys = range(len(labels))
    path = folder / f"{name}.kv"
    try:
        data = read_bytes(path, None)
        stated = fmt.kv_labels(data, path.name, check_keys=isinstance(keys, range))
        if len(stated) != len(labels):
            count = f"{len(stated)} lines for {len(labels)} records"
            raise DamageError(f"{path.name} has {count}: facepack reindex")
    except FileNotFoundError:
        yield Damage(name, None, f"{path.name} is missing: facepack reindex")
    except OSError as error:
        yield Damage(name, None, f"{path.name} cannot be read: {error.strerror or error}")
    except DamageError as error:
        yield Damage(name, None, str(error))
    else:
        for line in np.flatnonzero(stated != labels).tolist():
            reason = f"{path.name} says label {stated[line]}, the shard {labels[line]}"
            yield Damage(name, f"{keys[line]:010d}", f"{reason}: facepack reindex")
