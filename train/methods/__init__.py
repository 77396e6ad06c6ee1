"""Ways of training: what is minimised, on which batches, and what is kept beside the backbone.

A new one is a module or a folder of this folder with a class under :func:`register`: every one is
imported.
"""

import pkgutil
from importlib import import_module

from facepack.train.methods.method import Head, Method, MethodRun, Setup
from facepack.train.methods.registry import build_method, register

__all__ = ["Head", "Method", "MethodRun", "Setup", "build_method", "discover", "register"]


def discover() -> None:
    """Import every module of this folder, so that its methods are registered."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
