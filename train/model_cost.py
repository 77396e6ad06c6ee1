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
    """Count parameters and multiply-accumulates without computing anything.

    Raises:
        ConfigError: the name is unknown or ``features`` out of range.
    """
    net = skeleton(name, features=features)
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return ModelCost(
        name=name,
        parameters=parameters,
        macs=_count_macs(net),
        features=features,
        image_size=net.image_size,
    )


def _count_macs(net: Backbone) -> int:
    """Multiply-accumulates of one image; leaves ``net`` without its elementwise layers."""
    for module in list(net.modules()):
        for key, child in module.named_children():
            if isinstance(child, _ELEMENTWISE):
                setattr(module, key, nn.Identity())
    image = torch.empty(1, 3, *net.image_size, device="meta")
    # Not forward(): autocast knows no meta device.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net.head(net.trunk(image))
    return counter.get_total_flops() // 2
