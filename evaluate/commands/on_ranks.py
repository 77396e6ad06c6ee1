"""What commands share that work on several processes, one or all of them under torchrun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import torch

    from facepack.train.ranks.group import Ranks


class Work(NamedTuple):
    """Where a command works: its device, its ranks, and what makes a line of progress."""

    device: torch.device
    ranks: Ranks
    progress: Callable[[int], Callable[[int], None]]


@contextmanager
def on_ranks(ctx: click.Context, device: str | None, label: str) -> Iterator[Work]:
    """Enter the device and the group of ranks; an error of another rank ends this one quietly.

    ``label`` is that of the line of progress, which rank 0 alone shows.
    """
    from facepack.progress import Progress
    from facepack.train.build import enter_device
    from facepack.train.ranks.agreement import OtherRankError
    from facepack.train.ranks.group import Ranks, keep_exit_code, rank_device

    entered = enter_device(rank_device(device))
    try:
        with keep_exit_code(), Ranks.from_environment(entered) as ranks, ExitStack() as stack:

            def progress(total: int) -> Callable[[int], None]:
                shown = label if ranks.world == 1 else f"{label} (rank 0 of {ranks.world})"
                line = Progress(total, unit="images", label=shown)
                return stack.enter_context(line).update if ranks.is_first else lambda count: None

            yield Work(entered, ranks, progress)
    except OtherRankError as error:
        ctx.exit(error.exit_code)  # the rank at fault says why
