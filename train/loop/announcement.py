"""What a run says of itself as it begins."""

from __future__ import annotations

from collections.abc import Callable

from facepack.train.loop.parts import RunParts
from facepack.train.ranks.group import Ranks


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
