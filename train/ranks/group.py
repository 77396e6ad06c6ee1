"""The processes of a run: which of them this is, and what they say to each other."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from facepack.errors import ConfigError, FacepackError

# Above the longest wait of a healthy run: rank 0 verifies and writes large checkpoints alone.
_TIMEOUT = timedelta(minutes=30)

# Its name before torch 2.13.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")

_OPERATIONS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}


@dataclass(frozen=True)
class Ranks:
    """One process's place among those of the run.

    Every method but :meth:`share` is collective: all ranks call it, in the same order. A process on
    its own gets back what it gave, without a copy and without ``torch.distributed``.
    """

    rank: int = 0
    """This process, from 0 to ``world - 1``."""
    world: int = 1
    """The number of processes."""
    group: dist.ProcessGroup | None = None
    """Some of the processes; None for all that :meth:`from_environment` found.

    It is torch.distributed that holds the group of all, and nothing else: its threads end when the
    last reference goes, and an error that is on its way holds whatever its frames do.
    """

    @classmethod
    @contextmanager
    def from_environment(cls, device: torch.device) -> Iterator[Ranks]:
        """Within it this process is one of those that torchrun started; on its own otherwise.

        Reads ``RANK`` and ``WORLD_SIZE``, and meets the others at ``MASTER_ADDR``:``MASTER_PORT``.
        CPU tensors travel by gloo, those on ``device``, if it is a CUDA device, by NCCL. The group
        and its threads are gone afterwards, but for an error that the other ranks were not told of:
        see :func:`keep_exit_code`.

        Raises:
            ConfigError: some of these variables are missing.
        """
        if not is_launched():
            yield ALONE
            return
        missing = [name for name in _NEEDED if name not in os.environ]
        if missing:
            raise ConfigError(
                f"WORLD_SIZE is set, {', '.join(missing)} not: start the processes with torchrun, "
                "or set all of them; for a process on its own unset WORLD_SIZE"
            )
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        # Its functions take the group that is there when they are defined as a default, and hold it
        # from then on: the first optimizer of a process imports it.
        import torch.distributed.nn.functional  # noqa: F401

        dist.init_process_group(backend, rank=rank, world_size=world, timeout=_TIMEOUT)
        try:
            yield cls(rank, world)
        except FacepackError:
            dist.destroy_process_group()  # all ranks were told and end with this one
            raise
        # Not after any other error: a collective that another rank never entered would be waited
        # for.
        dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and notifies."""
        return self.rank == 0

    def share(self, n: int) -> tuple[int, int]:
        """This rank's part, [start, stop), of ``n``: ``n // world``, and one of the rest."""
        each, rest = divmod(n, self.world)
        start = self.rank * each + min(self.rank, rest)
        return start, start + each + (self.rank < rest)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors, of one shape, concatenated along dimension 0; carries no gradient."""
        tensor = tensor.detach()
        if self.world == 1:
            return tensor
        gathered = tensor.new_empty((self.world * len(tensor), *tensor.shape[1:]))
        _all_gather(gathered, tensor.contiguous(), group=self.group)
        return gathered

    def all_reduce(self, tensor: Tensor, op: Literal["sum", "max"] = "sum") -> Tensor:
        """Replace ``tensor`` by its sum or maximum over the ranks; returns it."""
        if self.world > 1:
            dist.all_reduce(tensor, _OPERATIONS[op], group=self.group)
        return tensor

    def start_all_reduce(self, tensor: Tensor) -> dist.Work:
        """Begin :meth:`all_reduce`, to be waited for by ``wait()``; for several ranks only."""
        work = dist.all_reduce(tensor, group=self.group, async_op=True)
        assert work is not None
        return work

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Replace ``tensor`` by rank 0's; returns it."""
        if self.world > 1:
            dist.broadcast(tensor, src=0, group=self.group)
        return tensor

    def gather_objects(self, thing: Any) -> list[Any]:
        """Each rank's ``thing``, small and pickled, in the order of the ranks; on every rank."""
        things = [thing] * self.world
        if self.world > 1:
            dist.all_gather_object(things, thing, group=self.group)
        return things


ALONE = Ranks()


@contextmanager
def keep_exit_code() -> Iterator[None]:
    """Around a command that is one rank: it ends by itself, and with the exit code that it means.

    A launcher sends SIGTERM to the others once one has ended. Each ends by itself by then, and what
    it still has to say is not cut off: the signal is ignored from the block's end on.

    An error that the other ranks were not told of leaves a group whose threads may be in a
    collective that those never enter. Nothing ends these threads, and one that wants the
    interpreter while that ends, to let go of a tensor, aborts the process. So the process ends just
    before, when all else is done and said.
    """
    try:
        yield
    except BaseException as error:
        if dist.is_initialized():
            atexit.register(_end_process, 130 if isinstance(error, KeyboardInterrupt) else 1)
        raise
    finally:
        if is_launched():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _end_process(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def is_launched() -> bool:
    """Whether a launcher, torchrun or one like it, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def local_world() -> int:
    """How many processes of the run share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def rank_device(device: str | torch.device | None) -> str | torch.device | None:
    """The device of this process among those on its machine: ``cuda`` becomes ``cuda:LOCAL_RANK``.

    Raises:
        ConfigError: one device is named for all the processes, or there are fewer than processes.
    """
    if not is_launched():
        return device
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device) != "cuda":
        if str(device).startswith("cuda:"):
            raise ConfigError(
                f"device {device}: with several processes each takes a device of its own; "
                "use --device cuda, and CUDA_VISIBLE_DEVICES to choose among the devices"
            )
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    there = torch.cuda.device_count()
    if local >= there:
        raise ConfigError(
            f"process {local} of this machine finds no device: torch sees {there}. Start as many "
            f"processes as there are devices: torchrun --nproc-per-node {there}"
        )
    return f"cuda:{local}"
