"""The margins by name, and what the head asks of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch

from facepack.errors import ConfigError
from facepack.settings import Settings, check_choice, make_settings
from facepack.train.heads.margins.losses import ClassLoss, Softmax

State = Mapping[str, torch.Tensor]
"""A margin's own numbers, each a scalar tensor."""


@dataclass(frozen=True, kw_only=True)
class Own:
    """What a margin may know of the faces of a micro-batch, those of all ranks."""

    cosines: torch.Tensor
    """(B,) to the own classes, in [−1, 1]. Where the class is another rank's, only a margin that
    ``needs`` ``cosines`` is given it; others get some value, of which nothing comes."""
    norms: torch.Tensor
    """(B,), the norms of the embeddings; ones for a margin that does not need them."""
    normals: torch.Tensor
    """(B,), N(0, 1), drawn by record and step; zeros for a margin that does not need them."""
    step: int
    """Optimizer steps before this one."""
    state: State


class Margin(Settings, ABC):
    """Base of the margins: a frozen dataclass whose fields are the options.

    To make one of options that are not allowed is a :class:`ConfigError`, as of all settings.
    A margin that needs more than the cosine to the own class says in ``needs`` what that is; one
    that needs nothing else is a :class:`CosineMargin`. All methods are pure functions of tensors.
    """

    needs: ClassVar[frozenset[Literal["cosines", "norms", "normals"]]] = frozenset()
    """``cosines``: to the own class, on every rank. ``norms``: of the embeddings. ``normals``:
    random numbers."""

    norms_have_gradient: ClassVar[bool] = False
    """Whether the loss pulls at the norms themselves."""

    learned: ClassVar[tuple[str, ...]] = ()
    """Numbers of the state that the optimizer of the centres moves, with their gradient."""

    @property
    def centres_per_class(self) -> int:
        """K: the cosine to a class is the largest of its centres'."""
        return 1

    def class_loss(self, scale: float) -> ClassLoss:
        """What the logits go to."""
        return Softmax()

    def arrange(self, own: Own, weights: torch.Tensor) -> torch.Tensor:
        """Which face has which of the random numbers (B,); ``weights`` as of :meth:`observe`."""
        return own.normals

    @abstractmethod
    def lower(self, own: Own) -> torch.Tensor:
        """Lower the cosines (B,) to the own classes; differentiable in cosines and norms."""

    def change_others(
        self, cosines: torch.Tensor, lowered: torch.Tensor, state: State
    ) -> torch.Tensor:
        """What becomes of the cosines (B×n) to other classes; ``lowered`` (B×1) is a constant.

        Each is changed by itself. The column of the own class is overwritten afterwards.
        """
        return cosines

    @property
    def changes_others(self) -> bool:
        """Whether :meth:`change_others` does anything."""
        return type(self).change_others is not Margin.change_others

    def scale(self, own: Own, scale: float) -> torch.Tensor | float:
        """The factor on all cosines: ``scale``, or one for each face (B,)."""
        return scale

    @property
    def scales_by_face(self) -> bool:
        """Whether :meth:`scale` is another one for each face."""
        return False

    def offset(self, state: State) -> torch.Tensor | None:
        """What is taken from all logits of a loss that is no softmax: a scalar."""
        return None

    def penalty(self, norms: torch.Tensor) -> torch.Tensor | None:
        """What each face (n,) adds to the loss by the norm of its embedding."""
        return None

    def initial_state(self, classes: int, sample_rate: float) -> dict[str, float]:
        """The state before the first step."""
        return {}

    def observe(self, own: Own, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """What changes in the state, before it is used, with a micro-batch that is trained on.

        Cosines and norms are without gradient, ``weights`` (B,) 1 over the number of faces, and 0
        for rows that are none.
        """
        return {}


class CosineMargin(Margin):
    """Base of the margins that depend on nothing but the cosine to the own class."""

    @abstractmethod
    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,) to the own classes; same shape and dtype, differentiable."""

    def lower(self, own: Own) -> torch.Tensor:
        """:meth:`apply`."""
        return self.apply(own.cosines)


MarginType = TypeVar("MarginType", bound=type[Margin])

MARGINS: dict[str, type[Margin]] = {}
"""The class of each."""

_RUN_SETTINGS: dict[str, dict[str, str]] = {}


def register(name: str, **run_settings: str) -> Callable[[MarginType], MarginType]:
    """Class decorator: file a :class:`Margin`, a frozen dataclass, under ``name``.

    ``run_settings`` says which options can be set by a setting that margins share, as in
    ``m2="margin"``: m1, m2, m3 and margin_gradient. All can be set by ``margin_options``.
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
    return make_settings(MARGINS[name], options, f"margin {name}")


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
