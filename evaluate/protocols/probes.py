"""``facepack eval probe-gallery``: probes against a gallery, in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from facepack.evaluate.command import find_images, protocol_command

if TYPE_CHECKING:
    from facepack.evaluate.protocol import Protocol


@protocol_command("probe-gallery")
@click.argument("target", metavar="PACK_OR_FOLDER")
@click.option("--probe", default="probe", show_default=True, help="The folder of probes.")
@click.option("--gallery", default="gallery", show_default=True, help="The folder of the gallery.")
@click.option("--published", is_flag=True, help="Add TAR by F2C's histograms.")
@click.option("--flip/--no-flip", default=True, show_default=True, help="Add mirror images.")
def command(
    target: str,
    *,
    probe: str,
    gallery: str,
    published: bool,
    flip: bool,
    data: Path | None,
) -> Callable[[], Protocol]:
    """Verify probes against a gallery: F2C's variant of MegaFace.

    TARGET holds probe/PERSON/IMAGE and gallery/PERSON/IMAGE, and distractors in folders of the
    gallery whose name contains "distractor", at any depth; or is a pack of it. TAR at FAR 1e-6 to
    1e-9 is exact; a probe that is in the gallery itself, under the same name, is no mate.
    """
    path = find_images(target, data)

    def open_target() -> Protocol:
        from facepack.evaluate.protocols.probe_gallery import ProbeGallery, find_probes_and_gallery
        from facepack.evaluate.sets.named_images import open_named_images

        found = find_probes_and_gallery(open_named_images(path), probe, gallery)
        return ProbeGallery(found, target=target, published=published, flip=flip)

    return open_target
