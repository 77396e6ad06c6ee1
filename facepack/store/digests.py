"""Digests of whole files, read at the speed of the disk."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import xxhash

from facepack.reading import open_regular
from facepack.store import format as fmt
from facepack.store.direct import BLOCK, read_blocks

_AHEAD = 2  # files that are digested while another is looked at


def file_digest(path: Path, *, cached: bool = False) -> tuple[str, int]:
    """The XXH3-128 of a file and its size in bytes.

    The file is read, not mapped: a bad sector is an OSError here, and a crash in a map. Where the
    system allows, a large file is read past the page cache, unless it is to be ``cached`` for who
    reads it next: the digest is of what the disk holds.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size <= BLOCK:
            data = file.readall()
            return xxhash.xxh3_128_hexdigest(data), len(data)
        digest, size = fmt.file_digest(), 0
        for block in read_blocks(file, cached=cached):
            digest.update(block)
            size += len(block)
    return str(digest.hexdigest()), size


def digest_ahead(
    paths: Sequence[Path], *, cached: bool = False
) -> Iterator[Callable[[], tuple[str, int]]]:
    """For each of ``paths``, a call that gives its :func:`file_digest` once it is known.

    The files are read one behind the other, as disks like it, a little ahead of the caller.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[tuple[str, int]]] = deque()
        following = iter(paths)
        while True:
            for path in islice(following, _AHEAD + 1 - len(waiting)):
                waiting.append(thread.submit(file_digest, path, cached=cached))
            if not waiting:
                return
            yield waiting.popleft().result
