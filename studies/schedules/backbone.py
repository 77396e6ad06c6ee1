"""The network of part a, small: a run of five epochs takes half a minute of one CPU core.

Most of what a small network costs on a CPU is its first maps. This one takes 112×112 to 14×14 at
once, a quarter of what facepack's ``tiny`` starts from, and has one residual block.
"""

from __future__ import annotations

import torch
from torch import nn

from facepack.train.backbones.iresnet import frozen_scale_bn
from facepack.train.backbones.registry import Backbone, register
from facepack.train.backbones.tiny import TinyBlock

_STEM = 32
_TOP = 64
_SIDE = 7


class Patches(Backbone):
    """Patches of 8×8 pixels to 32×14×14, a block to 64×7×7, an embedding layer.

    Args:
        features: length of an embedding.
        dropout: share of the flattened map set to zero in training.
        autocast: reduced precision of all layers up to dropout.
    """

    def __init__(self, features: int, dropout: float, autocast: torch.dtype | None) -> None:
        super().__init__(features, autocast)
        self.stem = nn.Sequential(
            nn.Conv2d(3, _STEM, 8, stride=8, bias=False), nn.BatchNorm2d(_STEM), nn.PReLU(_STEM)
        )
        self.block = TinyBlock(_STEM, _TOP)
        self.bn = nn.BatchNorm2d(_TOP)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(_TOP * _SIDE**2, features)
        self.features = frozen_scale_bn(features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×3136, dropout applied."""
        return self.dropout(torch.flatten(self.bn(self.block(self.stem(images))), 1))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×3136 to N×F."""
        return self.features(self.fc(hidden))


@register("patches")
def _patches(features: int, dropout: float, autocast: torch.dtype | None) -> Patches:
    return Patches(features, dropout, autocast)
