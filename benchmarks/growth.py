"""Gzipped tars by more and more workers: what is read and inflated of each image, and CPU time.

    python benchmarks/growth.py TAR.gz …              # 1, 2 and 4 workers, five rounds
    python benchmarks/growth.py TAR.gz … --workers 1 8 --rounds 3

Each trial is a whole ``facepack tar2lmdb`` in a process of its own. All its processes count the
bytes that they read of the files and those that zlib gave them. Printed are bytes an image, which
no number of workers should change, and medians of seconds with the lowest and highest beside them;
CPU seconds count all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.util import Finalize, register_after_fork
from pathlib import Path
from typing import Any

from facepack.convert.formats.tar import stream
from facepack.convert.source_file import SourceFile

# Modules are compiled when they are installed, not anew by every process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_COUNTS = "GROWTH_COUNTS"  # the environment variable that names the folder for counts


class CountingZlib:
    """The module zlib as the conversion uses it, counting what is inflated."""

    error = stream.zlib.error
    inflated = 0

    class decompressobj:
        def __init__(self, window: int) -> None:
            self._inflater = _decompressobj(window)

        def decompress(self, data: bytes, most: int) -> bytes:
            inflated: bytes = self._inflater.decompress(data, most)
            CountingZlib.inflated += len(inflated)
            return inflated

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inflater, name)


_decompressobj = stream.zlib.decompressobj
_read = SourceFile.read
_bytes_read = 0


def _count(file: SourceFile, count: int, offset: int) -> bytes:
    global _bytes_read
    if type(file) is SourceFile:  # not what was inflated and kept
        _bytes_read += count
    return _read(file, count, offset)


def _note() -> None:
    counts = Path(os.environ[_COUNTS], str(os.getpid()))
    counts.write_text(json.dumps([_bytes_read, CountingZlib.inflated]))


if _COUNTS in os.environ:  # a trial, or a worker of one that imports this file or is a fork
    stream.zlib = CountingZlib  # type: ignore[assignment]
    SourceFile.read = _count  # type: ignore[method-assign]
    Finalize(None, _note, exitpriority=0)
    register_after_fork(_note, lambda note: Finalize(None, note, exitpriority=0))


def trial(tars: list[Path], workers: int) -> dict[str, float]:
    """Convert once; bytes an image and seconds."""
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        words = [*map(str, tars), str(Path(scratch, "pack")), "--workers", str(workers), "--json"]
        wall, before = time.perf_counter(), os.times()
        done = subprocess.run(
            [sys.executable, __file__, "--convert", *words],
            env=os.environ | {_COUNTS: scratch},
            check=True,
            capture_output=True,
        )
        wall, after = time.perf_counter() - wall, os.times()
        counts = [
            json.loads(file.read_bytes()) for file in Path(scratch).iterdir() if file.is_file()
        ]
    images = json.loads(done.stdout)["packed"]
    read, inflated = (sum(column) / images for column in zip(*counts, strict=True))
    cpu = sum(after[:4]) - sum(before[:4])
    return {"read": read, "inflated": inflated, "CPU s": cpu, "s": wall}


def main() -> None:
    """Measure, or be measured."""
    if sys.argv[1] == "--convert":
        from facepack.cli import main as facepack

        sys.argv[:2] = ["facepack", "tar2lmdb"]
        facepack()
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tars", type=Path, nargs="+")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    trials: dict[int, list[dict[str, float]]] = {workers: [] for workers in options.workers}
    for _ in range(options.rounds):
        for workers, found in trials.items():
            found.append(trial(options.tars, workers))
    print(f"{'workers':<10}" + "".join(f"{column:>26}" for column in trials[options.workers[0]][0]))
    for workers, found in trials.items():
        cells = []
        for column in found[0]:
            values = [each[column] for each in found]
            cells.append(f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})")
        print(f"{workers:<10}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
