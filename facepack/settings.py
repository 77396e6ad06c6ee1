"""What settings may be: declared by their types, and checked, read from text and listed in one way.

A setting is a field of a frozen dataclass that derives from :class:`Settings`, or an argument that
goes through :func:`check`. Its type says what it may be: ``int``, ``float`` (finite), ``bool``,
``str`` (not empty), ``dict`` (a table), a ``Literal`` of texts, a ``tuple`` of these, a union; a
:class:`Range` in ``Annotated`` bounds the numbers. Of other types nothing is checked.

    @dataclass(frozen=True, kw_only=True)
    class Options(Settings):
        window: Annotated[int, Range(low=2)] | None = None
        unit: Literal["epochs", "steps"] = "epochs"
"""

from __future__ import annotations

import ast
import inspect
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from numbers import Integral, Real
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from facepack.errors import ConfigError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a number; ``low`` and ``high`` belong to it, ``above`` and ``below`` do not."""

    low: float = -math.inf
    above: float = -math.inf
    below: float = math.inf
    high: float = math.inf
    text: str = ""  # how a message says it, where the bounds alone do not

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        if self.text:
            return self.text
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"from {self.low:,} to {self.high:,}"
        bounds = {
            "above": self.above,
            "at least": self.low,
            "below": self.below,
            "at most": self.high,
        }
        return " and ".join(f"{word} {x:,}" for word, x in bounds.items() if math.isfinite(x))


Count = Annotated[int, Range(low=1)]
Fraction = Annotated[float, Range(low=0, high=1)]


def check(name: str, value: Any, kind: Any) -> Any:
    """``value``, if the type ``kind`` allows it, as the plain Python value of that type.

    Raises:
        ConfigError: names the setting, what was given and what is allowed.
    """
    return _check(name, value, _members(kind))


def _check(name: str, value: Any, members: tuple[_Member, ...]) -> Any:
    for member in members:
        if member.takes(value):
            return member.plain(name, value)
    if value == "" and any(member.base is str for member in members):
        raise ConfigError(f"{name} is empty")
    choices = [str(choice) for member in members for choice in member.choices]
    near = did_you_mean(value, choices) if isinstance(value, str) else ""
    allowed = " or ".join(str(member) for member in members if member.base is not None)
    raise ConfigError(f"{name} = {value!r} is not {allowed}{near}")


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse ``value`` unless it is among ``allowed``, which no type says.

    Raises:
        ConfigError: as :func:`check`.
    """
    _check(name, value, (_Member(Literal, choices=tuple(allowed)),))


class Settings:
    """Base of frozen dataclasses that check their fields, each by its type.

    Raises:
        ConfigError: as :func:`check`.
    """

    def __post_init__(self) -> None:
        for name, kind in kinds(type(self)).items():
            object.__setattr__(self, name, check(name, getattr(self, name), kind))


SettingsType = TypeVar("SettingsType")


def make_settings(cls: type[SettingsType], values: Mapping[str, Any], owner: str) -> SettingsType:
    """An instance of the dataclass ``cls`` with ``values``, of which nothing is known yet.

    Raises:
        ConfigError: a value has no field of its name or is not allowed; begins with ``owner``.
    """
    known = kinds(cls)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"{owner}: unknown setting {name!r}{did_you_mean(name, known)}; allowed: "
                f"{', '.join(known) or 'none'}"
            )
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{owner}: {error}") from None


def kinds(cls: Any) -> dict[str, Any]:
    """The type of each field of a dataclass, by its name."""
    return _kinds(cls)


@cache  # which takes no class where types are checked
def _kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def is_table(kind: Any) -> bool:
    """Whether values of the type are tables, whose entries are set one by one."""
    return any(member.base is dict for member in _members(kind))


def few_values(kind: Any) -> list[str]:
    """What a text of a command line may be for the type, where that is few words; else nothing."""
    bools = [
        value for member in _members(kind) if member.base is bool for value in ("true", "false")
    ]
    return [*bools, *(str(value) for member in _members(kind) for value in member.choices)]


def parse(name: str, text: str, kind: Any) -> Any:
    """The value that a ``text`` of a command line means, of a type of plain values.

    Raises:
        ConfigError: it means none.
    """
    members = _members(kind)
    for member in members:
        if member.base is None and text.lower() == "none":
            return None
        if member.base is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if member.base in (int, float):
            try:
                return member.base(text)
            except ValueError:
                continue
    if not any(member.base in (str, Literal) for member in members):
        return check(name, text, kind)  # which refuses it
    return text


def describe(cls: Any) -> list[tuple[str, str]]:
    """``("name = default", help text)`` of every setting, from the docstrings under the fields."""
    documented = _documentation(cls)
    return [(f"{field.name}{_default(field)}", documented[field.name]) for field in fields(cls)]


def _default(field: Field[Any]) -> str:
    value = {} if field.default_factory is not MISSING else field.default
    if value is None or value is MISSING:
        return ""
    if isinstance(value, bool):
        return f" = {str(value).lower()}"
    return " = {}" if value == {} else f" = {value}"


@cache
def _documentation(cls: type) -> dict[str, str]:
    """The docstring under each field, also of those that are inherited."""
    texts = {}
    for base in reversed(cls.__mro__[:-1]):
        tree = ast.parse(inspect.getsource(base)).body[0]
        assert isinstance(tree, ast.ClassDef)
        for statement, following in zip(tree.body, tree.body[1:], strict=False):
            match statement, following:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = " ".join(text.split())
    return texts


# Types taken apart ---------------------------------------------------------------------------

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a table",
}
_ANYTHING = object


class _Member(NamedTuple):
    """One of the types that a union consists of."""

    base: Any  # int, float, bool, str, dict, tuple, Literal, None for None, or _ANYTHING
    choices: tuple[Any, ...] = ()  # of a Literal
    items: tuple[Any, ...] = ()  # of a tuple, the types of its items
    range: Range | None = None

    def takes(self, value: Any) -> bool:
        """Whether the value is of this type, in range or not."""
        base = self.base
        if base is None:
            return value is None
        if base is Literal:
            return value in self.choices
        if base is tuple:
            return isinstance(value, list | tuple) and len(value) == len(self.items)
        if base in (int, float):
            # bool is an int in Python; for a setting it is not. NumPy's integers are integers.
            number = Integral if base is int else Real
            return isinstance(value, number) and not isinstance(value, bool)
        if base is str:
            return isinstance(value, str) and value != ""
        return isinstance(value, base)

    def plain(self, name: str, value: Any) -> Any:
        """The value, which this type takes, as int, float, … itself; refuses it out of range."""
        if self.base is tuple:
            items = zip(value, self.items, strict=True)
            return tuple(check(f"{name}[{at}]", *item) for at, item in enumerate(items))
        if self.base is float and not math.isfinite(value):
            raise ConfigError(f"{name} = {value} is not a finite number")
        if self.range is not None and value not in self.range:
            raise ConfigError(f"{name} = {value} is not allowed: it must be {self.range}")
        return self.base(value) if self.base in (int, float, dict) else value

    def __str__(self) -> str:
        if self.base is Literal:
            several = len(self.choices) > 1
            return "one of " * several + ", ".join(map(str, self.choices))
        if self.base is tuple:
            return f"a list of {len(self.items)}"
        return f"{_NAMES[self.base]} {self.range}" if self.range else _NAMES[self.base]


@cache
def _members(kind: Any) -> tuple[_Member, ...]:
    origin, parameters = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner, limits = parameters
        return tuple(member._replace(range=limits) for member in _members(inner))
    if origin in (Union, types.UnionType):
        return tuple(member for part in parameters for member in _members(part))
    if kind is type(None):
        return (_Member(None),)
    if origin is Literal:
        return (_Member(Literal, choices=parameters),)
    if origin is tuple and ... not in parameters:
        return (_Member(tuple, items=parameters),)
    base = origin or kind
    return (_Member(base if base in _NAMES else _ANYTHING),)
