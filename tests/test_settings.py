"""What settings may be: types, ranges, choices, texts; and what the errors say."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from facepack.errors import ConfigError
from facepack.settings import (
    Count,
    Fraction,
    Range,
    Settings,
    check,
    check_choice,
    describe,
    is_table,
    make_settings,
    parse,
)


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    window: Annotated[int, Range(low=2)] | None = None
    """Losses averaged."""
    threshold: Annotated[float, Range(low=0)] | Literal["auto"] = "auto"
    """What counts
    as little."""
    table: dict[str, Any] | None = None
    """A table."""


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (np.int64(3), int, 3),
        (3, float, 3.0),
        (np.float32(0.5), Fraction, 0.5),
        (None, Count | None, None),
        ("auto", float | Literal["auto"], "auto"),
        ([40, np.int32(48)], tuple[Count, Count], (40, 48)),
        ({"a": 1}, dict[str, int], {"a": 1}),
        (True, bool, True),
        (len, "a type that is not looked at", len),
    ],
)
def test_what_is_allowed_becomes_plain(value: object, kind: Any, expected: object) -> None:
    actual = check("x", value, kind)
    assert actual == expected
    assert type(actual) is type(expected)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, int, "x = True is not a whole number"),
        (1.0, Count, "x = 1.0 is not a whole number at least 1"),
        (0, Count, "x = 0 is not allowed: it must be at least 1"),
        (1.5, Fraction, "x = 1.5 is not allowed: it must be from 0 to 1"),
        (math.inf, float, "x = inf is not a finite number"),
        ("", str, "x is empty"),
        (None, str, "x = None is not a text"),
        (1, bool, "x = 1 is not true or false"),
        ("fp61", Literal["fp32", "fp16"], "'fp61' is not one of fp32, fp16 (did you mean fp16"),
        ("aut", float | Literal["auto"], "x = 'aut' is not a number or auto (did you mean auto?)"),
        (3, tuple[int, int], "x = 3 is not a list of 2"),
        ((3, "4"), tuple[int, int], "x[1] = '4' is not a whole number"),
        ("a", dict[str, int], "x = 'a' is not a table"),
    ],
)
def test_what_is_not_allowed_is_named(value: object, kind: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check("x", value, kind)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "text"),
    [
        (Range(low=1), [1, 2], [0], "at least 1"),
        (Range(above=0), [1e-300], [0.0], "above 0"),
        (Range(low=0, below=1), [0.0, 0.999], [-1e-9, 1.0], "at least 0 and below 1"),
        (Range(above=0, high=1), [1e-9, 1.0], [0, 1.1], "above 0 and at most 1"),
        (Range(low=1, high=65536), [1, 65536], [0, 65537], "from 1 to 65,536"),
        (Range(low=0, text="a count, or 0"), [0], [-1], "a count, or 0"),
    ],
)
def test_ranges(limits: Range, inside: list[float], outside: list[float], text: str) -> None:
    assert all(value in limits for value in inside)
    assert not any(value in limits for value in outside)
    assert str(limits) == text


def test_choices_that_no_type_says() -> None:
    check_choice("x", None, (None, "b"))
    with pytest.raises(ConfigError, match="x = 'c' is not one of a, b"):
        check_choice("x", "c", ["a", "b"])
    with pytest.raises(ConfigError, match=r"x = '12' is not one of None, 123 .did you mean 123"):
        check_choice("x", "12", (None, 123))


def test_settings_check_their_fields_and_stay_as_they_are() -> None:
    assert Options(window=3, threshold=1) == Options(window=3, threshold=1.0)
    with pytest.raises(ConfigError, match="window = 1 is not allowed: it must be at least 2"):
        Options(window=1)
    with pytest.raises(FrozenInstanceError):
        Options().window = 3  # type: ignore[misc]


def test_settings_of_unknown_names() -> None:
    assert make_settings(Options, {"window": 2}, "mine") == Options(window=2)
    with pytest.raises(ConfigError, match=r"mine: unknown setting 'windw' .*window.*: window, thr"):
        make_settings(Options, {"windw": 2}, "mine")
    with pytest.raises(ConfigError, match="mine: threshold = -1 is not allowed"):
        make_settings(Options, {"threshold": -1}, "mine")


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("7", int, 7),
        ("1e-3", float | None, 1e-3),
        ("None", float | None, None),
        ("none", str, "none"),
        ("TRUE", bool, True),
        ("auto", float | Literal["auto"], "auto"),
        ("0.5", float | Literal["auto"], 0.5),
    ],
)
def test_texts_are_read_by_type(text: str, kind: Any, value: object) -> None:
    assert parse("x", text, kind) == value
    assert type(parse("x", text, kind)) is type(value)


def test_texts_that_mean_nothing() -> None:
    with pytest.raises(ConfigError, match=r"x = '1\.5' is not a whole number"):
        parse("x", "1.5", int)
    with pytest.raises(ConfigError, match="x = 'yes' is not true or false"):
        parse("x", "yes", bool)


def test_description_comes_from_the_docstrings() -> None:
    assert describe(Options) == [
        ("window", "Losses averaged."),
        ("threshold = auto", "What counts as little."),
        ("table", "A table."),
    ]
    assert is_table(dict[str, Any] | None) and not is_table(int)


def test_neither_numpy_nor_torch_is_imported() -> None:
    code = "import sys, facepack.settings as _; sys.exit(bool({'numpy', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
