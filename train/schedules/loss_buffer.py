"""Losses kept where they were computed until a few of them are read at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class LossBuffer:
    """Holds up to ``capacity`` losses, in order; reading them is what synchronises the device.

    Tensors go into one buffer that is allocated on their device at the first of them; appending
    copies a scalar there and waits for nothing. Numbers are kept as they are.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        # In order: the losses already on the host, then the first _filled ones of the buffer.
        self._host: list[float] = []
        self._device: Tensor | None = None
        self._filled = 0

    def __len__(self) -> int:
        return len(self._host) + self._filled

    def append(self, loss: Tensor | float) -> None:
        """Keep ``loss``, a number or a tensor of one element on any device."""
        if len(self) >= self.capacity:
            raise IndexError(f"the loss buffer holds {self.capacity} losses and is full")
        if isinstance(loss, int | float):
            self._drain()
            self._host.append(float(loss))
            return
        value = loss.detach().reshape(())
        buffer = self._device
        if buffer is None or buffer.device != value.device or buffer.dtype != value.dtype:
            self._drain()
            buffer = self._device = value.new_empty(self.capacity)
        buffer[self._filled] = value
        self._filled += 1

    def peek(self) -> list[float]:
        """The losses, oldest first; they stay in the buffer."""
        self._drain()
        return list(self._host)

    def take(self) -> list[float]:
        """The losses, oldest first; the buffer is empty afterwards."""
        self._drain()
        taken, self._host = self._host, []
        return taken

    def _drain(self) -> None:
        if self._filled:
            assert self._device is not None
            self._host += self._device[: self._filled].tolist()
            self._filled = 0
