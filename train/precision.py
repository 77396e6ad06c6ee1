"""Reduced precision: what the backbone computes in, TF32 where it is wanted, fp16's loss scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from facepack.train.ranks.group import ALONE, Ranks

# The setting `precision` → the backbone's autocast type; the head computes in fp32 under each.
AUTOCAST: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}

# The setting `momentum_dtype` → what the head's momentum is kept in.
MOMENTUM_TYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

_GROWTH_INTERVAL = 100


def _switches(tf32: bool) -> list[tuple[Any, str, Any]]:
    """The settings that let float32 products be rounded, each with the value wanted."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    older: list[tuple[Any, str, Any]] = [
        (matmul, "allow_tf32", tf32),
        (cudnn, "allow_tf32", tf32),
    ]
    if not hasattr(matmul, "fp32_precision"):  # torch before 2.9
        return older
    # Who reads the older names, as torch.compile does when it tunes convolutions, must find them in
    # agreement with the newer ones, or torch raises: so both are set, and the older ones first, as
    # they change the newer. Where the two disagree already, the older are somebody else's to mend.
    values = [switch for switch in older if _is_readable(*switch[:2])]
    values += [
        (holder, "fp32_precision", "tf32" if tf32 else "ieee") for holder in (matmul, cudnn.conv)
    ]
    values += [(holder, "fp32_precision", "ieee") for holder in (mkldnn.matmul, mkldnn.conv)]
    return values


def _is_readable(holder: Any, name: str) -> bool:
    try:
        getattr(holder, name)
    except RuntimeError:
        return False
    return True


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Set whether float32 products and convolutions on CUDA may round their inputs to TF32.

    Without ``tf32`` they are IEEE ones, as they are on the CPU either way. The switches are the
    process's own, so they are set for the block alone and put back after it.
    """
    switches = _switches(tf32)
    before = [getattr(holder, name) for holder, name, _ in switches]
    try:
        for holder, name, value in switches:
            setattr(holder, name, value)
        yield
    finally:
        for (holder, name, _), value in zip(switches, before, strict=True):
            setattr(holder, name, value)


class LossScaler:
    """The dynamic loss scale of fp16: grows after 100 good steps, halves after an overflow.

    The verdict on a step is the backbone's alone. The head's gradient is fp32 and comes first in
    the backward pass: it is non-finite only where the backbone's is too. A step that overflowed on
    one of the ``ranks`` is skipped on all.

    It is not ``enabled`` under fp32 and bf16: nothing is scaled and no step is skipped.
    """

    def __init__(self, device: torch.device, *, enabled: bool, ranks: Ranks = ALONE) -> None:
        self._scaler = torch.amp.GradScaler(
            device.type, growth_interval=_GROWTH_INTERVAL, enabled=enabled
        )
        self._device = device
        self._ranks = ranks
        self._skipped = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def enabled(self) -> bool:
        """Whether the loss is scaled."""
        return self._scaler.is_enabled()

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times the scale."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor | None]:
        """Unscale the gradients that ``optimizer`` owns; return what the head's step is to know.

        ``grad_scale`` is the factor still on the head's gradients, ``found_inf`` is above zero when
        this step must not be taken; both stay on the device, and are None when nothing is scaled.
        """
        if not self.enabled:
            return {"grad_scale": None, "found_inf": None}
        self._scaler.unscale_(optimizer)
        verdicts = self._scaler._found_inf_per_device(optimizer).values()
        for verdict in verdicts:  # in place: the scaler reads them again when it steps
            self._ranks.all_reduce(verdict, "max")
        found_inf = torch.stack([v.to(self._device) for v in verdicts]).sum()
        self._skipped += found_inf != 0
        return {
            "grad_scale": self._scaler.scale(torch.ones((), device=self._device)),
            "found_inf": found_inf,
        }

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the step, unless its gradients overflowed; then move the scale."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def value(self) -> float:
        """The scale now; waits for the device."""
        return self._scaler.get_scale()

    def skipped_steps(self) -> int:
        """Steps not taken so far; waits for the device."""
        return int(self._skipped)

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on; waits for the device."""
        return {"scaler": self._scaler.state_dict(), "skipped": self.skipped_steps()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        if self.enabled:
            self._scaler.load_state_dict(state["scaler"])
        self._skipped.fill_(state["skipped"])
