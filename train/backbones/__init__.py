"""Networks from an aligned face to an embedding, built by name.

A new one is a module that decorates its builder with :func:`register`, imported below.
"""

from facepack.train.backbones import iresnet, mobilefacenet, tiny  # noqa: F401
from facepack.train.backbones.registry import Backbone, build, names, register

__all__ = ["Backbone", "build", "names", "register"]
