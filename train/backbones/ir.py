"""The IR networks of face.evoLVe, in which AdaFace and CurricularFace publish their models.

They are IResNet's (Deng et al., CVPR 2019, section 3.1) but for the shortcut of a block that only
strides, which takes every other pixel and has no convolution; embeddings whose batch normalisation
has no offset; and initial weights (He et al., ICCV 2015). CurricularFace's have no batch
normalisation between the convolutions of a block. The keys of ``state_dict()`` are those of their
repositories.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from facepack.train.backbones.registry import Backbone, register

_WIDTHS = (64, 128, 256, 512)
_FINAL_SIDE = 7

# Blocks in each stage.
_DEPTHS = {
    "ir_18": (2, 2, 2, 2),
    "ir_34": (3, 4, 6, 3),
    "ir_50": (3, 4, 14, 3),
    "ir_101": (3, 13, 30, 3),
}
_CURRICULARFACE = ("ir_50", "ir_101")


class IRBlock(nn.Module):
    """BN, conv 3×3, BN if ``between``, PReLU, conv 3×3 with the stride, BN; plus the shortcut."""

    def __init__(self, width_in: int, width: int, stride: int, between: bool) -> None:
        super().__init__()
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if width_in == width
            else nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(width_in),
            nn.Conv2d(width_in, width, 3, padding=1, bias=False),
            *([nn.BatchNorm2d(width)] if between else []),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×C×H×W to N×C'×H/stride×W/stride."""
        return self.res_layer(x) + self.shortcut_layer(x)


class IR(Backbone):
    """Stem, four stages of ``depths`` blocks, an embedding layer on the flattened 512×7×7 map.

    ``between`` is as in :class:`IRBlock`; dropout is 0.4 in the published runs.
    """

    def __init__(
        self,
        depths: tuple[int, int, int, int],
        features: int,
        dropout: float,
        autocast: torch.dtype | None,
        *,
        between: bool = True,
    ) -> None:
        super().__init__(features, autocast)
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(_WIDTHS[0]),
            nn.PReLU(_WIDTHS[0]),
        )
        before = (_WIDTHS[0], *_WIDTHS[:3])
        self.body = nn.Sequential(
            *(
                IRBlock(width if block else width_in, width, 1 if block else 2, between)
                for width_in, width, blocks in zip(before, _WIDTHS, depths, strict=True)
                for block in range(blocks)
            )
        )
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(_WIDTHS[3]),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(_WIDTHS[3] * _FINAL_SIDE**2, features),
            nn.BatchNorm1d(features, affine=False),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×25088, dropout applied."""
        hidden: torch.Tensor = self.output_layer[:3](self.body(self.input_layer(images)))
        return hidden

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×25088 to N×F."""
        embeddings: torch.Tensor = self.output_layer[3:](hidden)
        return embeddings


for _name, _depths in _DEPTHS.items():
    register(_name)(partial(IR, _depths))
for _name in _CURRICULARFACE:
    register(f"{_name}_curricularface")(partial(IR, _DEPTHS[_name], between=False))
