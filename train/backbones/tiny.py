"""A small residual network to train on a CPU, built like IResNet from a coarser start.

There, high resolution is what costs, in normalisation and activation as much as in convolution. So
a strided 8×8 stem takes 112×112 to 28×28 at once, and a block strides in its first convolution.
"""

from __future__ import annotations

import torch
from torch import nn

from facepack.train.backbones.iresnet import frozen_scale_bn, shortcut
from facepack.train.backbones.registry import Backbone, register

_STEM = 32
_MIDDLE = 64
_TOP = 128
_FINAL_SIDE = 7


class TinyBlock(nn.Module):
    """BN, conv 3×3 of stride 2, BN, PReLU, conv 3×3, BN; added to the shortcut."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.shortcut = shortcut(width_in, width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H/2×W/2."""
        return self.residual(x) + self.shortcut(x)


@register("tiny")
class Tiny(Backbone):
    """Stem to 32×28×28, blocks to 64×14×14 and 128×7×7, an embedding layer on the last map."""

    def __init__(self, features: int, dropout: float, autocast: torch.dtype | None) -> None:
        super().__init__(features, autocast)
        self.stem = nn.Sequential(
            nn.Conv2d(3, _STEM, 8, stride=4, padding=2, bias=False),
            nn.BatchNorm2d(_STEM),
            nn.PReLU(_STEM),
        )
        self.blocks = nn.Sequential(TinyBlock(_STEM, _MIDDLE), TinyBlock(_MIDDLE, _TOP))
        self.bn = nn.BatchNorm2d(_TOP)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(_TOP * _FINAL_SIDE**2, features)
        self.features = frozen_scale_bn(features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×6272, dropout applied."""
        x = self.bn(self.blocks(self.stem(images)))
        return self.dropout(torch.flatten(x, 1))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×6272 to N×F."""
        return self.features(self.fc(hidden))
