"""``pack.json``: reading it, and comparing the sizes of files with those that it states."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from facepack import lfs
from facepack.errors import DamageError, PackError
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.plan import check_channels, check_images, check_selection, require_fields
from facepack.store.sets import split_set


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the pack in ``path``.

    Raises:
        PackError: no finished pack is there; says what is.
        NewerFormatError: this facepack cannot read it.
        DamageError: the manifest is damaged.
    """
    file = path / fmt.MANIFEST
    try:
        manifest = read_json(file)
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise ValueError("it has no 'format'")
        fmt.require_known(manifest, str(path))
        _check_shape(manifest)
    except FileNotFoundError:
        if (path / fmt.PLAN).exists():
            raise PackError(
                f"{path} is an unfinished pack: run its conversion again with --resume. If it was "
                f"finished and only its {fmt.MANIFEST} is lost: facepack reindex {path}"
            ) from None
        raise PackError(f"{path} {_why_no_pack(path)}") from None
    except NotADirectoryError:
        raise PackError(f"{path} {_why_no_pack(path)}") from None
    except OSError as error:
        raise PackError(
            f"{file} cannot be read: {error.strerror}; check its permissions and the disk"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        lfs.require_content(file, DamageError)
        raise DamageError(f"{file}: {error}: rebuild it with: facepack reindex {path}") from error
    return manifest


def read_training_manifest(path: Path, so: str) -> dict[str, Any]:
    """The manifest of a training pack; ``so`` says what an evaluation set cannot, as it has tables.

    Raises:
        PackError: as :func:`read_manifest`, or it is an evaluation set.
    """
    manifest = read_manifest(path)
    if manifest["kind"] != "train" or fmt.table_names(manifest["files"]):
        raise PackError(
            f"{path} is an evaluation set (kind {manifest['kind']!r}): its tables point at records "
            f"by position, so {so}"
        )
    return manifest


def _why_no_pack(path: Path) -> str:
    """What is wrong with ``path``, which has no manifest, and what to do about it."""
    folder, shard_set = split_set(path)
    if shard_set is not None and (folder / fmt.MANIFEST).exists():
        return (
            f"is a shard set, and this command takes complete packs: give {folder}, or make the "
            f"set a pack of its own with: facepack lmdb2lmdb {path} OUT"
        )
    if not os.path.lexists(path):
        return "is not a pack: nothing is there; check the name"
    if not path.is_dir():
        return "is not a pack: it is not a folder; pass the one that holds the shards"
    if next(path.glob("*.mdb"), None):
        return (
            f"has no {fmt.MANIFEST}: if it was a pack, rebuild that from the shards with: facepack "
            f"reindex {path}"
        )
    return (
        f"is not a pack: it has no {fmt.MANIFEST}; pass a folder that has one, or make a pack of "
        "data in another format by its …2lmdb command"
    )


_SHARD_SHAPE = {
    "name": str,
    "own_name": str,
    "pack_id": str,
    "shard": int,
    "records": int,
    "payload_bytes": int,
    "page_size": int,
    "quarantined": int,
    "images": dict,
    "files": dict,
}
_BY_NAME = ("files", "formats", "channels")  # fields of maps whose keys are names
_MANIFEST_SHAPE = {
    "requires": list,
    "pack_id": str,
    "content_id": str,
    "partial": bool,
    "kind": str,
    "order": str,
    "seed": int,
    "source": dict,
    "classes": int,
    "identities": int,
    "records": int,
    "quarantined": int,
    "payload_bytes": int,
    "images": dict,
    "shards": list,
    "files": dict,
}


_ID = re.compile(r"[0-9a-f]{32}")


def _check_shape(manifest: dict[str, Any]) -> None:
    """Make sure that every field is there and of its type; a ValueError names the first not."""

    require_fields("the manifest", manifest, _MANIFEST_SHAPE)
    check_channels("the manifest", manifest)
    check_images("the manifest", manifest["images"])
    if not _ID.fullmatch(manifest["pack_id"]):
        raise ValueError(f"'pack_id' is {manifest['pack_id']!r}, not 32 hexadecimal digits")
    for number, shard in enumerate(manifest["shards"]):
        require_fields(f"shard {number}", shard, _SHARD_SHAPE)
        check_images(f"shard {number}", shard["images"])
        label_map = shard.get("label_map", "")
        if label_map is not None and not (
            isinstance(label_map, str)
            and fmt.is_label_map(label_map)
            and label_map in manifest["files"]
        ):
            raise ValueError(f"shard {shard['name']!r}: 'label_map' is {label_map!r}")
        if set(shard["files"]) != {f"{shard['name']}.kv", f"{shard['name']}.mdb"}:
            raise ValueError(f"shard {shard['name']!r} has the files {sorted(shard['files'])}")
        index = shard["files"][f"{shard['name']}.kv"]
        if not isinstance(index, dict) or index.get("bytes") != fmt.KV_LINE * shard["records"]:
            raise ValueError(
                f"shard {shard['name']!r}: its index is not of {shard['records']} lines"
            )
        if "selection" in shard:
            check_selection(f"shard {shard['name']!r}", shard["selection"])
            if shard["selection"]["records"] != shard["records"]:
                raise ValueError(f"shard {shard['name']!r}: 'records' is not that of its selection")
        fmt.check_shard_name(shard["name"])
    for name, stated in manifest_files(manifest).items():
        require_fields(f"the file {name!r}", stated, {"bytes": int, "xxh3_128": str})
        if not fmt.is_plain_name(name):
            raise ValueError(f"the file name {name!r} leads outside the pack")


def check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    """Compare the size of every file with the manifest.

    Raises:
        DamageError: a file is missing or has another size; says what to do.
    """
    with os.scandir(path) as entries:
        found = {entry.name: size for entry in entries if (size := _file_size(entry)) is not None}
    for name, stated in manifest_files(manifest).items():
        size = found.get(fmt.next_name(name, manifest["pack_id"]), found.get(name))
        remedy = (
            "copy the pack again or convert again"
            if name.endswith((".mdb", ".npy"))
            else f"rebuild it with: facepack reindex {path}"
        )
        if size is None:
            raise DamageError(f"{path}: {name} is missing: {remedy}")
        if size != stated["bytes"]:
            lfs.require_content(path / name, DamageError)
            raise DamageError(
                f"{path}: {name} has {size} bytes, the manifest says {stated['bytes']}: {remedy}"
            )


def _file_size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a regular file, or of that which a link leads to; None if it is none."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:  # a link that leads to itself
        return None


def manifest_files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All files that the manifest states, with their sizes and digests."""
    files: dict[str, dict[str, Any]] = {}
    for shard in manifest["shards"]:
        files.update(shard["files"])
    files.update(manifest["files"])
    return files


def shard_file(entry: dict[str, Any]) -> dict[str, Any]:
    """Size and digest of a shard's ``.mdb``, as its entry in a manifest states them."""
    stated: dict[str, Any] = entry["files"][f"{entry['name']}.mdb"]
    return stated


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
