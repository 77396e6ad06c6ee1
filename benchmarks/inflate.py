"""Inflating gzipped tars: zlib beside ISA-L and zlib-ng, alone and within `facepack tar2lmdb`.

    pip install isal zlib-ng
    python benchmarks/inflate.py FACES.tar.gz

"Inflating" is the file, read before, through the object for decompressing, in the pieces that the
conversion takes. "tar2lmdb" is a whole conversion in a process of its own, in which the other
inflater stands for zlib; CPU seconds count all threads and workers. Inflaters take turns within a
round. Printed are medians over the rounds, with the lowest and highest beside them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facepack.convert.formats.tar import stream

INFLATERS = {"zlib": "zlib", "isal": "isal.isal_zlib", "zlib-ng": "zlib_ng.zlib_ng"}
_PIECE, _INFLATED, _GZIP_WINDOW = 256 << 10, 1 << 20, 31


def inflate(library: Any, data: bytes) -> int:
    """Inflate one gzip member; returns its length, bytes."""
    inflater, length = library.decompressobj(_GZIP_WINDOW), 0
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        while piece:
            length += len(inflater.decompress(piece, _INFLATED))
            piece = inflater.unconsumed_tail
    return length


def convert(name: str, source: Path, out: Path) -> None:
    """Run ``facepack tar2lmdb`` in this process with the named inflater."""
    from facepack.cli import main as facepack

    stream.zlib = importlib.import_module(INFLATERS[name])
    sys.argv = ["facepack", "tar2lmdb", str(source), str(out)]
    facepack()


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of ``action``, with those of its child processes."""
    wall, before = time.perf_counter(), os.times()
    action()
    after = os.times()
    return time.perf_counter() - wall, sum(after[:4]) - sum(before[:4])


def main() -> None:
    """Measure every inflater that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--convert", nargs=2, metavar=("INFLATER", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.convert:
        convert(options.convert[0], options.source, Path(options.convert[1]))
        return
    data = options.source.read_bytes()
    columns = ("inflating, MB/s", "tar2lmdb, CPU s", "tar2lmdb, s")
    figures: dict[str, list[list[float]]] = {name: [[], [], []] for name in INFLATERS}
    for _ in range(options.rounds):
        for name, module in INFLATERS.items():
            library = importlib.import_module(module)
            length = inflate(library, data)
            _, seconds = timed(lambda library=library: inflate(library, data))
            with tempfile.TemporaryDirectory() as scratch:
                command = [sys.executable, __file__, str(options.source), "--convert", name]
                command.append(str(Path(scratch, "pack")))
                wall, cpu = timed(
                    lambda command=command: subprocess.run(command, check=True, capture_output=True)
                )
            for column, value in zip(
                figures[name], (length / seconds / 1e6, cpu, wall), strict=True
            ):
                column.append(value)
    print(f"{'':<10}" + "".join(f"{column:>26}" for column in columns))
    for name, values in figures.items():
        cells = (f"{statistics.median(v):.2f} ({min(v):.2f}–{max(v):.2f})" for v in values)
        print(f"{name:<10}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
