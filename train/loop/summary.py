"""What a run says of itself at its end."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from facepack.train.loop.parts import RunParts
from facepack.train.loop.state import RunState
from facepack.train.loop.stopwatch import Reading

Stopped = Literal["finished", "max_steps", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """How a call of :meth:`Trainer.run` went."""

    out: str
    """The run's folder."""
    stopped: Stopped
    """Why the run ended; but for the first it can be resumed."""
    step: int
    """Optimizer steps done since the run began."""
    total_steps: int
    """The run's whole length."""
    images: int
    """Images trained on by this call, of all ranks together, as in all that follows."""
    seconds: float
    """Time of training of this call, without verification and checkpoints."""
    images_per_second: float
    data_wait: float
    """Share of that time spent waiting for data."""
    verification_share: float
    """Share of the time of this call, checkpoints and all, spent on verification."""
    loss: float
    """Mean loss over the last steps logged; over all steps, where none is logged yet."""
    lr: float
    """Learning rate of the last step logged, or else of the last step."""
    skipped_steps: int
    """Steps not taken because their fp16 gradients overflowed."""
    skipped_images: int
    """Images left out because they do not decode."""
    best: dict[str, dict[str, float]]
    """Verification set → the best of its figure, by the figure's name, and the ``step``."""

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def summarize(
    parts: RunParts, state: RunState, out: Path, stopped: Stopped, reading: Reading
) -> RunSummary:
    """The summary of a run that stands at ``state``, of which ``reading`` is this call's time."""
    last = state.last
    return RunSummary(
        out=str(out),
        stopped=stopped,
        step=state.step,
        total_steps=parts.total_steps,
        images=reading.images,
        seconds=reading.seconds,
        images_per_second=reading.images_per_second,
        data_wait=reading.data_wait,
        verification_share=reading.verification_share,
        loss=last["loss"] if last else parts.meter.mean(),
        lr=last["lr"] if last else parts.schedule.lr_after(state.step - 1),
        skipped_steps=parts.scaler.skipped_steps(),
        skipped_images=state.skipped_images,
        best=parts.verification.best,
    )
