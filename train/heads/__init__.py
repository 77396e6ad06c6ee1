"""The classification head: a margin softmax over class centres of which a sample is used."""

from facepack.train.heads.margins import (
    ArcFace,
    Combined,
    CosFace,
    Margin,
    build_margin,
    options_from_run,
)
from facepack.train.heads.partial_fc import PartialFC, check_labels

__all__ = [
    "ArcFace",
    "Combined",
    "CosFace",
    "Margin",
    "PartialFC",
    "build_margin",
    "check_labels",
    "options_from_run",
]
