"""Images that do not decode: what is said of them, and when there is nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from facepack.errors import DecodeError

OnBadImage = Literal["raise", "skip"]

BAD_IMAGES = "bad images"
"""Under which a result counts them."""


def bad_notice(bad: Mapping[int, str], images: int) -> str:
    """What to say of some bad images, position → why, of ``images``."""
    return (
        f"{len(bad):,} of {images:,} images cannot be decoded and have no embedding, first "
        f"{bad[min(bad)]}"
    )


def require_one_image(bad: Mapping[int, str], images: int) -> None:
    """A DecodeError if all images are bad: then it is not they that are wrong."""
    if len(bad) == images:
        raise DecodeError(f"none of {images:,} images can be embedded, first {bad[min(bad)]}")
