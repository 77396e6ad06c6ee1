"""The margins by name, and what the head asks of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch

from facepack.errors import ConfigError
from facepack.settings import Settings, check_choice, make_settings


class Margin(Protocol):
    """What Partial FC asks of a margin."""

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,) to the own classes; same shape and dtype, differentiable."""
        ...


MarginType = TypeVar("MarginType", bound=type[Settings])

MARGINS: dict[str, type[Any]] = {}
"""The class of each."""

_RUN_SETTINGS: dict[str, dict[str, str]] = {}


def register(name: str, **run_settings: str) -> Callable[[MarginType], MarginType]:
    """Class decorator: file a margin under ``name``.

    The class is a frozen dataclass that derives from :class:`~facepack.settings.Settings`, its
    fields being the margin's options, with the ``apply`` of :class:`Margin`. ``run_settings`` says
    which options can be set by a setting that margins share, as in ``m2="margin"``: m1, m2, m3 and
    margin_gradient. All options can be set by ``margin_options``.
    """

    def add(margin: MarginType) -> MarginType:
        if name in MARGINS:
            raise ValueError(f"a margin is already registered as {name!r}")
        MARGINS[name], _RUN_SETTINGS[name] = margin, run_settings
        return margin

    return add


def build_margin(name: str, **options: Any) -> Margin:
    """Build a margin by name; the options are the fields of its class.

    Raises:
        ConfigError: the name or an option is unknown, or an option is out of range.
    """
    check_choice("margin", name, sorted(MARGINS))
    margin: Margin = make_settings(MARGINS[name], options, f"margin {name}")
    return margin


def options_from_run(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a margin that the settings ``given``, which margins share, stand for.

    Raises:
        ConfigError: the margin is unknown, or one of the settings is not for it.
    """
    check_choice("margin", name, sorted(MARGINS))
    own = _RUN_SETTINGS[name]
    for setting in given:
        if setting not in own:
            raise ConfigError(
                f"{setting} is set, but margin = {name} takes only "
                f"{', '.join([*own, 'margin_options'])}"
            )
    return {own[setting]: value for setting, value in given.items()}
