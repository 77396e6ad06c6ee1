"""What a backbone costs: parameters, and multiply-accumulates of an image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from facepack.train.backbones import Backbone, skeleton

# They keep the shape, and their share of the arithmetic is not counted. Propagating shapes through
# them takes longer than through all that is.
_ELEMENTWISE = (_BatchNorm, nn.LayerNorm, nn.PReLU, nn.ReLU, nn.ReLU6, nn.Dropout)

# Parameters, multiply-accumulates and the image's side, as count_cost() tells them with embeddings
# of 512: to count a thousand blocks takes seconds.
_COUNTED_FEATURES = 512
_COUNTED = {
    "r18": (24_025_600, 2_609_954_816, 112),
    "r34": (34_139_328, 4_459_642_880, 112),
    "r50": (43_590_848, 6_309_330_944, 112),
    "r100": (65_156_160, 12_089_606_144, 112),
    "r124": (86_414_912, 14_864_138_240, 112),
    "r200": (118_833_920, 23_418_945_536, 112),
    "r2060": (1_122_301_120, 238_907_604_992, 112),
    "mbf": (2_059_520, 437_520_896, 112),
    "mbf_large": (6_314_880, 1_816_482_816, 112),
    "r50_224": (74_889_792, 4_138_516_480, 224),
    "tiny": (3_507_552, 30_507_008, 112),
    "ir_18": (24_020_352, 2_597_109_760, 112),
    "ir_34": (34_134_080, 4_446_797_824, 112),
    "ir_50": (43_585_600, 6_296_485_888, 112),
    "ir_101": (65_150_912, 12_076_761_088, 112),
    "ir_50_curricularface": (43_573_952, 6_296_485_888, 112),
    "ir_101_curricularface": (65_128_768, 12_076_761_088, 112),
    "r18_magface": (24_025_600, 2_609_954_816, 112),
    "r50_magface": (43_590_848, 6_309_330_944, 112),
    "r100_magface": (65_156_160, 12_089_606_144, 112),
    "vit_t": (19_137_792, 1_504_882_688, 112),
    "vit_t_dp005_mask0": (19_137_792, 1_504_882_688, 112),
    "vit_s": (76_023_296, 5_746_548_736, 112),
    "vit_s_dp005_mask_0": (76_023_296, 5_746_548_736, 112),
    "vit_b": (113_833_472, 11_437_170_688, 112),
    "vit_b_dp005_mask_005": (113_833_472, 11_437_170_688, 112),
    "vit_l": (255_684_352, 25_337_794_560, 112),
    "vit_h": (756_393_984, 89_198_870_528, 112),
}


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """A backbone by its figures."""

    name: str
    parameters: int
    """All of them, frozen ones too."""
    macs: int
    """Multiply-accumulates of convolutions, linear layers and attention for one image; the
    literature often calls them FLOPs."""
    features: int
    """Length of an embedding."""
    image_size: tuple[int, int]
    """(height, width) of an image in pixels."""

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def model_cost(name: str, *, features: int = 512) -> ModelCost:
    """What :func:`count_cost` counts, from memory for facepack's own backbones.

    Raises:
        ConfigError: the name is unknown or ``features`` out of range.
    """
    if name not in _COUNTED or features != _COUNTED_FEATURES:
        return count_cost(name, features=features)
    parameters, macs, side = _COUNTED[name]
    return ModelCost(
        name=name, parameters=parameters, macs=macs, features=features, image_size=(side, side)
    )


def count_cost(name: str, *, features: int = 512) -> ModelCost:
    """Count parameters and multiply-accumulates without computing anything.

    Raises:
        ConfigError: the name is unknown or ``features`` out of range.
    """
    net = skeleton(name, features=features)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return ModelCost(
        name=name,
        parameters=parameters,
        macs=count_macs(net),
        features=features,
        image_size=net.image_size,
    )


def count_macs(net: Backbone) -> int:
    """Multiply-accumulates of one image; ``net`` is left without its elementwise layers."""
    for module in list(net.modules()):
        for key, child in module.named_children():
            if isinstance(child, _ELEMENTWISE):
                setattr(module, key, nn.Identity())
    image = torch.empty(1, 3, *net.image_size, device="meta")
    # Not forward(): autocast knows no meta device.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.head(net.trunk(image))
    return counter.get_total_flops() // 2
