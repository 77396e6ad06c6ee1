"""What a protocol is: images to embed, and what their embeddings say."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from facepack.evaluate.faces.faces import Faces
from facepack.evaluate.results.result import Result


class Protocol(ABC):
    """A protocol with its target open: which faces it wants embedded, and what it measures.

    The embeddings may come from a model (:func:`facepack.evaluate.run.evaluate`) or from a file
    (:func:`facepack.evaluate.run.evaluate_embeddings`); a protocol does not know which.
    """

    name: str  #: under which PROTOCOLS lists it
    target: str  #: what results call what is measured on
    faces: Faces  #: the images, each once; embeddings come in their order
    flip: bool = True  #: whether an embedding is that of the image plus that of its mirror image
    #: where scores of whole sets are computed; whoever evaluates says so
    device: str | torch.device = "cpu"

    @abstractmethod
    def measure(self, embeddings: np.ndarray, norms: np.ndarray) -> Result:
        """The figures of a model.

        Args:
            embeddings: (n, F) float32, row i of image i, not normalised. They may be
                mapped from a file and larger than memory: take them in blocks.
            norms: (n,) float64, the rows' L2 norms. It is NaN where a row holds NaN or infinity:
                such an image has no embedding, and what needs it is left out with a notice.

        Returns:
            The result, without the model's name.

        Raises:
            EvaluationError: nothing at all can be measured.
        """


def unusable_notice(faces: Faces, norms: np.ndarray) -> list[str]:
    """What to say of images whose embedding is not finite, or zero; nothing of all others."""
    kinds = (
        (np.isnan(norms), "not finite", "what needs them is left out"),
        (norms == 0, "zero", "they have no direction, and score 0 with every image"),
    )
    return [
        f"the embeddings of {np.count_nonzero(which):,} of {len(norms):,} images are {what}, first "
        f"of {faces.key(int(np.argmax(which)))}: {then}"
        for which, what, then in kinds
        if which.any()
    ]
