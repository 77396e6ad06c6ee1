"""Embed faces: image plus mirror image, in IEEE single precision, the model left as it was."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError
from facepack.evaluate.faces.decode import FACE_SIZE
from facepack.train.backbones.registry import Backbone
from facepack.train.precision import float32_products

if TYPE_CHECKING:
    from facepack.evaluate.faces.faces import Pixels

_ROWS = 4096  # whose norms are computed at a time
_UNDER_WAY = 2  # batches that a GPU has been given beyond the one whose embeddings are waited for


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


def embed_each(
    model: nn.Module,
    batches: Iterable[Pixels],
    store: Callable[[np.ndarray], None],
    *,
    device: str | torch.device | None = None,
    flip: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Embed faces, and hand each batch's embeddings to ``store`` in order.

    Pixels enter as (x − 127.5)/127.5, in channels_last memory. The model is left as it was found:
    no gradient is recorded and no random number drawn.

    Args:
        model: float32 (n, 3, H, W) → (n, F).
        batches: uint8 RGB (n, H, W, 3), arrays or tensors; each may be written over once the next
            but one is asked for.
        store: takes (n, F) float32, not normalised, and may keep it. A GPU's come a few batches
            late, so that it never waits for the host.
        device: where the model is; None asks its first parameter.
        flip: add the embedding of the mirror image.
        on_batch: called with n when a batch has been handed to the model.

    Raises:
        EvaluationError: the model's output is not a tensor (n, F).
    """
    device = model_device(model) if device is None else torch.device(device)
    pending: deque[_Fetched] = deque()
    with (
        torch.inference_mode(),
        torch.autocast(device.type, enabled=False),
        float32_products(tf32=False),
        evaluating(model),
    ):
        for batch in batches:
            # NHWC memory seen as NCHW is channels_last already, and so is its flip.
            pixels = torch.as_tensor(batch).to(device).permute(0, 3, 1, 2).float()
            faces = pixels.sub_(127.5).div_(127.5)
            output = _forward(model, faces)
            if flip:
                output = output + _forward(model, faces.flip(3))
            pending.append(_Fetched(output))
            if on_batch is not None:
                on_batch(len(batch))
            if len(pending) > _UNDER_WAY:
                store(pending.popleft().wait())
        while pending:
            store(pending.popleft().wait())


class _Fetched:
    """A batch's embeddings on their way to host memory."""

    def __init__(self, output: torch.Tensor) -> None:
        self._copied: torch.cuda.Event | None = None
        if output.is_cuda:
            # Asked for now: a copy that is asked for later waits for all that is queued till then.
            self._host = torch.empty(output.shape, dtype=torch.float32, pin_memory=True)
            self._host.copy_(output, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()
        else:
            self._host = output.float()

    def wait(self) -> np.ndarray:
        if self._copied is not None:
            self._copied.synchronize()
        return self._host.numpy()


def embed(
    model: nn.Module,
    batches: Iterable[Pixels],
    *,
    device: str | torch.device | None = None,
    flip: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embed faces into one array: :func:`embed_each` says what the arguments are.

    Returns:
        (N, F) float32, N the faces of all batches; not normalised.

    Raises:
        EvaluationError: the model's output is not a tensor (n, F), or there are no batches.
    """
    parts: list[np.ndarray] = []
    embed_each(model, batches, parts.append, device=device, flip=flip, on_batch=on_batch)
    if not parts:
        raise EvaluationError("there are no images to embed")
    return np.concatenate(parts)


def model_device(model: nn.Module) -> torch.device:
    """Where a model's first parameter is; the CPU, if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def model_image_size(model: nn.Module) -> tuple[int, int]:
    """(height, width) of the images that a model takes: its ``image_size``, else 112×112.

    The attribute may be that of a module within, as where a backbone is wrapped.
    """
    sizes = (getattr(module, "image_size", None) for module in model.modules())
    return next((size for size in sizes if size is not None), FACE_SIZE)


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
    """Scale the rows of ``raw`` (N, F) to unit L2 norm: (unit rows (N, F), norms (N,)), float64.

    A row of zeros stays one.
    """
    wide = raw.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    return wide / np.where(norms > 0, norms, 1)[:, None], norms


def row_norms(raw: np.ndarray) -> np.ndarray:
    """The L2 norms of the rows of ``raw`` (N, F): float64 (N,); NaN for a row that is not finite.

    They are computed in double precision, some rows at a time: ``raw`` may be mapped from a file.
    """
    norms = np.empty(len(raw))
    for start in range(0, len(raw), _ROWS):
        rows = raw[start : start + _ROWS].astype(np.float64)
        norms[start : start + _ROWS] = np.linalg.norm(rows, axis=1)
    # Of finite float32 values no norm in double precision overflows.
    norms[np.isinf(norms)] = np.nan
    return norms
