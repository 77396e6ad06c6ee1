"""Rebuilding whatever stands beside the shards from the shards themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from facepack import format as fmt
from facepack.errors import DamageError, PackError
from facepack.pack import read_manifest
from facepack.target import Target
from facepack.verify import ShardContent, check_shard
from facepack.writer import finish_pack


def reindex(path: Path, *, partial: bool = False) -> dict[str, Any]:
    """Rebuild the indexes, the plan, the names and the manifest of a pack.

    Tables of an evaluation set are not in the shards: they must still be there. Where the old
    manifest can be read, they must have the digests that it states.

    Args:
        path: the folder that holds the ``.mdb`` files.
        partial: make a pack of what is there though shards are missing.

    Returns:
        The new manifest.

    Raises:
        DamageError: a shard is damaged, missing, of another pack, or a table is missing.
    """
    names = sorted(file.stem for file in path.glob("*.mdb"))
    if not names:
        raise PackError(f"{path} holds no shards (*.mdb): there is nothing to rebuild from")
    with Target(path):
        contents = [_read(path, name) for name in names]
        contents.sort(key=lambda content: content.meta["shard"])
        _check_complete(path, contents, partial)
        last = contents[-1].meta
        plan = dict(last["plan"])
        spans = [content.meta["span"] for content in contents]
        plan["shards"] = spans if all(spans) else None
        missing = _is_missing(contents)
        if missing and plan["tables"]:
            raise DamageError(
                f"{path}: its tables ({', '.join(plan['tables'])}) point at records by position, "
                "so no shard can be left out: copy the missing ones here"
            )
        records = sum(content.meta["records"] for content in contents)
        tables = {name: _table(path, name, records) for name in plan["tables"]}
        names_of: dict[int, str] = {}
        for content in contents:
            names_of.update(content.identity_names)
        return finish_pack(
            path,
            plan=plan,
            pack_id=last["pack_id"],
            shards=[content.write_index(path) for content in contents],
            refused=[entry for content in contents for entry in content.refused],
            identity_names=names_of,
            tables=tables,
            partial=missing,
        )


def _read(path: Path, name: str) -> ShardContent:
    content = check_shard(path, fmt.check_shard_name(name), canonical=True)
    if content.damage:
        raise DamageError(
            f"{path}: {content.damage[0]}: a damaged shard is not indexed; copy it again or "
            "convert anew"
        )
    if content.meta["name"] != name:
        raise DamageError(
            f"{path}: {name}.mdb says that it is {content.meta['name']}.mdb: rename it back"
        )
    return content


def _check_complete(path: Path, contents: list[ShardContent], partial: bool) -> None:
    ids = {content.meta["pack_id"] for content in contents}
    if len(ids) > 1:
        raise DamageError(
            f"{path} holds shards of {len(ids)} packs ({', '.join(sorted(ids))}): move the others "
            "away"
        )
    present = [content.meta["shard"] for content in contents]
    if len(set(present)) < len(present):
        raise DamageError(f"{path}: two files claim to be the same shard: move one away")
    if partial or not _is_missing(contents):
        return
    wanted = contents[-1].meta["shards"]
    if wanted is None:
        raise DamageError(
            f"{path}: the last shard is missing: copy it here, or take what is there with --partial"
        )
    missing = sorted(set(range(wanted)) - set(present))
    raise DamageError(
        f"{path}: {len(missing)} of {wanted} shards are missing (number {missing[0]} first): "
        "copy them here, or take what is there with --partial"
    )


def _is_missing(contents: list[ShardContent]) -> bool:
    """Whether the pack had more shards than these, sorted by number."""
    return len(contents) != contents[-1].meta["shards"]


def _table(path: Path, name: str, records: int) -> np.ndarray:
    file = path / f"{fmt.check_shard_name(name)}.npy"
    try:
        stated = read_manifest(path)["files"].get(file.name)
    except PackError:
        stated = None
    try:
        data = file.read_bytes()
        table: np.ndarray = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DamageError(f"{path}: the table {file.name} cannot be read: {error}") from error
    if stated and xxhash.xxh3_128_hexdigest(data) != stated["xxh3_128"]:
        raise DamageError(
            f"{path}: the table {file.name} differs from what {fmt.MANIFEST} states: copy it again "
            "or convert anew"
        )
    if name == "pairs":
        fmt.check_pairs(table, records, str(file))
    return table
