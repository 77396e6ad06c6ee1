"""Shard sets: some shards of a pack, by name, as a pack of their own."""

from __future__ import annotations

import fnmatch
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import DamageError, PackError, did_you_mean
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.shard import ShardInfo, content_id, shard_figures
from facepack.store.target import Target

# WebFace260M's zips are d_0.zip to d_6.zip for each d from 0 to 9; shards are named after them.
_ZIPS = 7
_WEBFACE = {"webface4m": 1, "webface8m": 2, "webface12m": 3, "webface42m": 10}  # name → so many d
_ZIP_SHARD = re.compile(r"([0-9]_[0-6])(-\d{3,})?")
_PATTERN = re.compile(r"[A-Za-z0-9_.*?!\[\]-]{1,180}")


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """A named set of shards."""

    name: str  # what it is called
    patterns: tuple[str, ...]  # names or shell patterns of its shards, as the user gave them
    own: bool = True  # whether it stands in sets.json; else every pack of WebFace zips has it
    missing: tuple[str, ...] = ()  # zips that the set should have and the pack lacks (0_5)


def split_set(path: Path) -> tuple[Path, str | None]:
    """The folder of a pack and the name of a shard set, where ``path`` is ``PACK:SET``.

    Anything that is there, and anything else, is a path of its own: its set is None.
    """
    folder, colon, name = str(path).rpartition(":")
    if not colon or not fmt.is_plain_name(name) or path.exists():
        return path, None
    return Path(folder), name


def choose_shards(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Those of ``names`` that a name or shell pattern of ``patterns`` means, in their own order.

    Raises:
        PackError: a pattern means none, or no pattern is given.
    """
    chosen: set[str] = set()
    known = set(names)
    for pattern in patterns:
        if pattern in known:  # no name holds a sign that means others
            chosen.add(pattern)
            continue
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise PackError(f"no shard is called {pattern!r}: there are {_some(names)}")
        chosen.update(found)
    if not chosen:
        raise PackError(f"no shards were named: there are {_some(names)}")
    return [name for name in names if name in chosen]


def read_sets(path: Path, names: Sequence[str]) -> dict[str, ShardSet]:
    """All sets of the pack in ``path``, by name: those of WebFace, and the user's over them.

    Raises:
        DamageError: ``sets.json`` cannot be understood.
    """
    own = {
        name: ShardSet(name=name, patterns=tuple(patterns))
        for name, patterns in _read_own(path).items()
    }
    return webface_sets(names) | own


def find_set(path: Path, names: Sequence[str], wanted: str) -> list[str]:
    """The shards of the set ``wanted`` of the pack in ``path``.

    Raises:
        PackError: the pack has no such set, or it names shards that are not there.
    """
    sets = read_sets(path, names)
    if wanted not in sets:
        have = f"it has {', '.join(sorted(sets))}" if sets else "it has none"
        raise PackError(
            f"{path} has no shard set {wanted!r}{did_you_mean(wanted, sets)}; {have}. Make one "
            f"with: facepack shards {path} --add {wanted} PATTERN…"
        )
    try:
        return choose_shards(names, sets[wanted].patterns)
    except PackError as error:
        raise PackError(f"{path}: shard set {wanted!r}: {error}") from error


def webface_sets(names: Sequence[str]) -> dict[str, ShardSet]:
    """WebFace4M, 8M, 12M and 42M, as far as shards of each of their directories are there."""
    zips: dict[int, set[str]] = defaultdict(set)
    for name in names:
        if match := _ZIP_SHARD.fullmatch(name):
            zips[int(name[0])].add(match[1])
    sets = {}
    for name, directories in _WEBFACE.items():
        if not all(zips.get(d) for d in range(directories)):
            break
        wanted = [f"{d}_{k}" for d in range(directories) for k in range(_ZIPS)]
        sets[name] = ShardSet(
            name=name,
            patterns=tuple(f"{d}_*" for d in range(directories)),
            own=False,
            missing=tuple(zip_ for zip_ in wanted if zip_ not in zips[int(zip_[0])]),
        )
    return sets


def add_set(path: Path, names: Sequence[str], name: str, patterns: Sequence[str]) -> None:
    """Write the set ``name`` into ``sets.json``, in the place of one that has the name.

    Raises:
        PackError: the name cannot be used, or a pattern means no shard.
        DamageError: ``sets.json`` cannot be understood.
    """
    if not fmt.is_plain_name(name):
        raise PackError(f"set {name!r}: a name is made of letters, digits and _ . - (not first)")
    if name in webface_sets(names):
        raise PackError(f"set {name!r}: every pack of WebFace zips has it; choose another name")
    _check_patterns(patterns)
    choose_shards(names, patterns)
    with Target(path):
        _write_own(path, {**_read_own(path), name: list(patterns)})


def remove_set(path: Path, names: Sequence[str], name: str) -> None:
    """Take the set ``name`` out of ``sets.json``; no shard is touched.

    Raises:
        PackError: the user made no such set.
        DamageError: ``sets.json`` cannot be understood.
    """
    with Target(path):
        own = _read_own(path)
        if name not in own:
            why = (
                "every pack of WebFace zips has it"
                if name in webface_sets(names)
                else f"{fmt.SETS} has {', '.join(sorted(own)) or 'none'}"
            )
            raise PackError(f"set {name!r} cannot be removed: {why}")
        _write_own(path, {key: value for key, value in own.items() if key != name})


def _write_own(path: Path, sets: dict[str, list[str]]) -> None:
    if sets:
        write_file(path / fmt.SETS, [fmt.json_text(sets).encode()])
    else:
        (path / fmt.SETS).unlink(missing_ok=True)


def _read_own(path: Path) -> dict[str, list[str]]:
    file = path / fmt.SETS
    try:
        sets = read_json(file)
        if not isinstance(sets, dict):
            raise ValueError("it is not a map of names to lists")
        for name, patterns in sets.items():
            if not fmt.is_plain_name(name):
                raise ValueError(f"{name!r} cannot be a name")
            if not isinstance(patterns, list) or not patterns:
                raise ValueError(f"{name!r} is not a list of shard names")
            _check_patterns(patterns)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, PackError) as error:
        raise DamageError(
            f"{file}: {error}: fix it, or delete it and add the sets again with: facepack shards"
        ) from error
    return dict(sets)


def _check_patterns(patterns: Sequence[Any]) -> None:
    for pattern in patterns:
        if not isinstance(pattern, str) or not _PATTERN.fullmatch(pattern):
            raise PackError(
                f"{pattern!r} names no shards: allowed are letters, digits and _ . -, and in "
                "patterns * ? [ ]"
            )


def _some(names: Sequence[str]) -> str:
    if len(names) <= 8:
        return ", ".join(names)
    return f"{len(names)}, {', '.join(names[:3])} … {names[-1]}"


# What a subset holds -----------------------------------------------------------------------------


def subset_manifest(
    path: Path, manifest: dict[str, Any], shards: str | Sequence[str]
) -> dict[str, Any]:
    """``manifest`` with some shards alone; :func:`recount` sets its figures right.

    Args:
        shards: names or patterns, or the name of a set.

    Raises:
        PackError: a shard or set is not there, or the pack has tables, which point at records by
            position.
        DamageError: ``sets.json`` cannot be understood.
    """
    names = [entry["name"] for entry in manifest["shards"]]
    if isinstance(shards, str):
        wanted = set(find_set(path, names, shards))
    else:
        try:
            wanted = set(choose_shards(names, shards))
        except PackError as error:
            raise PackError(f"{path}: {error}") from error
    if tables := fmt.table_names(manifest["files"]):
        raise PackError(
            f"{path}: its tables ({', '.join(tables)}) point at records by position, so its shards "
            "are taken all or none"
        )
    return {**manifest, "shards": [e for e in manifest["shards"] if e["name"] in wanted]}


def recount(manifest: dict[str, Any], labels: np.ndarray) -> dict[str, Any]:
    """``manifest`` with the figures of its shards, whose labels are ``labels``: int64 (n,).

    ``classes`` is the highest label + 1, for a head that is no wider than these shards need.
    """
    shards = [ShardInfo.from_json(entry) for entry in manifest["shards"]]
    classes = int(labels.max(initial=-1)) + 1
    present = np.zeros(classes + 1, bool)
    present[labels] = True  # -1 marks the last
    return {
        **manifest,
        "content_id": content_id(shards, {}),
        "classes": classes,
        "identities": int(present[:classes].sum()),
        **shard_figures(shards),
    }
