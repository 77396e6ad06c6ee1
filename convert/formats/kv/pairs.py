"""Finding which LMDB database belongs to which kv file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facepack import lfs
from facepack.convert.formats.kv.data import DATA, is_data_file
from facepack.convert.source_file import cannot_read
from facepack.errors import SourceError
from facepack.store import format as fmt

_KV_ENDS = (".kv", "_kv.txt")  # the second as F2C's tool calls it
_EXPECTED = (
    "expected folders with NAME.lmdb beside NAME.kv, or a database and its kv file, one behind the "
    "other, or a database whose records hold their labels"
)


class KvPair(NamedTuple):
    """The LMDB data file and the kv file of a set; None: its records hold their own labels."""

    data: Path
    kv: Path | None


def find_pairs(paths: Sequence[Path]) -> list[KvPair]:
    """The pairs that ``paths`` stand for, in their order.

    A path is a folder that holds pairs (``faces.lmdb`` beside ``faces.kv``), or a database (a
    folder with ``data.mdb``, or a data file) and the next one its kv file, or the other way round.
    A database alone has its kv file beside it, or inside as F2C's tool leaves it
    (``NAME_kv.txt``); or none, where its records hold their own labels.

    Raises:
        SourceError: something has no counterpart, or several, or is neither.
    """
    pairs: list[KvPair] = []
    rest = list(paths)
    try:
        while rest:
            path = rest.pop(0)
            data, other = _data_file(path), _data_file(rest[0]) if rest else None
            if data is not None:
                explicit = rest and rest[0].is_file() and other is None
                pairs.append(KvPair(data, rest.pop(0) if explicit else _kv_of(path)))
            elif path.is_dir():
                pairs += _pairs_in(path)
            elif not path.exists():
                raise SourceError(f"{path}: is not there; check the name")
            elif other is not None:
                pairs.append(KvPair(other, path))
                del rest[0]
            else:
                lfs.require_content(path, SourceError)
                raise SourceError(f"{path}: is no LMDB database, and none follows it: {_EXPECTED}")
    except OSError as error:
        raise cannot_read(error.filename, error) from error
    if not pairs:
        raise SourceError(f"no path is given: {_EXPECTED}")
    return pairs


def _data_file(path: Path) -> Path | None:
    """The data file of a database; None if ``path`` is none."""
    if path.is_dir():
        return path / DATA if (path / DATA).is_file() else None
    return path if is_data_file(path) else None


def _pairs_in(folder: Path) -> list[KvPair]:
    if (folder / fmt.MANIFEST).exists():
        raise SourceError(f"{folder}: is a pack of facepack: convert it with an lmdb2… command")
    found = []
    for path in sorted(folder.iterdir()):
        data = _data_file(path)
        if data is not None:
            found.append(KvPair(data, _kv_of(path)))
    if not found:
        for path in filter(Path.is_file, sorted(folder.iterdir())):
            lfs.require_content(path, SourceError)
        raise SourceError(f"{folder}: holds no LMDB database: {_EXPECTED}")
    return found


def _kv_of(database: Path) -> Path | None:
    """The kv file of a database that is given without; None if it has none.

    Raises:
        SourceError: there are several.
    """
    if database.name == DATA:
        database = database.parent
    stems = dict.fromkeys([database.stem, database.name])
    beside = [database.with_name(stem + end) for stem in stems for end in _KV_ENDS]
    found = [path for path in beside if path.is_file()]
    if database.is_dir():
        found += sorted(path for path in database.iterdir() if path.name.endswith(_KV_ENDS))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{database}: found {names}: {one_kv_file(database)}")
    return found[0] if found else None


def one_kv_file(database: Path) -> str:
    """What is expected of a database whose records hold no labels of their own, and what to do."""
    return (
        f"expected one kv file, {database.stem}.kv beside it: pass the kv file behind the "
        "database, with lines of key and label"
    )
