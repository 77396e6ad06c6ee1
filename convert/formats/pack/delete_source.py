"""Deleting a source once a pack is found to hold every image of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facepack import system
from facepack.care.shard_check import ShardContent, check_index, check_shard
from facepack.convert.formats.pack.growing import GrowingPack, descriptions
from facepack.convert.formats.pack.held import HeldShard
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.registry import SOURCES
from facepack.convert.source import Source
from facepack.errors import ConfigError, DamageError, PackError, SourceError
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck
from facepack.store.format import NO_IDENTITY
from facepack.store.manifest import read_manifest, shard_file, states
from facepack.store.pack import open as open_pack
from facepack.store.pack_files import read_plan
from facepack.store.record import SourceRecord
from facepack.store.target import Target
from facepack.system import sync_folder

Stamp = tuple[int, int, int, int]


def deleted_before(path: Path, kind: str, files: Sequence[Path]) -> list[Path]:
    """Those of ``files`` that are gone and, by their names, in the pack in ``path``.

    An earlier run with ``--delete-source`` leaves such behind it.
    """
    held = [
        description
        for part in read_plan(path, read_manifest(path)).parts()
        for description in descriptions(part.fields["source"])
    ]
    listed = (file for each in held if each["kind"] == kind for file in each.get("files", []))
    names = {file["name"] for file in listed if isinstance(file, dict)}
    return [file for file in files if file.name in names and not file.exists()]


def source_files(kind: str, paths: Sequence[Path]) -> dict[Path, Stamp]:
    """The files that a source consists of, and what tells each from a later one of that name.

    Raises:
        ConfigError: a source of this kind is more than its images: it is the user's to delete.
        SourceError: a file cannot be looked at.
    """
    stamps: dict[Path, Stamp] = {}
    for path in paths:
        files = SOURCES[kind].command.own_files(path)
        if files is None:
            raise ConfigError(
                f"--delete-source with --source {kind}: only zips and .rec files are deleted; "
                "delete others yourself once facepack verify has found the pack good"
            )
        stamps |= {file: _stamp(file) for file in files}
    return stamps


def _stamp(file: Path) -> Stamp:
    try:
        status = file.stat()
    except OSError as error:
        raise SourceError(f"{file}: cannot be looked at: {error.strerror}") from error
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def delete_source(path: Path, source: Source, files: Mapping[Path, Stamp]) -> str:
    """Delete the files of ``source`` if the pack in ``path`` holds every image of it as it was.

    The shards are read again first, from the disk as far as the system lets itself be told, and
    must be what was written, byte for byte. So is the source: an earlier run may have packed it,
    since when an image or a label may have changed that neither its size nor its index tells.

    ``files`` are what :func:`source_files` gave before ``source`` was opened to be appended.

    Returns:
        What was done, in words: that the files are deleted, or why they are kept.

    Raises:
        PackError: the pack does not hold the source, or another process is writing into it.
        SourceError: a file cannot be read or deleted.
        DamageError: a shard is not what was written; nothing is deleted.
    """
    names = ", ".join(str(file) for file in files)
    with Target(path):
        pack = GrowingPack.read(path)
        held = pack.find(source)
        if held is None:
            raise PackError(f"{path} does not hold {names}: nothing is deleted")
        if reason := _reason_to_keep(pack, held, source, files):
            return f"kept: {names}: {reason}"
        for file in files:
            try:
                file.unlink()
                sync_folder(file.parent)
            except OSError as error:
                raise SourceError(f"{file} cannot be deleted: {error.strerror}") from error
    return f"deleted: {names}: {path} holds its {len(source):,} images"


def _reason_to_keep(
    pack: GrowingPack, held: Sequence[HeldShard], source: Source, files: Mapping[Path, Stamp]
) -> str | None:
    """Why the source should stay, in words; None: the pack holds all of it.

    Raises:
        SourceError: the source cannot be read again.
        DamageError: a shard is not what was written.
    """
    entries = [shard.entry for shard in held]
    refused = sum(entry["quarantined"] for entry in entries)
    if refused:
        listed = pack.path / fmt.QUARANTINE
        return f"{refused:,} of its records were set aside, see {listed}"
    if any(ImageCheck.from_json(shard.check).encodes for shard in held):
        return "with --color convert or --resize the pack may hold other images than it"
    if isinstance(source, ZipSource) and source.passed_over:
        return f"it holds {source.passed_over:,} members that are not images: the pack lacks them"
    if link := next(filter(Path.is_symlink, files), None):
        return f"it is a link; delete what it leads to yourself: {link.resolve()}"
    if sum(entry["records"] for entry in entries) != len(source):
        return f"{pack.path} does not hold every one of its {len(source):,} images"
    ordinals = [_check_on_disk(pack.path, each.entry).ordinals + each.shift for each in held]
    names = [entry["name"] for entry in entries]
    if (changed := _first_difference(pack.path, names, ordinals, source)) is not None:
        return f"its image {changed:,} or the label of that is not the one that was packed"
    if any(_stamp(file) != stamp for file, stamp in files.items()):
        return "it was changed while it was appended"
    return None


def _first_difference(
    path: Path, shards: Sequence[str], ordinals: Sequence[np.ndarray], source: Source
) -> int | None:
    """The ordinal of the first image that is not in these shards as it is in ``source``.

    Labels may be others, as long as the same images share one.
    """
    positions = np.full(len(source), -1)
    there = np.concatenate(ordinals)
    positions[there] = np.arange(len(there))
    if (positions < 0).any():
        return int(np.argmin(positions))
    new_labels = {NO_IDENTITY: NO_IDENTITY}
    old_labels = {NO_IDENTITY: NO_IDENTITY}
    with open_pack(path, shards=shards) as pack:
        labels = pack.labels[positions].tolist()
        for _, start, stop in source.groups():
            for record in source.part(start, stop).read():
                ordinal = record.ordinal
                if not isinstance(record, SourceRecord):
                    return ordinal
                label = labels[ordinal]
                if (
                    new_labels.setdefault(record.label, label) != label
                    or old_labels.setdefault(label, record.label) != record.label
                ):
                    return ordinal
                with pack.views(positions[ordinal : ordinal + 1]) as (packed,):
                    if packed != record.image:
                        return ordinal
    return None


def _check_on_disk(path: Path, entry: dict[str, Any]) -> ShardContent:
    """Make sure that a shard is on the disk as the manifest states it."""
    name = entry["name"]
    for file in entry["files"]:
        _drop_from_cache(path / file)
    content = check_shard(path, name, canonical=True)
    damage = [str(found) for found in content.damage or check_index(path, name, content.labels)]
    if content.info is not None and not states(
        shard_file(entry), content.info.files[f"{name}.mdb"]
    ):
        damage.append(f"{name}.mdb differs from what the manifest states")
    if damage:
        raise DamageError(f"{path}: {damage[0]}: the source is kept; see facepack verify {path}")
    return content


def _drop_from_cache(path: Path) -> None:
    """Let the next look at the file be one at the disk; what is dirty was synced when written."""
    with path.open("rb") as file:
        system.was_read(file.fileno())
