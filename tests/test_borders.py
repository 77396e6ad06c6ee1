"""Who may import whom: rooms know what lies below them, and nothing goes round in a circle."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("facepack", "convert", "train", "evaluate")
EXTRAS = {
    "dask", "distributed", "matplotlib", "mxnet", "numba", "nvidia", "onnx", "onnxruntime",
    "onnxscript", "pyarrow", "safetensors", "tensorboard",
}  # fmt: skip
# What users enter by: the public names, commands that are found by name, and a name of before.
ENTRANCES = {
    *("facepack", "facepack.__main__", "facepack.cli"),
    *("facepack.evaluate", "facepack.train.pretrained"),
}


def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            words = path.relative_to(ROOT).with_suffix("").parts
            words = words if room == "facepack" else ("facepack", *words)
            found[".".join(words).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(tree: ast.AST) -> Iterator[str]:
    """The modules that a tree imports, at its top or in functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def room(module: str) -> str:
    """The folder of a module: ``facepack.store`` of ``facepack.store.shard``."""
    is_package = MODULES[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


def arrows() -> dict[str, set[str]]:
    """Room → the rooms that its modules import, whether at once or when they are called."""
    found: dict[str, set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        if module in ENTRANCES:
            continue
        for other in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if other in MODULES and other not in ENTRANCES and room(other) != room(module):
                found[room(module)].add(room(other))
    return found


def test_no_room_can_be_reached_from_itself() -> None:
    graph = arrows()
    for start in list(graph):
        seen: set[str] = set()
        todo = [start]
        while todo:
            for following in graph[todo.pop()] - seen:
                seen.add(following)
                todo.append(following)
        assert start not in seen, f"{start} imports what imports it again"


# Room → the rooms that it does not know. Commands may bring together what rooms keep apart.
ABOVE = {
    "facepack.store": ("facepack.care", "facepack.view", "facepack.loading"),
    "facepack.care": ("facepack.view", "facepack.loading"),
    "facepack.view": ("facepack.care", "facepack.loading"),
    "facepack.loading": ("facepack.care", "facepack.view"),
    "facepack.convert": ("facepack.loading", "facepack.train", "facepack.evaluate"),
    "facepack.evaluate": ("facepack.evaluate.commands",),
    "facepack.train": ("facepack.convert.formats", "facepack.convert.faces", "facepack.evaluate"),
}


def is_within(module: str, rooms: tuple[str, ...]) -> bool:
    """Whether a module is one of the rooms or stands in one."""
    return f"{module}.".startswith(tuple(f"{name}." for name in rooms))


@pytest.mark.parametrize("low", ABOVE)
def test_nothing_reaches_up(low: str) -> None:
    for start, ends in arrows().items():
        if is_within(start, (low,)) and not start.endswith(".commands"):
            assert not [end for end in ends if is_within(end, ABOVE[low])], start


def test_the_ground_knows_no_room() -> None:
    assert not arrows()["facepack"]


def test_the_core_knows_no_outer_room() -> None:
    outer = tuple(f"facepack.{name}" for name in ROOMS[1:])
    for start, ends in arrows().items():
        if not is_within(start, outer):
            assert not [end for end in ends if is_within(end, outer)], start


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when a module is imported: no bodies of functions, nothing for types alone."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        todo += ast.iter_child_nodes(node)


@pytest.mark.parametrize("module", MODULES)
def test_extras_are_imported_when_they_are_needed(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in at_import(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found = {name.partition(".")[0] for name in imports(node)}
            assert not found & EXTRAS, f"line {node.lineno}"
