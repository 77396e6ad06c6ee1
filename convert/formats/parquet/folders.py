"""Which files a data set lies in: those that are given, or those of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facepack.convert.files import is_clutter
from facepack.convert.label_names import LABEL_NAMES
from facepack.convert.source_file import read_errors
from facepack.errors import SourceError
from facepack.reading import read_json
from facepack.store.format import is_plain_name

_STATE, _SPLITS = "state.json", "dataset_dict.json"  # of datasets' save_to_disk
_NUMBERED = re.compile(r"[-_]\d+-of-\d+$")
_SPLIT = re.compile(r"(train|test|val|valid|validation|dev|eval)([-_.].*)?", re.IGNORECASE)
_EXPECTED = (
    "expected .parquet files, a folder of them, or a folder that datasets' save_to_disk wrote"
)


def find_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The files that ``paths`` stand for, in their order, and what the user should know of them.

    A path is a file, a folder that ``save_to_disk`` wrote (with ``state.json``, or with
    ``dataset_dict.json`` and one of these a split), or a folder with ``.parquet`` files, or else
    ``.arrow`` files, in it or in the folders below, which are taken in the order of their paths.

    Raises:
        SourceError: a folder cannot be read or has none, or its own account of itself is damaged.
    """
    files: list[Path] = []
    notices: list[str] = []
    for path in paths:
        with read_errors(path):
            if not path.is_dir():
                files.append(path)
                continue
            found = _in_folder(path)
        _refuse_labels_of_folders(path, found)
        splits = sorted({split for file in found if (split := _split_of(file, path))})
        if len(splits) > 1:
            notices.append(
                f"{path}: holds the splits {', '.join(splits)}: all are taken together; pass the "
                "files or the folder of one to have it alone"
            )
        files += found
    return files, notices


def set_name(paths: Sequence[Path]) -> str:
    """What a set that lies at ``paths`` is called."""
    path = paths[0]
    stem = path.stem if path.suffix in (".parquet", ".arrow") else path.name
    return _NUMBERED.sub("", stem) or stem


def _in_folder(folder: Path) -> list[Path]:
    if (folder / _STATE).exists():
        return _saved(folder)
    if (folder / _SPLITS).exists():
        names = _listed(folder / _SPLITS, lambda told: told["splits"])
        return [file for name in names for file in _saved(folder / name)]
    for suffix in (".parquet", ".arrow"):
        found = [
            file
            for file in sorted(folder.rglob(f"*{suffix}"))
            if not any(is_clutter(part.encode()) for part in file.relative_to(folder).parts)
        ]
        if found:
            return found
    raise SourceError(f"{folder}: holds none: {_EXPECTED}")


def _saved(folder: Path) -> list[Path]:
    """The files of a folder that ``save_to_disk`` wrote, as it lists them."""
    state = folder / _STATE
    if _listed(state, lambda told: told.get("_indices_files") or []):
        raise SourceError(
            f"{state}: the order of its rows lies in files of its own (_indices_files), as old "
            "versions of datasets saved what was shuffled or selected: load it with datasets, call "
            "flatten_indices() and save it again"
        )
    names = _listed(state, lambda told: told["_data_files"])
    if not names:
        raise SourceError(f"{state}: lists no file, as if the data set were empty")
    return [folder / name for name in names]


def _listed(path: Path, take: Any) -> list[str]:
    """The names that a JSON file lists, none of which may lead out of its folder."""
    try:
        entries = take(read_json(path))
        names = [entry["filename"] if isinstance(entry, dict) else entry for entry in entries]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}; {_EXPECTED}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{path}: is damaged ({type(error).__name__}: {error}): fetch it again"
        ) from error
    for name in names:
        if not isinstance(name, str) or not is_plain_name(name):
            raise SourceError(
                f"{path}: lists {name!r}, which is no name of a file beside it: fetch it again"
            )
    return names


def _refuse_labels_of_folders(path: Path, files: Sequence[Path]) -> None:
    """Refuse a set cut by label, as Hive has it: the column is in no file, but in their paths."""
    for file in files:
        for part in file.relative_to(path).parts[:-1]:
            if (column := part.partition("=")[0]) != part and column.lower() in LABEL_NAMES:
                raise SourceError(
                    f"{path}: the files lie in folders such as {part!r} (Hive's partitions), which "
                    "hold their labels and are not read: write the set anew with the column "
                    f"{column!r} in its files, as pyarrow.dataset reads it with partitioning='hive'"
                )


def _split_of(file: Path, folder: Path) -> str | None:
    """The split that the name of a file, or of a folder on the way to it, speaks of."""
    for part in file.relative_to(folder).parts:
        if match := _SPLIT.fullmatch(part.removesuffix(file.suffix).removeprefix("split=")):
            return match[1].lower()
    return None
