"""Options that commands of several rooms have, said once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[Any], Any]

PATH = click.Path(path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)

RESUME = click.option("--resume", is_flag=True, help="Complete what an interrupted run left.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Say what would be done and what it would take; write nothing."
)
BACKBONE = click.option(
    "--backbone", metavar="NAME", help="What a file is of; else its tensors tell."
)
MODEL_CHANNELS = click.option(
    "--channels",
    type=click.Choice(["rgb", "bgr"]),
    help="Order of the colours that the model takes; else its file tells, or it is rgb.",
)


def with_options(options: Iterable[Option]) -> Callable[[F], F]:
    """A decorator that adds ``options``, the first one first."""

    def decorate(function: F) -> F:
        for option in reversed(list(options)):
            function = option(function)
        return function

    return decorate
