"""Unequal training of long-tailed, noisy data: head, denoising, tail."""

from facepack.train.methods.unequal.method import Unequal

__all__ = ["Unequal"]
