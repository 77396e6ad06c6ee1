"""How the scores of a pack are distributed, as curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facepack.errors import ConfigError
from facepack.evaluate.noise.lists import is_other
from facepack.store.output import require_writable
from facepack.view.plot import PICTURES, Axis, Line, Plot, require_matplotlib

_POINTS = 400  # of a curve


def require_writable_plot(out: Path | None) -> None:
    """Say at once that a picture cannot be drawn; None asks for none.

    Raises:
        ConfigError: an unknown suffix.
        MissingExtraError: matplotlib is not installed.
        PackError: the file cannot be written.
    """
    if out is None:
        return
    if out.suffix.lower() not in PICTURES:
        raise ConfigError(f"{out}: a picture ends in {', '.join(PICTURES)}")
    require_matplotlib()
    require_writable(out)


def score_plots(scores: np.ndarray, labels: np.ndarray) -> list[Plot]:
    """Cumulated shares of images by maxP, and by the cosine to the class of the label.

    Of (n,) :data:`~facepack.evaluate.noise.scores.SCORES`, and int64 (n,) labels.
    """
    kinds = {
        "argmax is the label": (labels >= 0) & (scores["predicted"] == labels),
        "argmax is not the label": is_other(scores, labels),
    }
    share = Axis(label="share of images at most there")
    return [
        Plot(
            title="maxP",
            x=Axis(label="maxP, with the margin", log=True, decades=10),
            y=share,
            lines=[_cumulated(name, scores["max_p"][which]) for name, which in kinds.items()],
        ),
        Plot(
            title="Cosine to the class of the label",
            x=Axis(label="cosine"),
            y=share,
            lines=[_cumulated(name, scores["cosine"][which]) for name, which in kinds.items()],
        ),
    ]


def _cumulated(name: str, values: np.ndarray) -> Line:
    ordered = np.sort(values[np.isfinite(values)])
    last = len(ordered) - 1
    places = np.unique(np.linspace(0, last, min(_POINTS, len(ordered))).astype(np.int64))
    shares = (places + 1) / max(len(ordered), 1)
    return Line(name=name, x=ordered[places].astype(np.float64), y=shares)
