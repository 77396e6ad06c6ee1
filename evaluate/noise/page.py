"""A page to judge by eye: images that may be noise, beside those that they are compared with."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from facepack.errors import FacepackError
from facepack.evaluate.noise.compared import Compared, class_name
from facepack.evaluate.noise.figures import score_plots
from facepack.evaluate.noise.find import Noise
from facepack.evaluate.noise.lists import NoiseList
from facepack.images import decode
from facepack.loading.source import ImageSource
from facepack.store.output import write_output
from facepack.version import __version__
from facepack.view.page import PageImage, render_page

_TEMPLATES = Path(__file__).parents[1] / "templates"
_BESIDE = 5  # images of a class
_MOST_ROWS = 100  # of a section
_MOST_BYTES = 16 << 20  # of images in a page
_ORDERS = {
    "noise": ("Faces of no class", "the smallest maxP first"),
    "wrong_labels": ("Faces of another class", "the surest first"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image to be judged."""

    image: PageImage
    label: int
    name: str
    other_name: str
    own: list[PageImage]
    other: list[PageImage]
    said: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """Images that one rule found; ``count`` of them, of which some are shown."""

    name: str
    heading: str
    order: str
    count: int
    rows: list[Row]


class Pictures:
    """Small images of a pack, each made once, until a page holds as many bytes as it should."""

    def __init__(self, data: ImageSource, most_bytes: int = _MOST_BYTES) -> None:
        self._data = data
        self._made: dict[int, PageImage] = {}
        self._left = most_bytes

    @property
    def are_full(self) -> bool:
        """Whether no more should be asked for."""
        return self._left <= 0

    def of(self, position: int) -> PageImage:
        """The image at a position; with the reason where it does not decode."""
        if position not in self._made:
            key = self._data.key(position)
            try:
                with self._data.views([position]) as views:
                    image = PageImage.from_pixels(key, decode(views[0], self._data.channels))
            except FacepackError as error:
                image = PageImage(key=key, reason=str(error))
            self._made[position] = image
        self._left -= len(self._made[position].jpeg)
        return self._made[position]


class TypicalImages:
    """Of each class the images that are nearest its centre."""

    def __init__(self, labels: np.ndarray, cosines: np.ndarray) -> None:
        self._order = np.lexsort((-np.nan_to_num(cosines, nan=-2.0), labels))
        self._labels = labels[self._order]

    def of(self, label: int, *, but: int = -1) -> list[int]:
        """Their positions, at most five, without the image ``but``."""
        first, end = np.searchsorted(self._labels, [label, label + 1]).tolist()
        nearest = self._order[first : min(end, first + _BESIDE + 1)].tolist()
        return [position for position in nearest if position != but][:_BESIDE]


def write_noise_page(
    out: Path, noise: Noise, model: str, compared: Sequence[Compared] = ()
) -> None:
    """Write the page, HTML: each list's first images, at most 100 and 16 MiB in all.

    ``model`` is what scored them, in words; of people who are compared with each other, at most
    8 MiB of each table are shown side by side.

    Raises:
        PackError: it cannot be written.
    """
    script = (_TEMPLATES / "judge.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = noise.images.source
    pictures, shown = Pictures(data), set[int]()
    parts = [_section(found, noise, pictures, shown) for found in reversed(noise.lists)]
    page = render_page(
        _TEMPLATES / "noise.html",
        title=f"Noise in {data.name}",
        sections={part.name: part.heading for part in parts}
        | {each.name: each.heading for each in compared}
        | {"scores": "Scores"},
        parts=parts,
        compared=[(each, _side_by_side(each)) for each in compared],
        model=model,
        counts={key.replace("_", " "): count for key, count in noise.summary().items()},
        charts=score_plots(noise.scores, noise.images.labels),
        content_id=data.content_id,
        script=Markup(script),  # of ours: no value is in it
        script_hash=Markup(digest),
        version=__version__,
    )
    write_output(out, page.encode())


def _section(found: NoiseList, noise: Noise, pictures: Pictures, shown: set[int]) -> Section:
    labels, scores = noise.images.labels, noise.scores
    typical = TypicalImages(labels, scores["cosine"])
    heading, order = _ORDERS[found.name]
    rows: list[Row] = []
    for position in found.positions.tolist():
        if len(rows) == _MOST_ROWS or pictures.are_full:
            break
        if position in shown:  # an image is marked once
            continue
        shown.add(position)
        label, other = int(labels[position]), int(scores["predicted"][position])
        rows.append(
            Row(
                image=pictures.of(position),
                label=label,
                name=class_name(noise.images.source, label),
                other_name=class_name(noise.images.source, other),
                own=[pictures.of(at) for at in typical.of(label, but=position)],
                other=[pictures.of(at) for at in typical.of(other, but=position)],
                said=_said(scores[position]),
            )
        )
    return Section(
        name=found.name, heading=heading, order=order, count=len(found.positions), rows=rows
    )


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Two who are compared: what each is called and its images, and the figures."""

    names: tuple[str, str]
    images: tuple[list[PageImage], list[PageImage]]
    said: str


def _side_by_side(compared: Compared) -> list[SideBySide]:
    sources = {id(side.source): side.source for pair in compared.sides for side in pair}
    share = _MOST_BYTES // 2 // max(len(sources), 1)
    pictures = {key: Pictures(source, share) for key, source in sources.items()}
    shown: list[SideBySide] = []
    for row, pair in zip(compared.rows, compared.sides, strict=True):
        if len(shown) == _MOST_ROWS or any(each.are_full for each in pictures.values()):
            break
        left, right = (
            [pictures[id(side.source)].of(at) for at in side.positions[:_BESIDE]] for side in pair
        )
        figures = [f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float)]
        shown.append(
            SideBySide(
                names=(pair[0].name, pair[1].name), images=(left, right), said=", ".join(figures)
            )
        )
    return shown


def _said(scores: np.void) -> str:
    return (
        f"maxP {scores['max_p']:.3g}, P[label] {scores['own_p']:.3g}, P[argmax] without margin "
        f"{scores['predicted_p']:.3g}; cosine to its label {scores['cosine']:.3f}, to the argmax "
        f"{scores['predicted_cosine']:.3f}"
    )
