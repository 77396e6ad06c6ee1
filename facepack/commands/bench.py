"""``facepack bench``."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def bench() -> None:
    """Measure how fast this machine reads a pack."""


@bench.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--batch-size", type=click.IntRange(min=1), default=128, show_default=True)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Decoding threads; by default all CPUs."
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def load(pack: Path, batch_size: int, threads: int | None, rounds: int, as_json: bool) -> None:
    """Measure the stages of loading a pack.

    Prints images per second of each stage, and its share of the limit: decoding alone, of the same
    images in memory with as many threads. Stages take turns in rounds; shares are medians over the
    rounds. Everything is read warm, from the page cache.
    """
    import torch

    import facepack
    from facepack.loading.bench import bench_load
    from facepack.terminal import printable, table_lines
    from facepack.view.machine import describe_machine

    torch.set_num_threads(1)  # nothing here computes with torch
    with facepack.open(pack) as opened:
        result = bench_load(
            opened,
            batch_size=batch_size,
            threads=threads,
            rounds=rounds,
            on_round=lambda turn: click.echo(f"round {turn} of {rounds}", err=True),
        )
    machine = describe_machine()
    if as_json:
        click.echo(json.dumps({"machine": machine, **result.as_json()}, indent=1))
        return
    for line in table_lines(result.COLUMNS, result.rows()):
        click.echo(printable(line))
    cpu = machine["cpu"]
    setting = {"processor": cpu["model"] if isinstance(cpu, dict) else cpu, **result.setting}
    click.echo(printable(", ".join(f"{key} {value}" for key, value in setting.items())))
