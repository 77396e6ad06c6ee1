"""Growing a pack by new shards, whatever happens meanwhile."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facepack import system
from facepack.care.shard_check import ShardContent, check_index, check_shard
from facepack.convert.formats.pack.held import HeldShard, held_files
from facepack.convert.formats.pack.label_notes import notes_on_labels
from facepack.convert.formats.pack.relabel import Relabelled
from facepack.convert.formats.pack.sink import PackOptions, plan_pack, space_needed, write_shards
from facepack.convert.formats.zip.source import ZipSource, zip_files
from facepack.convert.registry import SOURCES
from facepack.convert.result import Result
from facepack.convert.source import Source
from facepack.errors import ConfigError, DamageError, NewerFormatError, PackError, SourceError
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.finish import finish_pack, settle
from facepack.store.format import NO_IDENTITY
from facepack.store.labelmap import LabelNames, read_label_map
from facepack.store.manifest import check_sizes, read_manifest, states
from facepack.store.pack import open as open_pack
from facepack.store.pack_files import (
    read_identity_names,
    read_plan,
    read_quarantine,
    read_stated_file,
)
from facepack.store.plan import PackPlan
from facepack.store.record import SourceRecord
from facepack.store.shard import ShardInfo, WrittenShard
from facepack.store.target import Target
from facepack.system import sync_folder


def append(path: Path, source: Source, options: PackOptions, *, discard: bool = False) -> Result:
    """Add the images of ``source`` to the pack in ``path``, as new shards.

    No shard is rewritten. Identities that the pack has by name keep their label, others are
    numbered from its ``classes`` up. Until its manifest is replaced, the pack is the one that it
    was; from then on it is the new one, killed or not.

    Args:
        path: the pack's folder.
        source: a training set.
        options: how shards are made; ``resume`` completes an interrupted append, and finds nothing
            to do where the source is in the pack.
        discard: remove first what an interrupted append left.

    Returns:
        Figures of what was appended; ``identities`` and ``classes`` are those of the pack.

    Raises:
        SourceError: the source cannot be read, or a record cannot be packed under ``strict``.
        PackError: no training pack is there, it has the source already or a part of it, another
            append was interrupted, or the pack cannot be written.
        DamageError: a file beside the shards differs from the manifest.
        WorkerError: a worker process died.
    """
    began = time.monotonic()
    if source.content != "train":
        raise PackError(
            f"a source of kind {source.kind!r} that holds {source.content!r} is no training set: "
            "convert it into a pack of its own"
        )
    read_manifest(path)  # before a lock is put into what may be no pack
    with Target(path) as target:
        pack = _Pack.read(path)
        if discard:
            pack.discard()
        held = pack.find(source)
        if held is not None:
            if not options.resume:
                raise PackError(
                    f"{path} has this source already (shards: {len(held)}): there is nothing to "
                    "append"
                )
            first, *others = (group.stem for group in source.groups())
            source.notices.append(
                f"{path} has this source already ({first}{' …' if others else ''}), and nothing is "
                "left to do: the figures are those of the run that appended it"
            )
            result = _result(pack, [shard.entry for shard in held], source, began)
            return replace(result, held=True)
        relabelled = pack.relabel(source)
        plan = plan_pack(relabelled, options).with_fields(
            onto=pack.plan.pack_id, labels_xxh3_128=relabelled.labels_digest
        )
        target.require_space(space_needed(relabelled, path, plan))
        pack.begin(plan.fields, resume=options.resume)
        shards = write_shards(relabelled, path, plan, options)
        target.remove_parts()
        pack.finish(plan, shards)
        grown = _Pack.read(path)
        return _result(grown, grown.shards_of(plan), source, began)


@dataclass(frozen=True)
class _Pack:
    """A pack that grows: its folder, manifest and plan, as they are on disk and sound."""

    path: Path
    manifest: dict[str, Any]
    plan: PackPlan

    @classmethod
    def read(cls, path: Path) -> _Pack:
        """The pack in ``path``; what an append left to do behind its commit is done."""
        manifest = read_manifest(path)
        if manifest["kind"] != "train" or fmt.table_names(manifest["files"]):
            raise PackError(
                f"{path} is an evaluation set (kind {manifest['kind']!r}): its tables point at "
                "records by position, so it does not grow; convert into a new pack"
            )
        if manifest["partial"]:
            raise PackError(
                f"{path} lacks shards that it had (partial): copy them here and run facepack "
                "reindex, or merge it with a pack of the new images"
            )
        settle(path, manifest)
        check_sizes(path, manifest)
        pack = cls(path, manifest, read_plan(path, manifest))
        if pack.unfinished() in pack.plan.fields.get("appended", []):
            pack.journal.unlink()
        return pack

    @property
    def journal(self) -> Path:
        """The file that holds the plan of an append from its first step to its last."""
        return self.path / fmt.APPENDING

    def unfinished(self) -> dict[str, Any] | None:
        """The plan of an append that was interrupted."""
        try:
            plan = read_json(self.journal)
            if not isinstance(plan, dict):
                raise ValueError("not a map")
            fmt.require_known(plan, str(self.journal))
            for span in plan["shards"]:
                fmt.check_shard_name(span["name"])
        except FileNotFoundError:
            return None
        except NewerFormatError:
            raise
        except (OSError, ValueError, KeyError, TypeError, PackError) as error:
            raise DamageError(f"{self.journal}: no plan of ours ({error}): remove it") from error
        return plan

    def discard(self) -> None:
        """Remove the shards of an append that was interrupted, and its plan last."""
        plan = self.unfinished()
        if plan is None:
            return
        own = {entry["name"] for entry in self.manifest["shards"]}
        for span in plan["shards"]:
            if span["name"] in own:
                raise DamageError(
                    f"{self.journal}: it says that {span['name']} is being appended, which is a "
                    "shard of the pack: remove it"
                )
        for span in plan["shards"]:
            for suffix in (".mdb", ".kv"):
                (self.path / (span["name"] + suffix)).unlink(missing_ok=True)
        for file in list(self.path.iterdir()):
            if fmt.NEXT.fullmatch(file.name) or fmt.PART.fullmatch(file.name):
                file.unlink()
        self.journal.unlink()

    def find(self, source: Source) -> list[HeldShard] | None:
        """The shards that hold ``source`` already; None: nothing of it is there.

        Raises:
            PackError: a part of it is there, and appending it would make that twice.
        """
        description = json.loads(fmt.json_text(source.describe()))
        plans = self.plan.parts()
        for plan in plans:
            if plan.fields["source"] == description:
                check = plan.fields["check"]
                return [HeldShard(entry, 0, check) for entry in self.shards_of(plan)]
        held = held_files(self.path, source)
        missing = [g.stem for g in source.groups() if g.stop > g.start and g not in held]
        if held and missing:
            there = ", ".join(group.stem for group in held)
            raise PackError(
                f"{self.path} has {there} of this source already, and has not "
                f"{', '.join(missing)}: append what it has not by itself"
            )
        if held:
            return [shard for shards in held.values() for shard in shards]
        for made_of in (each for plan in plans for each in _descriptions(plan.fields["source"])):
            if "chosen" in made_of and _files(made_of) & _files(description):
                raise PackError(
                    f"{self.path} has a choice of the images of this source "
                    f"({_choice(made_of['chosen'])}): appending all would make these twice; "
                    "convert those still wanted into a pack of their own and join the two with: "
                    "facepack merge"
                )
        return None

    def shards_of(self, plan: PackPlan) -> list[dict[str, Any]]:
        """The manifest's entries of the shards that were made under ``plan``."""
        return [entry for entry in self.manifest["shards"] if entry["pack_id"] == plan.pack_id]

    def relabel(self, source: Source) -> Relabelled:
        """``source`` under labels and shard names that continue the pack's."""
        names = LabelNames(read_identity_names(self.path, self.manifest))
        taken = [entry["name"] for entry in self.manifest["shards"]]
        stems = [group.stem for group in source.groups()]
        prefix, number = "", len(self.plan.fields.get("appended", []))
        while any(
            re.fullmatch(re.escape(prefix + stem) + r"(-\d{3,})?", name)
            for stem in stems
            for name in taken
        ):
            number += 1
            prefix = f"append{number}-"
        first = self.manifest["classes"]
        try:
            return Relabelled(source, first=first, names=names, prefix=prefix)
        except PackError as error:
            raise PackError(
                f"{self.path}: {error}; convert into a new pack and join the two with: facepack "
                "merge"
            ) from error

    def begin(self, plan: dict[str, Any], *, resume: bool) -> None:
        """Write the plan of an append, or find it there.

        Raises:
            PackError: another one is there, this one is and shall not be resumed, or a shard would
                replace a file that is none of the pack's.
        """
        found = self.unfinished()
        wanted = json.loads(fmt.json_text(plan))
        if found is None:
            for span in plan["shards"]:
                file = self.path / f"{span['name']}.mdb"
                if file.exists():
                    raise PackError(f"{file} is in the way and no shard of the pack: move it away")
            write_file(self.journal, [fmt.json_text(plan).encode()])
        elif not resume:
            raise PackError(
                f"{self.path} holds an unfinished append: --resume completes it, --discard removes "
                "what it left"
            )
        elif found != wanted:
            keys = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
            raise PackError(
                f"{self.path} holds an unfinished append under another plan ({', '.join(keys)} "
                "differ): resume it with the same source and options, or remove what it left with "
                "--discard"
            )

    def finish(self, plan: PackPlan, shards: Sequence[WrittenShard]) -> None:
        """Replace the manifest by that of the pack with the new shards."""
        before = [WrittenShard(ShardInfo.from_json(entry)) for entry in self.manifest["shards"]]
        refused = list(read_quarantine(self.path, self.manifest))
        names = read_identity_names(self.path, self.manifest)
        (self.path / fmt.DUPLICATES).unlink(missing_ok=True)  # of fewer images
        finish_pack(
            self.path,
            self.plan.with_appended(plan.fields),
            [*before, *shards],
            refused=refused,
            identity_names={k: name for k, name in enumerate(names) if name},
            label_maps={
                name: read_label_map(read_stated_file(self.path, self.manifest, name), name)
                for name in filter(fmt.is_label_map, self.manifest["files"])
            },
            replacing=True,
            before=[self.manifest],
        )
        self.journal.unlink()


def _descriptions(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a plan says of the source, or of those of each pack that was merged."""
    if source["kind"] != "merge":
        yield source
    for pack in source.get("packs", []):
        yield from _descriptions(pack["source"])


def _files(description: dict[str, Any]) -> set[str]:
    """What tells the files of a source from others, whatever they are called."""
    files = [description]
    for key in ("files", "sets", "lists"):  # of zips, kv files and lists; a tar's hold less
        listed = description.get(key, [])
        if listed and all(isinstance(each, dict) for each in listed):
            files = listed
    return {
        fmt.json_text({k: v for k, v in each.items() if k != "name" and not k.startswith("chosen")})
        for each in files
    }


def _choice(chosen: dict[str, Any]) -> str:
    """The options that made it."""
    return ", ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, value in sorted(chosen.items())
        if name != "seed" and value
    )


def _result(pack: _Pack, entries: Sequence[dict[str, Any]], source: Source, began: float) -> Result:
    packed = sum(entry["records"] for entry in entries)
    quarantined = sum(entry["quarantined"] for entry in entries)
    return Result(
        out=str(pack.path),
        found=packed + quarantined,
        packed=packed,
        quarantined=quarantined,
        identities=pack.manifest["identities"],
        classes=pack.manifest["classes"],
        pairs=None,
        shards=len(entries),
        payload_bytes=sum(entry["payload_bytes"] for entry in entries),
        file_bytes=sum(stated["bytes"] for entry in entries for stated in entry["files"].values()),
        seconds=round(time.monotonic() - began, 3),
        notices=[*source.notices, *notes_on_labels(pack.path, pack.manifest, entries)],
    )


# The source, once it is in the pack ---------------------------------------------------------------


Stamp = tuple[int, int, int, int]


def separate_sources(kind: str, paths: Sequence[Path]) -> list[list[Path]]:
    """The paths of each source among ``paths``: each zip and each ``.rec`` is one of its own.

    Raises:
        SourceError: a folder has no zip in it.
    """
    if kind == "zip":
        return [[file] for file in zip_files(paths)]
    return [list(paths)] if SOURCES[kind].many else [[path] for path in paths]


def deleted_before(path: Path, zips: Sequence[Path]) -> list[Path]:
    """Those of ``zips`` that are gone and, by their names, in the pack in ``path``.

    An earlier run with ``--delete-source`` leaves such behind it.
    """
    held = [
        description
        for part in read_plan(path, read_manifest(path)).parts()
        for description in _descriptions(part.fields["source"])
    ]
    names = {file["name"] for each in held if each["kind"] == "zip" for file in each["files"]}
    return [zip_ for zip_ in zips if zip_.name in names and not zip_.exists()]


def source_files(kind: str, path: Path) -> dict[Path, Stamp]:
    """The files that a source consists of, and what tells each from a later one of that name.

    Raises:
        ConfigError: a source of this kind is more than its images: it is the user's to delete.
        SourceError: a file cannot be looked at.
    """
    if kind == "zip":
        files = [path]
    elif kind == "rec":
        rec = path / "train.rec" if path.is_dir() else path
        files = [rec, *filter(Path.exists, [rec.with_suffix(".idx")])]
    else:
        raise ConfigError(
            f"--delete-source with --source {kind}: only zips and .rec files are deleted; delete "
            "others yourself once facepack verify has found the pack good"
        )
    return {file: _stamp(file) for file in files}


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

    Args:
        path: the pack's folder, to which ``source`` was appended.
        source: as it was opened for that.
        files: all that it consists of, as :func:`source_files` gave them before it was opened.

    Returns:
        What was done, in words: that the files are deleted, or why they are kept.

    Raises:
        PackError: the pack does not hold the source, or another process is writing into it.
        SourceError: a file cannot be read or deleted.
        DamageError: a shard is not what was written; nothing is deleted.
    """
    names = ", ".join(str(file) for file in files)
    with Target(path):
        pack = _Pack.read(path)
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
    pack: _Pack, held: Sequence[HeldShard], source: Source, files: Mapping[Path, Stamp]
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
    if any(shard.check["color"] == "convert" for shard in held):
        return "with --color convert the pack may hold other images than it"
    if isinstance(source, ZipSource) and source.passed_over:
        return f"it holds {source.passed_over:,} members that are no images, which the pack has not"
    if link := next(filter(Path.is_symlink, files), None):
        return f"it is a link; delete what it leads to yourself: {link.resolve()}"
    if sum(entry["records"] for entry in entries) != len(source):
        return f"{pack.path} has not each of its {len(source):,} images"
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
    if content.info is not None and not states(_mdb(entry), content.info.files[f"{name}.mdb"]):
        damage.append(f"{name}.mdb differs from what the manifest states")
    if damage:
        raise DamageError(f"{path}: {damage[0]}: the source is kept; see facepack verify {path}")
    return content


def _mdb(entry: dict[str, Any]) -> dict[str, Any]:
    """Size and digest of a shard's ``.mdb``."""
    stated: dict[str, Any] = entry["files"][f"{entry['name']}.mdb"]
    return stated


def _drop_from_cache(path: Path) -> None:
    """Let the next look at the file be one at the disk; what is dirty was synced when written."""
    with path.open("rb") as file:
        system.was_read(file.fileno())
