"""``facepack eval pairs``: verification of a pair set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.evaluate.command import protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol


@protocol_command("pairs")
@click.argument("target")
def command(target: str, *, data: Path | None) -> Callable[[], Protocol]:
    """Verify pairs of images: a published set.

    TARGET is the name or path of a set, as `facepack eval TARGET` takes it.
    """
    from facepack.evaluate.pairs import find_pair_set, load_pair_set
    from facepack.evaluate.protocols.verification import PairVerification

    find_pair_set(target, data)
    return lambda: PairVerification(load_pair_set(target, data))
