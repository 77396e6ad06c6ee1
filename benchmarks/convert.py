"""Conversion against the disk: ratios of the time of a plain tool to facepack's, in one run.

    python benchmarks/convert.py                      # 200,000 drawn faces, 1.25 GB, five rounds
    python benchmarks/convert.py --records 1000000 --only rec2lmdb verify
    python benchmarks/convert.py --faces train.rec    # your own faces

Each round runs the plain tool and facepack one after the other, every time in a new process, with
the page cache dropped before (root only; else it says so) and the file system synced behind, within
the time taken. A ratio above 1 means that facepack is faster. Medians over the rounds, the smallest
and greatest ratio beside them, and CPU seconds per GB of images.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, starmap
from pathlib import Path

import lmdb
import numpy as np

import facepack
import facepack.store.finish
import facepack.store.plan
import facepack.store.shard
from facepack.convert.file_target import DONE, STATE
from facepack.convert.formats.rec.layout import read_layout
from facepack.convert.formats.rec.recordio import RecordReader, unpack_header
from facepack.convert.formats.tar.headers import BLOCK, member_header, padded
from facepack.store import format as fmt

# Modules are compiled when they are installed, not anew by every process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

FACEPACK = [sys.executable, "-m", "facepack"]
_DROP = Path("/proc/sys/vm/drop_caches")
# Modules are compiled once, as those of an installed package are.
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--faces", type=Path, help="a .rec to use instead of drawn faces")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="on the disk to measure")
    parser.add_argument("--only", nargs="+", choices=[*TRIALS])
    parser.add_argument("--mxnet-python", help="interpreter with mxnet and lmdb, as a peer")
    parser.add_argument("--datasets-python", help="interpreter with datasets and lmdb, as a peer")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(options)
    print(bench.machine())
    figures = {}
    for name in options.only or TRIALS:
        figures[name] = TRIALS[name](bench)
        print(f"{name:>10}: {figures[name]['text']}", flush=True)
        bench.clear()
    if options.json:
        options.json.write_text(json.dumps({"machine": bench.machine(), **figures}, indent=1))


class Bench:
    """The data in a folder, and how commands are timed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder: Path = options.folder
        self.rounds: int = options.rounds
        self.workers = str(options.workers)
        self.mxnet: str | None = options.mxnet_python
        self.datasets: str | None = options.datasets_python
        self.cold = os.access(_DROP, os.W_OK)
        self.rec = options.faces or self._drawn(options.records)
        layout = read_layout(self.rec)
        self.records = len(layout)
        self.rec_file = layout.rec
        self.gigabytes = layout.file_size / 1e9
        self._outs = 0

    def machine(self) -> str:
        cache = "cold cache" if self.cold else "warm cache (not root)"
        return (
            f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}, Python "
            f"{platform.python_version()}, facepack {facepack.__version__}, lmdb "
            f"{lmdb.__version__}, numpy {np.__version__}; {self.records:,} images, "
            f"{self.gigabytes:.2f} GB; {self.workers} workers; n = {self.rounds}; {cache}"
        )

    def _drawn(self, records: int) -> Path:
        folder = self.folder / f"faces-{records}"
        if not (folder / "train.rec").exists():
            identities = max(records // 20, 1)
            words = ["synth", folder, "--identities", identities, "--images-per-identity", 20]
            run([*FACEPACK, *words, "--distinct", 5000, "--overwrite"])
        return folder

    def pack(self) -> Path:
        pack = self.folder / f"pack-{self.records}"
        if not (pack / fmt.MANIFEST).exists():
            run([*FACEPACK, "rec2lmdb", self.rec, pack, "--overwrite"])
        return pack

    def zips(self) -> Path:
        """The same images in four stored zips, in WebFace260M's layout."""
        folder = self.folder / f"zips-{self.records}"
        if not folder.exists():
            with _making(folder) as making:
                for k, faces in enumerate(self._faces(4)):
                    with zipfile.ZipFile(making / f"0_{k}.zip", "w") as file:
                        for number, _, image in faces:
                            name = f"WebFace260M/0_{k}_{number // 20:07d}/0_{number}.jpg"
                            file.writestr(name, image)
        return folder

    def samples(self) -> Path:
        """The same images as samples in ten tars, with times as webdataset's writer has them."""
        folder = self.folder / f"samples-{self.records}"
        if not folder.exists():
            with _making(folder) as making:
                for k, faces in enumerate(self._faces(10)):
                    with tarfile.open(making / f"train-{k:04d}.tar", "w") as file:
                        for number, label, image in faces:
                            for suffix, data in (("cls", b"%d" % label), ("jpg", image)):
                                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                                member.size, member.mtime = len(data), 1.7e9 + number / 7
                                file.addfile(member, io.BytesIO(data))
        return folder

    def gzipped_tars(self, count: int) -> list[Path]:
        """The same images as samples in so many gzipped tars that are archives by themselves."""
        folder = self.folder / f"tars-{self.records}-{count}"
        if not folder.exists():
            with _making(folder) as making:
                for k, faces in enumerate(self._faces(count)):
                    with gzip.open(making / f"train-{k:04d}.tar.gz", "wb", 6) as file:
                        for number, label, image in faces:
                            for suffix, data in (("jpg", image), ("cls", b"%d" % label)):
                                file.write(member_header(f"{number:08d}.{suffix}", len(data)))
                                file.write(data.ljust(padded(len(data)), b"\0"))
                        file.write(bytes(2 * BLOCK))
        return sorted(folder.iterdir())

    def gzipped_pieces(self) -> list[Path]:
        """The ``.rec`` and its index in one gzipped tar that is cut in seven by bytes."""
        folder = self.folder / f"pieces-{self.records}"
        if not folder.exists():
            with _making(folder) as making:
                whole = making / "whole"
                rec = self.rec_file
                run(["tar", "czf", whole, "-C", rec.parent, rec.name, rec.with_suffix(".idx").name])
                run(["split", "-n", "7", "-d", whole, making / "faces_"])
                whole.unlink()
        return sorted(folder.iterdir())

    def _faces(self, parts: int) -> Iterator[Iterator[tuple[int, int, bytes]]]:
        """Number, label and image of each record, in so many parts one behind the other."""
        layout = read_layout(self.rec)
        bounds = np.linspace(0, len(layout), parts + 1).astype(int).tolist()

        def part(start: int, stop: int) -> Iterator[tuple[int, int, bytes]]:
            payloads = reader.iter_at(layout.offsets[start:stop])
            for number, header in enumerate(map(unpack_header, payloads), start):
                yield number, int(header.labels[0]), bytes(header.image)

        with RecordReader(layout.rec) as reader:
            yield from starmap(part, pairwise(bounds))

    def msgpack(self) -> Path:
        """The same images in an LMDB, as trainers that keep image and label together write it."""
        folder = self.folder / f"msgpack-{self.records}"
        if not (folder / STATE / DONE).exists():
            run([*FACEPACK, "rec2msgpack", self.rec, folder, "--overwrite"])
        return folder / "faces.lmdb"

    def parquet(self) -> Path:
        """The same images in Parquet files, as the Hugging Face Hub has them."""
        folder = self.folder / f"parquet-{self.records}"
        if not (folder / "dataset.json").exists():
            run([*FACEPACK, "rec2parquet", self.rec, folder, "--overwrite"])
        return folder

    def tar(self) -> Path:
        """The image tree as a tar."""
        tar = self.folder / f"tree-{self.records}.tar"
        if not tar.exists():
            tree = self.folder / "tree"
            run([*FACEPACK, "rec2img", self.rec, tree, "--overwrite"])
            run(["tar", "cf", tar.with_suffix(".part"), "-C", tree, "."])
            tar.with_suffix(".part").rename(tar)
            shutil.rmtree(tree)
        return tar

    def out(self, name: str) -> Path:
        """A target of its own; trees are not removed before the trial has ended.

        ext4 passes over inodes that were deleted within the last minutes, one by one: creating many
        files right after deleting as many takes ten times as long, whoever does it.
        """
        self._outs += 1
        path = self.folder / "out" / f"{name}-{self._outs}"
        path.parent.mkdir(exist_ok=True)
        return path

    def clear(self) -> None:
        """Remove all targets."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)

    def timed(self, *commands: list[object], writes: bool = True) -> tuple[float, float]:
        """Seconds of the commands from a cold cache until all is on the disk, and CPU seconds."""
        os.sync()
        if self.cold:
            _DROP.write_text("3\n")
        cpu = _cpu()
        began = time.monotonic()
        for command in commands:
            run(command)
        if writes:
            os.sync()
        return time.monotonic() - began, _cpu() - cpu

    def compare(
        self,
        plain: Callable[[], tuple[float, float]],
        ours: Callable[[], tuple[float, float]],
        *,
        trees: bool = False,
        **peers: Callable[[], tuple[float, float]],
    ) -> dict[str, object]:
        """Ratios plain / ours, in alternating rounds, and of every peer too.

        Targets are removed after each round, unless they are ``trees`` of many files.
        """
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
        base, own = [], []
        for _ in range(self.rounds):
            base.append(plain())
            own.append(ours())
            for name, peer in peers.items():
                times[name].append(peer())
            if not trees:
                self.clear()
        figures: dict[str, object] = {
            "ratio": statistics.median(b[0] / o[0] for b, o in zip(base, own, strict=True)),
            "ratios": [b[0] / o[0] for b, o in zip(base, own, strict=True)],
            "plain_seconds": [b[0] for b in base],
            "seconds": [o[0] for o in own],
            "cpu_seconds_per_gb": statistics.median(o[1] for o in own) / self.gigabytes,
            "plain_cpu_seconds_per_gb": statistics.median(b[1] for b in base) / self.gigabytes,
        }
        text = (
            f"{figures['ratio']:.2f} ({min(figures['ratios']):.2f}–{max(figures['ratios']):.2f}); "  # type: ignore[call-overload]
            f"{statistics.median(figures['seconds']):.1f} s against "  # type: ignore[call-overload]
            f"{statistics.median(figures['plain_seconds']):.1f} s; CPU s/GB "  # type: ignore[call-overload]
            f"{figures['cpu_seconds_per_gb']:.1f} against {figures['plain_cpu_seconds_per_gb']:.1f}"
        )
        for name, runs in times.items():
            ratio = statistics.median(b[0] / p[0] for b, p in zip(base, runs, strict=True))
            figures[f"{name}_ratio"] = ratio
            text += f"; {name} {ratio:.2f}"
        return {**figures, "text": text}


@contextmanager
def _making(folder: Path) -> Iterator[Path]:
    """Within, a folder is filled that is called ``folder`` once it is whole."""
    making = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    yield making
    making.rename(folder)


def run(command: list[object]) -> None:
    """Run a command, which must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=_ENVIRONMENT)
    if done.returncode:
        sys.exit(f"{command}: {done.stderr or done.stdout}")


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# Trials -------------------------------------------------------------------------------------------


def rec2lmdb(bench: Bench) -> dict[str, object]:
    """Against cp of the .rec."""
    peers = {}
    if bench.mxnet:
        peers["mxnet+lmdb"] = lambda: bench.timed(
            [bench.mxnet, "-c", USUAL_LOOP, bench.rec_file, bench.out("usual")]
        )
    return bench.compare(
        lambda: bench.timed(["cp", bench.rec_file, bench.out("copy")]),
        lambda: bench.timed(
            [*FACEPACK, "rec2lmdb", bench.rec, bench.out("pack"), "--workers", bench.workers]
        ),
        **peers,
    )


# What projects do today: MXNet reads, LMDB writes with its defaults.
USUAL_LOOP = """
import sys, lmdb, mxnet as mx
rec, out = sys.argv[1:]
record = mx.recordio.MXIndexedRecordIO(rec[:-3] + "idx", rec, "r")
last = int(mx.recordio.unpack(record.read_idx(0))[0].label[0])
env = lmdb.open(out, map_size=1 << 40)
txn = env.begin(write=True)
for i in range(1, last):
    header, image = mx.recordio.unpack(record.read_idx(i))
    txn.put(b"%010d" % i, image)
    if i % 5000 == 0:
        txn.commit()
        txn = env.begin(write=True)
txn.commit()
env.sync()
"""


def zip2lmdb(bench: Bench) -> dict[str, object]:
    """Against cp of the zips."""
    zips = bench.zips()
    return bench.compare(
        lambda: bench.timed(["cp", "-r", zips, bench.out("copy")]),
        lambda: bench.timed(
            [*FACEPACK, "zip2lmdb", zips, bench.out("pack"), "--workers", bench.workers]
        ),
    )


def samples(bench: Bench) -> dict[str, object]:
    """Tars of samples, against cp of them."""
    tars = bench.samples()
    return bench.compare(
        lambda: bench.timed(["cp", "-r", tars, bench.out("copy")]),
        lambda: bench.timed(
            [*FACEPACK, "tar2lmdb", tars, bench.out("pack"), "--workers", bench.workers]
        ),
    )


def tar2lmdb(bench: Bench) -> dict[str, object]:
    """Ten gzipped tars, against inflating them by gzip."""
    return _tar2lmdb(bench, bench.gzipped_tars(10))


def pieces(bench: Bench) -> dict[str, object]:
    """One gzipped tar in pieces, against inflating it by gzip."""
    return _tar2lmdb(bench, bench.gzipped_pieces())


def _tar2lmdb(bench: Bench, files: list[Path]) -> dict[str, object]:
    inflate = ["sh", "-c", 'cat "$@" | gzip -dc > /dev/null', "gzip", *files]
    return bench.compare(
        lambda: bench.timed(inflate, writes=False),
        lambda: bench.timed(
            [*FACEPACK, "tar2lmdb", *files, bench.out("pack"), "--workers", bench.workers]
        ),
    )


def kv2lmdb(bench: Bench) -> dict[str, object]:
    """Against cp of an LMDB of images and labels in msgpack."""
    database = bench.msgpack()
    return bench.compare(
        lambda: bench.timed(["cp", "-r", database, bench.out("copy")]),
        lambda: bench.timed(
            [*FACEPACK, "kv2lmdb", database, bench.out("pack"), "--workers", bench.workers]
        ),
    )


def parquet2lmdb(bench: Bench) -> dict[str, object]:
    """Against cp of the files, and a loop over ``datasets`` that writes LMDB."""
    folder = bench.parquet()
    files = sorted(folder.glob("*.parquet"))
    peers = {}
    if bench.datasets:
        peers["datasets+lmdb"] = lambda: bench.timed(
            [bench.datasets, "-c", DATASETS_LOOP, bench.out("usual"), *files]
        )
    return bench.compare(
        lambda: bench.timed(["cp", "-r", folder, bench.out("copy")]),
        lambda: bench.timed(
            [*FACEPACK, "parquet2lmdb", folder, bench.out("pack"), "--workers", bench.workers]
        ),
        **peers,
    )


# What a user of the library writes: it caches the files as Arrow, then gives row by row.
DATASETS_LOOP = """
import os, sys, datasets, lmdb
out, *files = sys.argv[1:]
os.makedirs(out)
rows = datasets.load_dataset(
    "parquet", data_files=files, split="train", cache_dir=os.path.join(out, "cache")
).cast_column("image", datasets.Image(decode=False))
env = lmdb.open(os.path.join(out, "lmdb"), map_size=1 << 40)
txn = env.begin(write=True)
for i, row in enumerate(rows, 1):
    txn.put(b"%010d" % i, row["image"]["bytes"])
    if i % 5000 == 0:
        txn.commit()
        txn = env.begin(write=True)
txn.commit()
env.sync()
"""


def lmdb2parquet(bench: Bench) -> dict[str, object]:
    """Against cp of the pack."""
    pack = bench.pack()
    return bench.compare(
        lambda: bench.timed(["cp", "-r", pack, bench.out("copy")]),
        lambda: bench.timed(
            [*FACEPACK, "lmdb2parquet", pack, bench.out("parquet"), "--workers", bench.workers]
        ),
    )


def rec2img(bench: Bench) -> dict[str, object]:
    """Against tar x of the same files."""
    return _to_img(bench, "rec2img", bench.rec)


def lmdb2img(bench: Bench) -> dict[str, object]:
    """Against tar x of the same files."""
    return _to_img(bench, "lmdb2img", bench.pack())


def _to_img(bench: Bench, command: str, source: Path) -> dict[str, object]:
    tar = bench.tar()

    def untar() -> tuple[float, float]:
        out = bench.out("untarred")
        out.mkdir()
        return bench.timed(["tar", "xf", tar, "-C", out])

    return bench.compare(
        untar,
        lambda: bench.timed(
            [*FACEPACK, command, source, bench.out("tree"), "--workers", bench.workers]
        ),
        trees=True,
    )


def verify(bench: Bench) -> dict[str, object]:
    """Against reading the pack's files."""
    pack = bench.pack()
    files = sorted(file for file in pack.iterdir() if file.is_file())
    read = ["sh", "-c", 'cat "$@" > /dev/null', "cat", *files]
    return bench.compare(
        lambda: bench.timed(read, writes=False),
        lambda: bench.timed([*FACEPACK, "verify", pack], writes=False),
    )


def opening(bench: Bench) -> dict[str, object]:
    """Opening a pack of 42 million records and reading its labels, in a new process."""
    pack = bench.folder / "made-42m"
    if not (pack / fmt.MANIFEST).exists():
        _make_index(pack, 42_474_557, 2_059_906)
    runs = []
    for _ in range(bench.rounds):
        if bench.cold:
            _DROP.write_text("3\n")
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(pack)], capture_output=True, text=True, check=True
        )
        runs.append([float(word) for word in done.stdout.split()])
    opened, labels, peak = (statistics.median(column) for column in zip(*runs, strict=True))
    return {
        "open_seconds": opened,
        "labels_seconds": labels,
        "peak_mib": peak,
        "runs": runs,
        "text": f"open {opened:.2f} s, with all labels {labels:.2f} s, peak memory {peak:.0f} MiB",
    }


OPEN = """
import resource, sys, time
import facepack
import facepack.store.shard
import facepack.store.finish
import facepack.store.plan
began = time.monotonic()
pack = facepack.open(sys.argv[1])
opened = time.monotonic() - began
assert len(pack.labels) == len(pack) == 42_474_557
print(opened, time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _make_index(pack: Path, records: int, identities: int) -> None:
    """A pack whose indexes are real and whose shards are holes of the right size."""
    pack.mkdir(parents=True, exist_ok=True)
    labels = np.sort(np.arange(records) % identities)
    shards = []
    for k, start in enumerate(range(0, records, fmt.MAX_SHARD_RECORDS)):
        part = labels[start : start + fmt.MAX_SHARD_RECORDS]
        name = f"train-{k:03d}"
        (pack / f"{name}.kv").write_bytes(fmt.kv_bytes(part))
        size = 384 << 20
        with (pack / f"{name}.mdb").open("wb") as file:
            file.truncate(size)
        shards.append(
            facepack.store.shard.ShardInfo(
                name=name,
                pack_id="0" * 32,
                own_name=name,
                label_map=None,
                shard=k,
                records=len(part),
                payload_bytes=size,
                page_size=32768,
                quarantined=0,
                images={
                    "formats": {"jpeg": len(part)},
                    "channels": {"3": len(part)},
                    "oriented": 0,
                    "height": [112, 112],
                    "width": [112, 112],
                },
                files={
                    f"{name}.kv": {"bytes": fmt.KV_LINE * len(part), "xxh3_128": "0" * 32},
                    f"{name}.mdb": {"bytes": size, "xxh3_128": "0" * 32},
                },
            )
        )
    plan = facepack.store.plan.PackPlan.make(
        kind="train", source={"kind": "made"}, classes=identities
    )
    written = [facepack.store.shard.WrittenShard(info) for info in shards]
    facepack.store.finish.finish_pack(pack, plan, written)


TRIALS: dict[str, Callable[[Bench], dict[str, object]]] = {
    "rec2lmdb": rec2lmdb,
    "zip2lmdb": zip2lmdb,
    "parquet2lmdb": parquet2lmdb,
    "lmdb2parquet": lmdb2parquet,
    "samples": samples,
    "tar2lmdb": tar2lmdb,
    "pieces": pieces,
    "kv2lmdb": kv2lmdb,
    "rec2img": rec2img,
    "lmdb2img": lmdb2img,
    "verify": verify,
    "opening": opening,
}


if __name__ == "__main__":
    main()
