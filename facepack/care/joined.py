"""A pack of other packs' shards: planned, told beforehand (``--dry-run``), or written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from facepack.care.bring import (
    BroughtShard,
    SourcePack,
    bring_shards,
    brought_labels,
    bytes_to_bring,
)
from facepack.store import format as fmt
from facepack.store.finish import finish_pack
from facepack.store.labelmap import label_map_bytes
from facepack.store.manifest import check_sizes, read_manifest
from facepack.store.pack_files import read_quarantine
from facepack.store.places import nearest
from facepack.store.plan import PackPlan
from facepack.store.preview import Preview
from facepack.store.target import Found, Target


class JoinedPack(NamedTuple):
    """A pack of brought shards, planned; nothing of it is written."""

    out: Path
    plan: PackPlan
    sources: Sequence[SourcePack]
    shards: Sequence[BroughtShard]
    label_maps: Mapping[str, np.ndarray]
    names: Mapping[int, str]  # of its identities
    with_refused: bool  # whether it lists what the sources have in quarantine

    @classmethod
    def of(
        cls,
        out: Path,
        told: dict[str, Any],
        sources: Sequence[SourcePack],
        *,
        classes: int,
        shards: Sequence[BroughtShard],
        label_maps: Mapping[str, np.ndarray],
        names: Mapping[int, str],
        with_refused: bool = False,
    ) -> JoinedPack:
        """The pack ``out`` of shards of ``sources``; ``told`` is how it came to be.

        Its plan has each shard's file, and what the shard says of itself.
        """

        def entry(shard: BroughtShard) -> dict[str, Any]:
            own = {key: shard.entry[key] for key in ("own_name", "pack_id", "shard")}
            selection = {} if shard.selection is None else {"selection": shard.selection}
            return {"name": shard.name, "label_map": shard.label_map, **own, **selection}

        manifests = [source.manifest for source in sources]
        orders = {manifest["order"] for manifest in manifests}
        selected = any(shard.selection is not None for shard in shards)
        channels = fmt.stored_channels(manifests[0])  # as of all others
        kept = ("pack_id", "content_id", "classes", "source")
        packs = [{key: manifest[key] for key in kept} for manifest in manifests]
        maps = {
            name: xxhash.xxh3_128_hexdigest(label_map_bytes(label_map))
            for name, label_map in label_maps.items()
        }
        plan = PackPlan.headed(
            channels,
            selected=selected,
            kind="train",
            source=told | {"packs": packs},
            order=orders.pop() if len(orders) == 1 else "mixed",
            seed=manifests[0]["seed"],
            classes=classes,
            tables=[],
            label_maps=maps,
            shards=[entry(shard) for shard in shards],
        )
        return cls(out, plan, sources, shards, label_maps, names, with_refused)

    def labels(self) -> np.ndarray:
        """Of all its records: int64 (n,)."""
        return np.concatenate([brought_labels(shard)[0] for shard in self.shards])

    def write(self, *, copy: bool, overwrite: bool, resume: bool) -> dict[str, Any]:
        """Write it; returns its manifest."""
        with Target(self.out, overwrite=overwrite, resume=resume) as target:
            if target.begin(self.plan.fields):
                return self._finished()
            return finish_pack(
                self.out,
                self.plan,
                bring_shards(self.shards, self.out, copy=copy, resume=resume),
                refused=self._refused(),
                identity_names=self.names,
                label_maps=self.label_maps,
                partial=any(source.manifest["partial"] for source in self.sources),
                before=[source.manifest for source in self.sources],
            )

    def preview(self, needed: int, *, overwrite: bool, resume: bool) -> Preview:
        """What :meth:`write` would do, with so many bytes to be written."""
        target = Target(self.out, overwrite=overwrite, resume=resume)
        found = target.look(self.plan.fields)
        if found is Found.FINISHED:
            self._finished()
        shards = []
        present = np.empty(0, np.int64)
        for shard in self.shards:
            labels, _ = brought_labels(shard)
            present = np.union1d(present, labels)
            taken = shard.selection or shard.entry
            shards.append(
                {
                    "name": f"{shard.name}.mdb",
                    "records": len(labels),
                    "payload_bytes": taken["payload_bytes"],
                }
            )
        beside = {
            fmt.MANIFEST: True,
            fmt.PLAN: True,
            fmt.LABELS: self.names,
            fmt.QUARANTINE: self._refused(),
            **dict.fromkeys(self.label_maps, True),
        }
        return Preview(
            out=str(self.out),
            target=found.value,
            found=sum(shard["records"] for shard in shards),
            identities=int(np.count_nonzero(present >= 0)),
            classes=self.plan.class_count(int(present.max(initial=-1))),
            payload_bytes=sum(shard["payload_bytes"] for shard in shards),
            needed_bytes=needed,
            free_bytes=target.free_bytes(),
            shards=shards,
            files=[name for name, is_there in beside.items() if is_there],
        )

    def _finished(self) -> dict[str, Any]:
        """The manifest of the pack that an earlier run finished, whose files are all there."""
        manifest = read_manifest(self.out)
        check_sizes(self.out, manifest)
        return manifest

    def _refused(self) -> list[dict[str, Any]]:
        if not self.with_refused:
            return []
        return [line for each in self.sources for line in read_quarantine(each.path, each.manifest)]


def write_packs(
    packs: Sequence[JoinedPack], *, copy: bool, overwrite: bool, resume: bool
) -> list[dict[str, Any]]:
    """Write packs, none before it is known that all can be: one alone would be in the way later.

    To ``copy`` shards is to share no file.

    Returns:
        Their manifests.

    Raises:
        PackError: a target cannot be written, or holds something else.
        DamageError: a file of a source is missing, or differs from its manifest.
    """
    _require_targets(packs, copy=copy, overwrite=overwrite, resume=resume)
    return [pack.write(copy=copy, overwrite=overwrite, resume=resume) for pack in packs]


def preview_packs(
    packs: Sequence[JoinedPack], *, copy: bool, overwrite: bool, resume: bool
) -> list[Preview]:
    """What :func:`write_packs` would do; raises what that would before its first step."""
    needed = _require_targets(packs, copy=copy, overwrite=overwrite, resume=resume)
    return [
        pack.preview(size, overwrite=overwrite, resume=resume)
        for pack, size in zip(packs, needed, strict=True)
    ]


def _require_targets(
    packs: Sequence[JoinedPack], *, copy: bool, overwrite: bool, resume: bool
) -> list[int]:
    """Make sure, by looking, that packs can be made; the bytes that each has still to write."""
    needed = []
    devices: Counter[int] = Counter()
    for pack in packs:
        target = Target(pack.out, overwrite=overwrite, resume=resume)
        target.look(pack.plan.fields)
        target.require_place()
        needed.append(bytes_to_bring(pack.shards, pack.out, copy=copy, resume=resume))
        device = nearest(pack.out).stat().st_dev
        devices[device] += needed[-1]
        target.require_space(devices[device])
    return needed
