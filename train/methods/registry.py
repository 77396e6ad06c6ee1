"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from facepack.settings import check_choice, make_settings
from facepack.train.methods.method import Method

MethodType = TypeVar("MethodType", bound=type[Method])

_METHODS: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[MethodType], MethodType]:
    """Class decorator: file a :class:`Method`, a frozen dataclass, under ``name``."""

    def add(method: MethodType) -> MethodType:
        if name in _METHODS:
            raise ValueError(f"a method is already registered as {name!r}")
        _METHODS[name] = method
        return method

    return add


def build_method(name: str, options: Mapping[str, Any] | None) -> Method:
    """The method ``name`` with settings of its own.

    Raises:
        ConfigError: there is no such method, or a setting is unknown or out of range: names it.
    """
    check_choice("method", name, sorted(_METHODS))
    return make_settings(_METHODS[name], options or {}, f"method {name}")
