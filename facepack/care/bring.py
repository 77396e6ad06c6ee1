"""Bringing shards of packs into another pack: linked or copied, not rewritten.

Only their key-label indexes are written anew, with the labels of the new pack, and with lines for
the records alone that it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facepack import system
from facepack.atomic import replacing
from facepack.errors import DamageError
from facepack.progress import Progress
from facepack.reading import open_regular
from facepack.store import format as fmt
from facepack.store.digests import file_digest
from facepack.store.files import write_file
from facepack.store.labelmap import apply_label_map, read_label_map
from facepack.store.manifest import check_sizes, read_training_manifest, shard_file
from facepack.store.pack_files import read_identity_names, read_stated_file
from facepack.store.places import nearest
from facepack.store.plan import check_source
from facepack.store.selection import selected_keys, with_selection
from facepack.store.shard import ShardInfo, WrittenShard

_CHUNK = 8 << 20


class SourcePack(NamedTuple):
    """A pack whose shards are brought; ``names`` of its identities by label, empty without any."""

    path: Path
    manifest: dict[str, Any]
    names: list[str]

    @classmethod
    def open(cls, path: Path, so: str) -> SourcePack:
        """The pack in ``path``, if it is a training pack; ``so`` says what others cannot.

        Raises:
            PackError: it is none.
            DamageError: a file is missing or has not the size that the manifest states.
        """
        manifest = read_training_manifest(path, so)
        check_sizes(path, manifest)
        return cls.of(path, manifest)

    @classmethod
    def of(cls, path: Path, manifest: dict[str, Any]) -> SourcePack:
        """The pack in ``path``, or some of its shards, by a manifest that was checked."""
        try:
            check_source(manifest["source"])  # it becomes a part of the new plan
        except ValueError as error:
            raise DamageError(
                f"{path / fmt.MANIFEST}: {error}: rebuild it with: facepack reindex {path}"
            ) from error
        return cls(path, manifest, read_identity_names(path, manifest))

    def label_map(self, name: str | None) -> np.ndarray | None:
        """Its label map of that file name."""
        if name is None:
            return None
        return read_label_map(read_stated_file(self.path, self.manifest, name), name)

    def read_index(self, entry: dict[str, Any]) -> tuple[np.ndarray, Sequence[int] | np.ndarray]:
        """The labels, int64 (n,), and the keys of the pack's records in a shard."""
        name = f"{entry['name']}.kv"
        data = read_stated_file(self.path, self.manifest, name)
        where = str(self.path / name)
        return fmt.kv_labels(data, where), selected_keys(data, entry, where)


class BroughtShard(NamedTuple):
    """A shard that is brought."""

    source: SourcePack
    entry: dict[str, Any]  # in the manifest there
    name: str  # of its files in the new pack
    relabel: np.ndarray | None  # the new label of each label of its pack, if they change
    label_map: str | None  # the file that takes the labels inside it to the new ones
    keep: np.ndarray | None = None  # which of the pack's records in it are taken; None: all
    selection: dict[str, Any] | None = None  # these, as plan and manifest describe them


class LabelMaps:
    """The label maps inside shards, behind which comes a new label of each label of their pack."""

    def __init__(self) -> None:
        self.files: dict[str, np.ndarray] = {}  # by file name, those that are needed
        self._names: dict[tuple[Path, str | None], str | None] = {}  # by pack and its label map

    def name(self, source: SourcePack, inner: str | None, relabel: np.ndarray | None) -> str | None:
        """The file that takes the labels inside a shard of ``source`` to the new ones.

        ``inner`` is the one that takes them to those of ``source``; None: they stay.
        """
        key = source.path, inner
        if key not in self._names:
            composed = _compose(source.label_map(inner), relabel)
            self._names[key] = None
            if composed is not None:
                self._names[key] = file = fmt.label_map_name(len(self.files))
                self.files[file] = composed
        return self._names[key]


def _compose(inner: np.ndarray | None, outer: np.ndarray | None) -> np.ndarray | None:
    """``outer`` after ``inner``; None stands for labels that stay."""
    if inner is None or outer is None:
        return outer if inner is None else inner
    return apply_label_map(outer, inner.astype(np.int64))


def bring_shards(
    shards: Sequence[BroughtShard], out: Path, *, copy: bool, resume: bool
) -> list[WrittenShard]:
    """Bring shards and their indexes into ``out``; returns their entries there.

    Raises:
        DamageError: a file of a pack is missing, or differs from its manifest.
        PackError: a file cannot be written.
    """
    written = []
    size = sum(shard_file(shard.entry)["bytes"] for shard in shards)
    with Progress(size, unit="bytes", label=out.name) as progress:
        for shard in shards:
            written.append(_bring_shard(shard, out, copy=copy, resume=resume))
            progress.update(shard_file(shard.entry)["bytes"])
    return written


def bytes_to_bring(shards: Sequence[BroughtShard], out: Path, *, copy: bool, resume: bool) -> int:
    """Bytes of the indexes, and of the shards that cannot be links; of what is not there yet."""
    device = nearest(out).stat().st_dev

    def size(shard: BroughtShard) -> int:
        copied = copy or shard.source.path.stat().st_dev != device
        return sum(
            shard.entry["files"][f"{shard.entry['name']}{suffix}"]["bytes"]
            for suffix in ((".kv", ".mdb") if copied else (".kv",))
            if not (resume and (out / f"{shard.name}{suffix}").exists())
        )

    return sum(map(size, shards))


def brought_labels(shard: BroughtShard) -> tuple[np.ndarray, np.ndarray]:
    """The labels in the new pack, and the keys, of the records that are taken: int64 (n,)."""
    # The index has its pack's labels, which differ from the shard's own where that was merged too.
    labels, keys = shard.source.read_index(shard.entry)
    keys = np.asarray(keys, np.int64)
    if shard.keep is not None:
        labels, keys = labels[shard.keep], keys[shard.keep]
    return apply_label_map(shard.relabel, labels), keys


def _bring_shard(shard: BroughtShard, out: Path, *, copy: bool, resume: bool) -> WrittenShard:
    """Bring a shard and its index into ``out``; returns its entry there."""
    source, old, name = shard.source, shard.entry["name"], shard.name
    labels, keys = brought_labels(shard)
    digest, size = write_file(out / f"{name}.kv", [fmt.kv_bytes(labels, keys)])
    stated = shard_file(shard.entry)
    _bring_file(source.path / f"{old}.mdb", out / f"{name}.mdb", stated, copy=copy, resume=resume)
    files = {f"{name}.kv": {"bytes": size, "xxh3_128": digest}, f"{name}.mdb": stated}
    info = with_selection(ShardInfo.from_json(shard.entry), shard.selection)
    return WrittenShard(replace(info, name=name, files=files, label_map=shard.label_map))


def _bring_file(old: Path, new: Path, stated: dict[str, Any], *, copy: bool, resume: bool) -> None:
    """Make ``new`` the same file as ``old``, or a copy of it with the stated size and digest."""
    if resume and new.exists():
        linked = new.samefile(old)
        if not copy if linked else file_digest(new) == (stated["xxh3_128"], stated["bytes"]):
            return
        new.unlink()
    if not copy:
        try:
            with replacing(new) as part:
                # To the file: a symbolic link may lead nowhere from here.
                system.hard_link(old.resolve(), part)
            return
        except OSError:
            pass  # another file system, or one without links
    write_file(new, _checked(old, stated))


def _checked(path: Path, stated: dict[str, Any]) -> Iterator[bytes]:
    """The file, piece by piece; a DamageError at its end if it is not as stated."""
    digest = fmt.file_digest()
    size = 0
    try:
        with open_regular(path) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
                yield piece
    except OSError as error:
        raise DamageError(f"{path}: cannot be read: {error.strerror}") from error
    if size != stated["bytes"] or digest.hexdigest() != stated["xxh3_128"]:
        raise DamageError(
            f"{path} differs from what its manifest states: see what is wrong with: "
            f"facepack verify {path.parent}"
        )
