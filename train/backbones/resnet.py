"""ResNet-50 (He et al., CVPR 2016) at 224×224, as F2C trains it.

The stride of a block is in its 3×3 convolution. The last map is not pooled: the embedding layer
sees all of its 7×7 places. The keys of ``state_dict()`` are those of F2C's ``r50`` and, up to the
embedding layer, torchvision's.
"""

from __future__ import annotations

import torch
from torch import nn

from facepack.train.backbones.iresnet import shortcut
from facepack.train.backbones.registry import Backbone, register

_EXPANSION = 4
_STEM = 64
_FINAL_SIDE = 7


class Bottleneck(nn.Module):
    """Narrow by 1×1, convolve 3×3 with the stride, widen by 1×1; ReLU after the addition."""

    def __init__(self, width_in: int, inner: int, stride: int) -> None:
        super().__init__()
        width = _EXPANSION * inner
        self.conv1 = nn.Conv2d(width_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.downsample = shortcut(width_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H/stride×W/stride."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.downsample(x))


def _stage(width_in: int, inner: int, blocks: int, *, stride: int = 2) -> nn.Sequential:
    width = _EXPANSION * inner
    rest = (Bottleneck(width, inner, 1) for _ in range(blocks - 1))
    return nn.Sequential(Bottleneck(width_in, inner, stride), *rest)


@register("r50_224")
class ResNet50(Backbone):
    """Stem to 64×56×56, four stages, and an embedding layer on the flattened 2048×7×7 map."""

    image_size = (224, 224)

    def __init__(self, features: int, dropout: float, autocast: torch.dtype | None) -> None:
        super().__init__(features, autocast)
        self.conv1 = nn.Conv2d(3, _STEM, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(_STEM, 64, 3, stride=1)
        self.layer2 = _stage(256, 128, 4)
        self.layer3 = _stage(512, 256, 6)
        self.layer4 = _stage(1024, 512, 3)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(2048 * _FINAL_SIDE**2, features)
        self.features = nn.BatchNorm1d(features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×224×224 to N×100352, dropout applied."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.dropout(torch.flatten(x, 1))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×100352 to N×F."""
        return self.features(self.fc(hidden))
