"""Embed faces: image plus mirror image, in IEEE single precision, the model left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError
from facepack.train.backbones.registry import Backbone
from facepack.train.precision import float32_products


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it ``model`` is in eval mode and without autocast; each module's state is restored.

    Modules are restored one by one, because a model in training may hold parts that are frozen in
    eval mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    autocasts = [
        (module, module.autocast) for module in model.modules() if isinstance(module, Backbone)
    ]
    model.eval()
    for backbone, _ in autocasts:
        backbone.autocast = None
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for backbone, dtype in autocasts:
            backbone.autocast = dtype


def embed(
    model: nn.Module,
    batches: Iterable[np.ndarray],
    *,
    device: str | torch.device | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embed faces and their mirror images and add the two; the sum is not normalised.

    Pixels enter as (x − 127.5)/127.5, in channels_last memory. The model is left as it was found:
    no gradient is recorded and no random number drawn.

    Args:
        model: float32 (n, 3, H, W) → (n, F).
        batches: uint8 RGB arrays (n, H, W, 3).
        device: where the model is; None asks its first parameter.
        on_batch: called with n when a batch has been handed to the model.

    Returns:
        (N, F) float64, N the faces of all batches.

    Raises:
        EvaluationError: the model's output is not a tensor (n, F), or there are no batches.
    """
    if device is None:
        parameter = next(model.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
    device = torch.device(device)
    outputs: list[tuple[torch.Tensor, torch.Tensor]] = []
    with (
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        float32_products(tf32=False),
        evaluating(model),
    ):
        for batch in batches:
            # NHWC memory seen as NCHW is channels_last already, and so is its flip.
            pixels = torch.from_numpy(batch).to(device).permute(0, 3, 1, 2).float()
            faces = pixels.sub_(127.5).div_(127.5)
            outputs.append((_forward(model, faces), _forward(model, faces.flip(3))))
            if on_batch is not None:
                on_batch(len(batch))
    if not outputs:
        raise EvaluationError("there are no images to embed")
    # Results are fetched here, at the end, so that a GPU never waits for the host in between.
    direct, mirrored = (torch.cat(half).cpu().double() for half in zip(*outputs, strict=True))
    return (direct + mirrored).numpy()


def _forward(model: nn.Module, faces: torch.Tensor) -> torch.Tensor:
    output = model(faces)
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != len(faces):
        shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise EvaluationError(
            f"the model made {shape} of {len(faces)} faces; a tensor ({len(faces)}, features) is "
            "needed: give a backbone without its head"
        )
    return output


def normalize(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale the rows of ``raw`` (N, F) to unit L2 norm: (unit rows (N, F), their norms (N,)).

    A row of zeros stays one.
    """
    norms = np.linalg.norm(raw, axis=1)
    return raw / np.where(norms > 0, norms, 1)[:, None], norms
