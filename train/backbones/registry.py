"""The backbones by name, and what they all share: two halves, the first in reduced precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from facepack.settings import Count, Range, check, check_choice

REDUCED_PRECISIONS = (torch.bfloat16, torch.float16)


class Backbone(nn.Module):
    """An image network in two halves: :meth:`trunk`, under autocast if asked, and :meth:`head`.

    The model itself decides its precision: an autocast context around a call changes nothing, so a
    head in full precision cannot be lost by accident. ``autocast`` is ``torch.bfloat16`` or
    ``torch.float16`` for the trunk; ``None`` computes it in the precision of the weights.
    ``embedding_size`` is the length F of an embedding.
    """

    name: str = ""  #: under which build() made it; empty where it was made otherwise
    #: (height, width) in pixels of the images it takes; a class of another size sets its own
    image_size: tuple[int, int] = (112, 112)
    #: the order of the colours that it takes, rgb or bgr; a class of the latter sets its own.
    #: Images come in RGB to either, and are turned around here
    channels: str = "rgb"
    #: whether blocks run a second time in the backward pass rather than that all inside them is
    #: kept; may be changed between steps. False where a class cannot
    checkpointing: bool = False

    def __init__(self, embedding_size: int, autocast: torch.dtype | None) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.autocast = autocast

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N×3×H×W) to the tensor from which full precision starts."""
        raise NotImplementedError

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """What :meth:`trunk` gave, in the weights' precision, to embeddings (N×F)."""
        raise NotImplementedError

    def in_order(self, images: torch.Tensor) -> torch.Tensor:
        """RGB images (N×3×H×W) in the order of colours that the network takes."""
        return images.flip(1) if self.channels == "bgr" else images

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed a batch: N×F embeddings, not normalised; float32 for float32 weights.

        Images are N×3×H×W of :attr:`image_size`, floating point, (x − 127.5) / 127.5 of RGB values.
        """
        device = images.device.type
        reduced = self.autocast is not None
        with torch.autocast(device, dtype=self.autocast, enabled=reduced):
            hidden = self.trunk(self.in_order(images))
        with torch.autocast(device, enabled=False):
            return self.head(hidden.float() if reduced else hidden)


Builder = Callable[[int, float, "torch.dtype | None"], Backbone]
OneBuilder = TypeVar("OneBuilder", bound=Builder)

_BUILDERS: dict[str, Builder] = {}


def register(name: str) -> Callable[[OneBuilder], OneBuilder]:
    """Decorate ``builder(features, dropout, autocast) -> Backbone``, as a class is one."""

    def add(builder: OneBuilder) -> OneBuilder:
        if name in _BUILDERS:
            raise ValueError(f"a backbone named {name!r} is registered already")
        _BUILDERS[name] = builder
        return builder

    return add


def names() -> list[str]:
    """The names that :func:`build` knows."""
    return list(_BUILDERS)


def build(
    name: str,
    *,
    features: int = 512,
    dropout: float = 0.0,
    autocast: torch.dtype | None = None,
) -> Backbone:
    """Build a backbone with fresh weights, drawn from torch's global generator.

    Args:
        name: one of :func:`names`.
        features: length of an embedding.
        dropout: share of the last feature map set to zero in training, in [0, 1).
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute all but the embedding layer in
            that precision; ``None`` for full precision, as evaluation wants it.

    Raises:
        ConfigError: the name is unknown or an option is out of range.
    """
    check_choice("backbone", name, _BUILDERS)
    check("features", features, Count)
    check("dropout", dropout, Annotated[float, Range(low=0, below=1)])
    check_choice("autocast", autocast, (None, *REDUCED_PRECISIONS))
    backbone = _BUILDERS[name](features, dropout, autocast)
    backbone.name = name
    return backbone


class _WithoutInitialisation(TorchFunctionMode):
    """Within it, the functions of ``torch.nn.init`` leave tensors as they are."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def skeleton(name: str, *, features: int = 512) -> Backbone:
    """Build a backbone on torch's meta device: names and shapes without memory, in eval mode.

    Raises:
        ConfigError: as :func:`build`.
    """
    with torch.device("meta"), _WithoutInitialisation():
        return build(name, features=features).eval()
