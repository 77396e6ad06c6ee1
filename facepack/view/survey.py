"""One look at every image of a pack, or at a sample: sizes, lengths, colors, hashes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from facepack.errors import DecodeError
from facepack.images import read_header
from facepack.progress import Progress
from facepack.store.pack import Pack
from facepack.view.histogram import spread

_CHUNK = 1024  # images whose views are held at a time
_BROKEN_KEPT = 20


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What the images of a pack are like."""

    positions: np.ndarray  # int64 (n,), the images looked at, ascending
    lengths: np.ndarray  # uint32 (n,), bytes of each as encoded
    sizes: dict[tuple[int, int], int]  # how many have each (height, width) in pixels
    channels: dict[int, int]  # how many have so many channels; channel_name() says what that means
    formats: dict[str, int]  # how many are of each format
    broken: int  # how many have no readable header; they are in none of the three above
    broken_kept: list[tuple[int, str]]  # position and reason of the first 20 of these
    # uint64 (n,), XXH3-64 of each encoded image; None where they were not asked for
    hashes: np.ndarray | None

    def as_json(self) -> dict[str, Any]:
        """The counts as JSON has them, and the spread of the encoded lengths."""
        return {
            "images": len(self.positions),
            "sizes": [
                {"height": height, "width": width, "images": count}
                for (height, width), count in self.sizes.items()
            ],
            "channels": {str(number): count for number, count in self.channels.items()},
            "formats": self.formats,
            "unreadable": self.broken,
            "encoded_bytes": spread(self.lengths),
        }


def survey(pack: Pack, *, sample: int | None = None, hashes: bool = False) -> Survey:
    """Read the header of every image, in the order in which the shards hold them.

    Of a ``sample``, so many images at the most, evenly spaced; for ``hashes`` all of it is read.

    Raises:
        DamageError: a record is missing.
    """
    count = len(pack)
    if sample is None or sample >= count:
        positions = np.arange(count)
    else:
        positions = np.arange(sample) * count // sample
    lengths = np.empty(len(positions), np.uint32)
    found = np.empty(len(positions), np.uint64) if hashes else None
    sizes: Counter[tuple[int, int]] = Counter()
    channels: Counter[int] = Counter()
    formats: Counter[str] = Counter()
    broken = 0
    kept: list[tuple[int, str]] = []
    for k, view in enumerate(_read_images(pack, positions)):
        lengths[k] = len(view)
        if found is not None:
            found[k] = xxhash.xxh3_64_intdigest(view)
        try:
            header = read_header(view)
        except DecodeError as error:
            broken += 1
            if len(kept) < _BROKEN_KEPT:
                kept.append((int(positions[k]), str(error)))
        else:
            sizes[header.height, header.width] += 1
            channels[header.channels] += 1
            formats[header.format] += 1
    return Survey(
        positions=positions,
        lengths=lengths,
        sizes=dict(sorted(sizes.items())),
        channels=dict(sorted(channels.items())),
        formats=dict(sorted(formats.items())),
        broken=broken,
        broken_kept=kept,
        hashes=found,
    )


def channel_name(channels: int) -> str:
    """What an image of so many channels is."""
    names = {1: "grey or palette", 2: "grey with alpha", 3: "color", 4: "CMYK or with alpha"}
    return names.get(channels, f"{channels} channels")


def hash_images(pack: Pack) -> np.ndarray:
    """XXH3-64 of every encoded image, by position: uint64 (len(pack),).

    Raises:
        DamageError: a record is missing.
    """
    digests = map(xxhash.xxh3_64_intdigest, _read_images(pack, np.arange(len(pack))))
    return np.fromiter(digests, np.uint64, len(pack))


def _read_images(pack: Pack, positions: np.ndarray) -> Iterator[memoryview]:
    """Yield the encoded images at ``positions``; each is valid until the next is asked for."""
    with Progress(len(positions), unit="images", label="look") as progress:
        for start in range(0, len(positions), _CHUNK):
            chunk = positions[start : start + _CHUNK]
            with pack.views(chunk) as views:
                yield from views
            progress.update(len(chunk))
