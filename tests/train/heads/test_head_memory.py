"""The head's memory: what the benchmark's arithmetic says against what torch allocates."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from facepack.train import backbones
from facepack.train.heads import CosFace, PartialFC, partial_fc


@pytest.fixture(scope="module")
def benchmark_head() -> ModuleType:
    path = Path(__file__).parents[3] / "benchmarks" / "head.py"
    spec = importlib.util.spec_from_file_location("benchmark_head", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark_head"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("momentum", ["fp32", "bf16"])
@pytest.mark.parametrize("storage", ["device", "host"])
def test_lasting_bytes_are_those_of_the_buffers(
    benchmark_head: ModuleType, momentum: str, storage: str
) -> None:
    setup = benchmark_head.Setup(
        identities=1000, rate=0.1, features=64, momentum=momentum, storage=storage
    )
    dtype = torch.bfloat16 if momentum == "bf16" else torch.float32
    head = PartialFC(
        1000, 64, margin=CosFace(), sample_rate=0.1, storage=storage, momentum_dtype=dtype
    )
    memory = benchmark_head.count_bytes(setup)
    held = sum(buffer.nbytes for buffer in head.buffers())
    assert memory.centres + memory.momentum + memory.host == held


@pytest.mark.parametrize("batch", [32, 256])
@pytest.mark.parametrize("rate", [0.2, 1.0])
@pytest.mark.parametrize("chunk", [None, 1000])
def test_the_peak_is_what_the_allocator_saw(
    benchmark_head: ModuleType, batch: int, rate: float, chunk: int | None
) -> None:
    setup = benchmark_head.Setup(
        identities=20_000, rate=rate, batch=batch, features=64, chunk=chunk
    )
    measured = benchmark_head.measure(setup, steps=1)["measured"]
    assert measured == pytest.approx(benchmark_head.count_bytes(setup).peak, rel=0.02)


def test_the_arithmetic_chunks_where_the_head_does(
    benchmark_head: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_fc, "_LARGEST_WHOLE", 1000 * 4 * (16 + 8))
    monkeypatch.setattr(partial_fc, "_CHUNK_BYTES", 70 * 4 * (16 + 8))
    for identities in (1000, 1001):
        setup = benchmark_head.Setup(identities=identities, rate=1.0, batch=16, features=8)
        head = PartialFC(identities, 8, margin=CosFace())
        assert setup.chunk_rows == head._chunk_for(16, identities)
    assert setup.chunk_rows == 70


def test_kept_bytes_are_those_of_the_layers_inputs(benchmark_head: ModuleType) -> None:
    # A layer needs its input for its backward pass; some share one with the layer beside them.
    inputs = {nn.Conv2d: 0, nn.PReLU: 0, nn.BatchNorm2d: 0}

    def count(layer: nn.Module, given: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        inputs[type(layer)] += given[0][0].numel() * 2

    backbone = backbones.build("r18").train()
    for layer in backbone.modules():
        if type(layer) in inputs:
            layer.register_forward_hook(count)
    backbone(torch.randn(2, 3, 112, 112))
    kept = benchmark_head.count_saved_bytes("r18")
    assert inputs[nn.Conv2d] + inputs[nn.PReLU] < kept < sum(inputs.values())


def test_what_has_to_fit_fits(benchmark_head: ModuleType) -> None:
    backbone = benchmark_head.backbone_bytes("r50", 256) + benchmark_head.RESERVE
    # r50 keeps some 36 MB an image in half precision.
    assert 9e9 < backbone - benchmark_head.RESERVE < 10e9
    for _, setup, gigabytes in benchmark_head.fits():
        assert benchmark_head.count_bytes(setup).peak + backbone < gigabytes * 1e9
