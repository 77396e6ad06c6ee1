"""Layouts, sizes, precision and gradients of the backbones.

The expected layouts are written here from the published description, apart from the networks' own
code. Large networks are built on torch's meta device, without memory.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from facepack.errors import ConfigError
from facepack.train import backbones
from facepack.train.backbones import registry
from facepack.train.backbones.registry import register
from facepack.train.models.cost import model_cost

Layout = dict[str, tuple[int, ...]]

IRESNET_DEPTHS = {
    "r18": (2, 2, 2, 2),
    "r34": (3, 4, 6, 3),
    "r50": (3, 4, 14, 3),
    "r100": (3, 13, 30, 3),
    "r124": (3, 13, 40, 5),
    "r200": (6, 26, 60, 6),
}
SMALL = ["tiny", "mbf", "r18", "ir_18"]
VITS = [name for name in backbones.names() if name.startswith("vit_")]
# Passing shapes through a thousand blocks takes seconds; r200 has the same parts.
PASSABLE = [name for name in backbones.names() if name != "r2060"]

# From the classes of arcface_torch, F2C, AdaFace, CurricularFace and MagFace: the number of
# tensors, the beginning of the SHA-256 of the sorted lines "key shape", the number of parameters.
PUBLISHED_FACTS = {
    "r2060": (18583, "fa6262526ca2ffed", 1_122_301_120),
    "mbf_large": (606, "e93eb03a7306f387", 6_314_880),
    "r50_224": (325, "e7f163281975f75b", 74_889_792),
    "ir_18": (179, "7f81612e44f88213", 24_020_352),
    "ir_50": (467, "f4579210f21b784b", 43_585_600),
    "ir_101": (917, "158339b02fa6756c", 65_150_912),
    "ir_50_curricularface": (347, "ce706070b4ea1bd5", 43_573_952),
    "ir_101_curricularface": (672, "9d2f6eca2bbc2879", 65_128_768),
    "r50_magface": (475, "d80a68220d7280f1", 43_590_848),
    "vit_t": (150, "f49edb5df3d3deb3", 19_137_792),
    "vit_s": (150, "80d38dc0608bd679", 76_023_296),
    "vit_b": (282, "817876b06d60f50c", 113_833_472),
    "vit_l": (282, "21a6114aa2984380", 255_684_352),
    "vit_h": (546, "ae371719ce448344", 756_393_984),
}


def bn(key: str, width: int) -> Layout:
    layout: Layout = {f"{key}.{name}": (width,) for name in ("weight", "bias")}
    layout |= {f"{key}.{name}": (width,) for name in ("running_mean", "running_var")}
    return layout | {f"{key}.num_batches_tracked": ()}


def iresnet_layout(depths: tuple[int, ...], features: int) -> Layout:
    layout: Layout = {"conv1.weight": (64, 3, 3, 3), **bn("bn1", 64), "prelu.weight": (64,)}
    before = 64
    for stage, (width, blocks) in enumerate(zip((64, 128, 256, 512), depths, strict=True), 1):
        for i in range(blocks):
            key = f"layer{stage}.{i}"
            layout |= bn(f"{key}.bn1", before)
            layout[f"{key}.conv1.weight"] = (width, before, 3, 3)
            layout |= bn(f"{key}.bn2", width)
            layout[f"{key}.prelu.weight"] = (width,)
            layout[f"{key}.conv2.weight"] = (width, width, 3, 3)
            layout |= bn(f"{key}.bn3", width)
            if i == 0:
                layout[f"{key}.downsample.0.weight"] = (width, before, 1, 1)
                layout |= bn(f"{key}.downsample.1", width)
            before = width
    layout |= bn("bn2", 512)
    layout |= {"fc.weight": (features, 512 * 7 * 7), "fc.bias": (features,)}
    return layout | bn("features", features)


def mbf_layout(features: int) -> Layout:
    layout: Layout = {}

    def block(key: str, shape: tuple[int, ...], *, prelu: bool) -> None:
        layout[f"{key}.layers.0.weight"] = shape
        layout.update(bn(f"{key}.layers.1", shape[0]))
        if prelu:
            layout[f"{key}.layers.2.weight"] = (shape[0],)

    def depthwise(key: str, before: int, after: int, groups: int) -> None:
        block(f"{key}.layers.0", (groups, before, 1, 1), prelu=True)
        block(f"{key}.layers.1", (groups, 1, 3, 3), prelu=True)
        block(f"{key}.layers.2", (after, groups, 1, 1), prelu=False)

    block("layers.0", (128, 3, 3, 3), prelu=True)
    block("layers.1", (128, 2, 3, 3), prelu=True)
    depthwise("layers.2", 128, 128, 128)
    for i in range(4):
        depthwise(f"layers.3.layers.{i}", 128, 128, 128)
    depthwise("layers.4", 128, 256, 256)
    for i in range(6):
        depthwise(f"layers.5.layers.{i}", 256, 256, 256)
    depthwise("layers.6", 256, 256, 512)
    for i in range(2):
        depthwise(f"layers.7.layers.{i}", 256, 256, 256)
    block("conv_sep", (512, 256, 1, 1), prelu=True)
    block("features.layers.0", (512, 1, 7, 7), prelu=False)
    layout["features.layers.2.weight"] = (features, 512)
    return layout | bn("features.layers.3", features)


def published_layout(name: str, features: int = 512) -> Layout:
    if name == "mbf":
        return mbf_layout(features)
    return iresnet_layout(IRESNET_DEPTHS[name], features)


def on_meta(name: str, **options: object) -> backbones.Backbone:
    with torch.device("meta"):
        return backbones.build(name, **options)


def faces(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 112, 112, generator=generator) * 2 - 1


PUBLISHED = [*IRESNET_DEPTHS, "mbf"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_are_the_published_ones(name: str) -> None:
    state = on_meta(name).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == published_layout(name)
    assert list(state) == list(published_layout(name))


@pytest.mark.parametrize(("name", "facts"), PUBLISHED_FACTS.items())
def test_layouts_are_those_of_the_published_code(name: str, facts: tuple[int, str, int]) -> None:
    net = backbones.skeleton(name)
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), digest, sum(p.numel() for p in net.parameters())) == facts


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_loads_strictly(name: str) -> None:
    checkpoint = {k: torch.empty(s, device="meta") for k, s in published_layout(name).items()}
    on_meta(name).load_state_dict(checkpoint, strict=True)


def test_the_values_of_a_checkpoint_arrive() -> None:
    checkpoint = {k: torch.rand(s) for k, s in mbf_layout(512).items()}
    net = backbones.build("mbf")
    net.load_state_dict(checkpoint)
    for key, value in net.state_dict().items():
        assert torch.equal(value, checkpoint[key].to(value.dtype)), key


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("r18", 24.0256),
        ("r34", 34.139328),
        ("r50", 43.590848),
        ("r100", 65.15616),
        ("r124", 86.414912),
        ("r200", 118.83392),
        ("mbf", 2.05952),
    ],
)
def test_parameter_counts(name: str, millions: float) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) == round(millions * 1e6)


@pytest.mark.parametrize("name", PASSABLE)
def test_embedding_size_follows_features(name: str) -> None:
    net = backbones.skeleton(name, features=128)
    assert (net.name, net.embedding_size) == (name, 128)
    assert net.image_size == ((224, 224) if name == "r50_224" else (112, 112))
    hidden = net.trunk(torch.empty(2, 3, *net.image_size, device="meta"))
    assert net.head(hidden).shape == (2, 128)


@pytest.mark.parametrize("name", PASSABLE)
def test_batch_norms_have_the_published_constants(name: str) -> None:
    net = backbones.skeleton(name)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms
    magface = name.endswith("_magface")
    eps = 2e-5 if magface or name in VITS else 1e-5
    assert {(m.eps, m.momentum) for m in norms} == {(eps, 0.9 if magface else 0.1)}


@pytest.mark.parametrize("name", ["tiny", *IRESNET_DEPTHS])
def test_the_scale_of_embeddings_is_frozen(name: str) -> None:
    net = on_meta(name)
    assert [key for key, p in net.named_parameters() if not p.requires_grad] == ["features.weight"]


def test_initial_weights() -> None:
    torch.manual_seed(0)
    net = backbones.build("r18")
    assert torch.equal(net.features.weight, torch.ones(512))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            deviation = 0.1 / weight.numel() ** 0.5
            assert abs(float(weight.mean())) < 5 * deviation
            assert abs(float(weight.std()) - 0.1) < 5 * deviation


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_trainable_weight(name: str) -> None:
    torch.manual_seed(0)
    net = backbones.build(name)
    embeddings = net(faces(2))
    assert embeddings.shape == (2, 512)
    assert embeddings.dtype == torch.float32
    # A sum would do for no one: batch normalisation makes it constant.
    (embeddings * torch.randn_like(embeddings)).sum().backward()
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", SMALL)
def test_autocast_covers_the_trunk_alone(name: str) -> None:
    torch.manual_seed(0)
    reduced = backbones.build(name, autocast=torch.bfloat16)
    full = backbones.build(name)
    full.load_state_dict(reduced.state_dict())
    seen: dict[str, torch.dtype] = {}
    trunk, head = reduced.trunk, reduced.head

    def watch_trunk(images: torch.Tensor) -> torch.Tensor:
        hidden = trunk(images)
        seen["trunk"] = hidden.dtype
        return hidden

    def watch_head(hidden: torch.Tensor) -> torch.Tensor:
        seen["head"] = hidden.dtype
        return head(hidden)

    reduced.trunk, reduced.head = watch_trunk, watch_head
    images = faces(8)
    embeddings = reduced(images)
    assert seen == {"trunk": torch.bfloat16, "head": torch.float32}
    assert embeddings.dtype == torch.float32
    # bf16 has 8 bits of precision; the directions must still be those of full precision.
    assert torch.cosine_similarity(embeddings, full(images)).min() > 0.98
    embeddings.square().sum().backward()
    assert {p.grad.dtype for p in reduced.parameters() if p.grad is not None} == {torch.float32}


def test_an_outer_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    net = backbones.build("tiny").eval()
    images = faces(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = net(images)
    assert torch.equal(inside, net(images))


@pytest.mark.parametrize("name", ["tiny", "mbf"])
def test_double_precision(name: str) -> None:
    torch.manual_seed(0)
    net = backbones.build(name).eval()
    images = faces(2)
    single = net(images)
    double = net.double()(images.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(single, double.float(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "mbf"])
def test_channels_last_gives_the_same_embeddings(name: str) -> None:
    torch.manual_seed(0)
    net = backbones.build(name).eval()
    images = faces(2)
    expected = net(images)
    net.to(memory_format=torch.channels_last)
    actual = net(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_alone(name: str) -> None:
    torch.manual_seed(0)
    net = backbones.build(name, dropout=0.5)
    images = faces(2)
    for module in net.modules():  # so that in training, dropout is all that differs
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(net(images), net(images))
    net.eval()
    assert torch.equal(net(images), net(images))


def test_tiny_learns() -> None:
    torch.manual_seed(0)
    net = backbones.build("tiny", features=32)
    classifier = nn.Linear(32, 8)
    optimizer = torch.optim.SGD([*net.parameters(), *classifier.parameters()], 0.02, momentum=0.9)
    images, labels = faces(16), torch.arange(16) % 8
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(classifier(net(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert torch.equal(net.features.weight, torch.ones(32))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"backbone = 'r51' is not one of .*r50.*did you mean r50"
    ):
        backbones.build("r51")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 0}, "features = 0 is not allowed: it must be at least 1"),
        ({"dropout": 1.0}, "dropout = 1.0 is not allowed: it must be at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout = -0.1"),
        (
            {"autocast": torch.float32},
            "autocast = torch.float32 is not one of None, torch.bfl",
        ),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbones.build("tiny", **options)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        register("tiny")(lambda features, dropout, autocast: None)


def test_a_new_backbone_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the folder of backbones is found by itself; here the folder is another one."""
    (tmp_path / "newcomer.py").write_text(
        "from torch import nn\n"
        "from facepack.train.backbones.registry import Backbone, register\n"
        "\n"
        "class Newcomer(Backbone):\n"
        "    image_size = (96, 96)\n"
        "\n"
        "    def __init__(self, features, dropout, autocast):\n"
        "        super().__init__(features, autocast)\n"
        "        self.fc = nn.Linear(3, features)\n"
        "\n"
        "    def trunk(self, images):\n"
        "        return images.mean((2, 3))\n"
        "\n"
        "    def head(self, hidden):\n"
        "        return self.fc(hidden)\n"
        "\n"
        "register('newcomer')(Newcomer)\n"
    )
    monkeypatch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
    monkeypatch.setattr(backbones, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"{backbones.__name__}.newcomer", raising=False)
    backbones.discover()
    assert backbones.names()[-1] == "newcomer"
    net = backbones.build("newcomer", features=8)
    assert (net.name, net.image_size) == ("newcomer", (96, 96))
    assert net(torch.zeros(2, 3, 96, 96)).shape == (2, 8)
    assert model_cost("newcomer").parameters == 4 * 512


def test_initial_weights_of_a_vit() -> None:
    torch.manual_seed(0)
    net = backbones.build("vit_t")
    assert net.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert net.blocks[3].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not net.blocks[3].mlp.fc1.bias.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_on_cuda(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = backbones.build("r18", autocast=dtype).cuda().to(memory_format=torch.channels_last)
    images = faces(8).cuda().to(memory_format=torch.channels_last)
    embeddings = net(images)
    assert embeddings.dtype == torch.float32
    assert torch.isfinite(embeddings).all()
