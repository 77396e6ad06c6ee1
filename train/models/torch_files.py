"""Reading what ``torch.save`` wrote, for tensors and numbers alone; no code in it is run."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from facepack import lfs
from facepack.errors import EvaluationError
from facepack.train.models.checksums import SumError, load_checked
from facepack.train.models.numpy_scalars import scalars_allowed

_MAPPED_FROM = 8 << 30  # bytes; no backbone is as large, only checkpoints with their head are


def load_tensors(path: Path, wanted: str) -> Any:
    """The content of ``path``, tensors on the CPU; NumPy's scalars come as Python's numbers.

    Raises:
        EvaluationError: the file is damaged, or holds something else than is ``wanted``, in words.
    """
    lfs.require_content(path, EvaluationError)
    try:
        # What is mapped into memory is read when it is used, as a large head never is.
        mapped = path.stat().st_size >= _MAPPED_FROM and zipfile.is_zipfile(path)
        with scalars_allowed():
            return load_checked(path, mapped=mapped)
    except Exception as error:  # damaged bytes make torch.load raise nearly anything
        raise EvaluationError(
            f"{path} {what_else(path, error)}: give a file that holds {wanted}"
        ) from error


def what_else(path: Path, error: Exception) -> str:
    """What a file is that ``load_checked`` did not take, in words that follow its name.

    Those of torch are advice to load it all the same, by running its code.
    """
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    if program := _program_in(path):
        return (
            f"is a {program}, which holds code, and no code of a file is run. Where you trust it, "
            "torch.save(module.state_dict(), …) writes its weights; facepack eval runs TorchScript "
            "with --torchscript"
        )
    if isinstance(error, SumError):
        return f"is damaged ({error})"
    named = re.search(r"GLOBAL (\S+)", str(error))
    if named:
        return f"holds a {named[1]}, and only tensors are read, as anything else could run code"
    return "is damaged, cut short, or nothing that torch.save wrote"


def _program_in(path: Path) -> str | None:
    """The kind of program that a zip of torch's holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.partition("/")[2] for name in archive.namelist()}
    except Exception:  # what damage makes of names and numbers, zipfile lets through
        return None
    if "constants.pkl" in names:
        return "TorchScript module (torch.jit.save)"
    return "program of torch.export" if "archive_format" in names else None
