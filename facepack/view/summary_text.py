"""A pack's figures as lines of text, for ``facepack inspect``."""

from __future__ import annotations

from collections.abc import Iterator

from facepack.terminal import can_draw, printable, table_lines, terminal_width
from facepack.view.histogram import bar_lines
from facepack.view.summary import SWAPPED, ShardFigures, Summary, source_facts
from facepack.view.survey import Survey, channel_name

_ENDS = 4  # shards listed from each end of a long pack
_SIZES = 20  # image sizes listed
_HEAD = 20  # columns


def summary_lines(
    figures: Summary, *, sizes: Survey | None = None, all_shards: bool = False
) -> Iterator[str]:
    """Yield the lines; of a long pack, the first and last few shards unless ``all_shards``."""
    for name, text in _facts(figures):
        yield printable(f"{name:<{_HEAD}} {text}")
    if figures.images_per_identity:
        yield ""
        yield "identities by their number of images"
        yield from bar_lines(
            figures.images_per_identity_histogram,
            width=min(terminal_width(), 120),
            unicode=can_draw(),
        )
    if sizes is not None:
        yield ""
        yield from map(printable, _size_lines(sizes))
    yield ""
    yield from map(printable, _shard_lines(figures.shard_figures, all_shards))


def _facts(figures: Summary) -> Iterator[tuple[str, str]]:
    images = figures.images
    (low_h, high_h), (low_w, high_w) = images["height"], images["width"]
    size = f"{low_h}×{low_w}"
    if (low_h, low_w) != (high_h, high_w):
        size = f"heights {low_h} to {high_h}, widths {low_w} to {high_w}"
    formats = ", ".join(f"{count:,} {name}" for name, count in images["formats"].items())
    yield "pack", figures.path
    yield "kind", figures.kind + (" (partial: shards were left out)" if figures.partial else "")
    yield "records", f"{figures.records:,}"
    gaps = f", {figures.label_gaps:,} of them without a record" if figures.label_gaps else ""
    if figures.classes:
        yield "identities", f"{figures.identities:,} of {figures.classes:,} classes{gaps}"
    if figures.without_identity:
        yield "without identity", f"{figures.without_identity:,} records, label -1"
    if each := figures.images_per_identity:
        spread = f"{each['min']:,} to {each['max']:,}"
        average = f"median {each['median']:,.6g}, mean {each['mean']:,.1f}"
        yield "images per identity", f"{spread}, {average}"
    if figures.pairs is not None:
        yield "pairs", f"{figures.pairs:,}, {figures.same_pairs:,} of the same person"
    if figures.tables:
        yield "tables", ", ".join(figures.tables)
    yield "images", f"{formats or 'none'}, {size}{' (height × width)' if '×' in size else ''}"
    colors = [
        f"{count:,} {channel_name(int(number))}"
        for number, count in images.get("channels", {}).items()
        if number.isdecimal()
    ]
    if colors:
        yield "colors", ", ".join(colors)
    if figures.channels != "rgb":
        yield "channels", f"{figures.channels}: {SWAPPED}"
    if images.get("encoded"):
        yield "encoded anew", f"{images['encoded']:,} images are not as the source had them"
    if images.get("oriented"):
        yield "EXIF orientation", f"{images['oriented']:,} images ask to be turned; none is"
    pages = ", ".join(f"{size:,}" for size in figures.page_sizes)
    yield "shards", f"{figures.shards:,}, pages of {pages} bytes"
    yield "order", f"{figures.order}, seed {figures.seed}"
    yield "payload", f"{figures.payload_bytes:,} bytes"
    overhead = f", {figures.overhead:.4f} × payload" if figures.overhead else ""
    yield "all files", f"{figures.file_bytes:,} bytes{overhead}"
    yield "quarantined", f"{figures.quarantined:,}"
    yield "source", ", ".join(f"{name} {words}" for name, words in source_facts(figures.source))
    yield "pack id", figures.pack_id
    yield "content id", figures.content_id


def _size_lines(found: Survey) -> Iterator[str]:
    looked = len(found.lengths)
    ranked = sorted(found.sizes.items(), key=lambda item: (-item[1], item[0]))
    rows = [
        (f"{height}×{width}", f"{count:,}", f"{count / looked:.2%}")
        for (height, width), count in ranked[:_SIZES]
    ]
    yield from table_lines(("height×width", "images", "share"), rows)
    if rest := ranked[_SIZES:]:
        yield f"and {len(rest):,} other sizes, {sum(count for _, count in rest):,} images"
    if found.broken:
        yield f"{found.broken:,} images whose header cannot be read"
    yield ", ".join(f"{count:,} {channel_name(number)}" for number, count in found.channels.items())


def _shard_lines(shards: list[ShardFigures], everything: bool) -> Iterator[str]:
    cut = not everything and len(shards) > 2 * _ENDS + 1
    shown = shards[:_ENDS] + shards[-_ENDS:] if cut else shards
    lines = table_lines(
        ("shard", "records", "identities", "payload", "file bytes", "page", "quarantined"),
        (
            (
                shard.name,
                f"{shard.records:,}",
                f"{shard.identities:,}",
                f"{shard.payload_bytes:,}",
                f"{shard.file_bytes:,}",
                f"{shard.page_size:,}",
                f"{shard.quarantined:,}",
            )
            for shard in shown
        ),
    )
    if not cut:
        yield from lines
        return
    yield from lines[: 1 + _ENDS]
    yield f"… {len(shards) - len(shown):,} more: --all lists them"
    yield from lines[1 + _ENDS :]
