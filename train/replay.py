"""Reading the log of a training run, and replaying its losses through a schedule.

Three kinds of log are read: CSV with the columns step, loss, lr and epoch; JSON lines with those
keys (a run's ``metrics.jsonl``); and the lines that arcface_torch and its descendants write to
``training.log``. The rate may be missing, as it is in the oldest of these: a replay is then told
the base rate.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack import lfs
from facepack.errors import ConfigError, SourceError
from facepack.reading import parse_json, read_bytes
from facepack.train.collect import read_settings
from facepack.train.config import CONFIG_FILE
from facepack.train.schedules import Schedule, build_schedule, option_names

_FIELDS = ("step", "loss", "lr", "epoch")
_OPTIONAL = ("lr",)
_NEEDED = tuple(field for field in _FIELDS if field not in _OPTIONAL)
# A step of the longest runs there are is below it, and a replay of as many fits into memory.
_HIGHEST_STEP = 100_000_000
_FLOAT32_MAX = 3.4028234663852886e38
_TRAINER_LINE = re.compile(
    r"\bLoss\s+(?P<loss>\S+)\s+(?:LearningRate\s+(?P<lr>\S+)\s+)?"
    r"Epoch:\s*(?P<epoch>\S+)\s+Global Step:\s*(?P<step>\S+)"
)


@dataclass(frozen=True)
class TrainingLog:
    """The rows of a log, n of them, by ascending step; losses may be non-finite."""

    steps: np.ndarray
    """int64 (n,): optimizer steps done."""
    losses: np.ndarray
    """float64 (n,): loss, as a rule the mean since the row before."""
    lrs: np.ndarray
    """float64 (n,): learning rate; NaN in rows that do not tell it."""
    epochs: np.ndarray
    """int64 (n,): epoch, usually from 0."""
    notices: tuple[str, ...] = ()
    """What of the log was left out."""
    run_lr: float | None = None
    """The base rate in the run's ``config.toml``, which lies beside its ``metrics.jsonl``."""

    @property
    def base_lr(self) -> float | None:
        """The highest learning rate that is told; None where none is.

        Rows alone may miss the base rate: between two a warm-up ends and a decay begins.
        """
        told = [*self.lrs[~np.isnan(self.lrs)].tolist(), self.run_lr]
        return max((lr for lr in told if lr is not None), default=None)

    @property
    def total_steps(self) -> int:
        """The last step of the log."""
        return int(self.steps[-1])

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch, from where the last one begins; a log of one epoch is that epoch.

        The boundary lies between two rows. If the log can be of whole epochs, it is taken to be;
        else the boundary is put midway, and the error is at most half the distance of two rows
        divided by the number of boundaries.
        """
        begun = int(self.epochs[-1] - self.epochs[0])
        if begun <= 0:
            return self.total_steps
        first = int(np.argmax(self.epochs == self.epochs[-1]))
        before, after = int(self.steps[first - 1]), int(self.steps[first])
        whole = round(self.total_steps / (begun + 1))
        return whole if before <= whole * begun < after else round((before + after) / 2 / begun)

    def changes(self) -> list[tuple[int, float]]:
        """The rows at which the learning rate differs from the one told before: (step, rate)."""
        told = ~np.isnan(self.lrs)
        steps, lrs = self.steps[told], self.lrs[told]
        rows = np.flatnonzero(np.diff(lrs)) + 1
        return [(int(steps[row]), float(lrs[row])) for row in rows]

    def loss_of_every_step(self) -> np.ndarray:
        """float64 (total_steps,): the losses of steps 1, 2, …, interpolated linearly.

        Non-finite losses are passed over; before the first finite loss its value is held, and
        likewise after the last.
        """
        finite = np.isfinite(self.losses)
        return np.interp(
            np.arange(1, self.total_steps + 1), self.steps[finite], self.losses[finite]
        )


@dataclass(frozen=True)
class Replay:
    """A schedule after it has seen a log of T steps."""

    schedule: Schedule
    losses: np.ndarray
    """float64 (T,): the loss of each step, as the schedule saw it."""
    lrs: np.ndarray
    """float64 (T,): the learning rate that the schedule would have given each step."""

    @property
    def changes(self) -> list[tuple[int, float]]:
        """The schedule's changes: (steps done, learning rate from then on)."""
        return self.schedule.changes


def replay_log(
    log: TrainingLog,
    name: str,
    *,
    base_lr: float | None = None,
    total_steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int = 128,
    warmup_steps: int = 0,
    **options: Any,
) -> Replay:
    """Show the losses of ``log``, step by step, to the schedule ``name`` with ``options``.

    The run's numbers are those of :func:`build_schedule`; where None, the log's. Losses are read
    at every step unless ``read_every`` says otherwise: there is no device to wait for. Raises
    :class:`ConfigError` for a wrong setting, or where neither the log nor the call tells the rate.
    """
    base_lr = log.base_lr if base_lr is None else base_lr
    if base_lr is None:
        raise ConfigError(
            "the log tells no learning rate: give the base rate of its run with --base-lr"
        )
    if "read_every" in option_names(name):
        options.setdefault("read_every", 1)
    schedule = build_schedule(
        name,
        base_lr=base_lr,
        total_steps=log.total_steps if total_steps is None else total_steps,
        steps_per_epoch=log.steps_per_epoch if steps_per_epoch is None else steps_per_epoch,
        batch_size=batch_size,
        warmup_steps=warmup_steps,
        **options,
    )
    losses = log.loss_of_every_step()
    lrs = np.empty_like(losses)
    for i, loss in enumerate(losses.tolist()):
        lrs[i] = schedule.lr
        schedule.step(loss)
    return Replay(schedule, losses, lrs)


def read_log(path: Path) -> TrainingLog:
    """Read the log ``path``, whose kind shows from its text.

    Where the step goes back, a run was resumed: the rows that it repeats replace those before. A
    last line of JSON that a crash cut short is left out, with a notice. Raises
    :class:`SourceError` naming file, line and what is wrong.
    """
    lfs.require_content(path, SourceError)
    try:
        text = read_bytes(path).decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    lines = text.splitlines()
    parse = _parser_for(next((line for line in lines if line.strip()), ""))
    notices: list[str] = []
    if parse is _parse_json_lines and not text.endswith("\n") and not _is_json(lines[-1]):
        notices.append(f"{path}, line {len(lines)} is cut short: left out")
        lines.pop()
    rows: list[tuple[int, float, float, int]] = []
    for number, fields in parse(lines, path):
        row = _to_row(fields, f"{path}, line {number}")
        while rows and rows[-1][0] >= row[0]:
            rows.pop()
        rows.append(row)
    if not rows:
        raise SourceError(
            f"{path} holds no training step; a log is CSV with the columns {', '.join(_FIELDS)}, "
            "JSON lines with those keys, or a training.log with lines such as 'Loss 46.5 "
            "LearningRate 0.02 Epoch: 0 Global Step: 20'; the rate may be missing"
        )
    steps, losses, lrs, epochs = zip(*rows, strict=True)
    log = TrainingLog(
        steps=np.array(steps, np.int64),
        losses=np.array(losses, np.float64),
        lrs=np.array(lrs, np.float64),
        epochs=np.array(epochs, np.int64),
        notices=tuple(notices),
        run_lr=_rate_of_run(path) if parse is _parse_json_lines else None,
    )
    if not np.isfinite(log.losses).any():
        raise SourceError(f"{path} holds no finite loss; there is nothing to replay")
    if log.total_steps < 1:
        raise SourceError(f"{path} ends at step {log.total_steps}; there is nothing to replay")
    return log


def _rate_of_run(path: Path) -> float | None:
    """The base rate of the run whose log ``path`` is; None of a log that lies elsewhere."""
    config = path.parent / CONFIG_FILE
    lr = read_settings(str(config)).get("lr") if config.is_file() else None
    return float(lr) if isinstance(lr, (int, float)) else None


_Numbered = Iterator[tuple[int, dict[str, Any]]]  # line number from 1, the line's fields


def _parser_for(first_line: str) -> Callable[[list[str], Path], _Numbered]:
    if first_line.lstrip().startswith("{"):
        return _parse_json_lines
    if {"step", "loss"} <= {cell.strip().lower() for cell in first_line.split(",")}:
        return _parse_csv
    return _parse_trainer_lines


def _parse_csv(lines: list[str], path: Path) -> _Numbered:
    reader = csv.reader(lines)
    header: list[str] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SourceError(f"{path}, line {reader.line_num}: not CSV: {error}") from error
        if not any(cell.strip() for cell in cells):
            continue
        if header:
            yield reader.line_num, dict(zip(header, cells, strict=False))
            continue
        header = [cell.strip().lower() for cell in cells]
        missing = [field for field in _NEEDED if field not in header]
        if missing:
            raise SourceError(
                f"{path} lacks the column {', '.join(missing)}; it has {', '.join(header)}"
            )


def _parse_json_lines(lines: list[str], path: Path) -> _Numbered:
    for number, line in _numbered_text(lines):
        try:
            fields = parse_json(line)
        except ValueError as error:
            raise SourceError(
                f"{path}, line {number}: not JSON ({error}); remove the line if a crash cut it"
            ) from None
        # Lines of other kinds, such as verification results, carry no loss.
        if isinstance(fields, dict) and "loss" in fields:
            yield number, fields


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True


def _parse_trainer_lines(lines: list[str], path: Path) -> _Numbered:
    for number, line in _numbered_text(lines):
        match = _TRAINER_LINE.search(line)
        if match:
            yield number, match.groupdict()


def _numbered_text(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _to_row(fields: dict[str, Any], where: str) -> tuple[int, float, float, int]:
    values: dict[str, float] = {}
    for field in _FIELDS:
        value: Any = fields.get(field)
        if value is None and field in _NEEDED and field not in fields:
            raise SourceError(f"{where} lacks {field}; each row needs {', '.join(_NEEDED)}")
        if value in (None, "") and field in ("loss", *_OPTIONAL):  # JSON has no NaN
            value = "nan"
        try:
            values[field] = float(value)
        except (TypeError, ValueError):
            raise SourceError(f"{where}: {field} {value!r} is not a number") from None
    for field in ("step", "epoch"):
        if not values[field].is_integer() or not 0 <= values[field] <= _HIGHEST_STEP:
            raise SourceError(
                f"{where}: {field} {fields[field]!r} is not a count from 0 to {_HIGHEST_STEP:,}"
            )
    is_told = fields.get("lr") not in (None, "")
    if is_told and not 0 <= values["lr"] < float("inf"):
        raise SourceError(f"{where}: lr {fields['lr']!r} is not a learning rate")
    # A training's losses are of single precision; what lies beyond it, their sums may not hold.
    loss = values["loss"] if abs(values["loss"]) <= _FLOAT32_MAX else float("nan")
    return int(values["step"]), loss, values["lr"], int(values["epoch"])
