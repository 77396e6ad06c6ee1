"""Learning-rate schedules, by formula or by watching the loss; one idea a module.

A new one is a module of this folder with a class under :func:`register`: every module here is
imported.
"""

import pkgutil
from importlib import import_module

from facepack.train.schedules.base import Schedule
from facepack.train.schedules.plan import RunPlan
from facepack.train.schedules.registry import (
    build_schedule,
    make_for_run,
    names,
    option_names,
    register,
)

__all__ = [
    "RunPlan",
    "Schedule",
    "build_schedule",
    "discover",
    "make_for_run",
    "names",
    "option_names",
    "register",
]


def discover() -> None:
    """Import every module of this folder, so that its schedules are registered."""
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")


discover()
