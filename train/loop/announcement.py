"""What a run says of itself as it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from facepack.train.config import CONFIG_FILE
from facepack.train.loop.checkpoint import CHECKPOINT_FILE, METRICS_FILE
from facepack.train.loop.parts import RunParts
from facepack.train.models.pretrained import MODEL_FILE
from facepack.train.ranks.group import Ranks


def describe_plan(parts: RunParts, out: Path) -> str:
    """What a run would hold and write; it has done neither."""
    head = parts.method_run.head
    held = list(head.buffers()) if isinstance(head, nn.Module) else head.weights
    network = list(parts.backbone.state_dict().values())
    moments = [
        value
        for state in parts.optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    sizes = {"network": network, "its optimizer": moments, parts.config.method: held}
    listed = ", ".join(
        f"{name} {sum(t.numel() * t.element_size() for t in tensors) / 1e6:,.1f} MB"
        for name, tensors in sizes.items()
    )
    return (
        f"memory of a rank: {listed}; beside them what a step computes with, and the loader\n"
        f"would be written to {out}: {CONFIG_FILE}, {METRICS_FILE}, {CHECKPOINT_FILE}, the one "
        f"before it, and {MODEL_FILE}; --dry-run writes nothing"
    )


def announce(parts: RunParts, ranks: Ranks, notify: Callable[[str], None]) -> None:
    """Say what is trained on what, and what about it may surprise."""
    config, data, loader = parts.config, parts.data, parts.method_run.loader
    parameters = sum(p.numel() for p in parts.backbone.parameters())
    shared = f" on each of {ranks.world} ranks" if ranks.world > 1 else ""
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
