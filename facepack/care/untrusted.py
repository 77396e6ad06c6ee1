"""Checking a stranger's pack: nothing in it is believed before it is looked at.

A plain ``facepack verify`` looks for damage. Here, whoever made the pack may want to harm whoever
opens it: by names that lead elsewhere, by pipes that never end, by a few bytes that claim to be
gigabytes, by a B+tree that takes the engine outside its map. So sizes come before contents, only
regular files are opened, every count is held against the bytes that are there, and a shard passes
only if it is, byte for byte, what facepack makes of the records in it: such a tree is sound. The
engine is never handed a file.

What this tells holds for the files as they are: nobody else may write to them afterwards.
"""

from __future__ import annotations

import math
import os
import stat
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from facepack.care.msgpack_walk import walk_msgpack
from facepack.care.shard_check import Damage
from facepack.care.verify import Report, verify
from facepack.errors import DamageError, DecodeError, PackError
from facepack.images import read_header
from facepack.limits import too_large
from facepack.progress import Progress
from facepack.reading import JSON, TEXT, decode_text, parse_json, read_bytes, read_json
from facepack.store import format as fmt
from facepack.store.checks import require_size
from facepack.store.digests import file_digest
from facepack.store.lmdb_read import Nodes, ScanError
from facepack.store.manifest import manifest_files, read_manifest, states
from facepack.store.plan import check_meta, check_plan
from facepack.store.shard import image_statistics
from facepack.store.shard_nodes import is_canonical, map_file, record_keys, shard_nodes
from facepack.terminal import printable

_HEADER = 10_000  # bytes of a table's header
_DIMENSIONS = 8
# What parsers raise when they meet what they were not made for.
_ASTRAY = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    tokenize.TokenError,  # NumPy's, of a table's header
)


def verify_untrusted(path: Path, *, decode: bool = False) -> Report:
    """Check a stranger's pack; after it passes, the engine may open the pack.

    Raises:
        PackError: no finished pack is there, or this facepack cannot read it.
        DamageError: the manifest cannot be read.
    """
    sizes, damage = _survey(path)
    if damage:
        return Report(records=0, file_bytes=sum(sizes.values()), damage=damage)
    manifest = _manifest(path, sizes)
    damage += _check_manifest(manifest, sizes)
    if not damage:
        files = manifest_files(manifest)
        with Progress(sum(sizes.values()), unit="bytes", label="look") as progress:
            for name, stated in files.items():
                damage += _check_file(path / name, stated, manifest)
                progress.update(stated["bytes"])
        if fmt.DUPLICATES in sizes:
            damage += _told_as_damage(path / fmt.DUPLICATES, _check_duplicates)
    if damage:
        return Report(records=manifest["records"], file_bytes=sum(sizes.values()), damage=damage)
    try:
        return verify(path, deep=True, decode=decode)
    except _ASTRAY as error:
        raise DamageError(f"{path}: its files contradict each other: {_words(error)}") from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _survey(path: Path) -> tuple[dict[str, int], list[Damage]]:
    """The sizes of the folder's files by name, and which entries may not be opened at all."""
    sizes: dict[str, int] = {}
    damage: list[Damage] = []
    if not path.is_dir():
        return sizes, damage  # reading the manifest says so
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                reason = "a link, which may lead anywhere: nothing was opened"
            elif not stat.S_ISREG(status.st_mode):
                reason = (
                    "no regular file (but a folder, pipe, socket or device): nothing was opened"
                )
            else:
                sizes[entry.name] = status.st_size
                continue
            damage.append(Damage(entry.name, None, reason))
    return sizes, damage


def _manifest(path: Path, sizes: dict[str, int]) -> dict[str, Any]:
    reason = too_large(sizes.get(fmt.MANIFEST, 0), JSON)
    if reason:
        raise DamageError(f"{path / fmt.MANIFEST}: {reason}")
    try:
        return read_manifest(path)
    except PackError as error:
        raise type(error)(printable(str(error))) from error
    except _ASTRAY as error:
        raise DamageError(f"{path / fmt.MANIFEST}: not sound: {_words(error)}") from error


def _check_manifest(manifest: dict[str, Any], sizes: dict[str, int]) -> Iterator[Damage]:
    """Names, counts and sizes, before any file that the manifest states is opened."""

    def finding(name: str, reason: str) -> Damage:
        return Damage(name, None, reason)

    names = [shard["name"] for shard in manifest["shards"]]
    for name in names:
        try:
            fmt.check_shard_name(name)
        except PackError as error:
            yield finding(fmt.MANIFEST, str(error))
    if len(set(names)) < len(names):
        yield finding(fmt.MANIFEST, "two shards have the same name")
    for shard in manifest["shards"]:
        if shard["records"] > fmt.MAX_SHARD_RECORDS:
            yield finding(shard["name"], f"{shard['records']} records are claimed")
    if manifest["classes"] > fmt.MAX_LABEL + 1:
        yield finding(fmt.MANIFEST, f"{manifest['classes']} classes are claimed")
    files = manifest_files(manifest)
    for name in sorted({*sizes} - {*files, fmt.MANIFEST, fmt.SETS, fmt.DUPLICATES}):
        yield finding(name, "the manifest does not list this file: remove it if it is yours")
    for name, stated in files.items():
        if name not in sizes:
            yield finding(name, "the file is missing")
        elif sizes[name] != stated["bytes"]:
            yield finding(name, f"{sizes[name]} bytes, the manifest states {stated['bytes']}")
        elif reason := too_large(stated["bytes"], _limit_of(name)):
            yield finding(name, reason)
    for name in (fmt.SETS, fmt.DUPLICATES):  # of which the manifest does not tell
        if reason := too_large(sizes.get(name, 0), _limit_of(name)):
            yield finding(name, reason)


def _limit_of(name: str) -> str:
    if name.endswith(".npy"):
        return "FACEPACK_MAX_TABLE_BYTES"
    if name.endswith((".mdb", ".kv")):
        return "FACEPACK_MAX_SHARD_BYTES"
    return JSON if name in (fmt.PLAN, fmt.SETS) else TEXT


def _check_file(path: Path, stated: dict[str, Any], manifest: dict[str, Any]) -> Iterator[Damage]:
    """One file of the pack: its digest, then whatever its kind could hide."""

    def look(path: Path) -> Iterator[Damage]:
        if file_digest(path)[0] != stated["xxh3_128"]:
            raise DamageError("the file differs from what the manifest states")
        if path.suffix == ".mdb":
            yield from _check_shard(path)
        elif path.suffix == ".npy":
            with path.open("rb") as file:
                _check_table(file, stated["bytes"])
        elif path.name == fmt.PLAN:
            _check_plan(read_json(path))
        elif path.name == fmt.LABELS:
            _check_labels(read_bytes(path), manifest["classes"])
        elif path.name == fmt.QUARANTINE:
            _check_quarantine(path, manifest["quarantined"])

    return _told_as_damage(path, look)


def _told_as_damage(path: Path, look: Callable[[Path], Iterator[Damage]]) -> Iterator[Damage]:
    """What ``look`` finds in a file, and what it or a parser raises."""
    try:
        yield from look(path)
    except (PackError, ScanError, OSError) as error:
        yield Damage(path.name, None, str(error))
    except _ASTRAY as error:
        yield Damage(path.name, None, f"not sound: {_words(error)}")


# Files beside the shards --------------------------------------------------------------------------


def _check_table(file: BinaryIO, size: int) -> None:
    """A table's header: plain numbers or strings, as many as the file has bytes for."""
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise DamageError(f"a table of version {version}; allowed are 1.0 and 2.0")
    shape, _, dtype = readers[version](file, max_header_size=_HEADER)
    kinds = [field[0] for field in dtype.fields.values()] if dtype.fields else [dtype]
    if any(kind.kind not in "biufSU" for kind in kinds) or not dtype.itemsize:
        raise DamageError(f"a table of {dtype}; allowed are numbers, truth values and strings")
    if len(shape) > _DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise DamageError(f"a table of shape {shape}")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise DamageError(
            f"a table of {dtype} and shape {shape} is not of {size - file.tell()} bytes"
        )


def _check_plan(plan: Any) -> None:
    check_plan(plan)
    for table in plan["tables"]:
        fmt.check_shard_name(table)
    for span in plan["shards"] or []:
        fmt.check_shard_name(span["name"])


def _check_labels(data: bytes, classes: int) -> None:
    lines = data.count(b"\n")
    if lines != classes or data[-1:] not in (b"", b"\n"):
        raise DamageError(f"{lines} lines for {classes} classes")
    decode_text(data)


def _check_quarantine(path: Path, count: int) -> None:
    lines = sum(1 for _ in _map_lines(path))
    if lines != count:
        raise DamageError(f"{lines} lines for {count} records that were refused")


def _check_duplicates(path: Path) -> Iterator[Damage]:
    for number, line in enumerate(_map_lines(path), start=1):
        if not all(isinstance(line.get(key), list) for key in ("keys", "labels")):
            reason = f"line {number} is not a group of images"
            yield Damage(path.name, None, reason)
            return


def _map_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of JSON maps."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            value = parse_json(line)
            if not isinstance(value, dict):
                raise DamageError(f"line {number} is not a map")
            yield value


# Shards -------------------------------------------------------------------------------------------


def _check_shard(path: Path) -> Iterator[Damage]:
    """A shard's tree, its reserved records and the headers of its images."""
    data = map_file(path)
    page_size, nodes = shard_nodes(data)
    if not is_canonical(data, page_size, nodes):
        raise DamageError(
            "its structure is not what facepack writes, so nothing says that the engine can read "
            "it: get the pack from its maker again, or convert the source yourself"
        )
    keys = record_keys(data, nodes)
    reserved = _read_reserved(data, nodes, np.flatnonzero(keys < 0))
    meta = reserved[fmt.META]
    check_meta(meta)
    _check_reserved(reserved, meta["records"])
    headers = []
    for index in np.flatnonzero(keys >= 0).tolist():
        image = nodes.record(data, index)[1]
        try:
            require_size(image)
            headers.append(read_header(image))
        except DecodeError as error:
            yield Damage(path.stem, f"{keys[index]:010d}", str(error))
            return
    statistics = image_statistics(headers)
    if not states(meta["images"], statistics):
        raise DamageError(f"its images are {statistics}, and __meta__ says {meta['images']}")


def _read_reserved(data: memoryview, nodes: Nodes, which: np.ndarray) -> dict[bytes, Any]:
    """The reserved records, unpacked once nothing in them can claim more than it holds."""
    reserved = {}
    for index in which.tolist():
        key, value = nodes.record(data, index)
        if not key.startswith(fmt.RESERVED):
            raise DamageError(f"it holds the key {key[:32]!r}, which no shard has")
        name = key.decode("ascii", "backslashreplace")
        if reason := too_large(len(value), "FACEPACK_MAX_RESERVED_BYTES"):
            raise DamageError(f"{name}: {reason}")
        try:
            (start, stop), *_ = walk_msgpack(value)
            walk_msgpack(value[start:stop])
        except ValueError as error:
            raise DamageError(f"{name}: {error}") from error
        reserved[key] = fmt.unpack_reserved(key, value)
    for key in fmt.ALWAYS_RESERVED:
        if key not in reserved:
            raise DamageError(f"{key.decode()} is missing")
    return reserved


def _check_reserved(reserved: dict[bytes, Any], count: int) -> None:
    extra = reserved[fmt.EXTRA]
    if not isinstance(extra["first"], int):
        raise DamageError("__extra__: 'first' is no number")
    fmt.unpack_ordinals(extra, count)
    columns = (reserved[fmt.LABEL_COLUMN], reserved[fmt.CHECKSUMS], *extra["columns"].values())
    for column in columns:
        fmt.unpack_column(column, count)
    if fmt.IDENTITIES in reserved:
        _require_strings("__identities__", reserved[fmt.IDENTITIES]["names"])
        fmt.unpack_identity_names(reserved[fmt.IDENTITIES])
    if fmt.NAMES in reserved:
        _require_strings("__names__", reserved[fmt.NAMES])
        if len(reserved[fmt.NAMES]) != count:
            raise DamageError(f"__names__ is not of {count} records")
    refused = reserved.get(fmt.QUARANTINED, [])
    if not isinstance(refused, list) or not all(isinstance(entry, dict) for entry in refused):
        raise DamageError("__quarantine__ is not a list of maps")


def _require_strings(name: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(each, str | None) for each in value):
        raise DamageError(f"{name}: not a list of strings")
