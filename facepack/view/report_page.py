"""The HTML of a report: one page, no script, no file beside it.

Whatever comes from a pack may come from strangers: all of it passes through :func:`text`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from facepack.store.format import FORMAT_VERSION
from facepack.version import __version__
from facepack.view.duplicates import ACROSS, UNLABELED, WITHIN
from facepack.view.histogram import histogram, spread
from facepack.view.report import DuplicateFigures, Report, Shown, ShownGroup, ShownRow
from facepack.view.report_charts import histogram_chart
from facepack.view.report_style import STYLE
from facepack.view.summary import source_facts
from facepack.view.survey import channel_name

_LONGEST = 300  # characters of one text from the pack
_BINS = 32
_SIZES = 12  # image sizes listed
_OPEN_ROWS = 12  # a longer table is folded
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB")
_SCOPES = {
    ACROSS: (
        "Across identities",
        "The same image under two or more labels: label noise. One person was given several "
        "numbers, or a photograph was filed under the wrong name.",
    ),
    WITHIN: (
        "Within an identity",
        "The same image more than once under one label: harmless, but it counts twice.",
    ),
    UNLABELED: ("Without identity", "The same image more than once, some of them without a label."),
}


class Html(str):
    """Text that is HTML already."""


def text(value: object) -> Html:
    """``value`` for use in HTML: markup escaped, unprintable characters replaced, cut if long."""
    if isinstance(value, Html):
        return value
    words = str(value)
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 1] + "…"
    return Html(escape("".join(c if c.isprintable() else "\ufffd" for c in words)))


def page(report: Report) -> str:
    """The whole page."""
    figures = report.summary
    sections = [
        ("sample", "Sample", _sample(report.rows)),
        ("identities", "Images per identity", _identities(report)),
        ("images", "Images", _images(report)),
        ("duplicates", "Duplicates", _duplicates(report.duplicates)),
        ("quarantine", "Quarantined records", _quarantine(report)),
        ("shards", "Shards", _shards(report)),
        ("origin", "Origin", _origin(report)),
    ]
    name = text(figures.name)
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = "".join(
        f'<section id="{anchor}"><h2>{title}</h2>{content}</section>'
        for anchor, title, content in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{name} – facepack report</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1><p>{_subtitle(report)}</p>{_tiles(report)}"
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>\n{body}\n</main>\n'
        f"<footer>facepack {text(__version__)} · pack format {FORMAT_VERSION} · content "
        f"<code>{text(figures.content_id)}</code></footer>\n</body>\n</html>\n"
    )


def _subtitle(report: Report) -> str:
    figures = report.summary
    what = "A training set" if figures.kind == "train" else f"An evaluation set ({figures.kind})"
    parts = [f"{what}, {figures.order} order"]
    if figures.partial:
        parts.append("partial: shards were left out when it was indexed")
    return text("; ".join(parts))


def _tiles(report: Report) -> str:
    figures = report.summary
    tiles = [("records", f"{figures.records:,}")]
    if figures.identities:
        tiles.append(("identities", f"{figures.identities:,}"))
        tiles.append(("classes", f"{figures.classes:,}"))
    if figures.label_gaps:
        tiles.append(("classes without images", f"{figures.label_gaps:,}"))
    if figures.without_identity and figures.identities:
        tiles.append(("without identity", f"{figures.without_identity:,}"))
    if figures.pairs is not None:
        tiles.append(("pairs", f"{figures.pairs:,}"))
        tiles.append(("of the same person", f"{figures.same_pairs:,}"))
    tiles += [
        ("shards", f"{figures.shards:,}"),
        ("images", _size(figures.payload_bytes)),
        ("all files", _size(figures.file_bytes)),
    ]
    if figures.overhead:
        tiles.append(("files / images", f"{figures.overhead:.4f}"))
    tiles.append(("quarantined", f"{figures.quarantined:,}"))
    if report.duplicates is not None:
        tiles.append(("surplus duplicates", f"{report.duplicates.surplus:,}"))
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{text(name)}</dt><dd>{text(it)}</dd></div>" for name, it in tiles)
        + "</dl>"
    )


def _size(count: int) -> str:
    """Bytes in binary units, three digits."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_UNITS))
    value = count / (1 << 10 * power)
    digits = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{digits} {_UNITS[power - 1]}"


def _count(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``2,000 images``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


# Sections ----------------------------------------------------------------------------------------


def _sample(rows: list[ShownRow]) -> str:
    if not rows:
        return "<p>There are no images.</p>"
    parts = []
    for row in rows:
        kind = "" if row.same is None else " same" if row.same else " different"
        figures = [_figure(image) for image in row.images]
        if row.same is not None:
            pairs = zip(figures[::2], figures[1::2], strict=True)
            figures = [f'<div class="pair">{first}{second}</div>' for first, second in pairs]
        parts.append(
            f'<div class="row{kind}"><h3>{text(row.title)}</h3>'
            f'<div class="strip">{"".join(figures)}</div></div>'
        )
    return "".join(parts)


def _figure(image: Shown) -> str:
    shard, _, digits = image.key.rpartition("/")
    caption = f"<figcaption>{text(shard)}/<wbr>{text(digits)}</figcaption>"
    return f"<figure>{_picture(image)}{caption}</figure>"


def _picture(image: Shown) -> str:
    if image.uri is None:
        return f'<div class="broken"><span>{text(image.reason)}</span></div>'
    return f'<img src="{image.uri}" alt="image {text(image.key)}" loading="lazy">'


def _identities(report: Report) -> str:
    figures = report.summary
    per_identity = figures.images_per_identity
    if per_identity is None:
        return "<p>No record of this pack has an identity.</p>"
    chart = histogram_chart(
        figures.images_per_identity_histogram,
        title="How many identities have how many images",
        x_label="images of an identity",
        y_label="identities",
    )
    notes = [f"{_spread(per_identity)} images an identity."]
    if figures.label_gaps:
        gaps = _count(figures.label_gaps, "class", "classes")
        notes.append(f"{gaps} of {figures.classes:,} without an image.")
    if figures.without_identity:
        notes.append(f"{_count(figures.without_identity, 'record')} without identity (label −1).")
    return f"<p>{text(' '.join(notes))}</p>{_chart(chart)}"


def _spread(values: dict[str, Any]) -> str:
    return (
        f"{values['min']:,} to {values['max']:,}, median {values['median']:,.6g}, "
        f"mean {values['mean']:,.1f}"
    )


def _images(report: Report) -> str:
    found, total = report.survey, report.summary.records
    if not len(found.lengths):
        return "<p>There are no images.</p>"
    looked = len(found.lengths)
    parts = []
    if looked < total:
        parts.append(f"<p>From a sample of {looked:,} of {total:,} images, evenly spaced.</p>")
    rows: list[Sequence[object]] = [
        *(("format", name, count, _share(count, looked)) for name, count in found.formats.items()),
        *(
            ("channels", channel_name(number), count, _share(count, looked))
            for number, count in found.channels.items()
        ),
    ]
    if turned := report.summary.images.get("oriented"):
        share = _share(turned, total)
        rows.append(("EXIF orientation", "ask to be turned; none is", turned, share))
    if found.broken:
        rows.append(("unreadable", "header", found.broken, _share(found.broken, looked)))
    parts.append(
        _table("Formats and colors", ("what", "which", "#images", "#share"), rows, fold=False)
    )
    if found.broken:
        parts.append(_broken(report))
    parts.append(_pixel_sizes(report))
    lengths = spread(found.lengths)
    assert lengths is not None
    chart = histogram_chart(
        histogram(found.lengths, most=_BINS),
        title="How many images take how many bytes, encoded",
        x_label="bytes of an encoded image",
        y_label="images",
    )
    parts.append(f"<h3>Encoded size</h3><p>{text(_spread(lengths))} bytes.</p>{_chart(chart)}")
    return "".join(parts)


def _share(count: int, of: int) -> str:
    return f"{count / of:.2%}" if of else ""


def _pixel_sizes(report: Report) -> str:
    sizes, looked = report.survey.sizes, len(report.survey.lengths)
    parts = ["<h3>Size in pixels</h3>"]
    if len(sizes) == 1:
        ((height, width),) = sizes
        which = "All that can be read" if report.survey.broken else "All"
        return f"{parts[0]}<p>{which} are {height}×{width} (height × width).</p>"
    ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    rows: list[Sequence[object]] = [
        (height, width, count, _share(count, looked)) for (height, width), count in ranked[:_SIZES]
    ]
    parts.append(f"<p>{_count(len(sizes), 'different size')}.</p>")
    caption = "Sizes" if len(sizes) <= _SIZES else f"The {_SIZES} most frequent sizes"
    parts.append(_table(caption, ("#height", "#width", "#images", "#share"), rows, fold=False))
    if sizes:
        chart = histogram_chart(
            histogram(
                np.asarray([max(size) for size in sizes]),
                most=_BINS,
                times=np.asarray(list(sizes.values())),
            ),
            title="How many images have a longer side of how many pixels",
            x_label="pixels of the longer side",
            y_label="images",
        )
        parts.append(_chart(chart))
    return "".join(parts)


def _broken(report: Report) -> str:
    rows: list[Sequence[object]] = [(key, reason) for key, reason in report.survey.broken_kept]
    caption = f"Images whose header cannot be read ({report.survey.broken:,})"
    return _table(caption, ("#position", "reason"), rows)


def _duplicates(found: DuplicateFigures | None) -> str:
    if found is None:
        return "<p>Not looked for: this is a quick report.</p>"
    if not found.surplus:
        return "<p>No image is in the pack twice.</p>"
    groups = sum(found.groups.values())
    parts = [
        f"<p>{_count(groups, 'group')} of byte-identical images; "
        f"{_count(found.surplus, 'image')} could go so that one of each stays.</p>"
    ]
    for kind, (title, meaning) in _SCOPES.items():
        if not found.groups[kind]:
            continue
        shown = found.shown[kind]
        note = "" if len(shown) == found.groups[kind] else f", the first {len(shown)} shown"
        counts = f"{_count(found.groups[kind], 'group')}, {_count(found.images[kind], 'image')}"
        entries = "".join(_group(group) for group in shown)
        content = f'<p>{text(meaning)}</p><div class="groups">{entries}</div>'
        is_open = " open" if kind == ACROSS else ""
        parts.append(
            f"<details{is_open}><summary><strong>{title}</strong>: {counts}{note}</summary>"
            f"{content}</details>"
        )
    return "".join(parts)


def _group(group: ShownGroup) -> str:
    rows: list[Sequence[object]] = [
        (
            member.key,
            "–" if member.label < 0 else member.label,
            member.identity or "",
            member.source_name or "",
        )
        for member in group.members
    ]
    columns = ["key", "#label", "identity", "source name"]
    for column in (3, 2):
        if not any(row[column] for row in rows):
            del columns[column]
            rows = [[*row[:column], *row[column + 1 :]] for row in rows]
    caption = _count(group.count, "copy", "copies")
    if group.count > len(rows):
        caption += f", the first {len(rows)} listed"
    table = _table(caption, columns, rows, fold=False)
    return f'<div class="group">{_picture(group.image)}{table}</div>'


def _quarantine(report: Report) -> str:
    if not report.refusals:
        return "<p>No record of the source was refused.</p>"
    parts = [f"<p>{_count(report.summary.quarantined, 'record')} of the source refused.</p>"]
    rows: list[Sequence[object]] = [(group.reason, group.count) for group in report.refusals]
    caption = "Reasons (N stands for a number)"
    parts.append(_table(caption, ("reason", "#records"), rows, fold=False))
    for group in report.refusals:
        examples: list[Sequence[object]] = [
            (
                entry.get("file", ""),
                entry.get("ordinal", ""),
                "" if entry.get("key") is None else entry["key"],
                entry.get("reason", ""),
                entry.get("remedy", ""),
            )
            for entry in group.examples
        ]
        first = "" if len(examples) == group.count else f", the first {len(examples)}"
        table = _table(
            "Refused records", ("file", "#record", "key", "reason", "remedy"), examples, fold=False
        )
        parts.append(
            f"<details><summary>{text(group.reason)}: {_count(group.count, 'record')}{first}"
            f"</summary>{table}</details>"
        )
    return "".join(parts)


def _shards(report: Report) -> str:
    rows: list[Sequence[object]] = [
        (
            shard.name,
            shard.records,
            shard.identities,
            shard.payload_bytes,
            shard.file_bytes,
            f"{shard.file_bytes / shard.payload_bytes:.4f}" if shard.payload_bytes else "",
            shard.page_size,
            shard.quarantined,
        )
        for shard in report.summary.shard_figures
    ]
    columns = (
        "shard",
        "#records",
        "#identities",
        "#image bytes",
        "#file bytes",
        "#files / images",
        "#page size",
        "#quarantined",
    )
    return _table(_count(len(rows), "shard"), columns, rows)


def _origin(report: Report) -> str:
    figures = report.summary
    rows: list[Sequence[object]] = [
        (f"source: {name}", words) for name, words in source_facts(figures.source)
    ]
    rows += [
        ("order", figures.order),
        ("seed", figures.seed),
        ("tables", ", ".join(figures.tables) or "none"),
        ("pack id", figures.pack_id),
        ("content id", figures.content_id),
    ]
    return _table("What the pack was made from", ("what", "value"), rows, fold=False)


# Pieces ------------------------------------------------------------------------------------------


def _chart(svg: str) -> str:
    return f'<div class="chart" role="region" tabindex="0" aria-label="Chart">{svg}</div>'


def _table(
    caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, fold: bool = True
) -> str:
    """A table; a column's ``#`` says that it holds numbers, the first is each row's header."""
    rows = list(rows)
    kinds = [' class="number"' if column.startswith("#") else "" for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{text(column.removeprefix("#"))}</th>'
        for kind, column in zip(kinds, columns, strict=True)
    )
    lines = []
    for row in rows:
        cells = [
            text(f"{cell:,}" if kind and isinstance(cell, int) else cell)
            for kind, cell in zip(kinds, row, strict=True)
        ]
        first = f'<th scope="row"{kinds[0]}>{cells[0]}</th>'
        rest = (f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], cells[1:], strict=True))
        lines.append(f"<tr>{first}{''.join(rest)}</tr>")
    table = (
        f'<div class="table" role="region" tabindex="0" aria-label="{text(caption)}">'
        f"<table><caption>{text(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
    if fold and len(rows) > _OPEN_ROWS:
        return f"<details><summary>{text(caption)}</summary>{table}</details>"
    return table
