"""The checksums in files of weights, which the libraries that read these files pass over."""

from __future__ import annotations

import errno
import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

_ZIP = b"PK\x03\x04"
_PIECE = 1 << 20
_FOLDER = 0x10  # among the attributes that a zip keeps of a member


class SumError(ValueError):
    """A file differs from what was written; says where. Callers name the file and what to do."""


def load_checked(path: Path, *, mapped: bool = False) -> Any:
    """``torch.load`` of tensors on the CPU, once all has been compared with the file's checksums.

    Since torch 1.6 ``torch.save`` writes a zip of members that are stored as they are, each with
    its CRC-32. Files from before have no sums, nor have those written with ``save.compute_crc32``
    off: they are loaded with a warning. A zip takes no more memory than it has bytes. It is read
    once more for this; from memory, where it fits there. ``mapped`` tensors stay on the disk until
    they are used.

    Raises:
        SumError: the file is damaged.
        Exception: nearly anything where it was not written by ``torch.save``, or holds more than
            tensors and plain containers.
    """
    has_sums = _check_sums(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, which is refused then
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not has_sums:
        warnings.warn(
            f"{path} holds no checksums: damage in its numbers would not be noticed. What torch "
            "writes today has them",
            stacklevel=2,
        )
    return content


def _check_sums(path: Path) -> bool:
    """Whether the file has sums; it is as they say then."""
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return False
        if not zipfile.is_zipfile(file):
            raise SumError("cut short: the list of its contents, at the end, is missing")
        try:
            return _check_members(file.seek(0, io.SEEK_END), zipfile.ZipFile(file))
        except OSError as error:
            if error.errno != errno.EINVAL:  # that of a place before the file's beginning
                raise
            raise SumError("its parts are not where its list of contents says") from error
        except Exception as error:  # zipfile lets through what damage makes of its parts
            raise SumError(str(error)) from error


def _check_members(size: int, archive: zipfile.ZipFile) -> bool:
    """Whether the members have sums; they are as these say then."""
    members = [member for member in archive.infolist() if member.file_size]
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise zipfile.BadZipFile("it has compressed members, which torch.save never writes")
    if sum(member.file_size for member in members) > size:
        raise zipfile.BadZipFile("its members are larger than the file")
    if len({member.filename for member in members}) < len(members):
        raise zipfile.BadZipFile("two of its members have one name")
    if any(member.external_attr & _FOLDER for member in members):
        # Of which torch reads nothing, and takes what the memory held before.
        raise zipfile.BadZipFile("one of its members is marked as a folder")
    if not any(member.CRC for member in members):
        return False
    for member in members:
        with archive.open(member) as content:
            while content.read(_PIECE):
                pass
    return True


def tensors_digest(state: Mapping[str, Tensor]) -> str:
    """The XXH3-128 of tensors on the CPU, their names, types and shapes, whatever their order."""
    digest = xxhash.xxh3_128()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
