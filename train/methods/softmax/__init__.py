"""Margin softmax over class centres, of which each step uses all or a sample."""

from facepack.train.methods.softmax.method import Softmax

__all__ = ["Softmax"]
