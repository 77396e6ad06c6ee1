"""Where a run's settings come from: recipes and files in TOML, ``key=value`` texts, an earlier run.

What comes later lies on top of what came before, setting by setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from facepack import lfs
from facepack.errors import ConfigError, did_you_mean
from facepack.reading import parse_toml, read_text
from facepack.settings import check_choice, is_table, kinds, parse
from facepack.train.config import CONFIG_FILE, TrainConfig


def recipe_names() -> list[str]:
    """The names of the recipes that come with facepack, sorted."""
    files = resources.files("facepack.train.recipes").iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def read_settings(source: str) -> dict[str, Any]:
    """The settings in a recipe, or in a TOML file if ``source`` ends in ``.toml``.

    ``base = "RECIPE"`` there lays them over that recipe's.

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
    base = settings.pop("base", None)
    for name in settings:
        _known(name, f"config {source}")
    if base is None:
        return settings
    # A recipe, no file: recipes are known not to lie on one another in a circle.
    check_choice(f"config {source}: base", base, recipe_names())
    return merge_settings(read_settings(base), settings)


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
        if is_table(kind) != bool(dot):
            wanted = f"{name}.key=value" if is_table(kind) else f"{name}=value"
            raise ConfigError(f"--set {assignment}: write it as {wanted}")
        if dot:
            settings.setdefault(name, {})[entry] = _parse_free(text)
        else:
            settings[name] = parse(name, text, kind)
    return settings


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` texts whose types are not known here, as TOML or else as the text itself.

    Raises:
        ConfigError: a text has no ``=``.
    """
    return {key: _parse_free(text) for key, text in map(_split, assignments)}


# Setting → those that mean something else, or nothing, under another value of it.
_BELONGING = {
    "method": (
        *("method_options", "margin", "m1", "m2", "m3", "margin_gradient", "margin_options"),
        *("scale", "sample_rate", "interclass_filter", "chunk", "head_storage", "head_update"),
        *("momentum_dtype", "nesterov", "accumulate", "compile"),
    ),
    "schedule": ("schedule_options",),
    "margin": ("m1", "m2", "m3", "margin_gradient", "margin_options"),
    "optimizer": ("lr", "momentum", "nesterov", "momentum_dtype", "weight_decay"),
}


def merge_settings(
    *layers: Mapping[str, Any], notify: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Lay settings over one another, the last on top; tables merge entry by entry.

    A layer that names another ``method`` drops the options of the one below, the settings of the
    softmax head and what else not every method takes, another ``schedule`` drops the options of the
    one below, another ``margin`` its m1, m2, m3, gradient and options, another ``optimizer`` its
    lr, momentum and decay. ``notify`` is told what another method drops: it may take some of that.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for owner, belonging in _BELONGING.items():
            before = merged.get(owner, getattr(TrainConfig, owner))
            if layer.get(owner, before) != before:
                gone = {name: merged.pop(name) for name in belonging if name in merged}
                lost = [f"{name} = {gone[name]}" for name in gone if name not in layer]
                if notify is not None and owner == "method" and lost:
                    notify(
                        f"method = {layer[owner]} is not that of the settings below it ({before}), "
                        f"so these are left out: {', '.join(lost)}; --set gives those that it takes"
                    )
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
    notify: Callable[[str], None] | None = None,
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
    settings = merge_settings(*layers, notify=notify)
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


def _known(name: str, where: str) -> Any:
    """The type of a setting."""
    known = kinds(TrainConfig)
    if name not in known:
        raise ConfigError(f"{where}: unknown setting {name!r}{did_you_mean(name, known)}")
    return known[name]


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
