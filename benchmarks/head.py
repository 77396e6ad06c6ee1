"""Memory and least time of the head, by arithmetic and by allocation.

    python benchmarks/head.py [--json FILE]                    by arithmetic, any machine
    python benchmarks/head.py --backbone r50                   what its batch keeps, counted here
    python benchmarks/head.py --allocate 125000 0.1 [--storage host --momentum bf16 --chunk N]

The arithmetic counts what :class:`facepack.train.heads.PartialFC` holds on one GPU at its peak, and
the time in which an H200 could at best do a step's products and memory traffic. ``--allocate``
takes steps with a head of that size, on CUDA if it is there, and prints the peak that the allocator
saw beside the arithmetic, and faces/s, n steps after a warm-up with their spread. The published
figures are arcface_torch's for r50 on 8 V100 of 32 GB, its backbone and the framework included.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import torch

from facepack.train import backbones
from facepack.train.heads import CosFace, PartialFC, partial_fc
from facepack.train.precision import float32_products

GB = 1e9
IDENTITIES = (125_000, 1_400_000, 5_500_000, 8_000_000, 16_000_000, 29_000_000)
# Identities → samples/s and MB per GPU, model parallel and Partial FC 0.1; None: out of memory.
PUBLISHED = {
    125_000: ((4824, 5306), (5004, 4868)),
    1_400_000: ((3043, 11178), (4738, 6056)),
    5_500_000: ((1389, 32188), (3975, 9854)),
    8_000_000: (None, (3565, 12310)),
    16_000_000: (None, (2679, 19950)),
    29_000_000: (None, (1855, 32324)),
}
# NVIDIA's data sheet of the H200 SXM: dense TF32 products, bytes moved, PCIe 5 in one direction.
TF32_FLOPS = 494e12
BANDWIDTH = 4.8e12
HOST_BANDWIDTH = 64e9
# Assumed besides what is counted: CUDA context, cuDNN's and cuBLAS's workspaces, fragmentation.
RESERVE = 2.0 * GB

# Matrix passes through memory, forward and backward, counted in the two programs.
WHOLE_LOGIT_PASSES, CHUNK_LOGIT_PASSES = 24, 18


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A head on ``gpus`` devices, ``batch`` faces on each."""

    identities: int
    rate: float
    gpus: int = 1
    batch: int = 128
    features: int = 512
    momentum: str = "fp32"
    storage: str = "device"
    chunk: int | None = None
    """As the head's: None for its own rule."""

    @property
    def local(self) -> int:
        """Classes of the first rank, which has the most."""
        return -(-self.identities // self.gpus)

    @property
    def faces(self) -> int:
        """Faces in a micro-batch of all ranks."""
        return self.batch * self.gpus

    @property
    def rows(self) -> int:
        """Classes in a step's softmax on one GPU."""
        if self.rate == 1.0:
            return self.local
        return min(self.local, max(int(self.rate * self.local), self.faces))

    @property
    def chunk_rows(self) -> int | None:
        """Classes in a chunk; None where the logits are whole."""
        if self.chunk is not None:
            return self.chunk if self.chunk < self.rows else None
        row_bytes = 4 * (self.faces + self.features)
        if row_bytes * self.rows <= partial_fc._LARGEST_WHOLE:
            return None
        return partial_fc._CHUNK_BYTES // row_bytes


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one GPU, by what they are."""

    centres: int
    momentum: int
    copies: int
    """The step's own copy of the centres that it uses."""
    embeddings: int
    softmax: int
    """The most that forward and backward pass hold at once: logits, unit vectors, gradients."""
    update: int
    """The most that the update holds at once, when those are gone: gradient, new rows."""
    host: int
    """Not on the GPU: centres and momentum in host memory."""

    @property
    def peak(self) -> int:
        """The most that is held at once on the GPU."""
        lasting = self.centres + self.momentum + self.copies + self.embeddings
        return lasting + max(self.softmax, self.update)


def count_bytes(setup: Setup) -> Memory:
    """What a head holds on its GPU."""
    row, column = 4 * setup.features, 4 * setup.faces
    centres, momentum = setup.local * row, setup.local * row
    if setup.momentum == "bf16":
        momentum //= 2
    on_host = setup.storage == "host"
    rows, chunk = setup.rows, setup.chunk_rows
    if chunk is None:
        # Autograd: cosines, softmax and three gradients beside the unit vectors; and later those,
        # their gradient and three matrices on the way from it to the centres' own.
        softmax = max(5 * rows * column + rows * row, 5 * rows * row)
    else:
        # Logits with two temporaries, and unit vectors; and later the gradient of all centres,
        # and of one chunk that of the logits, the unit vectors and two on the way.
        softmax = max(3 * chunk * column + chunk * row, rows * row + chunk * (column + 3 * row))
    # Gradient; lr·v, the new centres and, if they are a sample, a copy of their momentum.
    temporaries = 2 if setup.rate == 1.0 else 3
    updated = min(rows, partial_fc._UPDATED_ROWS)
    return Memory(
        centres=0 if on_host else centres,
        momentum=0 if on_host else momentum,
        copies=0 if setup.rate == 1.0 else rows * row,
        embeddings=3 * setup.faces * row,
        softmax=softmax,
        update=rows * row + temporaries * updated * row,
        host=centres + momentum if on_host else 0,
    )


def least_seconds(setup: Setup) -> float:
    """Products at the peak rate plus traffic at peak bandwidths, of one step on one H200."""
    rows, row = setup.rows, 4 * setup.features
    chunked = setup.chunk_rows is not None
    products = (4 if chunked else 3) * 2 * setup.faces * setup.features * rows
    logit_passes = CHUNK_LOGIT_PASSES if chunked else WHOLE_LOGIT_PASSES
    # Units, products and their gradients; then gradient, centres and momentum of the update.
    row_passes = 16
    traffic = logit_passes * 4 * setup.faces * rows + row_passes * rows * row
    seconds = products / TF32_FLOPS + traffic / BANDWIDTH
    if setup.storage == "host":
        # Centres and momentum, one way after the other; the host's own copying not counted.
        state = row // 2 if setup.momentum == "bf16" else row
        seconds += 2 * rows * (row + state) / HOST_BANDWIDTH
    return seconds


def count_saved_bytes(name: str) -> int:
    """Bytes an image that the backbone's backward pass needs, in half precision; counted here."""
    # What one image more adds: half-precision copies of the weights are kept once for a batch.
    return _saved_bytes(name, 3) - _saved_bytes(name, 2)


def _saved_bytes(name: str, images: int) -> int:
    """Bytes that autograd keeps of a batch, the parameters themselves left out."""
    backbone = backbones.build(name, features=512, autocast=torch.bfloat16).train()
    own = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    seen: dict[int, int] = {}
    alive = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        backbone(torch.randn(images, 3, 112, 112))
    return sum(seen.values())


def backbone_bytes(name: str, batch: int) -> int:
    """Activations of a batch, and weights: fp32 with gradient and momentum, and half precision."""
    parameters = sum(p.numel() for p in backbones.build(name, features=512).parameters())
    return batch * count_saved_bytes(name) + parameters * (4 + 4 + 4 + 2)


def measure(setup: Setup, steps: int) -> dict[str, object]:
    """Take ``steps`` steps with a head of that size; peak bytes and faces/s."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    # One rank's part of the head, with the faces of all ranks, is what one GPU has to hold.
    head = PartialFC(
        setup.local,
        setup.features,
        margin=CosFace(margin=0.4),
        sample_rate=setup.rate,
        chunk=setup.chunk,
        momentum_dtype=torch.bfloat16 if setup.momentum == "bf16" else torch.float32,
        storage=setup.storage,
        device=device,
    )
    images = torch.randn(setup.faces, setup.features, generator=generator).to(device)
    labels = torch.randint(setup.local, (setup.faces,), generator=generator).to(device)

    def step() -> None:
        embeddings = images.clone().requires_grad_()
        with float32_products(tf32=True):
            head(embeddings, labels).backward()
        head.step(0.01, found_inf=found_inf)

    found_inf = torch.zeros((), device=device)
    row: dict[str, object] = {"device": describe(device), "arithmetic": count_bytes(setup).peak}
    if device.type == "cpu":
        lasting = 0 if setup.storage == "host" else sum(b.nbytes for b in head.buffers())
        row["measured"] = peak_on_cpu(step) + lasting
    for _ in range(3):
        step()
    seconds = []
    for _ in range(steps):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        row["measured"] = torch.cuda.max_memory_allocated()
    median = statistics.median(seconds)
    row |= {
        "n": steps,
        "seconds": median,
        "spread": (min(seconds), max(seconds)),
        "faces_per_second": setup.faces / median,
        "least_seconds": least_seconds(setup),
    }
    return row


def peak_on_cpu(step: Callable[[], None]) -> int:
    """Most bytes that torch's CPU allocator had given out at once, beyond those before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = [
        (event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"
    ]
    now = peak = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        now += change
        peak = max(peak, now)
    return peak


def describe(device: torch.device) -> str:
    """The machine and torch, in a line."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def published(identities: int, rate: float, gpus: int) -> str:
    """The published memory and rate of the same case, or nothing."""
    if gpus != 8:
        return ""
    figures = PUBLISHED[identities][0 if rate == 1.0 else 1]
    return "out of memory" if figures is None else f"{figures[1] / 1e3:.1f} GB, {figures[0]:,}/s"


def cases(batch: int) -> list[dict[str, object]]:
    """Every case by arithmetic."""
    rows: list[dict[str, object]] = []
    for identities, gpus, rate in product(IDENTITIES, (1, 8), (1.0, 0.1)):
        plain = Setup(identities=identities, rate=rate, gpus=gpus, batch=batch)
        kinds = {
            "plain": replace(plain, chunk=plain.local),
            "fp32": plain,
            "bf16": replace(plain, momentum="bf16"),
        }
        if rate < 1.0:
            kinds["host"] = replace(plain, momentum="bf16", storage="host")
        row: dict[str, object] = {"identities": identities, "gpus": gpus, "rate": rate}
        for kind, setup in kinds.items():
            memory = count_bytes(setup)
            row[kind] = {
                **asdict(memory),
                "peak": memory.peak,
                "chunk": setup.chunk_rows,
                "least_seconds": least_seconds(setup),
            }
        row["published"] = published(identities, rate, gpus)
        rows.append(row)
    return rows


def fits() -> list[tuple[str, Setup, float]]:
    """The cases that have to fit a card, with its gigabytes."""
    r50 = {"batch": 256}
    many = {"identities": 29_000_000, "momentum": "bf16", **r50}
    return [
        ("a card of 24 GB", Setup(identities=2_060_000, rate=0.1, **r50), 24.0),
        ("one H200", Setup(rate=0.02, **many), 141.0),
        ("one H200", Setup(rate=0.1, **many), 141.0),
        ("one H200", Setup(rate=0.1, storage="host", **many), 141.0),
        ("a card of 24 GB", Setup(rate=0.02, storage="host", **many), 24.0),
    ]


def print_tables(batch: int) -> None:
    """Both tables, as Markdown."""
    print(
        "| identities | GPUs | rate | centres and momentum | plain | fp32 | bf16 "
        "| host: GPU + host | ms | ms, host | published, 8 V100 |\n"
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for row in cases(batch):
        whole, fp32, bf16, host = (row.get(kind) for kind in ("plain", "fp32", "bf16", "host"))
        assert isinstance(whole, dict)
        assert isinstance(fp32, dict)
        assert isinstance(bf16, dict)
        lasting = (fp32["centres"] + fp32["momentum"]) / GB
        on_host = slow = ""
        if isinstance(host, dict):
            on_host = f"{host['peak'] / GB:.1f} + {host['host'] / GB:.1f}"
            slow = f"{host['least_seconds'] * 1e3:.1f}"
        print(
            f"| {row['identities']:,} | {row['gpus']} | {row['rate']:g} | {lasting:.1f} "
            f"| {whole['peak'] / GB:.1f} | {fp32['peak'] / GB:.1f} | {bf16['peak'] / GB:.1f} "
            f"| {on_host} | {fp32['least_seconds'] * 1e3:.1f} | {slow} | {row['published']} |"
        )
    saved, held = count_saved_bytes("r50"), backbone_bytes("r50", 256)
    print(
        f"\nr50 at batch 256: {saved / 1e6:.1f} MB an image kept for the backward pass, "
        f"{held / GB:.1f} GB in all; {RESERVE / GB:.0f} GB assumed for CUDA itself\n\n"
        "| identities | rate | momentum | where | head | in all | on |\n"
        "|--:|--:|--:|--:|--:|--:|--:|"
    )
    for card, setup, gigabytes in fits():
        head = count_bytes(setup).peak / GB
        total = head + (held + RESERVE) / GB
        verdict = "" if total <= gigabytes else ": does not fit"
        print(
            f"| {setup.identities:,} | {setup.rate:g} | {setup.momentum} | {setup.storage} "
            f"| {head:.1f} | {total:.1f} | {card}{verdict} |"
        )


def main() -> None:
    """Print what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="faces on each GPU")
    parser.add_argument("--backbone", help="count what this one keeps for an image")
    parser.add_argument("--allocate", nargs=2, type=float, metavar=("IDENTITIES", "RATE"))
    parser.add_argument("--gpus", type=int, default=1, help="allocate one of so many GPUs' part")
    parser.add_argument("--momentum", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--storage", choices=("device", "host"), default="device")
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    figures: object
    if options.backbone:
        saved = count_saved_bytes(options.backbone)
        figures = {"backbone": options.backbone, "bytes_an_image": saved}
        print(f"{options.backbone}: {saved / 1e6:.1f} MB an image")
    elif options.allocate:
        identities, rate = options.allocate
        setup = Setup(
            identities=int(identities),
            rate=rate,
            gpus=options.gpus,
            batch=options.batch,
            momentum=options.momentum,
            storage=options.storage,
            chunk=options.chunk,
        )
        row = measure(setup, options.steps)
        figures = {**asdict(setup), **row}
        low, high = row["spread"]  # type: ignore[misc]
        print(
            f"{row['device']}\n{setup}\n"
            f"peak {row['measured'] / GB:.3f} GB, by arithmetic {row['arithmetic'] / GB:.3f} GB; "  # type: ignore[operator]
            f"{row['faces_per_second']:.0f} faces/s: {row['seconds'] * 1e3:.2f} ms a step "  # type: ignore[operator]
            f"({low * 1e3:.2f} to {high * 1e3:.2f}, n = {row['n']})"
        )
    else:
        figures = cases(options.batch)
        print_tables(options.batch)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
