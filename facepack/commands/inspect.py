"""``facepack inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("pack", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def inspect(pack: Path, as_json: bool) -> None:
    """Show what a pack holds.

    Records, identities, classes, shards, sizes of images and files, pairs of an evaluation set.
    """
    import facepack
    from facepack.summary import summarize

    with facepack.open(pack) as opened:
        figures = vars(summarize(opened))
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    for name, text in _lines(figures):
        click.echo(f"{name:<20} {text}")


def _lines(figures: dict[str, Any]) -> list[tuple[str, str]]:
    per_identity = figures["images_per_identity"]
    images = figures["images"]
    (low_h, high_h), (low_w, high_w) = images["height"], images["width"]
    size = (
        f"{low_h}×{low_w}"
        if (low_h, low_w) == (high_h, high_w)
        else (f"{low_h}×{low_w} to {high_h}×{high_w}")
    )
    formats = ", ".join(f"{count:,} {name}" for name, count in images["formats"].items())
    overhead = f", {figures['overhead']:.4f} × payload" if figures["overhead"] else ""
    lines = [
        ("pack", figures["path"]),
        ("kind", figures["kind"]),
        ("records", f"{figures['records']:,}"),
        ("identities", f"{figures['identities']:,} of {figures['classes']:,} classes"),
    ]
    if per_identity:
        spread = f"{per_identity['min']} to {per_identity['max']}"
        lines.append(("images an identity", f"{spread}, median {per_identity['median']:g}"))
    if figures["pairs"] is not None:
        lines.append(
            ("pairs", f"{figures['pairs']:,}, {figures['same_pairs']:,} of the same person")
        )
    lines += [
        ("images", f"{formats or 'none'}, {size} (height × width)"),
        ("shards", f"{figures['shards']}, pages of {figures['page_sizes']} bytes"),
        ("order", figures["order"]),
        ("payload", f"{figures['payload_bytes']:,} bytes"),
        ("all files", f"{figures['file_bytes']:,} bytes{overhead}"),
        ("quarantined", f"{figures['quarantined']:,}"),
        ("source", json.dumps(figures["source"], ensure_ascii=False)),
        ("pack id", figures["pack_id"]),
    ]
    return lines
