"""F2C: training against a dynamic pool of class features that a momentum network makes.

Wang et al., "An Efficient Training Approach for Very Large Scale Face Recognition", CVPR 2022. How
it trains, what it costs and how to read its loss: docs/f2c.md.
"""

from facepack.train.methods.f2c.lru import LRU
from facepack.train.methods.f2c.method import F2C

__all__ = ["F2C", "LRU"]
