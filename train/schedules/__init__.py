"""Learning-rate schedules, by formula or by watching the loss; one idea a module.

A new schedule is a module with a class under :func:`register` and a line here.
"""

from facepack.train.schedules import fastface, fixed, guarded, mhlr  # noqa: F401  (they register)
from facepack.train.schedules.base import Schedule
from facepack.train.schedules.registry import build_schedule, names, option_names, register

__all__ = ["Schedule", "build_schedule", "names", "option_names", "register"]
