"""The source distribution: it can be built from, tested and read."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the archive unpacks to."""
    pytest.importorskip("setuptools", reason="the source distribution is built by setuptools")
    folder = tmp_path_factory.mktemp("sdist")
    build = (
        "import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))"
    )
    # setuptools leaves metadata in the folder that it builds: a copy is built.
    tree = folder / "tree"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("the working tree is no git repository, so it may hold more than the sources")
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with tarfile.open(folder / done.stdout.splitlines()[-1]) as archive:
        archive.extractall(folder, filter="data")
        (top,) = {member.name.partition("/")[0] for member in archive}
    return folder / top


def test_it_holds_every_module_test_and_page(sdist: Path) -> None:
    for room in (
        "facepack",
        "convert",
        "train",
        "evaluate",
        "tests",
        "benchmarks",
        "docs",
        "studies",
    ):
        wanted = {path.relative_to(ROOT) for path in (ROOT / room).rglob("*.py")}
        wanted |= {path.relative_to(ROOT) for path in (ROOT / room).rglob("*.toml")}
        wanted |= {path.relative_to(ROOT) for path in (ROOT / room).rglob("*.md")}
        wanted |= {path.relative_to(ROOT) for path in (ROOT / room).rglob("templates/*")}
        assert wanted and {path for path in wanted if not (sdist / path).is_file()} == set()
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "Dockerfile", "LICENSE"):
        assert (sdist / name).read_bytes() == (ROOT / name).read_bytes()


def test_links_of_its_pages_lead_somewhere(sdist: Path) -> None:
    pages = [*sdist.glob("*.md"), *sdist.glob("docs/*.md")]
    broken = [
        f"{page.relative_to(sdist)}: {link}"
        for page in pages
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert len(pages) > 10 and broken == []


def test_setup_lists_every_package() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = set(settings["options"]["packages"].split())
    there = set()
    for room in ("facepack", "convert", "train", "evaluate"):
        for path in (ROOT / room).rglob("__init__.py"):
            words = path.parent.relative_to(ROOT).parts
            there.add(".".join(words if room == "facepack" else ("facepack", *words)))
    assert listed == there
