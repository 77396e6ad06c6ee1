"""Which columns of a table are the images and the labels, and what its labels stand for.

``datasets`` describes columns in JSON under the schema's key ``huggingface``: an Image column is a
``struct<bytes: binary, path: string>``, a ClassLabel an integer with a list of names. Where nothing
is described, the columns' types and names must tell.

Source: datasets 5.2.0, ``features/image.py``, ``features/features.py``, ``arrow_dataset.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from facepack.convert.formats.parquet.engine import arrow
from facepack.convert.formats.parquet.tables import BYTES, PATH, Fields
from facepack.convert.label_names import LABEL_NAMES
from facepack.errors import ConfigError, SourceError

_SAME = ("is_same", "issame", "same", "is_match", "match")
_LABELS = (*LABEL_NAMES, "id", *_SAME)
_NAMES_OF_SAME = (*_SAME, "genuine", "mated", "positive", "true", "yes", "1")
_INDEX = "index"
_NO_LABELS = (_INDEX, "width", "height", "channels", "size")  # numbers that are usual beside images
_OPTION = {"image": "--image-column", "label": "--label-column"}
_TAKEN = {
    "image": "images are binary, or an Image of datasets: write the column anew so",
    "label": "labels are whole numbers or texts: cast the column to these",
}
_OTHERS = f"{_OPTION['image']} and {_OPTION['label']} take others"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of a set."""

    images: tuple[str, ...]  # names of those of the images: one, or two of pairs
    # of each, those that are read; none where the column itself is binary
    fields: tuple[tuple[str, ...], ...]
    label: str | None  # the name of that of the labels; None: there are no labels
    texts: bool  # whether labels are texts, each the name of an identity
    names: tuple[str, ...] | None  # of the labels, in their order, where the file has them
    # where images lie in the order of pairs, the column that numbers them, if any
    index: str | None
    pairs: bool  # whether they are a verification set
    notice: str | None  # what was found, for the user; None where all was given

    def wanted(self, *, images: bool) -> Fields:
        """What is read of a table: labels and paths, and the images with them or not."""
        paths = zip(self.images, self.fields, strict=True)
        fields: dict[str, Sequence[str]] = {
            name: own if images else [PATH] for name, own in paths if images or PATH in own
        }
        others = (self.label, self.index)
        return fields | {name: () for name in others if name is not None}


def find_columns(
    schema: Any, images: Sequence[str] = (), label: str | None = None, *, file: str
) -> Columns:
    """Find the columns of the images and labels, by their names where these are given.

    Raises:
        ConfigError: a column that was given is not there, or cannot be one.
        SourceError: none is found, or several might be.
    """
    types = arrow().types
    described = _features(schema)

    def all_that(suits: Callable[[Any], bool]) -> list[str]:
        return [field.name for field in schema if suits(field.type)]

    pictures = all_that(_holds_images)
    numbers = all_that(lambda kind: types.is_integer(kind) or types.is_boolean(kind))
    # Whole numbers and nulls are floats where they went through pandas.
    floats = all_that(types.is_floating)
    numbers += [name for name in floats if name.lower() in _LABELS or name == label]
    texts = all_that(_is_text)
    found = [_take(name, pictures, "image", schema, file) for name in images]
    if not found:
        found = [name for name in pictures if _kind(described, name) == "Image"] or [
            name for name in pictures if types.is_struct(schema.field(name).type)
        ]
        found = found or pictures
    if not found:
        raise SourceError(
            f"{file}: no column holds images, of {_listed(schema)}: expected encoded images, as an "
            "Image of datasets or plain binary; write lists and arrays of pixels anew as these"
        )
    if len(found) > 2:
        raise SourceError(
            f"{file}: {len(found)} columns may hold images, of {_listed(schema)}: name one with "
            "--image-column NAME, or two for a set of pairs"
        )
    if label is not None:
        _take(label, numbers + texts, "label", schema, file)
    else:
        classes = [name for name in numbers if _kind(described, name) == "ClassLabel"]
        likely = [name for name in numbers if name.lower() not in _NO_LABELS]
        named = _called(_LABELS, texts)
        # What is called as labels are comes before a number that is alone; a text "id" may be that
        # of an image, and no text tells whether two show one person.
        called = _called((*_SAME, *_LABELS) if len(found) == 2 else _LABELS, likely)
        called += [name for name in named if name.lower() != "id" and len(found) == 1]
        label = _likely(classes) or next(iter(called), None) or _likely(likely)
        if label is None and (len(classes) > 1 or len(likely) > 1):
            raise SourceError(
                f"{file}: several columns may be the labels, of {_listed(schema)}: name one with "
                "--label-column NAME"
            )
        label = label or next(iter(named), None)
    for name in (*found, *filter(None, [label])):
        if schema.get_field_index(name) < 0:
            raise SourceError(f"{file}: several columns are called {name!r}; rename them")
    in_order = len(found) == 1 and label is not None and label.lower() in _SAME
    pairs = len(found) == 2 or in_order
    if pairs and (label is None or label in texts):
        raise SourceError(
            f"{file}: two columns of images are a set of pairs, which needs a column of 0 and 1 "
            f"(1: one person), and of {_listed(schema)} none is: name it with --label-column NAME, "
            "or take the images of one column with --image-column NAME"
        )
    names = _class_names(described, label)
    if pairs and names and names[0].lower() in _NAMES_OF_SAME:
        raise SourceError(
            f"{file}: of the column {label!r} 0 is called {names[0]!r}: expected 1 for one person, "
            "0 for two; write the column anew so"
        )
    columns = f"column{'s' * (len(found) > 1)} {' and '.join(map(repr, found))}"
    told = [f"images are taken from the {columns}"] * (not images)
    others = [name for name in _called(_LABELS, schema.names) if name not in numbers + texts]
    without = f"no column has labels (not {', '.join(map(repr, others))}: {_TAKEN['label']})"
    told += [f"labels from {label!r}" if label else without if others else "no column has labels"]
    return Columns(
        images=tuple(found),
        fields=tuple(_fields_of(schema.field(name).type) for name in found),
        label=label,
        texts=label in texts,
        names=None if pairs else names,
        index=_INDEX if in_order and _INDEX in numbers else None,
        pairs=pairs,
        notice=f"{file}: {', '.join(told)} (of {_listed(schema)}): {_OTHERS}",
    )


def _take(name: str, allowed: Sequence[str], what: str, schema: Any, file: str) -> str:
    if name not in allowed:
        why = f"is of another type ({_TAKEN[what]})" if name in schema.names else "is not there"
        raise ConfigError(
            f"{_OPTION[what]} {name}: the column of {what}s {why}; those of {file}: "
            f"{_listed(schema)}"
        )
    return name


def _likely(names: Sequence[str]) -> str | None:
    """The one of ``names`` that labels are called by, or the only one."""
    known = _called(_LABELS, names)
    return known[0] if known else names[0] if len(names) == 1 else None


def _called(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are called so, in whatever case, in the order of ``known``."""
    return [name for each in known for name in names if name.lower() == each]


def _holds_images(kind: Any) -> bool:
    types = arrow().types
    if types.is_struct(kind):
        return any(field.name == BYTES and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _fields_of(kind: Any) -> tuple[str, ...]:
    if not arrow().types.is_struct(kind):
        return ()
    has_path = any(field.name == PATH and _is_text(field.type) for field in kind)
    return (BYTES, PATH) if has_path else (BYTES,)


def _is_binary(kind: Any) -> bool:
    types = arrow().types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    types = arrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _listed(schema: Any) -> str:
    """The columns and their types, for messages."""
    shown = [f"{field.name!r} {str(field.type)[:60]}" for field in schema][:20]
    return ", ".join(shown) if shown else "none at all"


def _features(schema: Any) -> dict[str, Any]:
    """What ``datasets`` says of the columns, by name; empty where it says nothing."""
    try:
        told = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _kind(described: dict[str, Any], name: str) -> str | None:
    feature = described.get(name)
    kind = feature.get("_type") if isinstance(feature, dict) else None
    return kind if isinstance(kind, str) else None


def _class_names(described: dict[str, Any], label: str | None) -> tuple[str, ...] | None:
    if label is None or _kind(described, label) != "ClassLabel":
        return None
    names = described[label].get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def are_numbers(names: Sequence[str]) -> bool:
    """Whether the names of labels are these labels, as ``ClassLabel(num_classes=n)`` has them."""
    return all(name == str(label) for label, name in enumerate(names))
