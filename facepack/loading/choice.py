"""The order that suits a pack and the memory of the machine, and the sizes of its blocks."""

from __future__ import annotations

from typing import NamedTuple

from facepack.errors import ConfigError
from facepack.loading.order import BlockShape
from facepack.loading.source import ImageSource
from facepack.memory import Memory, memory_limit
from facepack.store.lmdb_format import MAX_PAGE_SIZE
from facepack.store.manifest import manifest_files
from facepack.store.pack import Pack

ORDERS = ("auto", "global", "blocks")

# A pack within this share of the memory stays in the page cache beside the process itself.
_FITS = 0.75
# What is read together: disks and file systems reach their sequential speed from here on, and
# the pages at the ends of a run, of which others use a part, are about a twentieth of it.
_RUN_BYTES = 512 << 10
# A window is this share of the memory, as a power of two; several are read ahead.
_WINDOW_SHARE = 32
_LEAST_WINDOW = 16 << 20
_LARGEST_WINDOW = 1 << 30
# What is read ahead in the pack's own order is not shuffled, and needs no large windows.
_SEQUENTIAL_WINDOW = 32 << 20
# Windows read ahead take this share of the memory, and are this many.
_AHEAD_SHARE = 8
_MOST_AHEAD = 8
# Pairs are read so many batches ahead, within this share of the memory.
_BATCHES_AHEAD = 16
_PAIRS_SHARE = 64


class OrderChoice(NamedTuple):
    """The order of a loader, and why it is that."""

    name: str  # global, blocks or sequential
    blocks: BlockShape | None  # what Plan takes
    reason: str  # for people to read


def choose_order(asked: str | BlockShape, source: ImageSource, shuffle: bool) -> OrderChoice:
    """The order of a loader that was asked for ``asked``.

    ``auto`` is ``global`` for what fits in memory, or is no pack; else ``blocks``, of a shape that
    follows from the pack and the size of the memory alone.

    Raises:
        ConfigError: there is no such order, or not for this source.
    """
    if not isinstance(asked, BlockShape) and asked not in ORDERS:
        raise ConfigError(f"order = {asked!r} is not one of {', '.join(ORDERS)}, or a BlockShape")
    if not shuffle:
        if asked != "auto":
            raise ConfigError(f"order is {asked!r}, but shuffle=False means the pack's own order")
        shape = sequential_shape(source) if isinstance(source, Pack) else None
        return OrderChoice("sequential", shape, "shuffle is False")
    if isinstance(asked, BlockShape):
        return OrderChoice("blocks", asked, "it was asked for")
    if asked == "global":
        return OrderChoice("global", None, "it was asked for")
    if not isinstance(source, Pack):
        if asked == "blocks":
            raise ConfigError(f"order is 'blocks', but {source.path} is no pack: use 'auto'")
        return OrderChoice("global", None, f"{source.path} is no pack")
    memory = memory_limit()
    if asked == "blocks":
        return OrderChoice("blocks", shuffled_shape(source, memory), "it was asked for")
    fits, why = pack_fits(source, memory)
    if fits:
        return OrderChoice("global", None, why)
    return OrderChoice("blocks", shuffled_shape(source, memory), why)


def file_bytes(pack: Pack) -> int:
    """Bytes of all files of a pack."""
    return sum(int(stated["bytes"]) for stated in manifest_files(pack.manifest).values())


def pack_fits(pack: Pack, memory: Memory) -> tuple[bool, str]:
    """Whether a pack stays in memory once it was read, and why, in words."""
    size, room = file_bytes(pack), int(memory.size * _FITS)
    fits = size <= room
    return fits, (
        f"the pack's files are {size / 1e9:.2f} GB, {'within' if fits else 'more than'} "
        f"{_FITS:.0%} of {memory.of}, {memory.size / 1e9:.2f} GB"
    )


def shuffled_shape(pack: Pack, memory: Memory) -> BlockShape:
    """Runs and windows of the order ``blocks``."""
    share = memory.size // _WINDOW_SHARE
    window = min(max(1 << share.bit_length() - 1, _LEAST_WINDOW), _LARGEST_WINDOW)
    return _shape(pack, window)


def sequential_shape(pack: Pack) -> BlockShape:
    """Runs and windows in which the pack's own order is read ahead."""
    return _shape(pack, _SEQUENTIAL_WINDOW)


def _shape(pack: Pack, window_bytes: int) -> BlockShape:
    record = _record_bytes(pack)
    run = max(1, _RUN_BYTES // record)
    return BlockShape(run=run, window=max(1, window_bytes // (run * record)))


def windows_ahead(pack: Pack, shape: BlockShape, memory: Memory) -> int:
    """How many windows to read ahead of the one that is in use."""
    window = max(1, shape.records * pack.manifest["payload_bytes"] // max(1, len(pack)))
    return min(max(1, memory.size // _AHEAD_SHARE // window - 1), _MOST_AHEAD)


def pairs_ahead(pack: Pack, pairs: int, memory: Memory) -> int:
    """For how many batches to read their pairs ahead: an image takes the pages that it lies in."""
    batch = 2 * pairs * (_record_bytes(pack) + MAX_PAGE_SIZE)
    return min(max(1, memory.size // _PAIRS_SHARE // batch), _BATCHES_AHEAD)


def _record_bytes(pack: Pack) -> int:
    """The mean."""
    return max(1, int(pack.manifest["payload_bytes"]) // max(1, len(pack)))
