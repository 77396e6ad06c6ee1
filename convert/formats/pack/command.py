"""``facepack lmdb2…`` and ``…2lmdb``: how a pack is written, and what else is read with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from facepack.convert.command_line import SinkCommand, SourceCommand


class PackSourceCommand(SourceCommand):
    """A pack, or a shard set of it, as a source."""

    def paths_read(self, paths: list[Path]) -> list[Path]:
        """The packs themselves, too, of which shard sets are parts."""
        from facepack.store.sets import split_set

        return paths + [split_set(path)[0] for path in paths]


class PackSinkCommand(SinkCommand):
    """A pack as a sink."""

    options = (
        click.option(
            "--order",
            type=click.Choice(["shuffled", "source", "identity"]),
            default="shuffled",
            show_default=True,
            help="Order of records in a shard; shuffled fills pages best.",
        ),
        click.option(
            "--shard-size",
            type=click.IntRange(1, 384),
            default=384,
            show_default=True,
            help="A shard's greatest payload in MiB.",
        ),
        click.option(
            "--shard-records",
            type=click.IntRange(1, 65_536),
            default=65_536,
            show_default=True,
            help="A shard's greatest number of records.",
        ),
        click.option(
            "--duplicates", is_flag=True, help="List images that occur twice: duplicates.jsonl."
        ),
    )

    def arguments(self, own: dict[str, Any], seed: int) -> dict[str, Any]:
        """How records are ordered, and shards cut."""
        return {
            "order": own["order"],
            "shard_bytes": own["shard_size"] << 20,
            "shard_records": own["shard_records"],
            "seed": seed,
        }

    def look_over(self, out: Path, own: dict[str, Any]) -> list[str]:
        """List the duplicates, if they are asked for."""
        if not own["duplicates"]:
            return []
        from facepack.view.duplicates import list_duplicates

        return [list_duplicates(out)]
