"""IResNet, the improved residual network of ArcFace (Deng et al., CVPR 2019, section 3.1).

Unlike ResNet's, a block begins and ends with batch normalisation, has no activation after the
addition, and strides in its second convolution. The input is not pooled: 112×112 becomes 7×7 by
the first block of each of four stages. The keys of ``state_dict()`` are those of arcface_torch, so
that its published checkpoints load with ``strict=True``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from facepack.train.backbones.recompute import recompute
from facepack.train.backbones.registry import Backbone, register

_WIDTHS = (64, 128, 256, 512)
_FINAL_SIDE = 7

# Blocks in each stage.
DEPTHS = {
    "r18": (2, 2, 2, 2),
    "r34": (3, 4, 6, 3),
    "r50": (3, 4, 14, 3),
    "r100": (3, 13, 30, 3),
    "r124": (3, 13, 40, 5),
    "r200": (6, 26, 60, 6),
    "r2060": (3, 128, 896, 3),
}
# Those whose activations no GPU holds at a sensible batch.
_CHECKPOINTED = frozenset({"r2060"})
_SEGMENT = 8  # blocks run again at a time; arcface_torch: 6 of the second stage, 8 of the third


class IBlock(nn.Module):
    """BN, conv 3×3, BN, PReLU, conv 3×3 with the stride, BN; added to the shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = shortcut(width_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H/stride×W/stride."""
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.downsample(x)


def shortcut(width_in: int, width: int, stride: int) -> nn.Module:
    """What a block adds its input by: the input, or what 1×1 makes of it, where shapes differ."""
    if stride == 1 and width_in == width:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
    )


def _stage(width_in: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        IBlock(width_in, width, stride=2), *(IBlock(width, width, 1) for _ in range(blocks - 1))
    )


class IResNet(Backbone):
    """Stem, four stages of ``depths`` blocks, an embedding layer on the flattened 512×7×7 map.

    With ``checkpointing``, the input of every eighth block alone is kept in training, and the rest
    computed again when the backward pass needs it.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        features: int,
        dropout: float,
        autocast: torch.dtype | None,
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(features, autocast)
        self.checkpointing = checkpointing
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.prelu = nn.PReLU(_WIDTHS[0])
        self.layer1 = _stage(_WIDTHS[0], _WIDTHS[0], depths[0])
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], depths[1])
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], depths[2])
        self.layer4 = _stage(_WIDTHS[2], _WIDTHS[3], depths[3])
        self.bn2 = nn.BatchNorm2d(_WIDTHS[3])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(_WIDTHS[3] * _FINAL_SIDE**2, features)
        self.features = frozen_scale_bn(features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×25088, dropout applied."""
        x = self.prelu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = self._run(stage, x)
        return self.dropout(torch.flatten(self.bn2(x), 1))

    def _run(self, stage: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
        if not (self.checkpointing and self.training):
            return stage(x)
        blocks = list(stage)
        for start in range(0, len(blocks), _SEGMENT):
            x = recompute(blocks[start : start + _SEGMENT], x, draws=False)
        return x

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×25088 to N×F."""
        return self.features(self.fc(hidden))


def frozen_scale_bn(features: int) -> nn.BatchNorm1d:
    """Batch normalisation of embeddings whose scale is held at 1: only their offset is learnt."""
    bn = nn.BatchNorm1d(features)
    bn.weight.requires_grad_(False)
    return bn


for _name, _depths in DEPTHS.items():
    register(_name)(partial(IResNet, _depths, checkpointing=_name in _CHECKPOINTED))
