"""Lists of a pack's records, as users and ``facepack noise`` write them: text, CSV or JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import ConfigError
from facepack.reading import decode_text, parse_json, read_bytes
from facepack.store.pack import Pack
from facepack.terminal import printable

_LISTS = ("noise", "images", "records")  # where a JSON object has its records
_KEY = re.compile(r".+/\d{10}", re.ASCII)


def read_record_list(path: Path, pack: Pack) -> np.ndarray:
    """The positions of the records that the list ``path`` names: int64 (n,), ascending.

    - text: on each line a key (``train-000/0000000012``) or a position; or, as published noise
      lists have it, ``label record_index maxP P[label]``, where the index is the position. ``#``
      begins a comment;
    - ``.csv``: with a column ``key`` or ``position``, and perhaps ``label``, which is compared;
    - ``.json``: a list of keys, positions or such rows as maps; or a map that has it under
      ``noise``, ``images`` or ``records``, and may state the ``content_id`` of its pack.

    A key counts before a position, so that a list also holds for a pack that was split off.

    Raises:
        ConfigError: the list cannot be read, or names records that the pack has not: it is of
            another pack.
    """
    try:
        rows = list(_rows(path, pack))
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"the list of records {path} cannot be read: {reason}") from error
    by_name = next((key for key, *_ in rows if key is not None and not _KEY.fullmatch(key)), None)
    if by_name is not None:
        raise ConfigError(f"the list of records {path} has {_no_record(by_name, pack)}")
    positions = np.empty(len(rows), np.int64)
    for number, (key, position, label) in enumerate(rows, start=1):
        where = f"{path}: record {number}"
        if key is not None:
            try:
                position = pack.position(key)
            except KeyError:
                raise _of_another(where, pack, f"there is no {key[:80]!r}") from None
        assert position is not None
        if not 0 <= position < len(pack):
            raise _of_another(where, pack, f"position {position} is beyond {len(pack):,} records")
        own = int(pack.labels[position])
        if label is not None and label != own:
            raise _of_another(where, pack, f"{pack.key(position)} has label {own}, not {label}")
        positions[number - 1] = position
    return np.unique(positions)


def _of_another(where: str, pack: Pack, why: str) -> ConfigError:
    return ConfigError(
        printable(f"{where}: {why} in {pack.path}: the list was made of another pack; make it anew")
    )


def _no_record(text: str, pack: Pack) -> str:
    """That ``text`` names no record, and what takes names."""
    return (
        f"{printable(text)[:80]!r}: allowed are a key (SHARD/0000000012), a position, or label "
        "record_index maxP P[label]; images and identities are left out by their names by: "
        f"facepack lmdb2lmdb {pack.path} OUT --exclude LIST"
    )


_Row = tuple[str | None, int | None, int | None]  # key, position, label


def _rows(path: Path, pack: Pack) -> Iterator[_Row]:
    data = read_bytes(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        yield from _json_rows(parse_json(data), pack, path)
        return
    text = decode_text(data)
    if suffix == ".csv":
        table = csv.DictReader(io.StringIO(text))
        if not {"key", "position"} & {*(table.fieldnames or ())}:
            raise ValueError("it has no column 'key' or 'position'")
        yield from map(_of_map, table)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.partition("#")[0].split()
        if not fields:
            continue
        try:
            yield _of_fields(fields)
        except ValueError as error:
            raise ValueError(f"line {number} is {_no_record(line, pack)}") from error


def _of_fields(fields: list[str]) -> _Row:
    if len(fields) == 1:
        return (fields[0], None, None) if "/" in fields[0] else (None, int(fields[0]), None)
    if len(fields) > 4:
        raise ValueError(f"{len(fields)} fields")
    for score in fields[2:]:
        float(score)
    return None, int(fields[1]), int(fields[0])


def _of_map(row: Mapping[str, Any]) -> _Row:
    key = row.get("key")
    if not isinstance(key, str | None):
        raise ValueError(f"the key {key!r:.80}")
    position = None if key else _number(row, "position")
    if not key and position is None:
        raise ValueError("a row has neither key nor position")
    return key or None, position, _number(row, "label")


def _number(row: Mapping[str, Any], name: str) -> int | None:
    """A whole number, as text in CSV; None where there is none."""
    value = row.get(name)
    if value is None or value == "":
        return None
    if type(value) is int or (isinstance(value, float) and value.is_integer()):
        return int(value)
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
    raise ValueError(f"the {name} {value!r:.80} is no whole number")


def _json_rows(value: Any, pack: Pack, path: Path) -> Iterator[_Row]:
    if isinstance(value, dict):
        stated = value.get("content_id")
        listed = next((value[name] for name in _LISTS if name in value), None)
        keyed = isinstance(listed, list) and all(
            isinstance(row, dict) and row.get("key") for row in listed
        )
        if stated not in (None, pack.content_id) and not keyed:
            raise _of_another(f"{path}", pack, f"it is of content {str(stated)[:32]!r}, not found")
        value = listed
    if not isinstance(value, list):
        raise ValueError(f"it has no list under any of {', '.join(_LISTS)}")
    for row in value:
        if isinstance(row, dict):
            yield _of_map(row)
        elif isinstance(row, str):
            try:
                yield _of_fields([row])
            except ValueError as error:
                raise ValueError(f"it has {_no_record(row, pack)}") from error
        elif type(row) is int:
            yield None, row, None
        else:
            raise ValueError(f"{row!r:.80} is no record")
