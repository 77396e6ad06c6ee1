"""MobileFaceNet (Chen et al., CCBR 2018) in the wider variant that arcface_torch publishes.

Inverted residuals without the final activation, and a depthwise 7×7 convolution in place of
pooling. The keys of ``state_dict()`` are arcface_torch's, so that its published checkpoints load
with ``strict=True``.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from facepack.train.backbones.registry import Backbone, register

_TOP = 512
_FINAL_SIDE = 7


class ConvBlock(nn.Module):
    """A convolution without bias, padded to keep the size, BN, and a PReLU per channel."""

    def __init__(
        self, width_in: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(
                width_in,
                width,
                kernel,
                stride=stride,
                padding=kernel // 2,
                groups=groups,
                bias=False,
            ),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H/stride×W/stride."""
        return self.layers(x)


class LinearBlock(nn.Module):
    """A convolution without bias or padding and BN: no activation follows."""

    def __init__(self, width_in: int, width: int, kernel: int, *, groups: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width_in, width, kernel, groups=groups, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H'×W', smaller by the kernel."""
        return self.layers(x)


class DepthWise(nn.Module):
    """Widen by 1×1, filter each channel by 3×3 with the stride, project by 1×1."""

    def __init__(self, width_in: int, width: int, *, inner: int, stride: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBlock(width_in, inner, 1),
            ConvBlock(inner, inner, 3, stride=stride, groups=inner),
            LinearBlock(inner, width, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H/stride×W/stride."""
        return self.layers(x)


class Residual(nn.Module):
    """A chain of :class:`DepthWise`, each added to its input."""

    def __init__(self, width: int, *, blocks: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(DepthWise(width, width, inner=inner, stride=1) for _ in range(blocks))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to the same shape."""
        for block in self.layers:
            x = x + block(x)
        return x


class EmbeddingHead(nn.Module):
    """The 512×7×7 map to an embedding: a 7×7 weight per channel, then a linear layer."""

    def __init__(self, features: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            LinearBlock(_TOP, _TOP, _FINAL_SIDE, groups=_TOP),
            nn.Sequential(nn.Flatten(), nn.Dropout(dropout)),
            nn.Linear(_TOP, features, bias=False),
            nn.BatchNorm1d(features),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×512×7×7 to N×F."""
        return self.layers(x)


class MobileFaceNet(Backbone):
    """Stem, three halvings with residual chains between, a 1×1 convolution, the embedding.

    Args:
        blocks: lengths of the chain at the stem's size and of the three behind the halvings. A
            first one of length 1 is a grouped convolution instead.
        scale: the width, as a multiple of 64 channels at the stem and 128 from the second halving
            on. Inside a block the widths are the same at every scale.
        features, dropout, autocast: as of :func:`~facepack.train.backbones.registry.build`; what
            drops out are the 512 pooled values.
    """

    def __init__(
        self,
        blocks: tuple[int, int, int, int],
        scale: int,
        features: int,
        dropout: float,
        autocast: torch.dtype | None,
    ) -> None:
        super().__init__(features, autocast)
        stem, middle = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                ConvBlock(3, stem, 3, stride=2),
                ConvBlock(stem, stem, 3, groups=64)
                if blocks[0] == 1
                else Residual(stem, blocks=blocks[0], inner=128),
                DepthWise(stem, stem, inner=128, stride=2),
                Residual(stem, blocks=blocks[1], inner=128),
                DepthWise(stem, middle, inner=256, stride=2),
                Residual(middle, blocks=blocks[2], inner=256),
                DepthWise(middle, middle, inner=512, stride=2),
                Residual(middle, blocks=blocks[3], inner=256),
            ]
        )
        self.conv_sep = ConvBlock(middle, _TOP, 1)
        self.features = EmbeddingHead(features, dropout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×C×7×7, C = 128 · scale."""
        x = images
        for layer in self.layers:
            x = layer(x)
        return x

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×C×7×7 to N×F."""
        return self.features(self.conv_sep(hidden))


register("mbf")(partial(MobileFaceNet, (1, 4, 6, 2), 2))
register("mbf_large")(partial(MobileFaceNet, (2, 8, 12, 4), 4))
