"""IResNet as MagFace's repository has it: other pixels, other batch normalisation, the same keys.

It takes BGR from 0 to 1. As the convolutions pad with zeros, no change of the weights makes one
network of the other.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facepack.train.backbones.iresnet import DEPTHS, IResNet
from facepack.train.backbones.registry import register

_EPS, _MOMENTUM = 2e-5, 0.9


class MagFaceIResNet(IResNet):
    """IResNet of BGR pixels from 0 to 1, with the batch normalisation of MagFace's.

    The scale of its embeddings is learnt; dropout sets single values to zero, not whole channels.
    """

    channels = "bgr"

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        features: int,
        dropout: float,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__(depths, features, dropout, autocast)
        self.features.weight.requires_grad_(True)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eps, module.momentum = _EPS, _MOMENTUM
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112, from −1 to 1, to N×25088, dropout applied."""
        return super().trunk((images + 1.0) / 2.0)


for _name in ("r18", "r50", "r100"):
    register(f"{_name}_magface")(partial(MagFaceIResNet, DEPTHS[_name]))
