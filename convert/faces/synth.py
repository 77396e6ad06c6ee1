"""A data set of procedural faces, in InsightFace's layout, of any number of images.

With M pictures of each identity, image ``i`` (from 0) of the training set is picture ``i mod M`` of
identity ``i div M``, under the key ``i + 1``; nothing but its number and the options decides its
bytes. So workers render blocks of
numbers, one process writes them in order, memory stays flat, and the files are the same whatever
the number of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
import simplejpeg

from facepack.atomic import replacing
from facepack.convert.faces.draw import SIZES, render_faces
from facepack.convert.faces.tail import LongTail
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.rec.recordio import MAX_CLASS, RecordWriter, pack_header
from facepack.convert.workers import Workers
from facepack.errors import ConfigError, FacepackError
from facepack.hashing import derive_seed, hash64
from facepack.processors import usable_processors
from facepack.progress import Progress
from facepack.settings import Count, Fraction, Range, Settings, check
from facepack.store.places import made_folder, require_writable
from facepack.store.preview import Preview
from facepack.store.target import Found, Target

FOLDS = 10  # folds of a verification set; each has its pairs of one person first, as LFW's have

_DRAWN = 64  # images by whose sizes those of all are reckoned
_BESIDE_IMAGE = 60  # bytes of a record without its image, and of its line in the index
_BLOCK = 128  # images a task: a tenth of a second and under 1 MB to bring back
_NOISE_STREAM = 3
_TAIL_STREAM = 4
# Held-out identities have numbers that no training set reaches, whatever its size: a verification
# set stays held out from every training set of its seed.
_HELD_OUT = 1 << 40
_OUTSIDE = 1 << 42  # and behind all of these, a person for each image that shows nobody of the set

_NOISE_FILES = ("label_noise.tsv", "outside_noise.tsv")
_FILES = ("train.idx", "property", *_NOISE_FILES, "train.rec")


@dataclass(frozen=True, kw_only=True)
class SynthOptions(Settings):
    """What is generated; :class:`~facepack.errors.ConfigError` names a setting out of range."""

    identities: Annotated[int, Range(low=1, high=MAX_CLASS)] = 1000
    """Identities of the training set; a label is a float32, which counts to 2^24 − 1."""

    images_per_identity: Annotated[int, Range(low=1, high=1 << 31)] | str = 20
    """Pictures of each; or ``zipf:EXPONENT:LOW-HIGH``, from which each identity draws how many it
    has: see :class:`~facepack.convert.faces.tail.LongTail`."""

    pairs: int = 0
    """Pairs of the verification set, a multiple of 20: ten folds, half of each the same person.
    0: none is made."""

    bin_name: str = "lfw"
    """Name of the verification set's file, without ``.bin``."""

    seed: Annotated[int, Range(low=0, high=(1 << 64) - 1, text="from 0 to 2^64 - 1")] = 0
    """Another seed, other people."""

    size: Annotated[int, Range(low=SIZES.start, high=SIZES.stop - 1)] = 112
    """Side of the images, pixels."""

    quality: Annotated[int, Range(low=1, high=100)] = 93
    """JPEG quality; 93 brings images of 112 pixels to the 5 to 8 KB of real data sets."""

    label_noise: Fraction = 0.0
    """Probability that an image shows another identity than its label says."""

    outside_noise: Fraction = 0.0
    """Probability that an image shows a person of no label, and of no other image."""

    distinct: Annotated[int, Range(low=1, high=1 << 20)] | None = None
    """Draw only so many images and repeat them: for trials of size and speed, not for training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        LongTail.parse(self.images_per_identity)
        if self.label_noise + self.outside_noise > 1:
            raise ConfigError(
                f"label_noise = {self.label_noise} and outside_noise = {self.outside_noise} are "
                "shares of the same images: their sum is at most 1"
            )
        if self.distinct is not None and (self.label_noise or self.outside_noise):
            raise ConfigError(
                "distinct repeats images, whatever their label: no label_noise, no outside_noise"
            )
        if self.pairs < 0 or self.pairs % (2 * FOLDS):
            raise ConfigError(
                f"pairs = {self.pairs} is not allowed: a set has {FOLDS} folds, half of each the "
                f"same person: give a multiple of {2 * FOLDS}, such as "
                f"{-(-max(self.pairs, 1) // 20) * 20}"
            )
        if Path(self.bin_name).name != self.bin_name:
            raise ConfigError(f"bin_name = {self.bin_name!r}: give a plain name, such as lfw")
        if self.label_noise and self.identities < 2:
            raise ConfigError("label_noise needs another identity to show; give identities ≥ 2")

    @property
    def images(self) -> int:
        """Images of the training set."""
        if isinstance(self.images_per_identity, int):
            return self.identities * self.images_per_identity
        return int(_starts(self)[-1])


@dataclass(frozen=True, kw_only=True)
class SynthResult:
    """What was generated; sizes in bytes, ``image_bytes_mean`` over the training set."""

    out: str
    images: int
    identities: int
    mislabelled: int
    outside: int
    pairs: int
    rec_bytes: int
    image_bytes_mean: float
    seconds: float


def generate(
    out: Path | str,
    options: SynthOptions,
    *,
    workers: int | None = None,
    overwrite: bool = False,
) -> SynthResult:
    """Write ``train.rec``, ``train.idx``, ``property`` and, for ``pairs``, a ``.bin`` into ``out``.

    With label noise, ``label_noise.tsv`` lists key, label and the identity shown, and
    ``outside_noise.tsv`` those of people outside the set, by numbers of their own. ``workers`` are
    processes, by default one a CPU; with 1 nothing is spawned. Files get their names once all are
    complete, ``train.rec`` last; an error or Ctrl-C before that leaves none behind. Raises
    :class:`~facepack.errors.FacepackError` when a target exists and ``overwrite`` is not set, or
    there is no room.
    """
    out = Path(out)
    workers = usable_processors() if workers is None else workers
    check("workers", workers, Count)
    targets, existing = _look(out, options, overwrite=overwrite)
    _require_room(out, _reckon(options)[1])
    started = time.monotonic()
    try:
        with made_folder(out):
            (mislabelled, outside), payload = _write_files(options, workers, targets, existing)
    except OSError as error:
        raise FacepackError(f"{out}: cannot be written: {error.strerror or error}") from error
    return SynthResult(
        out=str(out),
        images=options.images,
        identities=options.identities,
        mislabelled=mislabelled,
        outside=outside,
        pairs=options.pairs,
        rec_bytes=(out / "train.rec").stat().st_size,
        image_bytes_mean=payload / options.images,
        seconds=time.monotonic() - started,
    )


def preview(out: Path | str, options: SynthOptions, *, overwrite: bool = False) -> Preview:
    """What :func:`generate` would do; raises what that would before it draws."""
    out = Path(out)
    targets, existing = _look(out, options, overwrite=overwrite)
    payload, needed = _reckon(options)
    target = _require_room(out, needed)
    rec = {"name": "train.rec", "records": options.images, "payload_bytes": payload}
    return Preview(
        out=str(out),
        target=(Found.REPLACED if existing else Found.NOTHING).value,
        found=options.images,
        identities=options.identities,
        classes=options.identities,
        payload_bytes=payload,
        needed_bytes=needed,
        free_bytes=target.free_bytes(),
        shards=[rec],
        files=[path.name for path in targets if path.name != "train.rec"],
    )


def train_pictures(
    options: SynthOptions, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Say what images ``numbers`` (n,) of the training set show.

    Returns int64 arrays (n,): label, identity shown, and number of the picture of that identity.
    The first two differ where the label is wrong; such a picture occurs nowhere else in the set.
    """
    numbers = numbers.astype(np.int64)
    most = LongTail.parse(options.images_per_identity).high
    if isinstance(options.images_per_identity, int):
        labels, pictures = np.divmod(numbers, most)
    else:
        labels = np.searchsorted(_starts(options), numbers, "right") - 1
        pictures = numbers - _starts(options)[labels]
    key = derive_seed(options.seed, _NOISE_STREAM)
    coin = (hash64(key, numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    wrong = coin < options.label_noise
    others = max(options.identities - 1, 1)
    step = 1 + (hash64(derive_seed(key, 1), numbers) % np.uint64(others)).astype(np.int64)
    shown = np.where(wrong, (labels + step) % options.identities, labels)
    outside = ~wrong & (coin < options.label_noise + options.outside_noise)
    shown = np.where(outside, _OUTSIDE + numbers, shown)
    pictures = np.where(wrong | outside, most + numbers, pictures)
    return labels, shown, pictures


@lru_cache(maxsize=2)
def _starts(options: SynthOptions) -> np.ndarray:
    """The number of each identity's first image, and the count of all: int64 (identities + 1,)."""
    tail = LongTail.parse(options.images_per_identity)
    key = derive_seed(options.seed, _TAIL_STREAM)
    counts = tail.counts(key, np.arange(options.identities))
    return np.concatenate([[0], counts.cumsum()])


def pair_pictures(options: SynthOptions, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say what images ``numbers`` (n,) of the verification set show: identity and picture.

    Images 2p and 2p + 1 are pair p. Each pair has identities of its own, so that folds share none.
    """
    pair, second = np.divmod(numbers.astype(np.int64), 2)
    same = pairs_same(options)[pair]
    identities = _HELD_OUT + 2 * pair + np.where(same, 0, second)
    return identities, np.where(same, second, 0)


def pairs_same(options: SynthOptions) -> np.ndarray:
    """Return whether each pair shows one person, bool (pairs,)."""
    half = options.pairs // (2 * FOLDS)
    return np.tile(np.repeat([True, False], half), FOLDS)


# Writing ------------------------------------------------------------------------------------------


def _look(out: Path, options: SynthOptions, *, overwrite: bool) -> tuple[list[Path], list[Path]]:
    """The files that are to be written, and those of an earlier run that are there."""
    bins = (f"{options.bin_name}.bin",) if options.pairs else ()
    paths = [out / name for name in (*bins, *_FILES)]
    existing = [path for path in paths if path.exists()]
    shares = (options.label_noise, options.outside_noise)
    unwanted = {name for name, share in zip(_NOISE_FILES, shares, strict=True) if not share}
    if existing and not overwrite:
        raise FacepackError(
            f"{existing[0]} exists; choose another folder, or replace it with --overwrite"
        )
    return [path for path in paths if path.name not in unwanted], existing


def _reckon(options: SynthOptions) -> tuple[int, int]:
    """About how many bytes the images of the training set have, and all files."""
    shown = np.linspace(0, options.images - 1, min(options.images, _DRAWN)).astype(np.int64)
    drawn = _train_block(options, shown % min(options.distinct or options.images, options.images))
    mean = sum(map(len, drawn)) / len(drawn)
    payload = int(options.images * mean)
    return payload, int(
        payload
        + (options.images + options.identities + 1) * _BESIDE_IMAGE
        + 2 * options.pairs * mean
    )


def _require_room(out: Path, needed: int) -> Target:
    """The folder, in which so many bytes can be written: what they replace is there till the end.

    Raises:
        PackError: they cannot.
    """
    require_writable(out)
    target = Target(out, finished="train.rec")
    target.require_space(needed)
    return target


def _write_files(
    options: SynthOptions, processes: int, targets: list[Path], existing: list[Path]
) -> tuple[tuple[int, int], int]:
    """Write ``targets`` in place of ``existing``; return how many are wrong, and the bytes."""
    with ExitStack() as stack:
        # What is entered first gets its name last.
        parts = {
            path.name: stack.enter_context(
                replacing(path, path.with_name(f"{path.name}.part"), durable=False)
            )
            for path in reversed(targets)
        }
        total = options.images + 2 * options.pairs
        progress = stack.enter_context(Progress(total, unit="images", label="synth"))
        workers = stack.enter_context(Workers(processes))
        if options.pairs:
            images: list[bytes] = []
            for numbers, encoded in _render(workers, _pair_block, options, 2 * options.pairs):
                images += encoded
                progress.update(len(numbers))
            write_bin(parts[f"{options.bin_name}.bin"], images, pairs_same(options).tolist())
        counts = _write_train(workers, options, parts, progress)
        for path in existing:
            path.unlink()
    return counts


def _write_train(
    workers: Workers, options: SynthOptions, parts: dict[str, Path], progress: Progress
) -> tuple[tuple[int, int], int]:
    """Write the training set; return wrong labels, people outside the set, and the bytes."""
    images = options.images
    starts = _starts(options)
    counts, payload = [0, 0], 0
    with ExitStack() as stack:
        record = stack.enter_context(RecordWriter(parts["train.rec"], parts["train.idx"]))
        lists = {
            name: stack.enter_context(parts[name].open("w", encoding="ascii"))
            for name in _NOISE_FILES
            if name in parts
        }
        for file in lists.values():
            file.write("key\tlabel\tidentity\n")
        # Key 0 announces the identity records: [first, end). Float32 labels round above 2^24, in
        # this file as in every published one.
        record.write(0, pack_header([images + 1, images + 1 + options.identities], 0))
        for numbers, encoded in _train_images(workers, options):
            labels, shown, _ = train_pictures(options, numbers)
            for number, label, image in zip(
                numbers.tolist(), labels.tolist(), encoded, strict=True
            ):
                record.write(number + 1, pack_header(label, number + 1) + image)
                payload += len(image)
            is_outside = shown >= _OUTSIDE
            for kind, name in enumerate(_NOISE_FILES):
                of_kind = np.flatnonzero((labels != shown) & (is_outside == bool(kind)))
                counts[kind] += len(of_kind)
                if name in lists:
                    lists[name].writelines(
                        f"{numbers[i] + 1}\t{labels[i]}\t{shown[i]}\n" for i in of_kind
                    )
            progress.update(len(numbers))
        for identity in range(options.identities):
            key, (first, end) = images + 1 + identity, starts[identity : identity + 2].tolist()
            record.write(key, pack_header([1 + first, 1 + end], key))
    parts["property"].write_text(f"{options.identities},{options.size},{options.size}\n")
    return (counts[0], counts[1]), payload


# Rendering ----------------------------------------------------------------------------------------


def _blocks(start: int, stop: int) -> Iterator[np.ndarray]:
    for first in range(start, stop, _BLOCK):
        yield np.arange(first, min(first + _BLOCK, stop))


def _render(
    workers: Workers,
    task: Callable[[SynthOptions, np.ndarray], list[bytes]],
    options: SynthOptions,
    count: int,
) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """Yield the numbers from 0 to ``count`` block by block, with the encoded images."""
    results = workers.run(task, ((options, numbers) for numbers in _blocks(0, count)))
    early: dict[int, list[bytes]] = {}  # blocks that were ready before those in front of them
    for block, numbers in enumerate(_blocks(0, count)):
        while block not in early:
            early.update([next(results)])
        yield numbers, early.pop(block)


def _train_images(
    workers: Workers, options: SynthOptions
) -> Iterator[tuple[np.ndarray, list[bytes]]]:
    """As :func:`_render`, where image ``i`` is image ``i mod distinct``."""
    distinct = min(options.distinct or options.images, options.images)
    drawn: list[bytes] = []
    for numbers, encoded in _render(workers, _train_block, options, distinct):
        if distinct < options.images:
            drawn += encoded
        yield numbers, encoded
    for numbers in _blocks(distinct, options.images):
        yield numbers, [drawn[i] for i in (numbers % distinct).tolist()]


def _train_block(options: SynthOptions, numbers: np.ndarray) -> list[bytes]:
    _, identities, pictures = train_pictures(options, numbers)
    return _encode(options, identities, pictures)


def _pair_block(options: SynthOptions, numbers: np.ndarray) -> list[bytes]:
    return _encode(options, *pair_pictures(options, numbers))


def _encode(options: SynthOptions, identities: np.ndarray, pictures: np.ndarray) -> list[bytes]:
    images = render_faces(options.seed, identities, pictures, size=options.size)
    return [
        simplejpeg.encode_jpeg(
            image, quality=options.quality, colorspace="RGB", colorsubsampling="420"
        )
        for image in images
    ]
