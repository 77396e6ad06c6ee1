"""The vision transformer against a slow twin, and its two random parts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from facepack.train import backbones
from facepack.train.backbones.vit import DropPath, VisionTransformer

HEADS, TOKENS = 8, 144


def small(*, masked: float = 0.0, drop_path: float = 0.0) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        width=32,
        depth=3,
        drop_path=drop_path,
        masked=masked,
        features=16,
        dropout=0.0,
        autocast=None,
        checkpointing=False,
    )


def shaken(net: VisionTransformer) -> VisionTransformer:
    """Every weight and every running statistic away from its plain start, in double precision."""
    net = net.double()
    with torch.no_grad():
        for value in [*net.parameters(), *(b for b in net.buffers() if b.ndim)]:
            value.add_(torch.rand_like(value) * 0.3)
    return net


def twin(state: dict[str, Tensor], image: Tensor, depth: int) -> Tensor:
    """One image's embedding, token by token and head by head."""
    kernel, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    tokens = [
        (kernel * image[:, 9 * i : 9 * i + 9, 9 * j : 9 * j + 9]).sum((1, 2, 3)) + bias
        for i in range(12)
        for j in range(12)
    ]
    x = torch.stack(tokens) + state["pos_embed"][0]
    width = x.shape[1]
    size = width // HEADS

    def normalised(x: Tensor, key: str) -> Tensor:
        return layer_norm(x, (width,), state[f"{key}.weight"], state[f"{key}.bias"])

    def linear(x: Tensor, key: str) -> Tensor:
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    for i in range(depth):
        key = f"blocks.{i}"
        qkv = normalised(x, f"{key}.norm1") @ state[f"{key}.attn.qkv.weight"].T
        heads = []
        for head in range(HEADS):
            q, k, v = (
                qkv[:, part * width + head * size : part * width + (head + 1) * size]
                for part in range(3)
            )
            heads.append(torch.softmax(q @ k.T / math.sqrt(size), 1) @ v)
        x = x + linear(torch.cat(heads, 1), f"{key}.attn.proj")
        hidden = linear(normalised(x, f"{key}.norm2"), f"{key}.mlp.fc1").clamp(0, 6)
        x = x + linear(hidden, f"{key}.mlp.fc2")
    out = normalised(x, "norm").reshape(-1)
    for place in (0, 2):
        out = state[f"feature.{place}.weight"] @ out
        norm = {k: state[f"feature.{place + 1}.{k}"] for k in ("running_mean", "running_var")}
        out = (out - norm["running_mean"]) / torch.sqrt(norm["running_var"] + 2e-5)
        out = out * state[f"feature.{place + 1}.weight"] + state[f"feature.{place + 1}.bias"]
    return out


def test_embeddings_are_the_slow_twins() -> None:
    net = shaken(small(masked=0.1, drop_path=0.4)).eval()
    images = torch.rand(2, 3, 112, 112, dtype=torch.float64) * 2 - 1
    expected = torch.stack([twin(net.state_dict(), image, 3) for image in images])
    torch.testing.assert_close(net(images), expected, rtol=1e-9, atol=1e-9)


def test_the_last_rows_and_columns_fill_no_patch() -> None:
    net = small().eval()
    images = torch.rand(1, 3, 112, 112)
    cropped = images.clone()
    cropped[:, :, 108:], cropped[:, :, :, 108:] = 7.0, 7.0
    assert torch.equal(net(images), net(cropped))


def test_a_tenth_of_the_tokens_is_replaced_in_training() -> None:
    net = shaken(small(masked=0.1)).train()
    images = torch.rand(3, 3, 112, 112, dtype=torch.float64)
    hidden = net.trunk(images).unflatten(1, (TOKENS, -1))
    masked = (hidden == net.mask_token).all(2)
    assert masked.sum(1).tolist() == [15, 15, 15]  # 144 less int(0.9 * 144)
    assert not torch.equal(masked[0], masked[1])
    assert not (net.eval().trunk(images).unflatten(1, (TOKENS, -1)) == net.mask_token).all(2).any()


def test_the_other_tokens_keep_their_places() -> None:
    """Without blocks between, a token that is not masked is what it is without masking."""
    net = shaken(small(masked=0.1)).train()
    net.blocks = torch.nn.ModuleList()
    images = torch.rand(2, 3, 112, 112, dtype=torch.float64)
    hidden = net.trunk(images).unflatten(1, (TOKENS, -1))
    plain = net.eval().trunk(images).unflatten(1, (TOKENS, -1))
    kept = ~(hidden == net.mask_token).all(2)
    assert kept.sum() == 2 * 129
    torch.testing.assert_close(hidden[kept], plain[kept], rtol=1e-12, atol=1e-12)


def test_drop_path_zeroes_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    assert (out == out[:, :1, :1]).all()
    assert sorted(set(out[:, 0, 0].tolist())) == pytest.approx([0.0, 4 / 3])
    # 4000 draws: the mean of 0 and 4/3 has the standard deviation 0.0091.
    assert out.mean().item() == pytest.approx(1.0, abs=0.04)
    assert drop.eval()(x) is x


def test_drop_path_grows_with_the_depth() -> None:
    rates = [block.drop_path.rate for block in small(drop_path=0.5).blocks]
    assert rates == [0.0, 0.25, 0.5]


@pytest.mark.parametrize(
    ("name", "drop_path", "masked"),
    [
        ("vit_t", 0.1, 15),
        ("vit_s", 0.1, 15),
        ("vit_b", 0.1, 15),
        ("vit_l", 0.05, 15),
        ("vit_h", 0.1, 0),
        ("vit_t_dp005_mask0", 0.05, 0),
        ("vit_s_dp005_mask_0", 0.05, 0),
        ("vit_b_dp005_mask_005", 0.05, 15),
    ],
)
def test_published_rates(name: str, drop_path: float, masked: int) -> None:
    net = backbones.skeleton(name)
    assert net.blocks[-1].drop_path.rate == pytest.approx(drop_path)
    assert TOKENS - net.kept == masked
    assert net.mask_token.requires_grad == (masked > 0)


@pytest.mark.parametrize("masked", [0.0, 0.1])
def test_gradients_reach_every_trainable_weight_of_a_vit(masked: float) -> None:
    net = small(masked=masked)
    embeddings = net(torch.rand(4, 3, 112, 112))
    (embeddings * torch.randn_like(embeddings)).sum().backward()
    missing = [k for k, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


def test_autocast_covers_the_blocks_and_not_the_last_normalisation() -> None:
    full = small()
    reduced = small()
    reduced.autocast = torch.bfloat16
    seen = {}
    reduced.blocks[1].mlp.register_forward_hook(lambda *a: seen.update(mlp=a[2].dtype))
    reduced.norm.register_forward_hook(lambda *a: seen.update(norm=a[2].dtype))
    images = torch.rand(8, 3, 112, 112)
    embeddings = reduced(images)
    assert seen == {"mlp": torch.bfloat16, "norm": torch.float32}
    assert embeddings.dtype == torch.float32
    assert torch.cosine_similarity(embeddings, full(images)).min() > 0.98


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_vit_learns(autocast: torch.dtype | None) -> None:
    torch.manual_seed(0)
    net = small(masked=0.1, drop_path=0.1)
    net.autocast, net.checkpointing = autocast, True
    classifier = torch.nn.Linear(net.embedding_size, 4)
    optimizer = torch.optim.AdamW([*net.parameters(), *classifier.parameters()], 3e-3)
    images, labels = torch.rand(8, 3, 112, 112) * 2 - 1, torch.arange(8) % 4
    losses = []
    for _ in range(12):
        loss = torch.nn.functional.cross_entropy(classifier(net(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
