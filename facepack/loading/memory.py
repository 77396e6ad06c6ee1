"""How much memory there is for a pack's pages.

What counts is the memory that the machine or the control group has, not what happens to be free:
the same run on the same machine must draw the same order, on every rank.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Memory(NamedTuple):
    """The memory that page cache and process share."""

    size: int
    """Bytes."""
    of: str
    """What it is: the machine's memory, or a limit."""


def memory_limit(root: Path = Path("/")) -> Memory:
    """The machine's memory, or the least limit of the control groups that this process is in.

    Args:
        root: where ``proc`` and ``sys`` lie.
    """
    memory = Memory(_physical(root), "this machine's memory")
    limits = [limit for file in _limit_files(root) if (limit := _read_limit(file)) is not None]
    if limits and min(limits) < memory.size:
        return Memory(min(limits), "the memory limit of this control group")
    return memory


def _physical(root: Path) -> int:
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:  # no Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(text.partition("MemTotal:")[2].split()[0]) << 10


def _limit_files(root: Path) -> list[Path]:
    """The files that may state a limit: of the process's groups and of all above them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            bases, name = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max"
        elif "memory" in controllers.split(","):
            bases, name = ["sys/fs/cgroup/memory"], "memory.limit_in_bytes"
        else:
            continue
        inner = Path(group.lstrip("/"))
        files += [root / base / above / name for base in bases for above in (inner, *inner.parents)]
    return files


def _read_limit(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
