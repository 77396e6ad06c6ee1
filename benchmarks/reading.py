"""Reading alone, cold: a pack in each order, an image tree, and the disk itself.

    python benchmarks/reading.py                          # 100,000 drawn faces, 0.6 GB, five rounds
    python benchmarks/reading.py --pack PACK --tree TREE  # your own (TREE: of some of the images)
    python benchmarks/reading.py --only "pairs ahead" "pairs where used"

Packs are read as the loader reads them, with the decoding left out: its reader thread, its draws,
its views, and every image copied once in the place of being decoded. The tree's files, whose names
are known before, are opened, read and closed by 16 threads, in a shuffled and in the sorted order,
30,000 of them.
The disk is read in pieces of 8 MiB from the pack's own files, through the page cache and past it
(O_DIRECT). Each takes a new process, which drops the page cache (root only) before it begins to
count. All take turns in rounds; ratios are within a round. The order ``blocks`` has the shape
that it would have on a machine whose memory is as large as the pack. Pairs are those of F2C's
batches, one of each identity, from the pack and from one with ``--order identity``: read ahead, as
they are beside ``blocks``, or where they are used.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import platform
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

import facepack
from facepack.loading.choice import file_bytes, pairs_ahead, sequential_shape, shuffled_shape
from facepack.loading.identities import IdentityIndex
from facepack.loading.order import BlockShape
from facepack.loading.plan import Draws, PairDraws, Plan
from facepack.loading.readahead import PairsAhead, WholePackAhead, read_ahead
from facepack.memory import Memory
from facepack.store import format as fmt

FACEPACK = [sys.executable, "-m", "facepack"]
_DROP = Path("/proc/sys/vm/drop_caches")
_PIECE = 8 << 20
_BATCH = 128
_THREADS = 16  # that read the tree
_FILES = 30_000  # of the tree that are read: it takes long enough


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--tree", type=Path, help="identity/image.jpg")
    parser.add_argument("--by-identity", type=Path, help="a pack in the order of identities")
    parser.add_argument("--records", type=int, default=100_000, help="drawn if no pack is given")
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="on the disk to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=TRIALS, default=list(TRIALS))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--trial", choices=TRIALS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(json.dumps(TRIALS[options.trial](options.path)))
        return
    if not os.access(_DROP, os.W_OK):
        sys.exit("reading cold needs root, to drop the page cache")
    paths = make_data(options)
    figures: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    for number in range(options.rounds):
        for name in options.only:
            figures[name].append(run_trial(name, paths))
            speed = figures[name][-1]["bytes"] / figures[name][-1]["seconds"] / 1e6
            print(
                f"round {number + 1} of {options.rounds}: {name} {speed:,.0f} MB/s", file=sys.stderr
            )
    report = {"setting": describe(paths["pack"], options.rounds), "results": summarize(figures)}
    for line in table(report["results"]):
        print(line)
    print(", ".join(f"{key} {value}" for key, value in report["setting"].items()))
    if options.json:
        options.json.write_text(json.dumps({**report, "figures": figures}, indent=1) + "\n")


def make_data(options: argparse.Namespace) -> dict[str, Path]:
    """What the trials to be made read, drawn where it is not given."""
    faces = options.folder / f"faces-{options.records}"
    given = {"pack": options.pack, "tree": options.tree, "by-identity": options.by_identity}
    paths = {
        what: path or options.folder / f"{what}-{options.records}" for what, path in given.items()
    }
    asked = {what_is_read(name) for name in options.only} | {"pack"}
    needed = {what for what in asked if not paths[what].exists()}
    if needed and not (faces / "train.rec").exists():
        options.folder.mkdir(parents=True, exist_ok=True)
        identities = max(options.records // 20, 1)
        words = ["--identities", identities, "--images-per-identity", 20, "--distinct", 5000]
        call([*FACEPACK, "synth", faces, *words])
    if "pack" in needed:
        call([*FACEPACK, "rec2lmdb", faces, paths["pack"]])
    if "by-identity" in needed:
        call([*FACEPACK, "rec2lmdb", faces, paths["by-identity"], "--order", "identity"])
    if "tree" in needed:
        call([*FACEPACK, "rec2img", faces, paths["tree"]])
    os.sync()
    return paths


def what_is_read(trial: str) -> str:
    """``pack``, ``tree`` or ``by-identity``."""
    if trial.startswith("tree"):
        return "tree"
    return "by-identity" if trial.endswith("by identity") else "pack"


def call(words: list[Any]) -> None:
    """Run a command; what it says goes to stderr."""
    subprocess.run([str(word) for word in words], check=True, stdout=sys.stderr)


def run_trial(name: str, paths: dict[str, Path]) -> dict[str, float]:
    """One reading in a process of its own: seconds, records, bytes, CPU seconds, longest wait."""
    words = [sys.executable, __file__, "--trial", name, "--path", str(paths[what_is_read(name)])]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


# The trials, each in a new process ------------------------------------------------------------


def timed(read: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What ``read`` returns, with the seconds and CPU seconds that it takes from a cold cache."""
    os.sync()
    _DROP.write_text("3")
    time.sleep(0.5)
    start, cpu = time.perf_counter(), time.process_time()
    figures = read()
    return {
        **figures,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
    }


def read_pack(path: Path, *, shuffle: bool, blocks: bool) -> dict[str, float]:
    """An epoch of a pack, as the loader reads it."""
    pack = facepack.open(path)
    shape: BlockShape | None = None
    if blocks:
        memory = Memory(file_bytes(pack), "the pack's size")
        shape = shuffled_shape(pack, memory) if shuffle else sequential_shape(pack)
    plan = Plan(
        records=len(pack),
        batch_size=_BATCH,
        seed=0,
        rank=0,
        world=1,
        shuffle=shuffle,
        mirror=True,
        drop_last=False,
        blocks=shape,
    )

    def read() -> dict[str, float]:
        ahead = read_ahead(pack, plan, 0)
        draws = Draws(plan)
        size, waited = 0, 0.0
        for index in range(plan.batches):
            start = time.perf_counter()
            ahead.wait(index)
            waited += time.perf_counter() - start
            with pack.views(draws[index].positions) as views:
                size += sum(len(bytes(view)) for view in views)
        ahead.close()
        return {"records": len(pack), "bytes": size, "waited_seconds": waited}

    return timed(read)


def read_pairs(path: Path, *, ahead: bool) -> dict[str, float]:
    """Every identity's pair of images, a batch at a time."""
    pack = facepack.open(path)
    index = IdentityIndex(pack.labels)
    memory = Memory(file_bytes(pack), "the pack's size")
    plan = Plan(
        records=len(pack),
        batch_size=2,
        pairs=_BATCH,
        seed=0,
        rank=0,
        world=1,
        shuffle=True,
        mirror=True,
        drop_last=True,
        blocks=shuffled_shape(pack, memory),
    )

    def read() -> dict[str, float]:
        draws = PairDraws(plan, index)
        batches = pairs_ahead(pack, _BATCH, memory)
        reader = (
            PairsAhead(pack, plan, 0, index, batches)
            if ahead
            else WholePackAhead(pack, whole=False)
        )
        size, waited = 0, 0.0
        for number in range(index.identities // _BATCH):
            start = time.perf_counter()
            reader.wait(number)
            waited += time.perf_counter() - start
            with pack.views(draws.at(number)[0].ravel()) as views:
                size += sum(len(bytes(view)) for view in views)
        reader.close()
        records = 2 * _BATCH * (index.identities // _BATCH)
        return {"records": records, "bytes": size, "waited_seconds": waited}

    return timed(read)


def read_tree(tree: Path, *, shuffle: bool) -> dict[str, float]:
    """All files of a tree, read by threads."""
    files = sorted(
        entry.path for folder in os.scandir(tree) if folder.is_dir() for entry in os.scandir(folder)
    )
    if shuffle:
        random.Random(0).shuffle(files)
    files = files[:_FILES]

    def read() -> dict[str, float]:
        sizes = [0] * _THREADS

        def work(number: int) -> None:
            for path in files[number::_THREADS]:
                file = os.open(path, os.O_RDONLY)
                sizes[number] += len(os.read(file, 1 << 20))
                os.close(file)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"records": len(files), "bytes": sum(sizes)}

    return timed(read)


def read_disk(path: Path, *, direct: bool) -> dict[str, float]:
    """The pack's shard files from front to back, one after the other."""
    shards = sorted(path.glob("*.mdb"))
    piece = mmap.mmap(-1, _PIECE)  # aligned, as O_DIRECT wants it

    def read() -> dict[str, float]:
        size = 0
        for shard in shards:
            file = os.open(shard, os.O_RDONLY | (os.O_DIRECT if direct else 0))
            while count := os.readv(file, [piece]):
                size += count
            os.close(file)
        return {"records": 0, "bytes": size}

    return timed(read)


TRIALS: dict[str, Callable[[Path], dict[str, float]]] = {
    "disk": lambda path: read_disk(path, direct=False),
    "pack blocks": lambda path: read_pack(path, shuffle=True, blocks=True),
    "pack sequential": lambda path: read_pack(path, shuffle=False, blocks=True),
    "pack global": lambda path: read_pack(path, shuffle=True, blocks=False),
    "tree shuffled": lambda path: read_tree(path, shuffle=True),
    "tree sorted": lambda path: read_tree(path, shuffle=False),
    "pairs ahead": lambda path: read_pairs(path, ahead=True),
    "pairs ahead, by identity": lambda path: read_pairs(path, ahead=True),
    "pairs where used": lambda path: read_pairs(path, ahead=False),
    "pairs where used, by identity": lambda path: read_pairs(path, ahead=False),
    "disk direct": lambda path: read_disk(path, direct=True),
}


# What comes out -------------------------------------------------------------------------------


def summarize(figures: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Medians, and the spread of the ratios within rounds."""
    results = {}
    for name, rounds in figures.items():
        results[name] = {
            "records_per_s": statistics.median(r["records"] / r["seconds"] for r in rounds),
            "mb_per_s": statistics.median(r["bytes"] / r["seconds"] / 1e6 for r in rounds),
            "cpu_us_per_record": statistics.median(
                r["cpu_seconds"] / max(r["records"], 1) * 1e6 for r in rounds
            )
            if rounds[0]["records"]
            else None,
            "waited_share": statistics.median(
                r.get("waited_seconds", 0) / r["seconds"] for r in rounds
            ),
            "of_disk": ratios(rounds, figures.get("disk"), "bytes"),
            "of_disk_direct": ratios(rounds, figures.get("disk direct"), "bytes"),
            "of_tree_shuffled": ratios(rounds, figures.get("tree shuffled"), "records"),
        }
    return results


def ratios(
    rounds: list[dict[str, float]], base: list[dict[str, float]] | None, what: str
) -> list[float] | None:
    """Median, least and greatest ratio of two speeds within a round."""
    if base is None or not base[0][what] or not rounds[0][what]:
        return None
    values = sorted(
        (r[what] / r["seconds"]) / (b[what] / b["seconds"])
        for r, b in zip(rounds, base, strict=True)
    )
    return [statistics.median(values), values[0], values[-1]]


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The figures as lines of text."""

    def three(values: list[float] | None) -> str:
        return "{:.2f} ({:.2f}-{:.2f})".format(*values) if values else ""

    lines = [
        f"{'':30}{'records/s':>11}{'MB/s':>8}{'CPU µs':>8}{'of disk':>20}{'of disk direct':>20}"
        f"{'of shuffled tree':>22}"
    ]
    for name, result in results.items():
        cpu = result["cpu_us_per_record"]
        lines.append(
            f"{name:30}{result['records_per_s'] or 0:11,.0f}{result['mb_per_s']:8,.0f}"
            f"{'' if cpu is None else format(cpu, '.1f'):>8}{three(result['of_disk']):>20}"
            f"{three(result['of_disk_direct']):>20}"
            f"{three(result['of_tree_shuffled']):>22}"
        )
    return lines


def describe(path: Path, rounds: int) -> dict[str, Any]:
    """What the figures were measured on and with."""
    pack = facepack.open(path)
    shape = shuffled_shape(pack, Memory(file_bytes(pack), "the pack's size"))
    stated = [pack.manifest["payload_bytes"], file_bytes(pack)]
    return {
        "machine": platform.processor() or platform.machine(),
        "CPUs": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "facepack": facepack.__version__,
        "lmdb": lmdb.__version__,
        "numpy": np.__version__,
        "pack format": fmt.FORMAT_VERSION,
        "records": len(pack),
        "GB of images": round(stated[0] / 1e9, 2),
        "GB of files": round(stated[1] / 1e9, 2),
        "blocks (run x window)": str(shape),
        "n": rounds,
    }


if __name__ == "__main__":
    main()
