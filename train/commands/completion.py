"""What shells complete options of training with: recipes, settings and their values, data.

A name is wanted at once, and torch takes seconds to import: names under ``@register`` are read
from the sources of a registry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

import click
from click.shell_completion import CompletionItem

_REGISTERED = re.compile(r'^@register\("([^"]+)"', re.MULTILINE)
_REGISTRIES = {"margin": "heads/margins", "method": "methods", "schedule": "schedules"}


def registered(setting: str) -> list[str]:
    """The names that ``setting``, one of margin, method and schedule, may have: sorted."""

    def sources(folder: Any) -> Iterable[str]:
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from sources(entry)
            elif entry.name.endswith(".py"):
                yield entry.read_text(encoding="utf-8")

    texts = sources(resources.files("facepack.train").joinpath(_REGISTRIES[setting]))
    return sorted(name for text in texts for name in _REGISTERED.findall(text))


def complete_registered(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The names of the registry that the option is called after."""
    return _items(registered(param.opts[0].removeprefix("--")), incomplete)


def complete_config(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Recipes, or else files."""
    from facepack.train.collect import recipe_names

    return _items(recipe_names(), incomplete) or [CompletionItem(incomplete, type="file")]


def complete_setting(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Settings as ``KEY=``; behind that the values, where they are few."""
    from facepack.settings import describe, few_values, is_table, kinds
    from facepack.train.config import TrainConfig

    name, equals, _ = incomplete.partition("=")
    types = kinds(TrainConfig)
    if not equals:
        ends = {key: f"{key}{'.' if is_table(kind) else '='}" for key, kind in types.items()}
        help_of = {entry.partition(" ")[0]: text for entry, text in describe(TrainConfig)}
        return [
            CompletionItem(end, help=help_of[key].replace("``", ""))
            for key, end in ends.items()
            if end.startswith(incomplete)
        ]
    values = registered(name) if name in _REGISTRIES else few_values(types.get(name, str))
    return _items([f"{name}={value}" for value in values], incomplete)


def complete_data(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Packs in the data home and their shard sets, or else folders."""
    from facepack.errors import FacepackError
    from facepack.store.home import data_home, shard_sets

    try:
        sets = shard_sets(data_home(ctx.params.get("home")))
    except (FacepackError, OSError):  # whoever opens them is told
        sets = {}
    names = [pack.name for pack in sets]
    names += [f"{pack.name}:{each}" for pack, its in sets.items() for each in its]
    names += {each for its in sets.values() for each in its}
    return _items(sorted(names), incomplete) or [CompletionItem(incomplete, type="dir")]


def _items(values: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]
