"""How much memory the machine or the control group has, and how much of it is free.

An order follows from what they have, not from what happens to be free: the same run on the same
machine must draw the same order, on every rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from facepack import system

_ASSUMED = 8 << 30  # bytes, where no part of the system says


class Memory(NamedTuple):
    """The memory that page cache and process share."""

    size: int  # bytes
    of: str  # what it is: the machine's memory, or a limit


def memory_limit(root: Path = Path("/")) -> Memory:
    """The machine's memory, or the least limit of the control groups that this process is in."""
    memory = Memory(_physical(root), "this machine's memory")
    limits = [limit for file in _limit_files(root) if (limit := _read_number(file)) is not None]
    if limits and min(limits) < memory.size:
        return Memory(min(limits), "the memory limit of this control group")
    return memory


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that this process could take now, on the machine and in each of its control groups.

    Page cache counts as free. ``root`` is where ``proc`` and ``sys`` lie.
    """
    free = [_physical(root, "MemAvailable")]
    for file in _limit_files(root):
        limit = _read_number(file)
        used = _read_number(file.with_name(_USAGE[file.name]))
        if limit is not None and used is not None:
            free.append(limit - used + _file_cache(file.with_name("memory.stat")))
    return max(min(free), 0)


def _physical(root: Path, what: str = "MemTotal") -> int:
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:  # no Linux: all there is
        return system.physical_memory() or _ASSUMED
    return int(text.partition(f"{what}:")[2].split()[0]) << 10


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


def _file_cache(statistics: Path) -> int:
    """Bytes of a group's memory that only hold pages of files."""
    try:
        text = statistics.read_text()
    except OSError:
        return 0
    stated = dict(line.split() for line in text.splitlines())
    # Version 1 counts the groups below apart, under these names.
    prefix = "total_" if "total_active_file" in stated else ""
    return sum(int(stated.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))


# Where a group states what it uses, by the name of the file that states its limit.
_USAGE = {"memory.max": "memory.current", "memory.limit_in_bytes": "memory.usage_in_bytes"}


def _read_number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # not there, or "max"
        return None
