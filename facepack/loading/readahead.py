"""A thread that has the system read what the next batches need, before they need it.

What it reads goes to the page cache, where the shards' memory maps find it; nothing is copied. So
the loader's threads do not wait for the disk at each page, a pack is read in long stretches
however the records are shuffled inside a window, and a file that cannot be read is an error here
where it would be a fatal signal (SIGBUS) in a memory map.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from facepack import system
from facepack.errors import DamageError
from facepack.loading.choice import pack_fits, pairs_ahead, windows_ahead
from facepack.loading.extents import Extent, Extents
from facepack.loading.identities import IdentityIndex
from facepack.loading.maps import RandomMaps
from facepack.loading.order import WindowedOrder
from facepack.loading.plan import PairDraws, Plan
from facepack.loading.source import ImageSource
from facepack.memory import memory_limit
from facepack.store.pack import Pack

# Extents that the disk is asked for at once: what keeps its queue filled.
_ASKED = 16
# Open files that are kept: more than may be asked for at once.
_FILES = 64
_PIECE = 4 << 20
# Bytes between two pairs' images that are read along: it takes no longer than to begin anew.
_NEAR = 32 << 10
# Seconds between two looks for maps that were opened meanwhile: at first, and later on.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
# What a file system reports that cannot hand pages over within the kernel.
_CANNOT_SEND = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}


class Ahead:
    """What reads ahead of a stream of batches; this one reads nothing."""

    def wait(self, index: int) -> None:
        """Return when the batch ``index`` (epoch * batches an epoch + batch) may be read.

        Indices may be asked for from any thread, about in order. Returns at once when closed.

        Raises:
            DamageError: what the batch needs cannot be read.
        """

    def close(self) -> None:
        """End the thread; may be called twice."""


NOTHING_AHEAD = Ahead()


def read_ahead(
    source: ImageSource, plan: Plan, first: int, index: IdentityIndex | None = None
) -> Ahead:
    """Start to read for the batches of ``plan`` from the index ``first`` on.

    An order with windows is read window by window, so many ahead as a share of the memory holds.
    A pack in ``global`` order is read once from front to back if it fits in memory, else where it
    is used. Anything else is read where it is used.

    Pairs, drawn from ``index``, are read some batches ahead beside an order with windows, else as
    the order is.
    """
    if not isinstance(source, Pack):
        return NOTHING_AHEAD
    memory = memory_limit()
    if plan.windowed(0) is not None and plan.blocks is not None:
        windows = WindowsAhead(source, plan, first, windows_ahead(source, plan.blocks, memory))
        if index is None:
            return windows
        batches = pairs_ahead(source, plan.pairs, memory)
        return BothAhead(windows, PairsAhead(source, plan, first, index, batches))
    if plan.shuffle:
        return WholePackAhead(source, whole=pack_fits(source, memory)[0])
    return NOTHING_AHEAD


class PartsAhead(Ahead, ABC):
    """Reads the parts of an order one after the other, up to ``ahead`` before they are needed.

    What is a part, and where in the pack its records lie, says a class derived from it. ``first``
    is the index of the first batch.
    """

    def __init__(self, pack: Pack, first: int, ahead: int) -> None:
        self._ahead = ahead
        self._extents = Extents(pack)
        self._maps = _shard_maps(pack)
        self._told = -math.inf
        self._changed = threading.Condition()  # guards what follows
        self._needed = self._loaded = self._part_of(first, 0)
        self._failure: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="facepack-reader", daemon=True)
        self._thread.start()

    @abstractmethod
    def _part_of(self, index: int, which: int) -> int:
        """The part of a batch's first (0) or last (-1) record, counted through all epochs."""

    @abstractmethod
    def _extents_of(self, part: int) -> Iterator[Extent]:
        """Where a part's records lie."""

    def wait(self, index: int) -> None:
        """See :class:`Ahead`."""
        part = self._part_of(index, -1)
        if part <= self._needed and part < self._loaded:
            return  # mostly; no lock for it
        with self._changed:
            if part > self._needed:
                self._needed = part
                self._changed.notify_all()
            while part >= self._loaded and not self._closed:
                if self._failure is not None:
                    raise self._failure
                self._changed.wait()

    def close(self) -> None:
        """See :class:`Ahead`."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            with _Files() as files:
                for part in count(self._loaded):
                    with self._changed:
                        while part > self._needed + self._ahead and not self._closed:
                            self._changed.wait()
                        if self._closed:
                            return
                    self._tell()
                    for _ in files.load(self._extents_of(part)):
                        if self._closed:
                            return
                    with self._changed:
                        self._loaded = part + 1
                        self._changed.notify_all()
        except Exception as error:  # raised where the batch that needs it waits
            with self._changed:
                self._failure = error
                self._changed.notify_all()
        finally:
            self._maps.take_back()

    def _tell(self) -> None:
        """Look for maps that were opened meanwhile: not for each part, where parts are small."""
        if time.monotonic() - self._told >= _FIRST_PAUSE:
            self._maps.tell()
            self._told = time.monotonic()


class WindowsAhead(PartsAhead):
    """Reads the windows of an order.

    Every rank reads whole windows, for its records lie all over them; ranks of one machine begin
    at different offsets in a window, and find the rest in the page cache they share.
    """

    def __init__(self, pack: Pack, plan: Plan, first: int, ahead: int) -> None:
        self._plan = plan
        self._order = _windowed(plan, 0)  # the cuts are the same in every epoch
        self._windows = self._order.windows
        super().__init__(pack, first, ahead)

    def _part_of(self, index: int, which: int) -> int:
        epoch, batch = divmod(index, self._plan.batches)
        first, end = self._plan.stretch(batch)
        entry = first if which == 0 else max(first, end - 1)
        entry = min(entry, self._plan.records - 1)  # of a share that is empty
        return epoch * self._windows + self._order.window_of(entry)

    def _extents_of(self, part: int) -> Iterator[Extent]:
        epoch, window = divmod(part, self._windows)
        stretches = _windowed(self._plan, epoch).stretches(window).tolist()
        turn = len(stretches) * self._plan.rank // self._plan.world
        for start, stop in stretches[turn:] + stretches[:turn]:
            yield from self._extents.of(start, stop)


class PairsAhead(PartsAhead):
    """Reads the pairs that come with batches, a batch at a time, in the order of the pack.

    Any identity of the pack may be next, so there is nothing long to read; what lies near each
    other, as a pair does in a pack in the order of identities, is read at once.
    """

    def __init__(
        self, pack: Pack, plan: Plan, first: int, index: IdentityIndex, ahead: int
    ) -> None:
        self._draws = PairDraws(plan, index)
        super().__init__(pack, first, ahead)

    def _part_of(self, index: int, which: int) -> int:
        return index

    def _extents_of(self, part: int) -> Iterator[Extent]:
        return self._extents.around(np.unique(self._draws.at(part)[0]), _NEAR)


def _windowed(plan: Plan, epoch: int) -> WindowedOrder:
    order = plan.windowed(epoch)
    assert order is not None
    return order


class BothAhead(Ahead):
    """Two that read ahead of one stream."""

    def __init__(self, first: Ahead, second: Ahead) -> None:
        self._both = first, second

    def wait(self, index: int) -> None:
        """See :class:`Ahead`."""
        for ahead in self._both:
            ahead.wait(index)

    def close(self) -> None:
        """See :class:`Ahead`."""
        for ahead in self._both:
            ahead.close()


class WholePackAhead(Ahead):
    """Reads a pack from front to back, once in a process; nobody waits for it.

    A shuffled order then finds most of its pages in memory, and the disk has read them in
    sequence. What cannot be read is reported by who needs it.

    Pages that are missing all the same are read by themselves: the maps are marked for it as long
    as the thread lives. Memory may be short beside other work, or the pack larger than it; each
    such page would else have the system read megabytes around it, and drop as much for them. If not
    the ``whole`` pack is to be read, this is all that is done.
    """

    def __init__(self, pack: Pack, *, whole: bool = True) -> None:
        self._whole = whole
        self._maps = _shard_maps(pack)
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(pack,), name="facepack-reader", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """See :class:`Ahead`."""
        self._closed.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self, pack: Pack) -> None:
        # The decoders open a shard when they first need it, and its map is there from then on.
        if self._whole and pack not in _read_once:
            self._read(pack)
        pause = _FIRST_PAUSE
        while not self._closed.wait(pause):
            self._maps.tell()
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._maps.take_back()

    def _read(self, pack: Pack) -> None:
        told = time.monotonic()
        with contextlib.suppress(DamageError), _Files() as files:
            paths = (pack.path / f"{name}.mdb" for name in pack.shard_names)
            whole = (Extent(path, 0, _size(path)) for path in paths)
            for _ in files.load(whole):
                if self._closed.is_set():
                    return
                if time.monotonic() - told > _FIRST_PAUSE:
                    self._maps.tell()
                    told = time.monotonic()
            _read_once.add(pack)


_read_once: weakref.WeakSet[Pack] = weakref.WeakSet()


def _shard_maps(pack: Pack) -> RandomMaps:
    return RandomMaps(pack.path / f"{name}.mdb" for name in pack.shard_names)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, 0, error.strerror) from error


class _Files:
    """Files that are read into the page cache; the last ones used stay open."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._sends = True
        self._nowhere = os.open(os.devnull, os.O_WRONLY)

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._open.values(), self._nowhere):
            os.close(file)

    def load(self, extents: Iterator[Extent]) -> Iterator[None]:
        """Read extents, several at once; yield each time that some of them is there.

        Raises:
            DamageError: a file is missing or too short, or the system reports an error.
        """
        asked: deque[tuple[Extent, int]] = deque()
        for extent in _pieces(extents):
            asked.append((extent, self._ask(extent)))
            if len(asked) == _ASKED:
                self._wait_for(*asked.popleft())
                yield
        while asked:
            self._wait_for(*asked.popleft())
            yield

    def _ask(self, extent: Extent) -> int:
        """Have the system begin to read, and return the open file."""
        file = self._open.get(extent.path)
        if file is None:
            try:
                file = self._open[extent.path] = os.open(extent.path, system.READ)
            except OSError as error:
                raise _unreadable(extent.path, extent.offset, error.strerror) from error
            if len(self._open) > _FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(extent.path)
        with contextlib.suppress(OSError):  # reading has the last word
            system.will_read(file, extent.offset, extent.length)
        return file

    def _wait_for(self, extent: Extent, file: int) -> None:
        """Return when all of an extent is in the page cache."""
        at, end = extent.offset, extent.offset + extent.length
        while at < end:
            try:
                done = self._read(file, at, end - at)
            except OSError as error:
                raise _unreadable(extent.path, at, error.strerror) from error
            if not done:
                raise _unreadable(extent.path, at, "the file ends there")
            at += done

    def _read(self, file: int, at: int, length: int) -> int:
        """Read some bytes, and return how many; 0 at the end of the file."""
        if self._sends:  # within the kernel, without a copy
            try:
                return system.send(self._nowhere, file, at, length)
            except OSError as error:
                if error.errno not in _CANNOT_SEND:
                    raise
                self._sends = False
        return len(system.read_at(file, length, at))


def _pieces(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Cut long extents, so that a thread that reads them notices when it is to end."""
    for path, offset, length in extents:
        for start in range(0, length, _PIECE):
            yield Extent(path, offset + start, min(_PIECE, length - start))


def _unreadable(path: Path, offset: int, reason: str | None) -> DamageError:
    return DamageError(
        f"{path}: reading at byte {offset} fails: {reason or 'an unknown error'}: "
        f"check the pack with: facepack verify {path.parent}"
    )
