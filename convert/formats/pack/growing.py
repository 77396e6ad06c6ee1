"""A pack that grows: what it holds of a source, the journal of an append, and its commit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facepack.convert.formats.pack.held import HeldShard, held_files
from facepack.convert.formats.pack.relabel import Relabelled
from facepack.convert.source import Source
from facepack.errors import DamageError, NewerFormatError, PackError
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_file
from facepack.store.finish import finish_pack, settle
from facepack.store.labelmap import LabelNames, read_label_map
from facepack.store.manifest import check_sizes, read_training_manifest
from facepack.store.pack_files import (
    read_identity_names,
    read_plan,
    read_quarantine,
    read_stated_file,
)
from facepack.store.plan import PackPlan, is_joined
from facepack.store.shard import ShardInfo, WrittenShard


@dataclass(frozen=True)
class GrowingPack:
    """A pack that grows: its folder, manifest and plan, as they are on disk and sound."""

    path: Path
    manifest: dict[str, Any]
    plan: PackPlan

    @classmethod
    def read(cls, path: Path, *, mend: bool = True) -> GrowingPack:
        """The pack in ``path``; to ``mend`` is to do what an append left behind its commit."""
        manifest = read_training_manifest(path, "it does not grow; convert into a new pack")
        if manifest["partial"]:
            raise PackError(
                f"{path} lacks shards that it had (partial): copy them here and run facepack "
                "reindex, or merge it with a pack of the new images"
            )
        if mend:
            settle(path, manifest)
        check_sizes(path, manifest)
        pack = cls(path, manifest, read_plan(path, manifest))
        if mend and pack.unfinished() is None:
            pack.journal.unlink(missing_ok=True)
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
            raise DamageError(
                f"{self.journal}: not a plan that facepack wrote ({error}): remove it"
            ) from error
        return None if plan in self.plan.fields.get("appended", []) else plan

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
        for made_of in (each for plan in plans for each in descriptions(plan.fields["source"])):
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
        """Write the plan of an append, or find it there; raises as :meth:`look`."""
        if not self.look(plan, resume=resume):
            write_file(self.journal, [fmt.json_text(plan).encode()])

    def look(self, plan: dict[str, Any], *, resume: bool) -> bool:
        """Whether an append of this plan was interrupted.

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
                    raise PackError(
                        f"{file} is in the way and not a shard of the pack: move it away"
                    )
            return False
        if not resume:
            raise PackError(
                f"{self.path} holds an unfinished append: --resume completes it, --discard removes "
                "what it left"
            )
        if found != wanted:
            keys = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
            raise PackError(
                f"{self.path} holds an unfinished append under another plan ({', '.join(keys)} "
                "differ): resume it with the same source and options, or remove what it left with "
                "--discard"
            )
        return True

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


def descriptions(source: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a plan says of the source, or of those of each pack that was merged or selected from."""
    if not is_joined(source):
        yield source
    chosen = {"chosen": source["chosen"]} if source["kind"] == "selection" else {}
    for pack in source.get("packs", []):
        yield from (each | chosen for each in descriptions(pack["source"]))


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
