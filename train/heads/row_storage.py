"""Where the centres and their state lie, and how the rows of a step get to the device and back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import torch

Storage = Literal["device", "host"]

_STAGED_ROWS = 1 << 16


class RowStorage(Protocol):
    """Copies rows out of a matrix and into it; ``rows`` are sorted distinct ids, or a slice."""

    def take(
        self, matrix: torch.Tensor, rows: torch.Tensor | slice, device: torch.device
    ) -> torch.Tensor:
        """The rows, on ``device``: a copy, or a view where ``rows`` is a slice."""

    def put(self, matrix: torch.Tensor, rows: torch.Tensor | slice, values: torch.Tensor) -> None:
        """Replace the rows by ``values``, rounded to the matrix's type."""


class DeviceRows:
    """Matrices on the device that computes."""

    def take(
        self, matrix: torch.Tensor, rows: torch.Tensor | slice, device: torch.device
    ) -> torch.Tensor:
        """Nothing here waits for the device."""
        return matrix[rows]

    def put(self, matrix: torch.Tensor, rows: torch.Tensor | slice, values: torch.Tensor) -> None:
        """Nothing here waits for the device."""
        matrix[rows] = values.to(matrix.dtype)


class HostRows:
    """Matrices in host memory: rows travel through two page-locked buffers by turns.

    The host gathers one block of rows while the device's copy engine moves the one before. Only
    what that engine reads and writes has to be page-locked, so the matrices are ordinary memory:
    locking them would take minutes and, in torch's allocator, up to twice their size.

    Both directions wait for the device: the host has to know the ids, and to have the values.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.dtype, torch.Size], list[_Buffer]] = {}

    def take(
        self, matrix: torch.Tensor, rows: torch.Tensor | slice, device: torch.device
    ) -> torch.Tensor:
        """Gather on the host, copy to ``device`` without waiting for the copies."""
        ids = _as_ids(rows)
        taken = torch.empty((len(ids), *matrix.shape[1:]), dtype=matrix.dtype, device=device)
        for buffer, part, into in self._staged(matrix, ids, taken):
            staged = buffer.wait()[: len(part)]
            torch.index_select(matrix, 0, part, out=staged)
            into.copy_(staged, non_blocking=True)
            buffer.copying(device)
        return taken

    def put(self, matrix: torch.Tensor, rows: torch.Tensor | slice, values: torch.Tensor) -> None:
        """Copy to the host and write each block into its rows while the next one is copied."""
        ids = _as_ids(rows)
        before: tuple[_Buffer, torch.Tensor] | None = None
        for buffer, part, source in self._staged(matrix, ids, values.to(matrix.dtype)):
            buffer.wait()[: len(part)].copy_(source, non_blocking=True)
            buffer.copying(values.device)
            if before is not None:
                _write(matrix, *before)
            before = buffer, part
        if before is not None:
            _write(matrix, *before)

    def _staged(
        self, matrix: torch.Tensor, ids: torch.Tensor, on_device: torch.Tensor
    ) -> Iterator[tuple[_Buffer, torch.Tensor, torch.Tensor]]:
        """Blocks of ids with their part of ``on_device``, each with the buffer whose turn it is."""
        lock = on_device.device.type == "cuda"
        key = (matrix.dtype, matrix.shape[1:])
        buffers = self._buffers.setdefault(key, [])
        rows = min(_STAGED_ROWS, len(ids))
        if not buffers or len(buffers[0].values) < rows:
            buffers[:] = [_Buffer(matrix.new_empty((rows, *key[1])), lock) for _ in range(2)]
        parts = zip(ids.split(_STAGED_ROWS), on_device.split(_STAGED_ROWS), strict=True)
        for turn, (part, values) in enumerate(parts):
            yield buffers[turn % 2], part, values


class _Buffer:
    """Host memory that the device copies from or to."""

    def __init__(self, values: torch.Tensor, lock: bool) -> None:
        self.values = values.pin_memory() if lock else values
        self._copied: torch.cuda.Event | None = None

    def wait(self) -> torch.Tensor:
        """The memory, once the last copy that uses it is done."""
        if self._copied is not None:
            self._copied.synchronize()
        return self.values

    def copying(self, device: torch.device) -> None:
        """Note that a copy between the memory and ``device`` was begun."""
        if device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))


def _write(matrix: torch.Tensor, buffer: _Buffer, ids: torch.Tensor) -> None:
    matrix.index_copy_(0, ids, buffer.wait()[: len(ids)])


def _as_ids(rows: torch.Tensor | slice) -> torch.Tensor:
    if isinstance(rows, slice):
        return torch.arange(rows.start, rows.stop)
    return rows.cpu()


def build_row_storage(storage: Storage) -> RowStorage:
    """Build one by name: ``device`` or ``host``."""
    return HostRows() if storage == "host" else DeviceRows()
