"""The data home: the folder in which data are looked up by name."""

from __future__ import annotations

import os
from pathlib import Path

from facepack.errors import PackError
from facepack.store.format import MANIFEST, PLAN
from facepack.store.manifest import read_manifest
from facepack.store.sets import read_sets


def data_home(option: str | Path | None) -> Path:
    """The folder ``option``, else that of ``FACEPACK_HOME``, else the current one."""
    return Path(os.environ.get("FACEPACK_HOME", ".") if option is None else option)


def is_named(option: str | Path | None) -> bool:
    """Whether the user says where the data home is, so that names in it hold in any folder."""
    return option is not None or "FACEPACK_HOME" in os.environ


def absolute(path: str) -> str:
    """``path`` from the root; as it is where that cannot be told, or not be written as text."""
    try:
        whole = str(Path(path).absolute())
        whole.encode()
    except (OSError, UnicodeEncodeError):
        return path
    return whole


def is_pack(folder: Path) -> bool:
    """Whether ``folder`` holds a pack, be it an unfinished one: opening that says so."""
    return (folder / MANIFEST).is_file() or (folder / PLAN).is_file()


def shard_sets(home: Path) -> dict[Path, list[str]]:
    """The names of the shard sets of each finished pack that lies in ``home`` itself.

    Raises:
        DamageError: the ``sets.json`` of a pack cannot be understood.
    """
    sets = {}
    for folder in sorted(home.iterdir()) if home.is_dir() else []:
        if not (folder / MANIFEST).is_file():
            continue
        try:
            manifest = read_manifest(folder)
        except PackError:
            continue  # it is not asked for, perhaps: whoever opens it is told
        sets[folder] = list(read_sets(folder, [entry["name"] for entry in manifest["shards"]]))
    return sets
