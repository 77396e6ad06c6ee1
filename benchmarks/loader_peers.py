"""facepack's CPU loader beside the loaders that people use, all delivering the same batches.

    python benchmarks/loader_peers.py PACK --folder bench-peers
    python benchmarks/loader_peers.py PACK --peers-python V/bin/python --mxnet-python M/bin/python

Every loader gives shuffled, mirrored, normalised float32 batches of 128 × 3 × 112 × 112, from a
warm page cache, with two workers, threads or processes as it likes. Each lives in a process of its
own and is asked in turn, round after round, so that only shares within a round count; all are
compared with the raw decode limit: simplejpeg in as many threads, of images held in memory.

FFCV, WebDataset, LitData and MosaicML Streaming are looked for in ``--peers-python``, with torch,
numpy and simplejpeg beside them; MXNet 1.9.1 in ``--mxnet-python``; DALI in this interpreter. What
is not installed is left out, and said. Loaders that leave the decoding to their user are given
simplejpeg, the fastest there is; ImageFolder has Pillow, as it comes. FFCV encodes images anew: at
the quality that gives files of the same size. PACK holds JPEGs of one size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

BATCH = 128
SIDE = 112
WORKERS = 2
PAUSE = 1.5  # seconds in which the loader before fills its queues again, and comes to rest
AT_ONCE = 10  # batches that the limit decodes between two looks at the clock: no idle threads
WARM_UP = 10  # batches not timed: what was prepared while others ran is gone by then


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("bench-peers"))
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--mxnet-python")
    parser.add_argument("--only", nargs="+", choices=[*LOADERS], default=[*LOADERS])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, default=60, help="timed in a round")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--serve", choices=[*LOADERS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.pack, options.folder)
        return
    if options.batches < 1 or options.batches % AT_ONCE:
        parser.error(f"--batches is {options.batches}: it must be a multiple of {AT_ONCE}")
    _export(options.pack, options.folder)
    pythons = {"mxnet": options.mxnet_python} | dict.fromkeys(
        ("ffcv", "webdataset", "litdata", "streaming", "imagefolder"), options.peers_python
    )
    running: dict[str, Child] = {}
    for name in ("limit", *(name for name in options.only if name != "limit")):
        python = pythons.get(name, sys.executable)
        if python is None:
            print(f"{name}: left out, no interpreter was named for it")
            continue
        child = Child(python, name, options)
        if child.versions is None:
            print(f"{name}: left out: {child.error}")
        else:
            running[name] = child
    rates: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(options.rounds):
        for name, child in running.items():
            time.sleep(PAUSE)
            rates[name].append(child.measure(options.batches))
    figures: dict[str, Any] = {}
    limits = rates["limit"]
    own = rates.get("facepack")
    print(
        f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}, Python "
        f"{platform.python_version()}; batch {BATCH}, {WORKERS} workers, n = {options.rounds}"
    )
    print(f"{'':>12}  images/s  share of the limit   facepack is   versions")
    for name, found in rates.items():
        shares = [rate / limit for rate, limit in zip(found, limits, strict=True)]
        times = None if own is None else statistics.median(map(_divided, own, found))
        figures[name] = {
            "images_per_second": statistics.median(found),
            "share": statistics.median(shares),
            "shares": shares,
            "facepack_is_times": times,
            "versions": running[name].versions,
        }
        print(
            f"{name:>12}  {statistics.median(found):>8,.0f}  {statistics.median(shares):.2f} "
            f"({min(shares):.2f}–{max(shares):.2f})   "
            + (f"{times:5.2f} times   " if times else "")
            + f"{running[name].versions}"
        )
    for child in running.values():
        child.end()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _divided(a: float, b: float) -> float:
    return a / b


def _export(pack: Path, folder: Path) -> None:
    """The pack's images as a JPG tree, from which every loader's own files are made."""
    if not (folder / "tree").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "facepack", "lmdb2img", pack, folder / "tree"]
        subprocess.run([*map(str, command), "--workers", str(WORKERS)], check=True)


class Child:
    """A loader in a process of its own, asked over pipes."""

    def __init__(self, python: str, name: str, options: argparse.Namespace) -> None:
        words = [python, __file__, str(options.pack), "--folder", str(options.folder)]
        log = options.folder / f"{name}.log"
        self._process = subprocess.Popen(
            [*words, "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        answer = self._read()
        self.versions = answer.get("versions")
        self.error = answer.get("error", f"it ended; see {log}")

    def _read(self) -> dict[str, Any]:
        """The next answer; what the libraries print among them is passed over."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@"):
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        return {}

    def measure(self, batches: int) -> float:
        """Images a second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{batches}\n")
        self._process.stdin.flush()
        return float(self._read()["images_per_second"])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


# In the processes of the loaders ------------------------------------------------------------------


def serve(name: str, pack: Path, folder: Path) -> None:
    """Answer how fast batches come, whenever a number of batches is asked for."""
    try:
        batches, versions = LOADERS[name](pack, folder)
        first = next(batches)
    except ImportError as error:
        print("@" + json.dumps({"error": f"{error}"}), flush=True)
        return
    if name != "limit":
        _check(first.asnumpy() if name == "mxnet" else first)
    print("@" + json.dumps({"versions": versions}), flush=True)
    for line in sys.stdin:
        for _ in range(WARM_UP):
            next(batches)
        began = time.perf_counter()
        for _ in range(int(line)):
            next(batches)
        rate = BATCH * int(line) / (time.perf_counter() - began)
        print("@" + json.dumps({"images_per_second": rate}), flush=True)


def _check(images: Any) -> None:
    """Each must deliver what the network takes: no one may win by doing less."""
    shape, kind = tuple(images.shape), str(images.dtype)
    if shape != (BATCH, 3, SIDE, SIDE) or "float32" not in kind:
        raise SystemExit(f"batches are {shape} of {kind}")
    low, high = float(images.min()), float(images.max())
    if not (-1.01 <= low < -0.5 and 0.5 < high <= 1.01):
        raise SystemExit(f"values lie in {low}…{high}, not in −1…1")


Loading = tuple[Iterator[Any], str]


def _forever(epoch: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from epoch()


def _tree(folder: Path) -> list[tuple[Path, int]]:
    """Every image of the tree with the number of its identity."""
    identities = sorted(path for path in (folder / "tree").iterdir() if path.is_dir())
    return [(file, k) for k, path in enumerate(identities) for file in sorted(path.glob("*.jpg"))]


def _version(*packages: str) -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in packages)


def limit(pack: Path, folder: Path) -> Loading:
    """Decoding alone."""
    from concurrent.futures import ThreadPoolExecutor

    import simplejpeg

    images = [file.read_bytes() for file, _ in _tree(folder)[: 40 * BATCH]]
    pool = ThreadPoolExecutor(WORKERS)

    def decode(part: list[bytes]) -> None:
        for image in part:
            simplejpeg.decode_jpeg(image)

    def rounds() -> Iterator[None]:
        for start in range(0, len(images), AT_ONCE * BATCH):
            part = images[start : start + AT_ONCE * BATCH]
            list(pool.map(decode, [part[k::WORKERS] for k in range(WORKERS)]))
            yield from [None] * AT_ONCE

    return _forever(rounds), _version("simplejpeg")


def own(pack: Path, folder: Path) -> Loading:
    """facepack.Loader, on the CPU."""
    import facepack

    loader = facepack.Loader(
        facepack.open(pack), batch_size=BATCH, backend="cpu", dtype="float32", threads=WORKERS
    )
    return (batch.images for batch in _forever(lambda: loader)), _version("facepack", "simplejpeg")


def ffcv(pack: Path, folder: Path) -> Loading:
    """FFCV, JPEGs kept as they are, its own decoder and operations, compiled."""
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    file = folder / "faces.beton"
    if not file.exists():
        part = folder / "faces.part"
        quality = _same_size_quality(folder)
        image_field = RGBImageField(write_mode="jpg", jpeg_quality=quality)
        fields = {"image": image_field, "label": IntField()}
        DatasetWriter(str(part), fields, num_workers=WORKERS).from_indexed_dataset(
            _Faces(folder, _pixels)
        )
        part.rename(file)
    mean = np.full(3, 127.5, np.float32)
    image = [
        SimpleRGBImageDecoder(),
        RandomHorizontalFlip(),
        NormalizeImage(mean, mean, np.float32),
        ToTensor(),
        ToTorchImage(),
    ]
    loader = Loader(
        str(file),
        batch_size=BATCH,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor()]},
    )
    return (batch[0] for batch in _forever(lambda: loader)), _version("ffcv", "numba")


def _same_size_quality(folder: Path) -> int:
    """The JPEG quality at which images encoded anew take as many bytes as they do."""
    import simplejpeg

    images = [file.read_bytes() for file, _ in _tree(folder)[:200]]
    pixels = [simplejpeg.decode_jpeg(image) for image in images]
    size = sum(map(len, images))

    def excess(quality: int) -> int:
        encoded = [simplejpeg.encode_jpeg(p, quality, colorsubsampling="420") for p in pixels]
        return abs(sum(map(len, encoded)) - size)

    return min(range(60, 100), key=excess)


class _Faces:
    """The tree's images by number, as ``read`` makes them of a file, with their labels."""

    def __init__(self, folder: Path, read: Callable[[Path], Any]) -> None:
        self._files = _tree(folder)
        self._read = read

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Any:
        file, label = self._files[index]
        return self._read(file), label


def _pixels(file: Path) -> Any:
    """What FFCV's writer takes."""
    import simplejpeg

    return simplejpeg.decode_jpeg(file.read_bytes())


def dali(pack: Path, folder: Path) -> Loading:
    """DALI's own file reader and CPU decoder."""
    from importlib import import_module

    import numpy as np

    module: Any = import_module("nvidia.dali")
    fn, types = module.fn, module.types
    files = _tree(folder)

    @module.pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def graph() -> Any:
        encoded, _ = fn.readers.file(
            files=[str(file) for file, _ in files],
            labels=[label for _, label in files],
            random_shuffle=True,
            initial_fill=1024,
        )
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return fn.crop_mirror_normalize(
            images,
            mirror=fn.random.coin_flip(),
            dtype=types.FLOAT,
            output_layout="CHW",
            mean=[127.5] * 3,
            std=[127.5] * 3,
        )

    pipeline = graph()
    pipeline.build()

    def epoch() -> Iterator[Any]:
        yield np.asarray(pipeline.run()[0].as_tensor())

    return _forever(epoch), f"nvidia-dali {module.__version__}"


def _to_tensor(pixels: Any) -> Any:
    """Mirror with probability one half and normalise, as a torch user writes it."""
    import torch

    image = torch.from_numpy(pixels).permute(2, 0, 1)
    if random.random() < 0.5:
        image = image.flip(2)
    return image.float().sub_(127.5).div_(127.5)


def _decoded(image: bytes) -> Any:
    import simplejpeg

    return _to_tensor(simplejpeg.decode_jpeg(image))


def _torch_batches(dataset: Any, **options: Any) -> Iterator[Any]:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=WORKERS,
        drop_last=True,
        persistent_workers=True,
        prefetch_factor=4,
        **options,
    )
    return (batch[0] for batch in _forever(lambda: loader))


def _by_pillow(file: Path) -> Any:
    """What torchvision's ImageFolder and its transforms make."""
    import numpy as np
    from PIL import Image

    with file.open("rb") as stream:
        return _to_tensor(np.array(Image.open(stream).convert("RGB")))


def imagefolder(pack: Path, folder: Path) -> Loading:
    """An image folder, Pillow and torch's DataLoader."""
    return _torch_batches(_Faces(folder, _by_pillow), shuffle=True), _version("torch", "Pillow")


def _wds_sample(sample: Any) -> Any:
    return _decoded(sample["jpg"]), int(sample["cls"])


def webdataset(pack: Path, folder: Path) -> Loading:
    """WebDataset: tar shards, shuffled among each other and in a buffer."""
    import webdataset as wds

    shards = folder / "wds"
    if not shards.exists():
        part = folder / "wds.part"
        part.mkdir(exist_ok=True)
        files = _tree(folder)
        random.Random(0).shuffle(files)
        with wds.ShardWriter(str(part / "%05d.tar"), maxcount=5_000, verbose=0) as writer:
            for number, (file, label) in enumerate(files):
                writer.write({"__key__": f"{number:08d}", "jpg": file.read_bytes(), "cls": label})
        part.rename(shards)
    urls = sorted(map(str, shards.glob("*.tar")))
    dataset = wds.WebDataset(urls, shardshuffle=len(urls), empty_check=False)
    return (
        _torch_batches(dataset.shuffle(1_000).map(_wds_sample)),
        _version("webdataset", "torch", "simplejpeg"),
    )


def _lit_sample(item: tuple[str, int]) -> dict[str, Any]:
    return {"image": Path(item[0]).read_bytes(), "label": item[1]}


def litdata(pack: Path, folder: Path) -> Loading:
    """LitData: its optimized chunks, on the local disk."""
    import litdata as ld

    class Faces(ld.StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return _decoded(sample["image"]), sample["label"]

    chunks = folder / "litdata"
    if not (chunks / "index.json").exists():
        ld.optimize(
            fn=_lit_sample,
            inputs=[(str(file), label) for file, label in _tree(folder)],
            output_dir=str(chunks),
            chunk_bytes="64MB",
            num_workers=WORKERS,
        )
    loader = ld.StreamingDataLoader(
        Faces(str(chunks), shuffle=True, drop_last=True),
        batch_size=BATCH,
        num_workers=WORKERS,
        drop_last=True,
        persistent_workers=True,
        prefetch_factor=4,
    )
    return (
        (batch[0] for batch in _forever(lambda: loader)),
        _version("litdata", "torch", "simplejpeg"),
    )


def streaming(pack: Path, folder: Path) -> Loading:
    """MosaicML Streaming: its MDS shards, on the local disk."""
    from streaming import MDSWriter, StreamingDataset

    class Faces(StreamingDataset):
        def __getitem__(self, index: Any) -> Any:
            sample = super().__getitem__(index)
            return _decoded(sample["image"]), sample["label"]

    shards = folder / "mds"
    if not (shards / "index.json").exists():
        columns = {"image": "bytes", "label": "int"}
        with MDSWriter(out=str(shards), columns=columns, size_limit="64mb") as writer:
            for file, label in _tree(folder):
                writer.write({"image": file.read_bytes(), "label": label})
    dataset = Faces(local=str(shards), shuffle=True, batch_size=BATCH)
    return _torch_batches(dataset), _version("mosaicml-streaming", "torch", "simplejpeg")


def mxnet(pack: Path, folder: Path) -> Loading:
    """MXNet's ImageRecordIter."""
    import mxnet as mx

    rec = folder / "faces.rec"
    if not rec.exists():
        part = folder / "faces-part.rec"
        record = mx.recordio.MXIndexedRecordIO(str(folder / "faces.idx"), str(part), "w")
        for number, (file, label) in enumerate(_tree(folder)):
            header = mx.recordio.IRHeader(0, float(label), number, 0)
            record.write_idx(number, mx.recordio.pack(header, file.read_bytes()))
        record.close()
        part.rename(rec)
    batches = mx.io.ImageRecordIter(
        path_imgrec=str(rec),
        path_imgidx=str(folder / "faces.idx"),
        data_shape=(3, SIDE, SIDE),
        batch_size=BATCH,
        shuffle=True,
        rand_mirror=True,
        preprocess_threads=WORKERS,
        prefetch_buffer=4,
        round_batch=False,
        **{f"{name}_{color}": 127.5 for name in ("mean", "std") for color in "rgb"},
    )

    def epoch() -> Iterator[Any]:
        batches.reset()
        for batch in batches:
            if batch.pad == 0:
                images = batch.data[0]
                images.wait_to_read()
                yield images

    return _forever(epoch), f"mxnet {mx.__version__}"


LOADERS: dict[str, Callable[[Path, Path], Loading]] = {
    "limit": limit,
    "facepack": own,
    "ffcv": ffcv,
    "dali": dali,
    "imagefolder": imagefolder,
    "webdataset": webdataset,
    "litdata": litdata,
    "streaming": streaming,
    "mxnet": mxnet,
}


if __name__ == "__main__":
    main()
