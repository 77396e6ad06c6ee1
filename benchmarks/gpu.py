"""Loading and training on one GPU, against its ceilings, the published aims and arcface_torch.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --arcface-torch insightface/recognition/arcface_torch
    python benchmarks/gpu.py --parts training --backbones r50 --compile default reduce-overhead
    python benchmarks/gpu.py --toy                      # the same script on a CPU, in a minute

Wants torch, NumPy and facepack's few required packages; DALI is measured where it is installed.
The images are faces that facepack draws itself (or ``--pack PACK``), spread over 617,970
identities, as WebFace12M has. Every rate is the median over windows of whole steps, with the
smallest and greatest beside it; every window ends with the device done. The parts:

ceilings    of the machine: copies within device memory and to it, matrix products, JPEG decoding
loading     images/s of the loader alone, by backend, decoder and batch size
training    images/s of a whole optimizer step: from one batch that stays on the device, by batch
            size; then, at the best batch size and at 128, from the live loader and from one batch
            by turns
peer        the same step of arcface_torch's code, from a batch that stays on the device
roofline    the operations and the fewest bytes of a step, and the time they take at the ceilings
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import facepack
from facepack.loading.loader import Loader
from facepack.processors import usable_processors
from facepack.train import backbones
from facepack.train.build import enter_device, make_backbone, make_head, make_optimizer
from facepack.train.config import TrainConfig
from facepack.train.loop.in_flight import StepsInFlight
from facepack.train.methods.softmax.step import TrainStep
from facepack.train.precision import LossScaler

IDENTITIES = 617_970  # of WebFace12M
WEBFACE12M = 12_720_066
EPOCHS = 5
FEATURES = 512
LOADER_AIM = 40_000
# Images/s at the best batch: (floor, aim).
AIMS = {"r50": (5_000, 6_000), "r100": (2_800, 3_550)}
Figure = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS], default=[*PARTS])
    parser.add_argument("--pack", type=Path, help="a pack of 112×112 faces; drawn when not given")
    parser.add_argument("--folder", type=Path, default=Path("bench-gpu"), help="for drawn faces")
    parser.add_argument("--images", type=int, default=100_000, help="how many faces to draw")
    parser.add_argument("--identities", type=int, default=IDENTITIES, help="width of the head")
    parser.add_argument("--backbones", nargs="+", default=[*AIMS])
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0, 0.2])
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 256, 512, 1024])
    parser.add_argument("--precision", default="fp16", choices=["fp16", "bf16", "fp32"])
    parser.add_argument("--compile", nargs="+", default=["off"], help="modes of torch.compile")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.6, help="a window, about")
    parser.add_argument("--arcface-torch", type=Path, help="its folder, for the peer's figures")
    parser.add_argument("--toy", action="store_true", help="small sizes: does it run at all?")
    parser.add_argument("--json", type=Path, help="write the figures here, after each one")
    options = parser.parse_args()
    if options.toy:
        options.images, options.identities, options.batches = 2_000, 1_000, [16, 32]
        options.backbones, options.windows, options.seconds = ["tiny"], 3, 0.1
        options.precision = "fp32" if options.device == "cpu" else options.precision
    bench = Bench(options)
    found = bench.begin("machine")
    found |= machine(bench.device)
    print("\n".join(f"{name:>10}: {value}" for name, value in found.items()), flush=True)
    for part in options.parts:
        began = time.monotonic()
        PARTS[part](bench, bench.begin(part))
        bench.save()
        print(f"{'':>10}  ({part}: {time.monotonic() - began:.0f} s)", flush=True)


@dataclass(frozen=True)
class Cell:
    """One way to train that is measured."""

    backbone: str
    rate: float
    batch: int
    compile: str

    def __str__(self) -> str:
        compiled = "" if self.compile == "off" else f", {self.compile}"
        return f"{self.backbone}, rate {self.rate:g}, batch {self.batch}{compiled}"


class Bench:
    """The options, the data, and what one part measured that another needs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = enter_device(options.device)
        self.on_gpu = self.device.type == "cuda"
        self.pack = facepack.open(options.pack or self._drawn())
        self.results: dict[str, dict[str, Any]] = {}
        self.ceilings: dict[str, float] = {}
        self.cached: dict[Cell, Figure] = {}

    def begin(self, part: str) -> dict[str, Any]:
        """Where the figures of ``part`` go."""
        return self.results.setdefault(part, {})

    def save(self) -> None:
        """Write what there is so far: time on a lent machine may end at any figure."""
        if self.options.json:
            self.options.json.write_text(json.dumps(self.results, indent=1))

    def _drawn(self) -> Path:
        images = self.options.images
        pack = self.options.folder / f"pack-{images}"
        if not (pack / "pack.json").exists():
            faces = self.options.folder / f"faces-{images}"
            shape = ["--identities", images // 20, "--images-per-identity", 20]
            _run("synth", faces, *shape, "--distinct", min(images, 5_000), "--overwrite")
            _run("rec2lmdb", faces, pack, "--workers", os.cpu_count() or 1, "--overwrite")
        return pack

    def loader(self, batch: int, **options: Any) -> Loader:
        return Loader(
            self.pack, batch_size=batch, device=self.device, **{"dtype": "float32", **options}
        )

    def spread(self, labels: Tensor) -> Tensor:
        """The pack's labels as labels of the head: spread over all its classes."""
        step = self.options.identities // max(self.pack.classes, 1)
        return labels * max(step, 1) % self.options.identities

    def cells(self) -> Iterator[Cell]:
        options = self.options
        for words in itertools.product(
            options.backbones, options.rates, options.batches, options.compile
        ):
            yield Cell(*words)

    def config(self, cell: Cell) -> TrainConfig:
        return TrainConfig(
            shards=str(self.pack.path),
            backbone=cell.backbone,
            features=FEATURES,
            sample_rate=cell.rate,
            batch_size=cell.batch,
            precision=self.options.precision,
            compile=cell.compile,
        )

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def time_steps(self, step: Callable[[], object], *, warm_up: int = 8) -> list[float]:
        """Seconds a call of ``step``, one figure a window."""
        self._time(step, warm_up)
        calls = max(2, round(self.options.seconds / self._time(step, 1)))
        return [self._time(step, calls) for _ in range(self.options.windows)]

    def time_by_turns(self, *steps: Callable[[], object], warm_up: int) -> list[tuple[float, ...]]:
        """Seconds a call of each step, in windows that take turns; one figure each a round.

        Before each window come calls that are not counted, which use up what was made ready, as a
        loader's batches are, while another step had its turn.
        """
        for step in steps:
            self._time(step, warm_up)
        calls = max(2, round(self.options.seconds / self._time(steps[0], 1)))
        rounds = []
        for _ in range(self.options.windows):
            seconds = []
            for step in steps:
                self._time(step, warm_up)
                seconds.append(self._time(step, calls))
            rounds.append(tuple(seconds))
        return rounds

    def _time(self, step: Callable[[], object], calls: int) -> float:
        """Seconds a call, the device done before and after."""
        self.synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            step()
        self.synchronize()
        return (time.perf_counter() - began) / calls

    def rate(self, images: int, seconds: list[float]) -> Figure:
        rates = sorted(images / s for s in seconds)
        return {"images_per_second": statistics.median(rates), "windows": rates}


def machine(device: torch.device) -> dict[str, str]:
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "processors": f"{os.cpu_count()}, {platform.processor() or platform.machine()}",
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda})",
        "python": platform.python_version(),
        "facepack": facepack.__version__,
        "simplejpeg": simplejpeg.__version__,
    }
    try:
        import nvidia.dali

        found["dali"] = nvidia.dali.__version__
    except ImportError:
        found["dali"] = "not installed"
    return found


def _run(*words: object) -> None:
    command = [sys.executable, "-m", "facepack", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr or done.stdout}")


def _show(name: object, figure: Figure, note: str = "") -> None:
    if "failed" in figure:
        print(f"  {name!s:<44} {figure['failed']:.500}", flush=True)
        return
    windows = figure["windows"]
    spread = f"({windows[0]:,.0f}–{windows[-1]:,.0f}, n = {len(windows)})"
    print(
        f"  {name!s:<44} {figure['images_per_second']:>9,.0f} images/s {spread} {note}", flush=True
    )


# The ceilings -------------------------------------------------------------------------------------


def measure_ceilings(bench: Bench, ceilings: dict[str, float]) -> None:
    """What the machine can do at best, in bytes/s, operations/s and images/s."""
    device, toy = bench.device, bench.options.toy
    count = (64 if toy else 1024) << 20
    source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    host = torch.randint(0, 255, (count // 4,), dtype=torch.uint8)
    if bench.on_gpu:
        host = host.pin_memory()

    def best(step: Callable[[], object]) -> float:
        return min(bench.time_steps(step, warm_up=3))

    ceilings["memory_bytes_per_second"] = 2 * count / best(lambda: target.copy_(source))
    arrived = torch.empty_like(host, device=device)
    seconds = best(lambda: arrived.copy_(host, non_blocking=True))
    ceilings["to_device_bytes_per_second"] = len(host) / seconds
    side = 512 if toy else 8192
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
    for name, dtype in kinds.items():
        if not bench.on_gpu and dtype != torch.float32:
            continue
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        product = torch.empty_like(left)
        torch.backends.cuda.matmul.allow_tf32 = True
        seconds = best(lambda a=left, b=right, c=product: torch.mm(a, b, out=c))
        ceilings[f"{name}_operations_per_second"] = 2 * side**3 / seconds
    torch.backends.cuda.matmul.allow_tf32 = False
    ceilings["decoded_images_per_second"] = 1 / decode_on_processors(bench)
    bench.ceilings = ceilings
    for name, value in ceilings.items():
        print(f"  {name.replace('_', ' '):<44} {value:.3g}", flush=True)


def decode_on_processors(bench: Bench) -> float:
    """Seconds an image with simplejpeg on all processors, of images held in memory."""
    threads = usable_processors()
    positions = np.arange(min(len(bench.pack), 8_000))
    with bench.pack.views(positions) as views:
        images = [bytes(view) for view in views]

    def decode(part: list[bytes]) -> None:
        for image in part:
            simplejpeg.decode_jpeg(image)

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(bench.options.windows):
            began = time.perf_counter()
            list(pool.map(decode, [images[k::threads] for k in range(threads)]))
            best = min(best, (time.perf_counter() - began) / len(images))
    return best


# Loading ------------------------------------------------------------------------------------------


def measure_loading(bench: Bench, figures: dict[str, Figure]) -> None:
    """The loader by itself: batches arrive on the device, and are dropped."""
    ways: dict[str, dict[str, Any]] = {"cpu": {"backend": "cpu"}}
    if machine(bench.device)["dali"] != "not installed":
        decoders = ("cpu", "mixed") if bench.on_gpu else ("cpu",)
        for decoder in decoders:
            ways[f"dali, {decoder} decoder"] = {"backend": "dali", "dali_decoder": decoder}
    for (name, way), batch in itertools.product(ways.items(), bench.options.batches):
        figure = _guarded(bench, lambda batch=batch, way=way: _loading(bench, batch, way))
        figures[f"{name}, batch {batch}"] = figure
        _show(f"loader: {name}, batch {batch}", figure)
        bench.save()
    best = max(figure.get("images_per_second", 0.0) for figure in figures.values())
    print(f"  {'best of these, against the aim':<44} {best / LOADER_AIM:>9.2f}")


def _loading(bench: Bench, batch: int, way: dict[str, Any]) -> Figure:
    with bench.loader(batch, **way) as loader:
        batches = _without_end(loader)
        return bench.rate(batch, bench.time_steps(lambda: next(batches), warm_up=16))


def _without_end(loader: Loader) -> Iterator[Any]:
    while True:
        yield from loader


# Training -----------------------------------------------------------------------------------------


class Training:
    """Backbone, head, optimizer and step as the trainer builds them."""

    def __init__(self, bench: Bench, cell: Cell) -> None:
        config = bench.config(cell)
        self.bench, self.lr = bench, config.base_lr
        torch.manual_seed(0)
        backbone = make_backbone(config, bench.device)
        backbone.train()
        self.step = TrainStep(
            backbone,
            make_head(config, bench.options.identities, bench.device),
            make_optimizer(config, backbone, bench.device),
            LossScaler(bench.device, enabled=config.precision == "fp16"),
            clip_norm=config.clip_norm,
            compile=config.compile,
        )
        self._in_flight = StepsInFlight(bench.device)

    def on(self, batch: Any) -> None:
        """One step on a loader's batch, as the trainer takes it."""
        self._in_flight.wait()
        self.step(batch.images, self.bench.spread(batch.labels), self.lr)
        self._in_flight.add()


def measure_training(bench: Bench, figures: dict[str, dict[str, Figure]]) -> None:
    """Whole optimizer steps, on a batch that stays on the device, then on the loader's batches."""
    figures |= {"cached": {}, "live": {}}
    for cell in bench.cells():
        figure = _guarded(bench, lambda cell=cell: _cached(bench, cell))
        figures["cached"][str(cell)] = figure
        note = ""
        if "failed" not in figure:
            bench.cached[cell] = figure
            note = f"cached batch; {figure['peak_gib']:.1f} GiB"
        _show(cell, figure, note)
        bench.save()
    for cell in _best_and_128(bench.cached):
        figure = _guarded(bench, lambda cell=cell: _live(bench, cell))
        figures["live"][str(cell)] = figure
        if "failed" in figure:
            _show(cell, figure)
            continue
        rate, cost = figure["images_per_second"], figure["longer_than_cached"]
        figure["webface12m_hours"] = EPOCHS * WEBFACE12M / rate / 3600
        note = (
            f"live loader, a step {100 * cost:+.1f} % beside a cached batch; "
            f"{figure['webface12m_hours']:.1f} h"
        )
        if cell.backbone in AIMS:
            floor, aim = AIMS[cell.backbone]
            note += f"; floor {rate / floor:.2f}, aim {rate / aim:.2f}"
        _show(cell, figure, note)
        bench.save()


def _cached(bench: Bench, cell: Cell) -> Figure:
    training = Training(bench, cell)
    with bench.loader(cell.batch, backend="cpu") as loader:
        batch = next(iter(loader))
        batch = batch._replace(images=batch.images.clone())
    figure = bench.rate(cell.batch, bench.time_steps(lambda: training.on(batch)))
    figure["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30 if bench.on_gpu else 0.0
    return figure


def _live(bench: Bench, cell: Cell) -> Figure:
    training = Training(bench, cell)
    with bench.loader(cell.batch) as loader:
        batches = _without_end(loader)
        kept = next(batches)
        kept = kept._replace(images=kept.images.clone())
        rounds = bench.time_by_turns(
            lambda: training.on(next(batches)),
            lambda: training.on(kept),
            warm_up=2 if bench.options.toy else 8,
        )
    figure = bench.rate(cell.batch, [live for live, _ in rounds])
    costs = sorted(live / cached - 1 for live, cached in rounds)
    return figure | {"longer_than_cached": statistics.median(costs), "longer_windows": costs}


def _guarded(bench: Bench, measure: Callable[[], Figure]) -> Figure:
    """The figure, or why there is none; either way the memory is given back."""
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        return measure()
    except torch.cuda.OutOfMemoryError:
        return {"failed": "does not fit the device's memory"}
    except RuntimeError as error:  # of torch or DALI: the other figures are still wanted
        return {"failed": " ".join(str(error).split())}
    finally:
        if any(mode != "off" for mode in bench.options.compile):
            # Else torch gives up after some sizes of batch, and CUDA graphs keep their memory.
            torch.compiler.reset()
        gc.collect()
        if bench.on_gpu:
            torch.cuda.empty_cache()


def _best_and_128(cached: dict[Cell, Figure]) -> list[Cell]:
    """Of each backbone and rate the fastest cell, and the fastest at batch 128."""
    chosen: dict[Cell, None] = {}
    for (backbone, rate), at_128 in itertools.product(
        dict.fromkeys((cell.backbone, cell.rate) for cell in cached), (False, True)
    ):
        cells = [
            cell
            for cell in cached
            if (cell.backbone, cell.rate) == (backbone, rate) and (cell.batch == 128 or not at_128)
        ]
        if cells:
            chosen[max(cells, key=lambda cell: cached[cell]["images_per_second"])] = None
    return [*chosen]


# The peer -----------------------------------------------------------------------------------------


def measure_peer(bench: Bench, figures: dict[str, Any]) -> None:
    """arcface_torch's backbone, head, loss and step, as its train_v2.py puts them together."""
    folder = bench.options.arcface_torch
    if folder is None or not bench.on_gpu:
        print("  not measured: it takes --arcface-torch and a GPU")
        return
    sys.path.insert(0, str(folder.resolve()))
    torch.distributed.init_process_group(
        "nccl", init_method="tcp://127.0.0.1:12584", rank=0, world_size=1
    )
    try:
        for cell in dict.fromkeys(
            Cell(cell.backbone, cell.rate, cell.batch, "off") for cell in bench.cells()
        ):
            figure = _guarded(bench, lambda cell=cell: _peer(bench, cell))
            figures[str(cell)] = figure
            _show(f"arcface_torch: {cell}", figure)
            bench.save()
    finally:
        torch.distributed.destroy_process_group()
    figures["ratios"] = _ratios(bench, figures)


def _peer(bench: Bench, cell: Cell) -> Figure:
    from backbones import get_model
    from losses import CombinedMarginLoss
    from partial_fc_v2 import PartialFC_V2

    torch.manual_seed(0)
    fp16 = bench.options.precision != "fp32"  # it has no bf16
    backbone = get_model(cell.backbone, dropout=0.0, fp16=fp16, num_features=FEATURES).cuda()
    backbone = nn.parallel.DistributedDataParallel(
        backbone,
        broadcast_buffers=False,
        device_ids=[bench.device.index or 0],
        bucket_cap_mb=16,
        find_unused_parameters=True,
    )
    backbone.train()
    backbone._set_static_graph()
    margin = CombinedMarginLoss(64, 1.0, 0.0, 0.4, 0)
    head = PartialFC_V2(margin, FEATURES, bench.options.identities, cell.rate, fp16)
    head.train().cuda()
    groups = [{"params": backbone.parameters()}, {"params": head.parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.02, momentum=0.9, weight_decay=5e-4)
    scaler = torch.amp.GradScaler("cuda", growth_interval=100, enabled=fp16)
    with bench.loader(cell.batch, backend="cpu") as loader:
        batch = next(iter(loader))
        images = batch.images.clone(memory_format=torch.contiguous_format)
        labels = bench.spread(batch.labels)

    def step() -> None:
        # The head writes to the labels that it is given.
        loss = head(backbone(images), labels.clone())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(backbone.parameters(), 5)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        loss.item()

    return bench.rate(cell.batch, bench.time_steps(step))


def _ratios(bench: Bench, peer: dict[str, Any]) -> dict[str, float]:
    """Best over best, and at batch 128, for each backbone and rate: ours to the peer's."""
    ratios = {}
    for backbone, rate in itertools.product(bench.options.backbones, bench.options.rates):
        for name, batches in (("best", bench.options.batches), ("128", [128])):
            ours = [
                figure["images_per_second"]
                for cell, figure in bench.cached.items()
                if (cell.backbone, cell.rate) == (backbone, rate) and cell.batch in batches
            ]
            theirs = [
                figure["images_per_second"]
                for batch in batches
                if "images_per_second"
                in (figure := peer.get(str(Cell(backbone, rate, batch, "off")), {}))
            ]
            if ours and theirs:
                key = f"{backbone}, rate {rate:g}, batch {name}"
                ratios[key] = max(ours) / max(theirs)
                print(f"  {'times arcface_torch: ' + key:<44} {ratios[key]:>9.2f}")
    return ratios


# The roofline -------------------------------------------------------------------------------------


def count_backbone(name: str) -> tuple[float, float]:
    """Operations and bytes of one image's training step through a backbone, in half precision.

    Operations: forward, and twice that backward. Bytes: each layer's output written and read once
    on the way forward; read, and its gradient written and read, on the way back; nothing fused.
    """
    with torch.device("meta"):
        backbone = backbones.build(name, features=FEATURES)
        images = torch.empty(2, 3, *backbone.image_size)
    elements = 0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal elements
        elements += output.numel()

    for module in backbone.modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(count)
    with FlopCounterMode(display=False) as counter:
        backbone.head(backbone.trunk(images))  # autocast knows no meta device
    return 3 * counter.get_total_flops() / 2, 5 * 2 * elements / 2


def measure_roofline(bench: Bench, figures: dict[str, Figure]) -> None:
    """The least time of a step at the ceilings, and what share of the measured time that is."""
    if not bench.ceilings:
        measure_ceilings(bench, bench.begin("ceilings"))
    operations = bench.ceilings.get(
        f"{bench.options.precision}_operations_per_second",
        bench.ceilings["fp32_operations_per_second"],
    )
    bandwidth = bench.ceilings["memory_bytes_per_second"]
    products = bench.ceilings["fp32_operations_per_second"]
    for cell in bench.cells():
        if cell.compile != "off":
            continue
        flops, moved = count_backbone(cell.backbone)
        rows = cell.rate * bench.options.identities
        # Head: logits forward, both gradients backward; centres and momentum read and written,
        # logits written, and read and written once more for their gradient.
        head_flops = 6 * cell.batch * rows * FEATURES
        head_bytes = 4 * rows * FEATURES * 4 + 3 * cell.batch * rows * 4
        parts = {
            "backbone operations": cell.batch * flops / operations,
            "backbone bytes": cell.batch * moved / bandwidth,
            "head operations": head_flops / products,
            "head bytes": head_bytes / bandwidth,
            "images to the device": cell.batch
            * 3
            * 112
            * 112
            / bench.ceilings["to_device_bytes_per_second"],
            "decoding on the processors": cell.batch / bench.ceilings["decoded_images_per_second"],
        }
        floor = max(parts["backbone operations"], parts["backbone bytes"]) + max(
            parts["head operations"], parts["head bytes"]
        )
        figure: Figure = {"seconds": parts, "floor_seconds": floor}
        note = ""
        if cell in bench.cached:
            measured = cell.batch / bench.cached[cell]["images_per_second"]
            figure["share"] = floor / measured
            note = f"; {100 * floor / measured:.0f} % of the measured {1000 * measured:.1f} ms"
        figures[str(cell)] = figure
        listed = ", ".join(f"{name} {1000 * value:.2f}" for name, value in parts.items())
        print(f"  {cell!s:<44} least {1000 * floor:.2f} ms ({listed}){note}")


PARTS: dict[str, Callable[[Bench, dict[str, Any]], None]] = {
    "ceilings": measure_ceilings,
    "loading": measure_loading,
    "training": measure_training,
    "peer": measure_peer,
    "roofline": measure_roofline,
}


if __name__ == "__main__":
    main()
