"""Networks from an aligned face to an embedding, built by name.

A new one is a module of this folder whose builder is decorated with :func:`register`: every module
here is imported, so nothing else names it. Code elsewhere may register its own before it builds.
"""

import pkgutil
from importlib import import_module

from facepack.train.backbones.registry import Backbone, build, names, register, skeleton

__all__ = ["Backbone", "build", "discover", "names", "register", "skeleton"]


def discover() -> None:
    """Import every module of this folder, so that its backbones are registered."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
