"""``facepack tar2…`` and ``…2wds``."""

from __future__ import annotations

from typing import Any

import click

from facepack.convert.command_line import IDENTITY_LEVEL, SinkCommand, SourceCommand
from facepack.convert.formats.rec.command import ONLY_INDEXED


class TarCommand(SourceCommand):
    """Tars as a source."""

    options = (
        click.option("--member", help="Take only this member, a .rec or .bin."),
        ONLY_INDEXED,
        IDENTITY_LEVEL,
    )


class WdsCommand(SinkCommand):
    """WebDataset tars as a sink."""

    options = (
        click.option(
            "--naming",
            type=click.Choice(["source", "number"]),
            default="source",
            show_default=True,
            help="Keys are the source's names, or <label>/<n>; no key is there twice.",
        ),
        click.option(
            "--shard-size",
            type=click.IntRange(1, 4096),
            default=384,
            show_default=True,
            help="A tar's greatest size in MiB, which each worker holds in memory.",
        ),
        click.option(
            "--shard-records",
            type=click.IntRange(1, 1_000_000),
            default=10_000,
            show_default=True,
            help="A tar's greatest number of samples.",
        ),
    )

    def arguments(self, own: dict[str, Any], seed: int) -> dict[str, Any]:
        """How samples are called, and tars cut."""
        return {
            "naming": own["naming"],
            "shard_bytes": own["shard_size"] << 20,
            "shard_records": own["shard_records"],
        }
