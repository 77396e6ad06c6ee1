"""From a protocol and a model, or embeddings from elsewhere, to the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError
from facepack.evaluate.embedding.embed import embed_each, model_device, model_image_size, row_norms
from facepack.evaluate.embedding.embeddings import Embeddings
from facepack.evaluate.faces.bad_images import (
    BAD_IMAGES,
    OnBadImage,
    bad_notice,
    require_one_image,
)
from facepack.evaluate.faces.faces import Faces
from facepack.evaluate.protocol import Protocol
from facepack.evaluate.results.result import Result


def evaluate(
    model: nn.Module,
    protocol: Protocol,
    *,
    name: str = "",
    device: str | torch.device | None = None,
    batch_size: int = 128,
    on_bad_image: OnBadImage = "raise",
    on_batch: Callable[[int], None] | None = None,
) -> Result:
    """Embed a protocol's faces with a model and measure them.

    The model comes back in the mode it was in, and a training run that calls this goes on as if it
    had not. The embeddings are held in memory, 4·F bytes an image: ``facepack embed`` writes those
    of millions into a file, for :func:`evaluate_embeddings`.

    Args:
        model: float32 (n, 3, H, W) → (n, F) embeddings; ``name`` is what the result calls it.
        protocol: with its target open.
        device: where the model is, and scores are computed; None asks its first parameter.
        batch_size: images a forward pass.
        on_bad_image: ``skip`` leaves images that do not decode without an embedding, with a notice
            and their number among the counts.
        on_batch: called with the images of each batch once it is under way.

    Raises:
        DecodeError: an image does not decode to the model's size; names it. Under ``skip``: none
            does.
        EvaluationError: the model's output is not (n, F), no embedding is finite, or nothing can be
            measured.
    """
    bad: dict[int, str] = {}
    protocol.device = model_device(model) if device is None else torch.device(device)
    embeddings = embed_faces(
        model,
        protocol.faces,
        device=protocol.device,
        batch_size=batch_size,
        flip=protocol.flip,
        bad=bad if on_bad_image == "skip" else None,
        on_batch=on_batch,
    )
    norms = row_norms(embeddings)
    _require_finite(protocol.faces, norms, "its weights may have diverged")
    result = replace(protocol.measure(embeddings, norms), model=name)
    if bad:
        prefix = f"{protocol.faces.name}: "
        notice = bad_notice([bad[at].removeprefix(prefix) for at in sorted(bad)], len(norms))
        result = replace(
            result,
            counts={**result.counts, BAD_IMAGES: len(bad)},
            notices=(notice, *result.notices),
        )
    return result


def embed_faces(
    model: nn.Module,
    faces: Faces,
    *,
    device: str | torch.device | None = None,
    batch_size: int = 128,
    flip: bool = True,
    bad: dict[int, str] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embed all of some faces in their order: (n, F) float32, not normalised.

    Arguments and errors are those of :func:`evaluate`; ``flip`` adds the mirror image's embedding,
    and ``bad`` takes position → why of the images that do not decode, whose rows are NaN.
    """
    device = model_device(model) if device is None else torch.device(device)
    embeddings: np.ndarray | None = None
    done = 0

    def store(rows: np.ndarray) -> None:
        nonlocal embeddings, done
        if embeddings is None:
            embeddings = np.empty((len(faces), rows.shape[1]), np.float32)
        embeddings[done : done + len(rows)] = rows
        done += len(rows)

    batches = faces.batches(
        0,
        len(faces),
        batch_size=batch_size,
        image_size=model_image_size(model),
        device=device,
        bad=bad,
    )
    embed_each(model, batches, store, device=device, flip=flip, on_batch=on_batch)
    if embeddings is None:
        raise EvaluationError(f"{faces.name}: there are no images to embed")
    if bad:
        require_one_image(bad, len(faces))
        embeddings[list(bad)] = np.nan
    return embeddings


def evaluate_embeddings(
    protocol: Protocol, embeddings: Embeddings, *, device: str | torch.device = "cpu"
) -> Result:
    """Measure embeddings from elsewhere, found by the keys of the protocol's faces.

    Scores are computed on ``device``.

    Raises:
        EvaluationError: they are not those of the protocol's faces, no embedding is finite, or
            nothing can be measured.
    """
    rows, notices = embeddings.of(protocol.faces, flip=protocol.flip)
    norms = row_norms(rows)
    _require_finite(protocol.faces, norms, "give others")
    protocol.device = device
    result = protocol.measure(rows, norms)
    return replace(result, model=embeddings.name, notices=(*notices, *result.notices))


def _require_finite(faces: Faces, norms: np.ndarray, remedy: str) -> None:
    """An EvaluationError if there is not one usable embedding."""
    if not np.isfinite(norms).any():
        raise EvaluationError(
            f"{faces.name}: the embeddings of {len(norms)} of {len(norms)} images are not finite, "
            f"first of {faces.key(0)}: {remedy}"
        )
