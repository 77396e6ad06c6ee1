"""Finding which LMDB database belongs to which kv file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from facepack import lfs
from facepack.convert.formats.kv.data import DATA, KvData, is_data_file
from facepack.errors import SourceError
from facepack.store import format as fmt

_KV_ENDS = (".kv", "_kv.txt")  # the second as F2C's tool calls it
_OWN_KEYS = (b"__keys__", b"__len__")  # of databases that list their own records
_EXPECTED = (
    "expected folders with NAME.lmdb beside NAME.kv, or a database and its kv file, one behind the "
    "other"
)


class KvPair(NamedTuple):
    """The LMDB data file and the kv file of a set."""

    data: Path
    kv: Path


def find_pairs(paths: Sequence[Path]) -> list[KvPair]:
    """The pairs that ``paths`` stand for, in their order.

    A path is a folder that holds pairs (``faces.lmdb`` beside ``faces.kv``), or a database (a
    folder with ``data.mdb``, or a data file) and the next one its kv file, or the other way round.
    A database alone has its kv file beside it, or inside as F2C's tool leaves it
    (``NAME_kv.txt``).

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
        raise SourceError(f"{error.filename}: cannot be read: {error.strerror}") from error
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


def _kv_of(database: Path) -> Path:
    """The kv file of a database that is given without."""
    if database.name == DATA:
        database = database.parent
    stems = dict.fromkeys([database.stem, database.name])
    beside = [database.with_name(stem + end) for stem in stems for end in _KV_ENDS]
    found = [path for path in beside if path.is_file()]
    if database.is_dir():
        found += sorted(path for path in database.iterdir() if path.name.endswith(_KV_ENDS))
    if not found and (foreign := _of_others(database)):
        raise SourceError(f"{database}: {foreign}")
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise SourceError(
            f"{database}: expected one kv file, {database.stem}.kv beside it, and found {names}: "
            "pass the kv file behind the database, with lines of key and label (labels inside the "
            "records are not read)"
        )
    return found[0]


def _of_others(database: Path) -> str | None:
    """What a database is that is known to need no kv file; None if it may be F2C's.

    Raises:
        SourceError: it is damaged, or of LMDB 1.0.
    """
    data = database / DATA if database.is_dir() else database
    with KvData.look(data).open() as reader:
        sizes = reader.sizes([fmt.META, *_OWN_KEYS])
    if sizes[0] is not None:
        return "is a shard of a pack: convert the pack's folder with an lmdb2… command"
    if any(size is not None for size in sizes[1:]):
        return (
            f"holds {' or '.join(key.decode() for key in _OWN_KEYS)}, as databases of other "
            "trainers do whose records are images with their labels, in msgpack or pickled: these "
            "are not read; write the images to a tree identity/image.jpg with the program that "
            "reads it, and convert that with an img2… command"
        )
    return None
