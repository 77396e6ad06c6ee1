"""``facepack eval megaface``: FaceScrub's probes among up to a million distractors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.errors import ConfigError
from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol

_SIZES = "10,100,1000,10000,100000,1000000"


@protocol_command("megaface")
@click.argument("target", metavar="PACK_OR_FOLDER")
@click.option(
    "--noises",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="A list of noisy images, instead of those that TARGET was marked by; may be repeated.",
)
@click.option("--keep-noisy", is_flag=True, help="Measure with noisy images as they are.")
@click.option(
    "--sizes",
    default=_SIZES,
    show_default=True,
    metavar="N,…",
    help="How many random distractors to measure among, beside all.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random distractors.")
@click.option(
    "--lists",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take the distractors of the kit's lists megaface_features_list.json_<size>_<set> there.",
)
@click.option(
    "--write-kit",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write feature files and lists there, as the development kit reads them.",
)
@click.option(
    "--algorithm",
    default="facepack",
    show_default=True,
    metavar="NAME",
    help="Feature files written end with _NAME.bin.",
)
def command(
    target: str,
    *,
    noises: tuple[Path, ...],
    keep_noisy: bool,
    sizes: str,
    seed: int,
    lists: Path | None,
    write_kit: Path | None,
    algorithm: str,
    data: Path | None,
) -> Callable[[], Protocol]:
    """Identify FaceScrub's images among distractors: MegaFace's challenge 1.

    TARGET is the pack that `facepack megaface2lmdb` wrote, or the folder that it reads; of a pack
    in the data home the name is enough. Figures are rank-1 identification and TAR at FAR 1e-6
    among all distractors, and rank-1 among fewer. Noisy images of FaceScrub are replaced by the
    person's mean with a little noise, and noisy distractors removed, as published. --embeddings
    also takes a folder of the kit's feature files.
    """
    wanted = _parse_sizes(sizes)
    path = find_images(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.distractors import MegaFace
        from facepack.evaluate.sets.megaface_set import open_megaface

        return MegaFace(
            open_megaface(path, noises),
            target=target,
            sizes=wanted,
            seed=seed,
            lists=lists,
            keep_noisy=keep_noisy,
            kit=write_kit,
            algorithm=algorithm,
        )

    return open_target


def _parse_sizes(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"0*[1-9][0-9]{0,8}", word) for word in words):
        raise ConfigError(f"--sizes {text!r}: numbers of distractors with commas between, {_SIZES}")
    return [int(word) for word in words]
