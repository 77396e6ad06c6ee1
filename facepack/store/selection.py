"""Selections: a pack that holds some of the records of its shards.

The files of the shards are those of the pack that was selected from, hard-linked or copied, so that
no image is rewritten. Which records are the pack's is said by the key-label index: it has lines for
these alone, in the order of their keys. So it can no longer be rebuilt from the shard, and the plan
states a digest of its keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xxhash

from facepack.errors import DamageError
from facepack.images import read_header
from facepack.store import format as fmt
from facepack.store.shard import ShardInfo, image_statistics
from facepack.store.shard_nodes import record_keys, shard_nodes


def describe_selection(data: memoryview, keys: np.ndarray) -> dict[str, Any]:
    """What manifest and plan say of a selection.

    ``of`` is how many records the shard has, ``xxh3_128`` the digest of the keys as ``<u4``; the
    others are the figures of the records that are selected.

    These have the ``keys``, int64 (n,), ascending.

    Raises:
        DamageError: the shard lacks one of them, or it is no image.
        ScanError: the file is no shard.
    """
    _, nodes = shard_nodes(data)
    found = record_keys(data, nodes)
    images = np.flatnonzero(found >= 0)
    # As long as the keys ask for: those in the file may be damaged, and far beyond.
    of_key = np.full(int(keys[-1]) + 1 if len(keys) else 0, -1, np.int64)
    near = images[found[images] < len(of_key)]
    of_key[found[near]] = near
    if (of_key[keys] < 0).any():
        raise DamageError("the shard lacks records that are selected")
    chosen = of_key[keys]
    spans = zip(nodes.starts[chosen].tolist(), nodes.sizes[chosen].tolist(), strict=True)
    return {
        "of": len(images),
        "records": len(keys),
        "payload_bytes": int(nodes.sizes[chosen].sum()),
        "images": image_statistics([read_header(data[at : at + size]) for at, size in spans]),
        "xxh3_128": keys_digest(keys),
    }


def keys_digest(keys: np.ndarray) -> str:
    """The XXH3-128 of ascending keys, int64 (n,), as ``<u4``."""
    return xxhash.xxh3_128_hexdigest(keys.astype("<u4").tobytes())


def with_selection(info: ShardInfo, selection: dict[str, Any] | None) -> ShardInfo:
    """The entry of a shard of which a pack holds ``selection``; None: all of it.

    Records that were refused when the shard was made are told of by the pack that it was made for.
    """
    if selection is None:
        return info
    figures = {name: selection[name] for name in ("records", "payload_bytes", "images")}
    return replace(info, **figures, quarantined=0, selection=selection)


def select_entry(entry: dict[str, Any], keys: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """A shard's entry in a manifest, narrowed to some of its records without a look at an image.

    Those that stay have the ``keys``, ascending, and ``labels``: int64 (n,).
    """
    index = fmt.kv_bytes(labels, keys)
    file = {"bytes": len(index), "xxh3_128": xxhash.xxh3_128_hexdigest(index)}
    payload = entry["payload_bytes"] * len(keys) // max(1, entry["records"])
    return {
        **entry,
        "records": len(keys),
        "payload_bytes": payload,
        "quarantined": 0,
        "files": {**entry["files"], f"{entry['name']}.kv": file},
        "selection": {
            "of": shard_records(entry),
            "records": len(keys),
            "payload_bytes": payload,
            "images": entry["images"],
            "xxh3_128": keys_digest(keys),
        },
    }


def shard_records(entry: Mapping[str, Any]) -> int:
    """How many records the file of a shard has, whatever part of them is the pack's."""
    selection = entry.get("selection")
    return int(entry["records"] if selection is None else selection["of"])


def selected_keys(data: bytes, entry: Mapping[str, Any], name: str) -> Sequence[int] | np.ndarray:
    """The keys of a pack's records in a shard, ascending; a range where these are all it has.

    ``data`` is the key-label index, whose lines are of the fixed form.

    Raises:
        DamageError: they are not those that were selected.
    """
    selection = entry.get("selection")
    if selection is None:
        return range(entry["records"])
    keys = fmt.kv_keys(data, name)
    if keys_digest(keys) != selection["xxh3_128"] or (len(keys) and keys[-1] >= selection["of"]):
        raise DamageError(
            f"{name}: its keys are not those that were selected, and nothing else tells them: copy "
            "it again, or split the pack again"
        )
    return keys
