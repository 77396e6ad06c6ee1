"""``facepack eval pairs``: verification of a published set, or of a list of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.errors import ConfigError
from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol

_LISTS = (".csv", ".tsv", ".txt", ".list", ".lst")


@protocol_command("pairs")
@click.argument("target", metavar="SET_OR_LIST")
@click.option(
    "--root",
    metavar="PACK_OR_FOLDER",
    help="Where the images of a list are. Default: the folder that the list lies in.",
)
@click.option("--group", metavar="COLUMN", help="The list's column of groups, if it has several.")
def command(
    target: str, *, root: str | None, group: str | None, data: Path | None
) -> Callable[[], Protocol]:
    """Verify pairs of images: a published set, or a list of your own.

    A set is named as `facepack eval TARGET` takes it. A list (.csv, .tsv, .txt) has a pair a line:
    FIRST,SECOND,SAME and perhaps ,FOLD and ,GROUP, with commas, tabs or blanks between; a header
    may name the columns in any order. SAME is 1 or 0, true or false. Images are paths below --root,
    what the source of a pack called them, or keys of the pack. LFW's pairs.txt is read as well.

    Folds are the list's, else ten in order; groups get a row each, and the gaps between them.
    """
    path = Path(target)
    is_list = path.suffix.lower() in _LISTS or root is not None
    if not is_list:
        if group is not None:
            raise ConfigError(f"--group is for lists of pairs, and {target} is a set")
        return _find_set(target, data)
    images = find_images(root or str(path.parent), None if root is None else data)

    def open_target() -> Protocol:
        from facepack.convert.formats.pair_list.pair_list import read_pair_list
        from facepack.evaluate.protocols.own_pairs import OwnPairs
        from facepack.evaluate.sets.named_images import open_named_images

        listed = read_pair_list(path)
        named = open_named_images(images, keys_suffice=True)
        return OwnPairs(named, listed, target=target, group=group)

    return open_target


def _find_set(target: str, data: Path | None) -> Callable[[], Protocol]:
    from facepack.evaluate.protocols.verification import PairVerification
    from facepack.evaluate.sets.pairs import find_pair_set, load_pair_set

    find_pair_set(target, data)
    return lambda: PairVerification(load_pair_set(target, data))
