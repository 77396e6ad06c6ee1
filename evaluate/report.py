"""What results look like: a page, a picture or a table of theirs, by the file's suffix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facepack import cells
from facepack.errors import ConfigError, FacepackError
from facepack.evaluate.plots import draw_curves, draw_histograms
from facepack.evaluate.results.difference import is_within_chance
from facepack.evaluate.results.result import Figure, HardPair, Result
from facepack.evaluate.results.table import figure_text, group_table
from facepack.evaluate.training_run import (
    TrainingRun,
    settings_table,
    training_plots,
    training_table,
)
from facepack.store.output import require_writable, write_output
from facepack.version import __version__
from facepack.view.page import PageImage, render_page
from facepack.view.plot import PICTURES, Plot, require_matplotlib, write_plots

if TYPE_CHECKING:
    from facepack.evaluate.faces.faces import Faces
    from facepack.evaluate.protocol import Protocol

SUFFIXES = (".html", *PICTURES, ".csv")
HARD_PAIRS = 12
"""Pairs of each kind that a page shows."""

Images = Mapping[tuple[str, str], PageImage]
"""(target, key) → the image, of those that a page shows."""

MARK = "~"
LEGEND = f"{MARK} marks a difference from the first that lies inside its 95% confidence interval"

_UNDEFINED = Figure(value=None)
_TEMPLATE = Path(__file__).parent / "templates" / "results.html"
_CSV_COLUMNS = (
    *("model", "target", "protocol", "variant", "group", "figure"),
    *("value", "std", "low", "high", "unit"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """The results of one or more models on a target under a protocol."""

    title: str
    results: list[Result]

    def plots(self) -> list[Plot]:
        """Curves, those of all models in one plot, and each model's histograms."""
        return [*draw_curves(self.results), *draw_histograms(self.results)]


def sort_results(results: Sequence[Result]) -> list[Target]:
    """The results by target, protocol and variant, in the order in which these first come."""
    found: dict[str, list[Result]] = {}
    for result in results:
        variant = f" ({result.variant})" if result.variant else ""
        found.setdefault(f"{result.target}: {result.protocol}{variant}", []).append(result)
    return [Target(title=title, results=those) for title, those in found.items()]


def require_writable_report(out: Path) -> None:
    """Say at once, not after hours, that a report cannot be written there.

    Raises:
        ConfigError: the suffix is none of :data:`SUFFIXES`.
        PackError: the file cannot be written.
        MissingExtraError: a picture, and matplotlib is not installed.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{out}: a report ends in .html (a page), {', '.join(PICTURES)} (its curves) or .csv "
            "(its figures)"
        )
    require_writable(out)
    if out.suffix.lower() in PICTURES:
        require_matplotlib()


def write_report(
    results: Sequence[Result],
    out: Path,
    *,
    images: Images | None = None,
    runs: Sequence[TrainingRun] = (),
) -> None:
    """Write ``results`` as the suffix of ``out`` says: page, picture of the curves, or figures.

    Those of one target are shown side by side. ``images`` are those of the hardest pairs, for a
    page, which names others by their keys alone; ``runs`` the models' training, whose curves come
    first.

    Raises:
        ConfigError: another suffix, or a picture without a curve.
        MissingExtraError: a picture, and matplotlib is not installed.
        PackError: the file cannot be written.
    """
    require_writable_report(out)
    targets = sort_results(results)
    match out.suffix.lower():
        case ".html":
            write_output(out, render_results(targets, images or {}, runs).encode())
        case ".csv":
            write_output(out, csv_text(results).encode())
        case _:
            plots = training_plots(runs) if runs else []
            for target in targets:
                plots += [replace(p, title=f"{target.title}, {p.title}") for p in target.plots()]
            write_plots(plots, out)


def render_results(targets: Sequence[Target], images: Images, runs: Sequence[TrainingRun]) -> str:
    """The page."""
    results = [result for target in targets for result in target.results]
    sections = {f"target-{number}": target.title for number, target in enumerate(targets)}
    if runs:
        sections["training"] = "Training"
    if results:
        sections["versions"] = "Versions"
    return render_page(
        _TEMPLATE,
        title="Comparison"
        if runs or len({result.model for result in results}) > 1
        else "Evaluation",
        sections=sections,
        targets=targets,
        models={result.model for result in results},
        runs=runs,
        images=images,
        no_image=lambda key: PageImage(key=key, reason="no such image in the set"),
        legend=LEGEND,
        versions=sorted({item for result in results for item in result.versions.items()}),
        version=__version__,
        figure_table=figure_table,
        group_table=group_table,
        remarks=remarks,
        hard_pairs=hard_pairs,
        training_plots=training_plots,
        training_table=training_table,
        settings_table=settings_table,
    )


def figure_table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table of all figures: a row a figure, a column a result.

    A figure whose difference from the first result's may be chance is marked with :data:`MARK`.
    """
    first = results[0].figures
    rows = []
    for name in dict.fromkeys(name for result in results for name in result.figures):
        figures = [result.figures.get(name, _UNDEFINED) for result in results]
        texts = [figure_text(figure) for figure in figures]
        for k, figure in enumerate(figures[1:], 1):
            if is_within_chance(first.get(name, _UNDEFINED), figure):
                texts[k] += f" {MARK}"
        rows.append([name, *texts])
    return ["figure", *(f"#{result.model}" for result in results)], rows


def remarks(results: Sequence[Result]) -> list[str]:
    """What was measured on, and the notices, each once; before what is not of all, its models."""
    found: dict[str, list[str]] = {}
    for result in results:
        counts = ", ".join(f"{count:,} {name}" for name, count in result.counts.items())
        for words in filter(None, (counts, *result.notices)):
            found.setdefault(words, []).append(result.model)
    return [
        words if len(models) == len(results) else f"{', '.join(models)}: {words}"
        for words, models in found.items()
    ]


def hard_pairs(result: Result, kind: str) -> list[HardPair]:
    """The hardest pairs of a kind, as many as a page shows."""
    return [pair for pair in result.hardest if pair.kind == kind][:HARD_PAIRS]


def hard_images(protocol: Protocol, result: Result, image_size: tuple[int, int]) -> dict[Any, Any]:
    """The images of the hardest pairs, for a page, as the model saw them but for the mirror.

    ``protocol`` gave the result; the model takes ``image_size``, (height, width) in pixels. Returns
    (target, key) → :class:`PageImage`, but for keys that are no image's, such as a template's.
    """
    wanted = {
        key
        for kind in ("false accept", "false reject")
        for pair in hard_pairs(result, kind)
        for key in (pair.first, pair.second)
    }
    faces = protocol.faces
    found = {}
    for position in range(len(faces) if wanted else 0):
        key = faces.key(position)
        if key in wanted:
            found[result.target, key] = _face_image(faces, position, image_size)
    return found


def _face_image(faces: Faces, position: int, image_size: tuple[int, int]) -> PageImage:
    key = faces.key(position)
    try:
        (pixels,) = faces.batches(
            position, position + 1, batch_size=1, image_size=image_size, device="cpu"
        )
        return PageImage.from_pixels(key, np.asarray(pixels[0]))
    except FacepackError as error:
        return PageImage(key=key, reason=str(error))


def csv_text(results: Sequence[Result]) -> str:
    """The figures as CSV, a line each: those of groups too, and shares of one."""
    rows: list[list[object]] = []
    for result in results:
        target = (result.model, result.target, result.protocol, result.variant)
        for group, figures in {"": result.figures, **result.groups}.items():
            for name, figure in figures.items():
                low, high = figure.interval or (None, None)
                numbers = (figure.value, figure.std, low, high)
                rows.append([*map(_printable, (*target, group, name)), *numbers, figure.unit])
    return cells.csv_text(_CSV_COLUMNS, rows)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
