"""The GPU image's recipe: its steps, run without Docker; what it copies; who it runs as."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of each, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def copied() -> dict[str, str]:
    """File or folder of the repository → where it goes, from the working folder."""
    places = {}
    for word, rest in instructions():
        if word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                places[source] = f"{target}{source}" if target.endswith("/") else target
    return places


def test_what_is_copied_is_there_and_is_all_that_setup_names() -> None:
    assert all((ROOT / source).exists() for source in copied())
    settings = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    rooms = re.findall(r"^    facepack\.\w+ = (\w+)$", settings, re.MULTILINE)
    assert {"facepack", *rooms} <= copied().keys()
    assert re.search(r"file: (\S+)", settings)[1] in copied()  # type: ignore[index]


def test_it_does_not_run_as_root() -> None:
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users and users[-1].split(":")[0] not in ("0", "root")


def test_steps_are_shell() -> None:
    for word, rest in instructions():
        if word == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)


@pytest.mark.skipif(
    "FACEPACK_TEST_DOCKERFILE" not in os.environ,
    reason="installs from the package index; set FACEPACK_TEST_DOCKERFILE=1",
)
def test_steps_work_in_a_fresh_environment(tmp_path: Path) -> None:
    # Stands for the base image: a Python that has torch, and this environment's other packages.
    venv.create(tmp_path / "base", with_pip=True, symlinks=True)
    binaries = tmp_path / "base" / "bin"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "base" / "lib" / version / "site-packages"
    theirs = Path(sysconfig.get_paths()["purelib"])
    (site / "base.pth").write_text(f"{theirs}\n")
    (binaries / "torchrun").write_text(
        f'#!/bin/sh\nexec {binaries}/python -m torch.distributed.run "$@"\n'
    )
    (binaries / "torchrun").chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    for source, target in copied().items():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / target)
        else:
            shutil.copy(ROOT / source, folder / target)
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    for word, rest in instructions():
        if word == "RUN":
            environment = {**os.environ, "PATH": path, "EXTRAS": "tensorboard"}
            done = subprocess.run(
                ["sh", "-c", rest], cwd=folder, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
    where = subprocess.run(
        [binaries / "python", "-c", "import facepack.train; print(facepack.train.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
