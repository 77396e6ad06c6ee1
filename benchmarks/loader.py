"""Images/s of the loader's stages, warm, as shares of the raw decode limit of the same machine.

    python benchmarks/loader.py PACK [--threads 2] [--rounds 15] [--json FILE]

What ``facepack bench load`` prints, with more rounds. PACK is any pack of JPEGs of one size. The
limit, simplejpeg in as many threads with the images in memory, takes turns with the stages.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import facepack
from facepack.loading.bench import bench_load
from facepack.terminal import table_lines
from facepack.view.machine import describe_machine

_PACKAGES = ("facepack", "simplejpeg", "numpy", "lmdb", "torch", "numba", "nvidia-dali-cuda130")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with facepack.open(options.pack) as pack:
        result = bench_load(
            pack,
            batch_size=options.batch_size,
            threads=options.threads,
            rounds=options.rounds,
            on_round=lambda turn: print(f"round {turn} of {options.rounds}", file=sys.stderr),
        )
    machine = describe_machine()
    for line in table_lines(result.COLUMNS, result.rows()):
        print(line)
    setting = {
        "processor": machine["cpu"]["model"],
        "python": machine["python"]["version"],
        **result.setting,
        **{name: _version(name) for name in _PACKAGES},
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        report = {"machine": machine, **result.as_json(), "setting": setting}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
