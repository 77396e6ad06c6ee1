"""The plan of a pack: whatever its content depends on; ``plan.json`` and every shard state it."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from facepack.errors import PackError
from facepack.images import CHANNEL_ORDERS
from facepack.store import format as fmt
from facepack.store.checks import ImageCheck

_SHAPE = {"kind": str, "order": str, "seed": int, "source": dict, "tables": list}
_SELECTION_SHAPE = {
    "of": int,
    "records": int,
    "payload_bytes": int,
    "images": dict,
    "xxh3_128": str,
}
_META_SHAPE = {
    "version": int,
    "pack_id": str,
    "name": str,
    "shard": int,
    "records": int,
    "payload_bytes": int,
    "page_size": int,
    "images": dict,
    "plan": dict,
}


@dataclass(frozen=True)
class PackPlan:
    """A pack's plan, and the id that its shards state."""

    fields: dict[str, Any]  # what plan.json holds
    # 32 hex digits: the content_id() of the fields, unless records were streamed, or shards are
    # missing
    pack_id: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> PackPlan:
        """The plan of these fields, under the id that is theirs."""
        return cls(fields, fmt.content_id(fields))

    @classmethod
    def make(
        cls,
        *,
        kind: str,
        source: dict[str, Any],
        order: str = "shuffled",
        seed: int = 0,
        check: ImageCheck | None = None,
        classes: int | None = None,
        tables: Sequence[str] = (),
        shards: list[dict[str, Any]] | None = None,
    ) -> PackPlan:
        """The plan of a pack whose shards are all written anew.

        Args:
            kind: ``train``, ``pairs``, ``templates`` or ``megaface``.
            source: what is packed: its kind, files, sizes, hashes.
            order: of the records in a shard: ``shuffled``, ``source`` or ``identity``.
            seed: of the shuffled order.
            check: how closely images are looked at, and the order of their colours.
            classes: the width of a head, if the source states it.
            tables: names of the tables of an evaluation set.
            shards: name, start and stop (source ordinals) of each; None when records are streamed.

        Raises:
            PackError: an option is not one of those allowed.
        """
        if order not in fmt.ORDERS:
            raise PackError(f"{order!r}: allowed are {', '.join(fmt.ORDERS)}")
        seed = operator.index(seed)
        if not 0 <= seed < 1 << 63:
            raise PackError(f"seed {seed}: allowed are 0 to 2^63 - 1")
        if classes is not None:
            classes = operator.index(classes)
            if not 0 <= classes <= fmt.MAX_LABEL + 1:
                raise PackError(f"classes {classes}: allowed are 0 to {fmt.MAX_LABEL + 1}")
        check = check or ImageCheck()
        return cls.headed(
            check.stored_channels,
            kind=kind,
            source=source,
            order=order,
            seed=seed,
            check=check.as_json(),
            classes=classes,
            tables=sorted(tables),
            shards=shards,
        )

    @classmethod
    def headed(cls, channels: str, *, selected: bool = False, **fields: Any) -> PackPlan:
        """The plan of these fields and of those that tell which readers can read the pack."""
        requires = fmt.required_features(channels=channels, selected=selected)
        head: dict[str, Any] = {"requires": requires} if requires else {}
        head |= fmt.channels_field(channels)
        return cls.of({"format": fmt.FORMAT_VERSION, **head, **fields})

    def with_fields(self, **changes: Any) -> PackPlan:
        """The plan with some fields changed or added, so under another id."""
        return self.of({**self.fields, **changes})

    def with_appended(self, fields: dict[str, Any]) -> PackPlan:
        """The plan of the pack once what ``fields`` plan is appended."""
        return self.with_fields(appended=[*self.fields.get("appended", []), fields])

    def parts(self) -> list[PackPlan]:
        """This plan and those of what was appended, each under the id that its own shards state."""
        appended = self.fields.get("appended", [])
        first = appended[0]["onto"] if appended else self.pack_id
        return [PackPlan(self.fields, first), *map(PackPlan.of, appended)]

    def shard_meta(self, number: int, *, last: bool = False) -> dict[str, Any]:
        """What shard ``number``, from 0, says of its pack, so that this can be rebuilt from shards.

        A plan with a list of shards knows by itself which is the ``last``.
        """
        header = {key: value for key, value in self.fields.items() if key != "shards"}
        spans = self.fields["shards"]
        count = len(spans) if spans else (number + 1 if last else None)
        span = spans[number] if spans else None
        return {
            "pack_id": self.pack_id, "shard": number, "shards": count, "plan": header, "span": span
        }  # fmt: skip

    def class_count(self, highest_label: int) -> int:
        """The width of a head: what the sources state, unless labels go beyond that."""
        parts = (self.fields, *self.fields.get("appended", []))
        return max(0, highest_label + 1, *(part["classes"] or 0 for part in parts))


def check_plan(plan: Any) -> None:
    """Make sure that a plan can be worked with; a ValueError names the first field that cannot."""
    require_fields("the plan", plan, _SHAPE)
    parts = plan.get("appended", [])
    if not isinstance(parts, list):
        raise ValueError("the plan: 'appended' is not a list")
    for part in parts:
        require_fields("an appended plan", part, _SHAPE | {"onto": str})
    for part in (plan, *parts):
        check_channels("the plan", part)
        if not {"classes", "shards"} <= part.keys():
            raise ValueError("the plan has no 'classes' or no 'shards'")
        classes, spans = part["classes"], part["shards"]
        if not (classes is None or (type(classes) is int and 0 <= classes <= fmt.MAX_LABEL + 1)):
            raise ValueError(f"the plan: 'classes' is {classes!r}")
        if not all(isinstance(table, str) for table in part["tables"]):
            raise ValueError("the plan: 'tables' is not a list of names")
        if not isinstance(part.get("label_maps", {}), dict):
            raise ValueError("the plan: 'label_maps' is not a map")
        check_source(part["source"])
        if is_joined(part["source"]):
            _check_joined(part)
            continue
        require_fields("the plan's check", part.get("check"), {"decode": bool, "color": str})
        for field in ("size", "resize"):
            size = part["check"].get(field)
            if size is not None and not _is_size(size):
                raise ValueError(f"the plan's check: {field!r} is {size!r}")
        if not (spans is None or isinstance(spans, list)):
            raise ValueError("the plan: 'shards' is not a list")
        for span in spans or []:
            require_fields("a shard of the plan", span, {"name": str})


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and [type(pixels) for pixels in value] == [int, int]


def check_channels(where: str, stated: dict[str, Any]) -> None:
    """Make sure that an order of colours is one, and that readers are told; else a ValueError."""
    channels, requires = fmt.stored_channels(stated), stated.get("requires")
    required = isinstance(requires, list) and fmt.CHANNELS in requires
    if channels not in CHANNEL_ORDERS or required != (channels != "rgb"):
        listed = "lists" if required else "does not list"
        raise ValueError(f"{where}: 'channels' is {channels!r}, and 'requires' {listed} it")


def check_source(source: Any) -> None:
    """Make sure that a plan's or manifest's source, and those of a merged pack, can be read.

    Raises:
        ValueError: the first field that cannot.
    """
    require_fields("the plan's source", source, {"kind": str})
    if not isinstance(source.get("chosen", {}), dict):
        raise ValueError("the plan's source: 'chosen' is not a map")
    packs = source.get("packs", [])
    if not isinstance(packs, list):
        raise ValueError("the plan's source: 'packs' is not a list")
    for pack in packs:
        require_fields("a pack of the plan's source", pack, {"source": dict})
        check_source(pack["source"])


def is_joined(source: dict[str, Any]) -> bool:
    """Whether a plan of this source brings shards of other packs instead of making them."""
    return source["kind"] in ("merge", "selection")


def _check_joined(plan: dict[str, Any]) -> None:
    """Make sure that a plan tells each shard that it brings, and the digest of each label map."""
    require_fields("the plan", plan, {"shards": list, "label_maps": dict})
    for name, digest in plan["label_maps"].items():
        if not (fmt.is_label_map(name) and isinstance(digest, str)):
            raise ValueError(f"the plan: {name!r} is no label map with a digest")
    shape = {"name": str, "own_name": str, "pack_id": str, "shard": int}
    for entry in plan["shards"]:
        require_fields("a shard of the plan", entry, shape)
        if entry.get("label_map", "") not in (None, *plan["label_maps"]):
            raise ValueError(f"the plan: 'label_map' of {entry['name']!r} is none that it has")
        if "selection" in entry:
            check_selection(f"shard {entry['name']!r}", entry["selection"])


def check_selection(where: str, selection: Any) -> None:
    """Make sure that a description of a selection is one; a ValueError says why not."""
    require_fields(f"the selection of {where}", selection, _SELECTION_SHAPE)
    check_images(f"the selection of {where}", selection["images"])
    if not selection["records"] <= selection["of"] <= fmt.MAX_SHARD_RECORDS:
        counts = f"{selection['records']} of {selection['of']} records"
        raise ValueError(f"the selection of {where} is of {counts}")


def check_images(where: str, images: dict[str, Any]) -> None:
    """Make sure that image statistics can be joined and shown; a ValueError says why not."""
    for field in ("height", "width"):
        span = images.get(field)
        if not isinstance(span, list) or [type(bound) for bound in span] != [int, int]:
            raise ValueError(f"{where}: 'images' has no {field!r} of two numbers")
    for field in ("formats", "channels"):
        counts = images.get(field)
        if not isinstance(counts, dict) or {*map(type, counts.values())} - {int}:
            raise ValueError(f"{where}: 'images' has no {field!r} of counts")
    if type(images.get("oriented")) is not int:
        raise ValueError(f"{where}: 'images' has no count 'oriented'")
    if type(images.get("encoded", 0)) is not int:
        raise ValueError(f"{where}: 'encoded' of 'images' is no count")


def check_meta(meta: Any) -> None:
    """Make sure that the ``__meta__`` of a shard can be worked with; a ValueError says why not.

    Raises:
        NewerFormatError: the shard is of another version, or requires what is not known here.
    """
    if not isinstance(meta, dict):
        raise ValueError("__meta__ is not a map")
    fmt.require_known(meta, "the shard", version="version")
    require_fields("__meta__", meta, _META_SHAPE)
    check_images("__meta__", meta["images"])
    for field, kind in (("shards", int), ("span", dict)):
        if meta.get(field) is not None:
            require_fields("__meta__", meta, {field: kind})
    fmt.require_known(meta["plan"], "the shard's plan")
    span = meta.get("span")
    check_plan({**meta["plan"], "shards": span and [span]})
    if meta["records"] > fmt.MAX_SHARD_RECORDS:
        raise ValueError(f"__meta__ claims {meta['records']} records")


def require_fields(where: str, value: Any, shape: Mapping[str, type]) -> None:
    """A ValueError for the first field of ``value`` that is missing or of another type."""
    for field, kind in shape.items():
        found = value.get(field) if isinstance(value, dict) else None
        if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
            raise ValueError(f"{where} has no {field!r} of type {kind.__name__}")
        if isinstance(found, int) and not 0 <= found < 1 << 63:
            raise ValueError(f"{where}: {field!r} is {found}")
