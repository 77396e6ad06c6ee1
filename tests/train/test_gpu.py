"""Training on a CUDA device: a step that never waits for it, a run that stops and goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from facepack.evaluate.validation import Validator
from facepack.train import backbones
from facepack.train.build import enter_device, make_optimizer
from facepack.train.config import TrainConfig
from facepack.train.heads import CosFace, PartialFC
from facepack.train.loop.run import Trainer
from facepack.train.methods.softmax.step import TrainStep
from facepack.train.precision import LossScaler

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

CLASSES = 50


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_step_never_waits_for_the_device(small_backbone: str) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    backbone = backbones.build(small_backbone, features=16, autocast=torch.float16).to(device)
    head = PartialFC(CLASSES, 16, margin=CosFace(margin=0.2), scale=16.0).to(device)
    optimizer = make_optimizer(TrainConfig(shards="none", lr=0.05), backbone, device)
    assert optimizer.defaults["fused"]
    scaler = LossScaler(device, enabled=True)
    step = TrainStep(backbone, head, optimizer, scaler, accumulate=2, clip_norm=5.0)
    images = torch.randn(16, 3, 112, 112, device=device)
    labels = torch.arange(16, device=device)
    losses = [step(images, labels, 0.05) for _ in range(5)]
    torch.cuda.synchronize()
    with waiting_is_an_error():
        losses += [step(images, labels, 0.05) for _ in range(30)]
    assert torch.isfinite(torch.stack(losses)).all()
    assert losses[-1] < losses[0]
    assert scaler.skipped_steps() < 5


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_run_that_stopped_goes_on(
    small_config: Callable[..., TrainConfig], pairs_path: Path, tmp_path: Path, precision: str
) -> None:
    config = small_config(
        precision=precision, loader="cpu", accumulate=2, val={"own": str(pairs_path)}
    )

    def train(out: str, **options: Any) -> dict[str, Any]:
        max_steps = options.pop("max_steps", None)
        trainer = Trainer(config, out=tmp_path / out, device="cuda", validator=Validator, **options)
        summary = trainer.run(max_steps=max_steps)
        state = torch.load(tmp_path / out / "checkpoint.pt", weights_only=True)
        assert state["step"] == summary.step
        return state

    whole = train("whole")
    assert train("cut", max_steps=4)["step"] == 4
    cut = train("cut", resume=True)
    assert cut["schedule"]["changes"] == whole["schedule"]["changes"]
    assert cut["scaler"] == whole["scaler"]
    # Sums on the device are in no fixed order, so that the last bits may differ.
    for part in ("backbone", "head"):
        for name, tensor in whole[part].items():
            if isinstance(tensor, torch.Tensor):
                torch.testing.assert_close(cut[part][name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device, or none")
def test_chosen_device_becomes_the_current_one() -> None:
    before = torch.cuda.current_device()
    try:
        assert enter_device("cuda:1") == torch.device("cuda", 1)
        assert torch.cuda.current_device() == 1
    finally:
        torch.cuda.set_device(before)
