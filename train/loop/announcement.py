"""What a run says of itself as it begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from facepack.errors import PackError, TrainingError
from facepack.store.places import nearest, require_writable
from facepack.train.config import CONFIG_FILE
from facepack.train.loop.checkpoint import TENSORBOARD_FOLDER
from facepack.train.loop.folder import RUN_FILES
from facepack.train.loop.parts import RunParts
from facepack.train.methods import Head
from facepack.train.models.pretrained import MODEL_FILE


@dataclass(frozen=True, kw_only=True)
class RunPreview:
    """What a run would hold and write; it has done neither."""

    out: str
    target: str  # new, replaced, resumed, or finished if no step is left to be taken
    step: int  # at which it would go on
    total_steps: int
    steps_per_epoch: int
    images: int
    classes: int
    memory: dict[str, int]  # bytes of a rank, of what stays there from step to step
    needed_bytes: int  # about, of the files that would be written
    free_bytes: int  # of the file system they lie on
    files: list[str]
    dry_run: bool = True

    def lines(self) -> Iterator[str]:
        """The same for people to read."""
        listed = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in self.memory.items())
        yield (f"memory of a rank: {listed}; beside them what a step computes with, and the loader")
        if self.target == "finished":
            yield f"{self.out}: step {self.step:,} is done already; no step would be taken"
        if self.files:
            yield (
                f"would be written to {self.out} ({self.target}): {', '.join(self.files)}; about "
                f"{self.needed_bytes / 1e6:,.1f} MB, {self.free_bytes / 1e6:,.1f} MB are free"
            )
        yield "--dry-run writes nothing"


def preview_run(parts: RunParts, out: Path, *, step: int, last: int) -> RunPreview:
    """What a run of ``parts`` would hold and write, from ``step`` to ``last``.

    Raises:
        TrainingError: it could not be written.
    """
    try:
        require_writable(out)
    except PackError as error:
        raise TrainingError(f"--out: {error}") from error
    method = parts.config.method
    memory = held_bytes(parts.backbone, parts.optimizer, parts.method_run.head, method)
    heads = parts.ranks.world * memory[method]
    whole = memory["network"] + memory["its optimizer"] + heads
    needed = 2 * whole + memory["network"]  # of two checkpoints and the model
    files = [*RUN_FILES, *([f"{TENSORBOARD_FOLDER}/"] if find_spec("tensorboard") else [])]
    target = "resumed" if step else "replaced" if (out / CONFIG_FILE).exists() else "new"
    if step >= last:  # of which the model alone is made up for
        is_there = (out / MODEL_FILE).exists()
        target, needed = "finished", 0 if is_there else memory["network"]
        files = [] if is_there else [MODEL_FILE]
    return RunPreview(
        out=str(out),
        target=target,
        step=step,
        total_steps=parts.total_steps,
        steps_per_epoch=parts.steps_per_epoch,
        images=len(parts.data),
        classes=parts.data.classes,
        memory=memory,
        needed_bytes=needed,
        free_bytes=shutil.disk_usage(nearest(out)).free,
        files=files,
    )


def held_bytes(
    backbone: nn.Module, optimizer: Optimizer, head: Head, method: str
) -> dict[str, int]:
    """Bytes of what a rank holds from step to step, the head under the name of its ``method``."""
    network = list(backbone.state_dict().values())
    moments = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    if isinstance(optimizer, AdamW):  # which makes its two in the first step
        moments = 2 * [each for group in optimizer.param_groups for each in group["params"]]
    held = list(head.buffers()) if isinstance(head, nn.Module) else head.weights
    sizes = {"network": network, "its optimizer": moments, method: held}
    return {
        name: sum(t.numel() * t.element_size() for t in tensors) for name, tensors in sizes.items()
    }


def announce(parts: RunParts, notify: Callable[[str], None]) -> None:
    """Say what is trained on what, and what about it may surprise."""
    config, data, loader = parts.config, parts.data, parts.method_run.loader
    parameters = sum(p.numel() for p in parts.backbone.parameters())
    world = parts.ranks.world
    shared = f" on each of {world} ranks" if world > 1 else ""
    notify(
        f"training {config.backbone} ({parameters / 1e6:.1f} M parameters) on "
        f"{data.name}: {len(data):,} images, {data.classes:,} classes; "
        f"{parts.total_steps:,} steps of {parts.method.images_per_step(config)} images, "
        f"{parts.steps_per_epoch:,} an epoch; "
        f"{parts.device.type if shared else parts.device}{shared}, {config.precision}, "
        f"loader {loader.backend}"
    )
    if loader.order == "blocks":
        notify(f"images are shuffled in blocks that are read together: {loader.order_reason}")
    if config.precision == "fp16" and parts.device.type == "cpu":
        notify("fp16 on the CPU is emulated and slow: fp32 is the faster precision here")
