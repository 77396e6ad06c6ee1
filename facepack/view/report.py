"""Reports on packs: what is in one, as a single page that any browser shows.

This module gathers what the page says; ``templates/report.html`` says it. A page carries no time,
host or path, so that the same pack and options give the same page.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import ConfigError, DamageError, DecodeError
from facepack.store.format import FORMAT_VERSION
from facepack.store.output import require_writable, write_output
from facepack.store.pack import Pack
from facepack.store.pack_files import read_quarantine
from facepack.version import __version__
from facepack.view.duplicates import (
    ACROSS,
    UNLABELED,
    WITHIN,
    Duplicates,
    duplicate_scope,
    find_duplicates,
)
from facepack.view.histogram import histogram, spread
from facepack.view.page import PageImage, render_page
from facepack.view.sample import SampleOptions, sample_rows
from facepack.view.sheet import reason_alone
from facepack.view.summary import SWAPPED, Summary, source_facts, summarize
from facepack.view.survey import Survey, channel_name, survey

QUICK_SAMPLE = 10_000  # images that a quick report looks at

_REASONS, _EXAMPLES = 30, 5  # kinds of refusals, and refusals of each, that are shown
_BINS = 32
_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
_GROUPS, _MEMBERS = 12, 8  # of duplicates that are shown, in each scope


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What a report is to hold."""

    sample: SampleOptions = field(default_factory=SampleOptions)  # which images are shown
    quick: bool = False  # look at a sample of the images and leave duplicates out


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """A row of the sample; ``same`` is None where they are no pairs."""

    title: str
    images: tuple[PageImage, ...]
    same: bool | None


@dataclass(frozen=True, kw_only=True)
class Refusals:
    """Refused source records of one kind: how many, and the first few as they were listed."""

    reason: str
    count: int
    examples: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of several identical images; ``label`` is None where it has no identity."""

    key: str
    label: int | None
    identity: str | None
    source_name: str | None


@dataclass(frozen=True, kw_only=True)
class ShownGroup:
    """A group of identical images: the picture, the first members, and how many there are."""

    image: PageImage
    members: tuple[Member, ...]
    count: int


@dataclass(frozen=True, kw_only=True)
class DuplicateFigures:
    """Groups of identical images: of each scope how many groups and images, and some to see."""

    groups: dict[str, int]
    images: dict[str, int]
    surplus: int
    shown: dict[str, list[ShownGroup]]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a page says; ``duplicates`` is None where they were not looked for."""

    summary: Summary
    survey: Survey
    rows: list[ShownRow]
    refusals: list[Refusals]
    duplicates: DuplicateFigures | None

    def as_json(self) -> dict[str, Any]:
        """The figures of the page as JSON has them: all but the images, and whom they show."""
        return {
            **self.summary.as_json(),
            "image_survey": self.survey.as_json(),
            "refusals": [asdict(refusals) for refusals in self.refusals],
            "duplicates": None
            if self.duplicates is None
            else {
                "groups": self.duplicates.groups,
                "images": self.duplicates.images,
                "surplus": self.duplicates.surplus,
            },
        }


def write_report(pack: Pack, out: Path, *, options: ReportOptions) -> Report:
    """Write the report on ``pack`` to ``out``, one HTML file that needs no other.

    Returns:
        What the page says.

    Raises:
        ConfigError: the file is not called ``.html``, or a label of the sample does not occur.
        DamageError: a record is missing, or a file of the pack cannot be read.
        PackError: the file cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{out}: a report is an HTML page: call it {out.stem}.html")
    require_writable(out)  # all images are read before it is written
    report = gather_report(pack, options=options)
    write_output(out, render_report(report).encode())
    return report


def gather_report(pack: Pack, *, options: ReportOptions) -> Report:
    """Look at the pack, once through all of its images unless it is to be quick.

    Raises:
        ConfigError: a label of the sample does not occur.
        DamageError: a record is missing, or a file of the pack cannot be read.
    """
    rows = sample_rows(pack, options.sample)
    found = survey(pack, sample=QUICK_SAMPLE if options.quick else None, hashes=not options.quick)
    duplicates = None
    if found.hashes is not None:
        duplicates = _duplicates(pack, find_duplicates(pack, hashes=found.hashes))
    return Report(
        summary=summarize(pack),
        survey=found,
        rows=[
            ShownRow(
                title=row.title,
                images=tuple(_page_image(pack, position) for position in row.positions),
                same=row.same,
            )
            for row in rows
        ],
        refusals=_refusals(pack),
        duplicates=duplicates,
    )


def _page_image(pack: Pack, position: int) -> PageImage:
    key = pack.key(position)
    try:
        return PageImage.from_pixels(key, pack.decode(position))
    except (DecodeError, DamageError) as error:
        return PageImage(key=key, reason=reason_alone(error, pack, position))


def _duplicates(pack: Pack, found: Duplicates) -> DuplicateFigures:
    groups = dict.fromkeys((ACROSS, WITHIN, UNLABELED), 0)
    images = dict(groups)
    chosen: dict[str, list[np.ndarray]] = {kind: [] for kind in groups}
    for group in found:
        kind = duplicate_scope(pack.labels[group])
        groups[kind] += 1
        images[kind] += len(group)
        if len(chosen[kind]) < _GROUPS:
            chosen[kind].append(group)
    names = pack.identity_names or [] if found.surplus else []
    return DuplicateFigures(
        groups=groups,
        images=images,
        surplus=found.surplus,
        shown={
            kind: [_shown_group(pack, group, names) for group in some]
            for kind, some in chosen.items()
        },
    )


def _shown_group(pack: Pack, group: np.ndarray, names: list[str]) -> ShownGroup:
    members = []
    for position in group[:_MEMBERS].tolist():
        label = int(pack.labels[position])
        members.append(
            Member(
                key=pack.key(position),
                label=None if label < 0 else label,
                identity=names[label] or None if 0 <= label < len(names) else None,
                source_name=pack.source_name(position),
            )
        )
    return ShownGroup(
        image=_page_image(pack, int(group[0])), members=tuple(members), count=len(group)
    )


def _refusals(pack: Pack) -> list[Refusals]:
    """The refused source records by kind of reason, the most frequent first."""
    counts: dict[str, int] = {}
    examples: dict[str, list[dict[str, Any]]] = {}
    for entry in read_quarantine(pack.path, pack.manifest):
        kind = _reason_kind(str(entry.get("reason", "")))
        if kind not in counts and len(counts) >= _REASONS:
            kind = "other reasons"
        counts[kind] = counts.get(kind, 0) + 1
        kept = examples.setdefault(kind, [])
        if len(kept) < _EXAMPLES:
            kept.append(entry)
    order = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return [
        Refusals(reason=kind, count=counts[kind], examples=tuple(examples[kind])) for kind in order
    ]


def _reason_kind(reason: str) -> str:
    """A reason without what is of one record alone: numbers, and what stands behind a colon."""
    return re.sub(r"\d[\d,.]*", "N", reason.partition(": ")[0]).strip() or "no reason given"


def render_report(report: Report) -> str:
    """The report as HTML."""
    figures, found = report.summary, report.survey
    looked = len(found.lengths)

    def share(count: int, of: int = looked) -> str:
        return f"{count / of:.2%}" if of else ""

    kinds = [("format", name, count, share(count)) for name, count in found.formats.items()]
    kinds += [
        ("channels", channel_name(number), count, share(count))
        for number, count in found.channels.items()
    ]
    if figures.channels != "rgb":
        kinds.append(("order of colors", SWAPPED, figures.records, share(1, of=1)))
    if encoded := figures.images.get("encoded"):
        words = "not as the source had them"
        kinds.append(("encoded anew", words, encoded, share(encoded, figures.records)))
    if turned := figures.images.get("oriented"):
        words = "ask to be turned; none is"
        kinds.append(("EXIF orientation", words, turned, share(turned, figures.records)))
    if found.broken:
        kinds.append(("unreadable", "header", found.broken, share(found.broken)))
    sizes = [
        {"height": height, "width": width, "images": count, "share": share(count)}
        for (height, width), count in sorted(found.sizes.items(), key=lambda it: (-it[1], it[0]))
    ]
    origin = [(f"source: {name}", words) for name, words in source_facts(figures.source)]
    origin += [
        ("order", figures.order),
        ("seed", str(figures.seed)),
        ("tables", ", ".join(figures.tables) or "none"),
        ("pack id", figures.pack_id),
        ("content id", figures.content_id),
    ]
    return render_page(
        _TEMPLATE,
        report=report,
        kinds=kinds,
        sizes=sizes,
        longer_sides=histogram(
            np.asarray([max(size) for size in found.sizes]),
            most=_BINS,
            times=np.asarray(list(found.sizes.values())),
        ),
        lengths=histogram(found.lengths, most=_BINS),
        length_spread=spread(found.lengths),
        origin=origin,
        version=__version__,
        pack_format=FORMAT_VERSION,
    )
