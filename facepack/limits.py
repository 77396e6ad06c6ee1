"""Sizes beyond which a file, a record or an image is not looked at.

They are far above what there is, and far below what a crafted file can claim. An environment
variable of the same name sets another one.
"""

from __future__ import annotations

import os

from facepack.errors import ConfigError

_DEFAULTS = {
    "FACEPACK_MAX_JSON_BYTES": 16 << 20,
    "FACEPACK_MAX_TEXT_BYTES": 256 << 20,
    "FACEPACK_MAX_TABLE_BYTES": 1 << 30,
    "FACEPACK_MAX_SHARD_BYTES": 1 << 30,
    "FACEPACK_MAX_RESERVED_BYTES": 64 << 20,
    "FACEPACK_MAX_IMAGE_BYTES": 64 << 20,
    "FACEPACK_MAX_PIXELS": 1 << 26,
}


def limit(variable: str) -> int:
    """The limit that ``variable`` sets, or its default.

    Raises:
        ConfigError: the environment sets it to something that is no whole number.
    """
    text = os.environ.get(variable)
    if text is None:
        return _DEFAULTS[variable]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ConfigError(f"{variable}={text}: allowed is a whole number, such as 268435456")
    return int(text)


def too_large(size: int, variable: str) -> str | None:
    """That ``size`` bytes are more than ``variable`` allows, in words; None if they are not."""
    most = limit(variable)
    if size <= most:
        return None
    return f"{size:,} bytes; at most {most:,} are looked at, unless {variable} says more"
