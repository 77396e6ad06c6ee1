"""Gather the pages of the site: those of docs/, the README and its neighbours, and the interface.

python docs/gather.py FOLDER   writes the pages there, for Sphinx

The pages that people write stay as GitHub shows them; here they only get a place in the menu, and
pages about modules, which are drawn from docstrings, come beside them.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import facepack

ROOT = Path(__file__).parents[1]

MENU = {
    "Using it": (
        *("conversion", "loading", "training", "unequal", "evaluation", "noise", "models"),
        *("distributed", "from-arcface-torch", "commands", "json"),
    ),
    "What it does": ("pack-format", "schedules", "head", "f2c"),
    "Python": ("api/facepack", "api/errors", "api/convert", "api/train", "api/evaluate"),
    "Working on it": ("CONTRIBUTING", "CHANGELOG"),
}
"""The pages by chapter; each page of docs/ is in one."""

MODULES = {
    "api/errors": ("Errors", ["facepack.errors"]),
    "api/convert": (
        "Sources and sinks",
        [
            "facepack.convert.source",
            "facepack.convert.sink",
            "facepack.convert.registry",
            "facepack.convert.options",
            "facepack.convert.result",
        ],
    ),
    "api/train": (
        "Training",
        [
            "facepack.train.config",
            "facepack.train.backbones.registry",
            "facepack.train.heads.margins.registry",
            "facepack.train.methods.method",
            "facepack.train.schedules.base",
            "facepack.train.schedules.registry",
        ],
    ),
    "api/evaluate": (
        "Evaluation",
        [
            "facepack.evaluate.protocol",
            "facepack.evaluate.faces.faces",
            "facepack.evaluate.results.result",
        ],
    ),
}
"""Pages about modules: title, and the modules, each with all that its docstrings tell."""


def gather(folder: Path) -> None:
    """Write all pages below ``folder``, which is not there yet."""
    shutil.copytree(
        ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "_*")
    )
    for name in ("CONTRIBUTING.md", "CHANGELOG.md"):
        (folder / name).write_text(_moved((ROOT / name).read_text(encoding="utf-8")), "utf-8")
    readme = _moved((ROOT / "README.md").read_text(encoding="utf-8"))
    (folder / "index.md").write_text(readme + "".join(map(_toctree, MENU)), "utf-8")
    (folder / "api").mkdir()
    (folder / "api" / "facepack.md").write_text(_package_page(), "utf-8")
    for name, (title, modules) in MODULES.items():
        sections = map(_module_section, modules)
        (folder / f"{name}.md").write_text(f"# {title}\n" + "".join(sections), "utf-8")


def _moved(text: str) -> str:
    """A page of the top folder, with links as they are beside the pages of docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\[([^\]]*)\]\((?!\w+:)[^)#]*(?<!\.md)\)", r"\1", text)  # files of the source


def _toctree(chapter: str) -> str:
    pages = "\n".join(MENU[chapter])
    return f"\n```{{toctree}}\n:hidden:\n:caption: {chapter}\n\n{pages}\n```\n"


def _package_page() -> str:
    """The public names, of which ``facepack.__all__`` is the list."""
    parts = ["# The package\n\n```python\nimport facepack\n```\n"]
    for name in sorted(facepack.__all__, key=str.lower):
        if name != "__version__":
            kind = "autofunction" if name == "open" else "autoclass"
            members = (
                "" if name == "open" else "   :members:\n   :inherited-members: object,tuple\n"
            )
            parts.append(f"\n```{{eval-rst}}\n.. {kind}:: facepack.{name}\n{members}```\n")
    return "".join(parts)


def _module_section(module: str) -> str:
    return f"\n## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n   :members:\n```\n"


if __name__ == "__main__":
    gather(Path(sys.argv[1]))
