"""The data home: the folder in which data are looked up by name."""

from __future__ import annotations

import os
from pathlib import Path


def data_home(option: str | Path | None) -> Path:
    """The folder ``option``, else that of ``FACEPACK_HOME``, else the current one."""
    return Path(os.environ.get("FACEPACK_HOME", ".") if option is None else option)
