"""What a classifier makes of each image: the largest probability, that of its label, the argmax.

Two softmaxes over the same cosines, s of the run:

- that of the training, with the margin on the label's class: maxP and P[label], as published
  (Zhong et al., "Unequal-training for deep face recognition with long-tailed noisy data", CVPR
  2019). A face of no class is near no centre, and all of its probabilities are small;
- without a margin: the class that the face looks like, and its probability. A margin lowers the
  label's own class, and would call labels wrong that are right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facepack.evaluate.noise.classifier import Classifier
from facepack.train.heads.chunked import own_cosines
from facepack.train.heads.logits import class_cosines, cosine_logits
from facepack.train.heads.margins import Own
from facepack.train.precision import float32_products

SCORES = np.dtype(
    [
        ("predicted", "<i4"),
        *((name, "<f4") for name in ("max_p", "own_p", "predicted_p", "cosine")),
        ("predicted_cosine", "<f4"),
    ]
)
"""Of an image: argmax of the cosines; maxP; P[label]; P[argmax] without margin; the cosines to the
classes of label and argmax. Without a label, P[label] and its cosine are NaN, and maxP is the
probability without margin."""

NO_CLASS = -1
"""The argmax of an image that has no score."""

_ROWS = 1024  # images that are compared with a chunk of classes together
_CLASSES = 1 << 16  # centres in a chunk: 256 MiB of logits


def score_rows(
    classifier: Classifier,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    device: torch.device | str = "cpu",
    classes: int = _CLASSES,
    on_images: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Score embeddings: float32 products, as many images and classes at a time as fit in memory.

    Args:
        rows: (n, F) floating point, not normalised, perhaps mapped from a file.
        labels: int64 (n,), below zero for images without one.
        classes: centres that are compared at a time.
        on_images: called with the number of images of each block when it is scored.

    Returns:
        (n,) of :data:`SCORES`; NaN and :data:`NO_CLASS` of an embedding that is not finite, as
        that of an image that does not decode.
    """
    found = np.empty(len(rows), SCORES)
    centres = classifier.centres.to(device)
    with torch.inference_mode(), float32_products(tf32=False):
        for start in range(0, len(rows), _ROWS):
            part = slice(start, min(start + _ROWS, len(rows)))
            embeddings = torch.from_numpy(np.array(rows[part], np.float32)).to(device)
            lost = ~torch.isfinite(embeddings).all(1)
            embeddings[lost] = 0.0
            given = torch.from_numpy(np.array(labels[part], np.int64)).to(device)
            for name, values in _score(classifier, embeddings, given, centres, classes).items():
                nothing = NO_CLASS if name == "predicted" else torch.nan
                found[name][part] = torch.where(lost, nothing, values).cpu().numpy()
            on_images(part.stop - start)
    return found


def _score(
    classifier: Classifier, embeddings: Tensor, labels: Tensor, centres: Tensor, size: int
) -> dict[str, Tensor]:
    rule, units = classifier.rule, F.normalize(embeddings)
    has_label = labels >= 0
    own = own_cosines(units, centres, labels.clamp(min=0), rule.margin.centres_per_class)
    own = torch.where(has_label, own.clamp(-1.0, 1.0), 0.0)
    ones = torch.ones_like(own)
    needs_norms = "norms" in rule.margin.needs
    known = Own(
        cosines=own,
        norms=torch.linalg.vector_norm(embeddings, dim=1) if needs_norms else ones,
        normals=torch.zeros_like(own),
        step=classifier.step,
        state={key: value.to(own.device) for key, value in classifier.margin_state.items()},
    )
    with_margin, plain = _Softmax(own), _Softmax(own)
    own_logit = torch.full_like(own, torch.nan)
    for start in range(0, len(centres), size):
        cosines = class_cosines(units, centres[start : start + size], rule.margin.centres_per_class)
        here = has_label & (labels >= start) & (labels < start + cosines.shape[1])
        column = torch.where(here, labels - start, 0)
        plain.take(rule.scale * cosines, start)
        logits = cosine_logits(cosines, column, rule, present=here, known=known)
        # Without a label no margin is asked for, nor are other classes changed by it.
        logits = torch.where(has_label[:, None], logits, rule.scale * cosines)
        with_margin.take(logits, start)
        of_column = logits.gather(1, column[:, None]).squeeze(1)
        own_logit = torch.where(here, of_column, own_logit)
    return {
        "predicted": plain.argmax,
        "max_p": 1 / with_margin.total,
        "own_p": (own_logit - with_margin.top).exp() / with_margin.total,
        "predicted_p": 1 / plain.total,
        "cosine": torch.where(has_label, own, torch.nan),
        "predicted_cosine": plain.top / rule.scale,
    }


class _Softmax:
    """The largest logit, which it is, and Σ exp(logit − largest), chunk by chunk."""

    def __init__(self, like: Tensor) -> None:
        self.top = torch.full_like(like, -torch.inf)
        self.total = torch.zeros_like(like)
        self.argmax = torch.zeros_like(like, dtype=torch.int64)

    def take(self, logits: Tensor, start: int) -> None:
        """Look at the logits (n, m) of the classes from ``start`` on."""
        highest, which = logits.max(1)
        self.argmax = torch.where(highest > self.top, which + start, self.argmax)
        top = torch.maximum(self.top, highest)
        self.total *= (self.top - top).exp()
        self.total += (logits - top[:, None]).exp().sum(1)
        self.top = top
