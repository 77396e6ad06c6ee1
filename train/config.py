"""The settings of a training run, and which of them may change when it is resumed.

A setting's type, range, default and help text all stand in :class:`TrainConfig`. Nothing here
imports torch: settings can be listed, read and checked at once. Whether a backbone, a margin or a
schedule of the given name exists is for their registries to say, when the run is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tomli_w

from facepack.errors import ConfigError
from facepack.settings import Count, Range, Settings

CONFIG_FILE = "config.toml"  # a run's resolved settings, in its folder

_REFERENCE_BATCH = 128
_REFERENCE_LR = 0.02

# What meets tensors must fit float32.
_FLOAT32_MAX = 3.4028234663852886e38
_PositiveFloat32 = Annotated[float, Range(above=0, high=_FLOAT32_MAX, text="above 0 and a float32")]
_FromZeroBelowOne = Annotated[float, Range(low=0, below=1)]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Every setting of a run.

    Raises:
        ConfigError: a value has the wrong type, is out of range or contradicts another.
    """

    shards: str
    """What to train on: a pack or an image tree, as a path or as a name in the data home; or a
    shard set, as ``webface12m`` or ``PACK:SET``."""

    identity_level: int | None = None
    """Of an image tree, which folder of a path is the identity: 1 the topmost, 2 the next, -1 the
    image's own; unset, it is found."""

    exclude: str | None = None
    """Of a pack, a list of records that are left out: one of facepack noise, or text with a key or
    a position on each line. Labels and classes stay."""

    seed: Annotated[int, Range(low=0, high=(1 << 63) - 1, text="from 0 to 2^63 - 1")] = 0
    """Keys every draw: initial weights, order, mirroring, dropout, sampled classes."""

    method: str = "softmax"
    """The way of training: softmax, a margin softmax over class centres (docs/head.md); f2c, a
    pool of features of the identities lately met (docs/f2c.md); or unequal, in three stages, for
    data with a long tail (docs/unequal.md)."""

    method_options: dict[str, Any] | None = None
    """The method's own settings, a table."""

    backbone: str = "r50"
    """The network that makes embeddings: tiny, mbf, mbf_large, r18, r34, r50, r100, r124, r200,
    r2060, r50_224, ir_18, ir_34, ir_50, ir_101, ir_50_curricularface, ir_101_curricularface,
    r18_magface, r50_magface, r100_magface, vit_t, vit_t_dp005_mask0, vit_s, vit_s_dp005_mask_0,
    vit_b, vit_b_dp005_mask_005, vit_l or vit_h; see facepack models."""

    channels: Literal["rgb", "bgr"] | None = None
    """Order of the colours that the backbone takes: rgb, or bgr, as AdaFace's models do; unset,
    that of the weights it begins with, if they tell, or the backbone's own."""

    pretrained: str | None = None
    """A model to start from: a run's folder, model.pt, or a checkpoint of arcface_torch."""

    continues: str | None = None
    """A run of arcface_torch to continue: its output folder, from which backbone, class centres and
    the momentum of both are taken; or a checkpoint of AdaFace or MagFace, or the folder of one of
    CurricularFace: backbone, centres and the margin's state. Steps and schedule start afresh."""

    features: Annotated[int, Range(low=1, high=65_536)] = 512
    """Length of the embedding."""

    dropout: _FromZeroBelowOne = 0.0
    """Share of the backbone's last feature map that dropout sets to zero."""

    margin: str = "cosface"
    """What the own class is asked for beyond the others: arcface, cosface, combined, sphereface,
    curricularface, magface, adaface, uniface, subcenter, elastic or elastic_plus; see facepack
    heads."""

    margin_options: dict[str, Any] | None = None
    """The margin's own settings, a table; m1, m2, m3 and margin_gradient are some of them."""

    margin_gradient: Literal["exact", "straight_through"] = "exact"
    """How the gradient passes the margin: exact, or straight_through, as if it were constant."""

    m1: float | None = None
    """Factor on the angle (combined)."""

    m2: float | None = None
    """Margin added to the angle (arcface, combined), in radians."""

    m3: float | None = None
    """Margin taken from the cosine (cosface, combined)."""

    scale: _PositiveFloat32 = 64.0
    """The factor s on the cosines before the softmax."""

    sample_rate: Annotated[
        float, Range(low=0, high=1, text="from 0 (positives only) to 1 (all classes)")
    ] = 1.0
    """Share of the classes in each step's softmax (Partial FC); 1 is the full softmax."""

    interclass_filter: Annotated[
        float, Range(low=0, below=1, text="a cosine, at least 0 and below 1")
    ] = 0.0
    """A cosine to another class that lies above it counts as 0, for noisy labels (0.4); 0 filters
    nothing."""

    chunk: Annotated[int, Range(low=0, text="at least 1, or 0 to choose by memory")] = 0
    """Classes whose logits are held at a time; 0 chooses: all while they take at most 2 GiB."""

    head_storage: Literal["device", "host"] = "device"
    """Where centres and their momentum lie: on the device, or in host memory, from which a step's
    sample travels (sample_rate below 1)."""

    head_update: Literal["sampled", "dense"] = "sampled"
    """Which centres momentum and weight decay move in a step: sampled, those in its softmax; dense,
    all, as in arcface_torch's train_v2.py, at a cost that follows the classes, not the sample."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer of backbone and head: sgd or adamw."""

    lr: _PositiveFloat32 | None = None
    """Base learning rate; unset, it is 0.02 * batch_size / 128 (SGD only)."""

    momentum: _FromZeroBelowOne = 0.9
    """SGD's momentum."""

    nesterov: bool = False
    """Let SGD's momentum look ahead (Nesterov); not with method = softmax or unequal, whose centres
    do not."""

    momentum_dtype: Literal["fp32", "bf16"] = "fp32"
    """What the momentum of the head's centres is kept in; bf16 takes half the memory."""

    weight_decay: Annotated[
        float, Range(low=0, high=_FLOAT32_MAX, text="at least 0 and a float32")
    ] = 5e-4
    """Weight decay, on every parameter."""

    clip_norm: Annotated[
        float, Range(low=0, high=_FLOAT32_MAX, text="above 0 and a float32, or 0 for no clipping")
    ] = 5.0
    """Largest norm of the backbone's gradient; 0 leaves it as it is."""

    schedule: str = "cosine"
    """How the rate moves: mhlr, fastface, mhlr_guarded, cosine, poly, multistep or constant."""

    schedule_options: dict[str, Any] = field(default_factory=dict)
    """The schedule's own settings, a table."""

    warmup_epochs: Annotated[float, Range(low=0)] = 0.0
    """Epochs of linear warm-up at the start."""

    epochs: Count = 5
    """Passes over the data."""

    steps: Count | None = None
    """Length of the run in optimizer steps; set, it takes the place of epochs."""

    batch_size: Annotated[
        int, Range(low=2, text="at least 2: batch normalisation has no statistics of one image")
    ] = 128
    """Images in an optimizer step, all micro-batches and all ranks together: the global batch,
    which learning rate and schedule follow."""

    accumulate: Count = 1
    """Micro-batches that a rank's part of a step's batch is cut into, for batches that the memory
    cannot hold."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """The backbone's arithmetic: fp32, bf16, fp16; auto is fp16 on CUDA, fp32 on the CPU."""

    compile: Literal["off", "default", "reduce-overhead", "max-autotune"] = "off"
    """torch.compile for the backbone, in one of its modes; the last two use CUDA graphs."""

    channels_last: bool = True
    """Keep images and convolution weights in channels-last memory."""

    order: Literal["auto", "global", "blocks"] = "auto"
    """How an epoch is shuffled: global, all images among each other; blocks, for packs larger than
    memory, windows of runs that are read together; auto is global where the pack fits in memory."""

    mirror: bool = True
    """Mirror each image with probability one half."""

    augment: Literal["none", "arcface_torch", "adaface"] = "none"
    """Further random changes to images: none, arcface_torch for those of its DALI pipeline, or
    adaface for its crops, low resolutions and light."""

    cache: Literal["none", "host", "device"] = "none"
    """Where all images are kept decoded after the first pass: nowhere (none), in host memory or in
    the GPU's (device), in each process."""

    on_bad_image: Literal["raise", "skip"] = "raise"
    """An image that does not decode ends the run (raise), or is left out and counted (skip)."""

    loader: Literal["auto", "cpu", "dali"] = "auto"
    """Who decodes images: dali, cpu (threads), or auto: dali on CUDA where it is installed."""

    loader_threads: Count | None = None
    """Decoding threads; unset, the loader chooses."""

    threads: Count | None = None
    """Threads that torch computes with on the CPU; unset, torch chooses."""

    log_every: Count = 100
    """Steps between two lines in metrics.jsonl."""

    checkpoint_every: Annotated[int, Range(low=0, text="at least 1, or 0 for none")] = 0
    """Steps between two checkpoints, besides the one at each epoch's end; 0 for none."""

    val_every: Annotated[int, Range(low=0, text="at least 1, or 0 for each epoch's end")] = 0
    """Steps between two verifications; 0 verifies at each epoch's end."""

    val: dict[str, str] = field(default_factory=dict)
    """Verification sets to watch, a table of name = path."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.identity_level == 0:
            raise ConfigError(
                "identity_level = 0 is not allowed: 1 is the topmost folder, -1 the image's own"
            )
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate} does not divide batch_size = {self.batch_size}: "
                "a step's batch is cut into micro-batches of one size. Set one of them so that it "
                "does"
            )
        if self.batch_size == self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate} leaves one image in a micro-batch: batch "
                "normalisation needs at least 2. Lower it, or raise batch_size"
            )
        if self.accumulate > 1 and self.compile in ("reduce-overhead", "max-autotune"):
            raise ConfigError(
                f"compile = {self.compile} keeps gradients in the memory of a CUDA graph, where "
                f"the next micro-batch overwrites them: with accumulate = {self.accumulate} set "
                "compile = default"
            )
        if self.head_storage == "host" and self.sample_rate == 1.0:
            raise ConfigError(
                "head_storage = host with sample_rate = 1.0 would copy every centre to the device "
                "in each step: set a sample_rate below 1, or head_storage = device"
            )
        if self.pretrained is not None and self.continues is not None:
            raise ConfigError(
                f"continues = {self.continues} brings a backbone of its own, and pretrained = "
                f"{self.pretrained} another: set one of them"
            )
        if self.optimizer == "adamw" and self.momentum_dtype != "fp32":
            raise ConfigError(
                f"momentum_dtype = {self.momentum_dtype} is SGD's; optimizer = adamw keeps its "
                "moments in fp32: leave it unset"
            )
        if self.optimizer == "adamw" and self.lr is None:
            raise ConfigError("lr must be set with optimizer = adamw: the published 0.02 is SGD's")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ConfigError(
                "nesterov = true is SGD's with a momentum above 0: leave it unset, or set "
                "optimizer = sgd and a momentum"
            )
        if self.optimizer == "adamw" and self.momentum != TrainConfig.momentum:
            raise ConfigError(
                f"momentum = {self.momentum} is SGD's; optimizer = adamw takes none: leave it unset"
            )
        for name, path in self.val.items():
            if not isinstance(path, str) or not path or not name:
                raise ConfigError(
                    f"val must name sets as name = path; received {name!r} = {path!r}"
                )

    @property
    def base_lr(self) -> float:
        """The learning rate the schedule starts from."""
        if self.lr is not None:
            return self.lr
        return _REFERENCE_LR * self.batch_size / _REFERENCE_BATCH

    def as_dict(self) -> dict[str, Any]:
        """All settings that have a value, in their order: plain data, as TOML can hold it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: dict(value) if isinstance(value, dict) else value
            for name, value in values.items()
            if value is not None
        }


# Settings that may change between a checkpoint and its resumption: where the data lie, who decodes
# them, what is looked at and how often. All others decide the weights. So do some of these, a
# little: threads, compile and chunk in the last bits, by the order of sums; head_storage under
# head_update = dense, by the processor that rounds; and loader on a GPU, where the decoders differ
# by a few grey levels. A run may move to another machine all the same;
# bit-for-bit equality with one that was not interrupted holds at equal thread counts.
FREE_ON_RESUME = frozenset(
    {
        *("shards", "exclude", "loader", "cache", "loader_threads", "threads", "compile", "chunk"),
        *("head_storage", "log_every", "checkpoint_every", "val_every", "val"),
    }
)

# Settings that checkpoints lack which were written before there were these.
_ADDED = ("method", "nesterov")

# Settings of the course, length and rate of a run, which may change where that is well defined: see
# facepack.train.loop.course.
COURSE = frozenset({"epochs", "steps", "lr", "warmup_epochs", "schedule", "schedule_options"})


def dump_config(config: TrainConfig) -> str:
    """Every setting that has a value, as TOML; :func:`read_settings` reads it from a file."""
    return tomli_w.dumps(config.as_dict())


def differing_settings(saved: Mapping[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name → (saved, now) of each setting that decides the weights and is not the same."""
    # What a checkpoint does not name was no setting yet: the run was as it is by default.
    saved = {**{name: getattr(TrainConfig, name) for name in _ADDED}, **saved}
    now = config.as_dict()
    names = (saved.keys() | now.keys()) - FREE_ON_RESUME
    return {
        name: (saved.get(name), now.get(name))
        for name in sorted(names)
        if saved.get(name) != now.get(name)
    }
