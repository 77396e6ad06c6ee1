"""Vision transformers (Dosovitskiy et al., ICLR 2021) in the form that arcface_torch publishes.

Patches of 9×9 make 144 tokens of 112×112 pixels; there is no class token, and the embedding layer
sees all tokens side by side. In training, blocks are skipped at random (stochastic depth, Huang et
al., ECCV 2016), and a tenth of the tokens passes the blocks by and is replaced by a learnt one. The
keys of ``state_dict()`` are arcface_torch's, so that its published checkpoints load with
``strict=True``.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from facepack.train.backbones.recompute import recompute
from facepack.train.backbones.registry import Backbone, register

_PATCH = 9
_TOKENS = (112 // _PATCH) ** 2
_HEADS = 8
_MLP_RATIO = 4
_BN_EPS = 2e-5
# arcface_torch leaves out this share whatever share above 0 it is asked for.
_MASKED = 0.1


class _Variant(NamedTuple):
    width: int
    depth: int
    drop_path: float
    masked: float
    checkpointing: bool


# arcface_torch's names. It asks vit_b_dp005_mask_005 and vit_l for 5 % of masked tokens and masks
# 10 %; its only large one is called vit_l_dp005_mask_005.
_VARIANTS = {
    "vit_t": _Variant(256, 12, 0.1, _MASKED, False),
    "vit_t_dp005_mask0": _Variant(256, 12, 0.05, 0.0, False),
    "vit_s": _Variant(512, 12, 0.1, _MASKED, False),
    "vit_s_dp005_mask_0": _Variant(512, 12, 0.05, 0.0, False),
    "vit_b": _Variant(512, 24, 0.1, _MASKED, True),
    "vit_b_dp005_mask_005": _Variant(512, 24, 0.05, _MASKED, True),
    "vit_l": _Variant(768, 24, 0.05, _MASKED, True),
    "vit_h": _Variant(1024, 48, 0.1, 0.0, True),
}


class PatchEmbed(nn.Module):
    """Tokens of patches that do not overlap; the last rows and columns fill no patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, _PATCH, stride=_PATCH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×144×D."""
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values have no bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×T×D to N×T×D."""
        # N×T×3D to three of N×heads×T×D/heads
        q, k, v = self.qkv(x).unflatten(2, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers, four times the width between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.act = nn.ReLU6()
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×T×D to N×T×D."""
        return self.fc2(self.act(self.fc1(x)))


class DropPath(nn.Module):
    """In training, zero whole samples with probability ``rate`` and scale the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×T×D to N×T×D."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """Attention, then the MLP; each normalised before and added to its input."""

    def __init__(self, width: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.attn = Attention(width)
        self.drop_path = DropPath(drop_path)
        self.mlp = Mlp(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """N×T×D to N×T×D."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(Backbone):
    """Patches, blocks, and an embedding layer on all 144 tokens.

    Args:
        width: length D of a token; ``depth`` is the number of blocks.
        drop_path: probability that the last block is skipped; those before it less, in proportion.
        masked: share of the tokens that a sample goes without in training.
        features, dropout, autocast: as of :func:`~facepack.train.backbones.registry.build`; the
            sum that runs through the blocks is float32.
        checkpointing: spend a second forward pass of the blocks in training for the memory of
            their activations.
    """

    def __init__(
        self,
        features: int,
        dropout: float,
        autocast: torch.dtype | None,
        *,
        width: int,
        depth: int,
        drop_path: float,
        masked: float,
        checkpointing: bool,
    ) -> None:
        super().__init__(features, autocast)
        self.pos_embed = nn.Parameter(torch.empty(1, _TOKENS, width))
        # Without masking it is never used; a parameter without gradient would hold up a reduction
        # over processes.
        self.mask_token = nn.Parameter(torch.empty(1, 1, width), requires_grad=masked > 0)
        self.patch_embed = PatchEmbed(width)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(width, rate) for rate in rates)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feature = nn.Sequential(
            nn.Linear(_TOKENS * width, width, bias=False),
            nn.BatchNorm1d(width, eps=_BN_EPS),
            nn.Linear(width, features, bias=False),
            nn.BatchNorm1d(features, eps=_BN_EPS),
        )
        self.kept = int(_TOKENS * (1 - masked))
        self.checkpointing = checkpointing
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×112×112 to N×144D, dropout applied."""
        x = self.patch_embed(images) + self.pos_embed
        if self.training and self.kept < _TOKENS:
            # A random order of each sample's tokens; the blocks see its beginning.
            order = torch.rand(x.shape[:2], device=x.device).argsort(1)
            x = self._blocks(x.take_along_dim(order[:, : self.kept, None], 1))
            masks = self.mask_token.expand(len(x), _TOKENS - self.kept, -1)
            x = torch.cat([self._norm(x), masks], 1)
            x = x.take_along_dim(order.argsort(1)[:, :, None], 1)
        else:
            x = self._norm(self._blocks(x))
        return self.dropout(x.flatten(1))

    def _blocks(self, x: torch.Tensor) -> torch.Tensor:
        recomputed = self.checkpointing and self.training
        for block in self.blocks:
            x = recompute([block], x, draws=True) if recomputed else block(x)
        return x

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        """The last normalisation, in full precision as its input is."""
        if self.autocast is None:
            return self.norm(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.norm(x)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """N×144D to N×F."""
        return self.feature(hidden)


for _name, _variant in _VARIANTS.items():
    register(_name)(partial(VisionTransformer, **_variant._asdict()))
