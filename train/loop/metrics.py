"""What a run measures, on disk: ``metrics.jsonl`` always, TensorBoard's files when it is installed.

One JSON object a line: ``kind`` (``train``, ``val``, ``lr``), ``step``, the values, and under
``timing`` all that depends on the clock. Without ``timing`` the file is a function of the settings
and the data: a run that was killed and resumed leaves the same lines as one that was not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from facepack.errors import TrainingError
from facepack.reading import parse_json

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Appends a run's measurements to a ``metrics.jsonl`` and, if it is there, by TensorBoard.

    The run goes on from a checkpoint of ``resume_step``: later lines, and a line cut short by a
    kill, are dropped; 0 starts an empty file. Damaged lines stay where good ones follow;
    ``damaged_lines`` is their number.

    Raises:
        TrainingError: from here on, the files cannot be written.
    """

    def __init__(self, path: Path, *, resume_step: int, tensorboard: Path) -> None:
        self._path = path
        with self._writing():
            self.damaged_lines = 0
            if path.exists():
                length, self.damaged_lines = _length_up_to(path, resume_step)
                os.truncate(path, length)
            self._file = path.open("a", encoding="utf-8")
            self._board = _open_tensorboard(tensorboard, resume_step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainingError(
                f"cannot write the run's measurements in {self._path.parent}: {error}. Make room "
                "or mend the disk, then --resume"
            ) from error

    def write(
        self,
        kind: str,
        step: int,
        values: Mapping[str, Any],
        timing: Mapping[str, float] | None = None,
    ) -> None:
        """Append one line; numbers that are not finite are written as null."""
        line: dict[str, Any] = {"kind": kind, "step": step}
        line.update({name: _plain(value) for name, value in values.items()})
        if timing is not None:
            line["timing"] = {name: round(value, 4) for name, value in timing.items()}
        with self._writing():
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
            if self._board is not None:
                prefix = "/".join([kind, *(v for v in values.values() if isinstance(v, str))])
                for name, value in {**values, **(timing or {})}.items():
                    if isinstance(value, int | float) and math.isfinite(value):
                        self._board.add_scalar(f"{prefix}/{name}", value, step)

    def sync(self) -> None:
        """Put the lines on the disk: a checkpoint must not be ahead of them."""
        with self._writing():
            os.fsync(self._file.fileno())

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            with self._writing():
                self._close()
        except TrainingError:
            # The error under way tells more; often it is this one, met earlier.
            if kind is None:
                raise

    def _close(self) -> None:
        try:
            self._file.close()
        finally:
            if self._board is not None:
                self._board.close()


class SilentLog(MetricsLog):
    """Takes the same measurements and writes nothing: of several ranks one alone writes."""

    def __init__(self) -> None:
        self.damaged_lines = 0

    def write(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def _close(self) -> None:
        pass


class LossMeter:
    """Mean loss since the last reading, and the first step whose loss was not finite.

    Both gather on the device; what reads them waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._sum = torch.zeros((), dtype=torch.float64, device=device)
        self._count = 0
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=device)

    def add(self, loss: Tensor, step: int) -> None:
        """Take in the loss of step number ``step``, a scalar on the device."""
        self._sum += loss
        self._count += 1
        bad = (self._first_bad < 0) & ~torch.isfinite(loss)
        self._first_bad.masked_fill_(bad, step)

    def first_non_finite(self) -> int | None:
        """The first step whose loss was NaN or infinite, or None."""
        step = int(self._first_bad)
        return None if step < 0 else step

    def mean(self) -> float:
        """The mean over the steps since the last :meth:`take_mean`; 0 if there are none."""
        return float(self._sum) / max(self._count, 1)

    def take_mean(self) -> float:
        """:meth:`mean`, to start anew after it."""
        mean = self.mean()
        self._sum.zero_()
        self._count = 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        """The steps not yet read; waits for the device."""
        return {"sum": float(self._sum), "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self._sum.fill_(state["sum"])
        self._count = state["count"]


def _length_up_to(path: Path, step: int) -> tuple[int, int]:
    """Bytes up to the last line of a step up to ``step``, and the number of damaged lines."""
    length = end = damaged = 0
    if step == 0:
        return 0, 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break  # cut short by a kill
            end += len(line)
            try:
                if parse_json(line)["step"] <= step:
                    length = end
            except (ValueError, KeyError, TypeError):
                damaged += 1
    return length, damaged


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _open_tensorboard(folder: Path, resume_step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    # Events after the checkpoint's step, from the run that was killed, are hidden.
    return SummaryWriter(str(folder), purge_step=resume_step + 1)
