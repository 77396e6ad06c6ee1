"""The settings of a training run: one dataclass, recipes in TOML, ``key=value`` overrides.

A setting's type, default, range and help text all stand in :class:`TrainConfig`. Nothing here
imports torch: settings can be listed, read and checked at once. Whether a backbone, a margin or a
schedule of the given name exists is for their registries to say, when the run is built.
"""

from __future__ import annotations

import ast
import inspect
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from facepack import lfs
from facepack.errors import ConfigError, did_you_mean
from facepack.reading import parse_toml, read_text

CONFIG_FILE = "config.toml"  # a run's resolved settings, in its folder

_REFERENCE_BATCH = 128
_REFERENCE_LR = 0.02


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
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

    seed: int = 0
    """Keys every draw: initial weights, order, mirroring, dropout, sampled classes."""

    backbone: str = "r50"
    """The network that makes embeddings: tiny, mbf, mbf_large, r18, r34, r50, r100, r124, r200,
    r2060, r50_224, vit_t, vit_t_dp005_mask0, vit_s, vit_s_dp005_mask_0, vit_b,
    vit_b_dp005_mask_005, vit_l or vit_h; see facepack models."""

    pretrained: str | None = None
    """A model to begin with: a run's folder, model.pt, or a checkpoint of arcface_torch."""

    continues: str | None = None
    """A run of arcface_torch to go on with: its output folder, from which backbone, class centres
    and the momentum of both are taken. Steps and schedule begin anew."""

    features: int = 512
    """Length of the embedding."""

    dropout: float = 0.0
    """Share of the backbone's last feature map that dropout sets to zero."""

    margin: str = "cosface"
    """The margin softmax: arcface, cosface or combined."""

    margin_gradient: Literal["exact", "straight_through"] = "exact"
    """How the gradient passes the margin: exact, or straight_through, as if it were constant."""

    m1: float | None = None
    """Factor on the angle (combined)."""

    m2: float | None = None
    """Margin added to the angle (arcface, combined), in radians."""

    m3: float | None = None
    """Margin taken from the cosine (cosface, combined)."""

    scale: float = 64.0
    """The factor s on the cosines before the softmax."""

    sample_rate: float = 1.0
    """Share of the classes in each step's softmax (Partial FC); 1 is the full softmax."""

    interclass_filter: float = 0.0
    """A cosine to another class that lies above it counts as 0, for noisy labels (0.4); 0 filters
    nothing."""

    chunk: int = 0
    """Classes whose logits are held at a time; 0 chooses: all while they take at most 2 GiB."""

    head_storage: Literal["device", "host"] = "device"
    """Where centres and their momentum lie: on the device, or in host memory, from which a step's
    sample travels (sample_rate below 1)."""

    head_update: Literal["sampled", "dense"] = "sampled"
    """Which centres momentum and weight decay move in a step: sampled, those in its softmax; dense,
    all, as in arcface_torch's train_v2.py, at a cost that follows the classes, not the sample."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer of backbone and head: sgd or adamw."""

    lr: float | None = None
    """Base learning rate; unset, it is 0.02 * batch_size / 128 (SGD only)."""

    momentum: float = 0.9
    """SGD's momentum."""

    momentum_dtype: Literal["fp32", "bf16"] = "fp32"
    """What the momentum of the head's centres is kept in; bf16 takes half the memory."""

    weight_decay: float = 5e-4
    """Weight decay, on every parameter."""

    clip_norm: float = 5.0
    """Largest norm of the backbone's gradient; 0 leaves it as it is."""

    schedule: str = "cosine"
    """How the rate moves: mhlr, fastface, mhlr_guarded, cosine, poly, multistep or constant."""

    schedule_options: dict[str, Any] = field(default_factory=dict)
    """The schedule's own settings, a table."""

    warmup_epochs: float = 0.0
    """Epochs of linear warm-up at the start."""

    epochs: int = 5
    """Passes over the data."""

    steps: int | None = None
    """Length of the run in optimizer steps; set, it takes the place of epochs."""

    batch_size: int = 128
    """Images in an optimizer step, all micro-batches and all ranks together: the global batch,
    which learning rate and schedule follow."""

    accumulate: int = 1
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

    augment: Literal["none", "arcface_torch"] = "none"
    """Further random changes to images: none, or arcface_torch for those of its DALI pipeline."""

    cache: Literal["none", "host", "device"] = "none"
    """Where all images are kept decoded after the first pass: nowhere (none), in host memory or in
    the GPU's (device), in each process."""

    on_bad_image: Literal["raise", "skip"] = "raise"
    """An image that does not decode ends the run (raise), or is left out and counted (skip)."""

    loader: Literal["auto", "cpu", "dali"] = "auto"
    """Who decodes images: dali, cpu (threads), or auto: dali on CUDA where it is installed."""

    loader_threads: int | None = None
    """Decoding threads; unset, the loader chooses."""

    threads: int | None = None
    """Threads that torch computes with on the CPU; unset, torch chooses."""

    log_every: int = 100
    """Steps between two lines in metrics.jsonl."""

    checkpoint_every: int = 0
    """Steps between two checkpoints, besides the one at each epoch's end; 0 for none."""

    val_every: int = 0
    """Steps between two verifications; 0 verifies at each epoch's end."""

    val: dict[str, str] = field(default_factory=dict)
    """Verification sets to watch, a table of name = path."""

    def __post_init__(self) -> None:
        for name, kind in _kinds().items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), kind))
        for name, (low, high, text) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{name} = {value} is not allowed: it must be {text}")
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


# Inclusive bounds; a strict one is its neighbouring float. What meets tensors must fit float32.
_FLOAT32_MAX = 3.4028234663852886e38
_ABOVE_ZERO = math.nextafter(0.0, 1.0)
_BELOW_ONE = math.nextafter(1.0, 0.0)
_RANGES: dict[str, tuple[float, float, str]] = {
    "seed": (0, (1 << 63) - 1, "from 0 to 2^63 - 1"),
    "features": (1, 65_536, "from 1 to 65536"),
    "dropout": (0.0, _BELOW_ONE, "at least 0 and below 1"),
    "scale": (_ABOVE_ZERO, _FLOAT32_MAX, "above 0 and a float32"),
    "interclass_filter": (0.0, _BELOW_ONE, "a cosine, at least 0 and below 1"),
    "chunk": (0, math.inf, "at least 1, or 0 to choose by memory"),
    "sample_rate": (0.0, 1.0, "from 0 (positives only) to 1 (all classes)"),
    "lr": (_ABOVE_ZERO, _FLOAT32_MAX, "above 0 and a float32"),
    "momentum": (0.0, _BELOW_ONE, "at least 0 and below 1"),
    "weight_decay": (0.0, _FLOAT32_MAX, "at least 0 and a float32"),
    "clip_norm": (0.0, _FLOAT32_MAX, "above 0 and a float32, or 0 for no clipping"),
    "warmup_epochs": (0.0, math.inf, "at least 0"),
    "epochs": (1, math.inf, "at least 1"),
    "steps": (1, math.inf, "at least 1"),
    "batch_size": (2, math.inf, "at least 2: batch normalisation has no statistics of one image"),
    "accumulate": (1, math.inf, "at least 1"),
    "loader_threads": (1, math.inf, "at least 1"),
    "threads": (1, math.inf, "at least 1"),
    "log_every": (1, math.inf, "at least 1"),
    "checkpoint_every": (0, math.inf, "at least 1, or 0 for none"),
    "val_every": (0, math.inf, "at least 1, or 0 for each epoch's end"),
}

# Settings that may change between a checkpoint and its resumption: where the data lie, who decodes
# them, what is looked at and how often. All others decide the weights. So do some of these, a
# little: threads, compile and chunk in the last bits, by the order of sums; head_storage under
# head_update = dense, by the processor that rounds; and loader on a GPU, where the decoders differ
# by a few grey levels. A run may move to another machine all the same;
# bit-for-bit equality with one that was not interrupted holds at equal thread counts.
FREE_ON_RESUME = frozenset(
    {
        "shards",
        "loader",
        "cache",
        "loader_threads",
        "threads",
        "compile",
        "chunk",
        "head_storage",
        "log_every",
        "checkpoint_every",
        "val_every",
        "val",
    }
)

# Settings of the course, length and rate of a run, which may change where that is well defined: see
# facepack.train.loop.course.
COURSE = frozenset({"epochs", "steps", "lr", "warmup_epochs", "schedule", "schedule_options"})


def recipe_names() -> list[str]:
    """The names of the recipes that come with facepack, sorted."""
    files = resources.files("facepack.train.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def read_settings(source: str) -> dict[str, Any]:
    """The settings in a recipe, or in a TOML file if ``source`` ends in ``.toml``.

    Raises:
        ConfigError: there is no such recipe or file, it is not TOML, or it names unknown settings.
    """
    if source.endswith(".toml"):
        path = Path(source)
        try:
            text = read_text(path)
        except FileNotFoundError:
            raise ConfigError(f"config file {source} does not exist") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"config file {source} cannot be read: {reason}") from error
        lfs.require_content(path, ConfigError)
    else:
        if source not in recipe_names():
            raise ConfigError(
                f"unknown recipe {source!r}{did_you_mean(source, recipe_names())}; there are "
                f"{', '.join(recipe_names())}; a file of your own must end in .toml"
            )
        recipe = resources.files("facepack.train.recipes") / f"{source}.toml"
        text = recipe.read_text(encoding="utf-8")
    try:
        settings = parse_toml(text)
    except ValueError as error:
        raise ConfigError(f"config {source} is not TOML: {error}") from error
    for name in settings:
        _known(name, f"config {source}")
    return settings


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` texts by each setting's type; ``table.key=value`` sets one table entry.

    Raises:
        ConfigError: a text has no ``=``, names an unknown setting or a value of another type.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, text = _split(assignment)
        name, dot, entry = key.partition(".")
        kind = _known(name, f"--set {assignment}")
        if (_base(kind) is dict) != bool(dot):
            wanted = f"{name}.key=value" if _base(kind) is dict else f"{name}=value"
            raise ConfigError(f"--set {assignment}: write it as {wanted}")
        if dot:
            settings.setdefault(name, {})[entry] = _parse_free(text)
        else:
            settings[name] = _parse(name, text, kind)
    return settings


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` texts whose types are not known here, as TOML or else as the text itself.

    Raises:
        ConfigError: a text has no ``=``.
    """
    return {key: _parse_free(text) for key, text in map(_split, assignments)}


# Setting → those that mean something else, or nothing, under another value of it.
_BELONGING = {
    "schedule": ("schedule_options",),
    "margin": ("m1", "m2", "m3", "margin_gradient"),
    "optimizer": ("lr", "momentum", "momentum_dtype", "weight_decay"),
}


def merge_settings(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over one another, the last on top; tables merge entry by entry.

    A layer that names another ``schedule`` drops the options of the one below, another ``margin``
    its m1, m2, m3 and gradient, another ``optimizer`` its lr, momentum and weight decay.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for owner, belonging in _BELONGING.items():
            before = merged.get(owner, getattr(TrainConfig, owner))
            if layer.get(owner, before) != before:
                for name in belonging:
                    merged.pop(name, None)
        for name, value in layer.items():
            below = merged.get(name)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                merged[name] = {**below, **value}
            else:
                merged[name] = value
    return merged


def collect_settings(
    *,
    source: str | None = None,
    overrides: Iterable[str] = (),
    shards: str | None = None,
    val: Mapping[str, str] | None = None,
    run: Path | None = None,
) -> dict[str, Any]:
    """Merge what a command line says.

    Args:
        source: recipe name or TOML file, on top of ``run``.
        overrides: ``key=value`` texts, on top of it.
        shards: what to train on, on top of those.
        val: verification sets, on top of those.
        run: folder of a run to resume, whose own settings lie below all others.

    Raises:
        ConfigError: as :func:`read_settings` and :func:`parse_overrides`; ``run`` holds no settings
            and nothing else says what to train on.
    """
    layers: list[Mapping[str, Any]] = []
    if run is not None and (run / CONFIG_FILE).is_file():
        layers.append(read_settings(str(run / CONFIG_FILE)))
    if source is not None:
        layers.append(read_settings(source))
    layers.append(parse_overrides(overrides))
    if shards is not None:
        layers.append({"shards": shards})
    if val:
        layers.append({"val": dict(val)})
    settings = merge_settings(*layers)
    if run is not None and "shards" not in settings:
        raise ConfigError(
            f"{run} holds no {CONFIG_FILE}, which has the settings of a run to resume: give the "
            "run's folder as --out. To begin one, or to go on where that file is lost, give the "
            "settings: --config, --set, --shards"
        )
    return settings


def make_config(settings: Mapping[str, Any]) -> TrainConfig:
    """Build the config from merged settings.

    Raises:
        ConfigError: ``shards`` is missing, a name is unknown or a value not allowed.
    """
    for name in settings:
        _known(name, "config")
    if "shards" not in settings:
        raise ConfigError("shards is not set: name the pack or image tree to train on (--shards)")
    return TrainConfig(**settings)


def dump_config(config: TrainConfig) -> str:
    """Every setting that has a value, as TOML; :func:`read_settings` reads it from a file."""
    return tomli_w.dumps(config.as_dict())


def differing_settings(saved: Mapping[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name → (saved, now) of each setting that decides the weights and is not the same."""
    now = config.as_dict()
    names = (saved.keys() | now.keys()) - FREE_ON_RESUME
    return {
        name: (saved.get(name), now.get(name))
        for name in sorted(names)
        if saved.get(name) != now.get(name)
    }


def describe_settings() -> list[tuple[str, str]]:
    """``("name = default", help text)`` of every setting, from the docstrings under the fields."""
    documented = _documentation()
    rows = []
    for f in fields(TrainConfig):
        default: Any = f.default
        if default is MISSING:
            default = {} if f.default_factory is not MISSING else None
        shown = "" if default is None else f" = {_shown(default)}"
        rows.append((f"{f.name}{shown}", documented[f.name]))
    return rows


@cache
def _documentation() -> dict[str, str]:
    tree = ast.parse(inspect.getsource(TrainConfig)).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for statement, following in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            assert isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            texts[statement.target.id] = " ".join(str(following.value.value).split())
    return texts


@cache
def _kinds() -> dict[str, Any]:
    hints = get_type_hints(TrainConfig)
    return {f.name: hints[f.name] for f in fields(TrainConfig)}


def _known(name: str, where: str) -> Any:
    kinds = _kinds()
    if name not in kinds:
        raise ConfigError(f"{where}: unknown setting {name!r}{did_you_mean(name, kinds)}")
    return kinds[name]


def _optional(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def _base(kind: Any) -> Any:
    """The type without ``| None`` and without parameters; Literal types stay whole."""
    if _optional(kind):
        kind = next(k for k in get_args(kind) if k is not type(None))
    return dict if get_origin(kind) is dict else kind


_TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    dict: "a table",
}


def _checked(name: str, value: Any, kind: Any) -> Any:
    if value is None and _optional(kind):
        return None
    base = _base(kind)
    if get_origin(base) is Literal:
        allowed = get_args(base)
        if value not in allowed:
            near = did_you_mean(value, allowed) if isinstance(value, str) else ""
            raise ConfigError(f"{name} = {value!r} is not one of {', '.join(allowed)}{near}")
        return value
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    # bool is an int in Python; for a setting it is not.
    if not isinstance(value, base) or (base is int and isinstance(value, bool)):
        raise ConfigError(f"{name} = {value!r} is not {_TYPE_NAMES[base]}")
    if base is float and not math.isfinite(value):
        raise ConfigError(f"{name} = {value} is not a finite number")
    if base is str and not value:
        raise ConfigError(f"{name} is empty")
    return dict(value) if base is dict else value


def _parse(name: str, text: str, kind: Any) -> Any:
    if text.lower() == "none" and _optional(kind):
        return None
    base = _base(kind)
    if base is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{name} = {text!r} is not {_TYPE_NAMES[bool]}")
        return text.lower() == "true"
    if base in (int, float):
        try:
            return base(text)
        except ValueError:
            raise ConfigError(f"{name} = {text!r} is not {_TYPE_NAMES[base]}") from None
    return text


def _split(assignment: str) -> tuple[str, str]:
    key, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: write it as key=value")
    return key, text


def _parse_free(text: str) -> Any:
    """A value of no declared type: TOML's reading of it, or else the text itself."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except ValueError:
        return text


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "{}" if value == {} else f"{value}"
