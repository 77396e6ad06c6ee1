from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facepack.convert.formats.rec.recordio import RecordWriter, pack_header

MakeRec = Callable[..., Path]


@pytest.fixture
def make_rec(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> MakeRec:
    """``make_rec(count, name="src", bad={i: payload})``: a folder in InsightFace's layout.

    ``bad`` replaces the whole payload of image ``i`` (from 0); identities have five images.
    """

    def make(
        count: int = 100,
        name: str = "src",
        bad: dict[int, bytes] | None = None,
        vector: bool = False,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        identities = -(-count // 5)
        with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
            first = count + 1
            writer.write(0, pack_header([first, first + identities], 0))
            for i in range(count):
                label = [i // 5, 1] if vector else i // 5
                payload = pack_header(label, i + 1) + make_jpeg(i)
                writer.write(i + 1, (bad or {}).get(i, payload))
            for k in range(identities):
                writer.write(first + k, pack_header([5 * k + 1, 5 * k + 6], first + k))
        (folder / "property").write_text(f"{identities},32,32")
        return folder

    return make


@pytest.fixture
def unfolded() -> Callable[[Path], Path]:
    """``unfolded(out)``: its state as a folder, which earlier versions left of trees as well."""

    def unfold(out: Path) -> Path:
        file, folder = out / ".facepack.json", out / ".facepack"
        if file.exists():
            state = json.loads(file.read_bytes())
            folder.mkdir()
            for name in ("plan", "done"):
                (folder / f"{name}.json").write_text(json.dumps(state[name]))
            file.unlink()
        return folder

    return unfold


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if not hasattr(os, "geteuid") or shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root only")
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
