"""Margins: how far a face's cosine to its own class is lowered before the softmax.

One margin a module, θ being the angle between an embedding and the centre of its class. A new one
is a module of this folder with a class under :func:`register`: every module here is imported.
"""

import pkgutil
from importlib import import_module

from facepack.train.heads.margins.arcface import ArcFace
from facepack.train.heads.margins.combined import Combined
from facepack.train.heads.margins.cosface import CosFace
from facepack.train.heads.margins.registry import (
    MARGINS,
    CosineMargin,
    Margin,
    Own,
    State,
    build_margin,
    options_from_run,
    register,
)

__all__ = [
    "MARGINS",
    "ArcFace",
    "Combined",
    "CosFace",
    "CosineMargin",
    "Margin",
    "Own",
    "State",
    "build_margin",
    "discover",
    "options_from_run",
    "register",
]


def discover() -> None:
    """Import every module of this folder, so that its margins are registered."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
