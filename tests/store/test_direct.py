from __future__ import annotations

from io import FileIO
from pathlib import Path

import numpy as np
import pytest

from facepack.store import direct
from facepack.store.direct import BLOCK, BlockWriter, read_blocks

SIZES = (0, 1, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 4096 + 77)


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder on a disk, and one of a file system that is nothing but a cache."""
    if request.param == "disk":
        return tmp_path
    memory = Path("/dev/shm")
    if not memory.is_dir():
        pytest.skip("there is no file system in memory here")
    import tempfile

    held = tempfile.TemporaryDirectory(dir=memory)
    request.addfinalizer(held.cleanup)
    return Path(held.name)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_is_what_was_given(folder: Path, size: int) -> None:
    """In pieces of all sizes."""
    data = noise(size)
    rng = np.random.default_rng(0)
    with FileIO(folder / "f", "x") as file, BlockWriter(file) as writer:
        at = 0
        while at < size:
            step = int(rng.choice([1, 77, 4096, 1 << 18, BLOCK, 3 * BLOCK]))
            writer.write(data[at : at + step])
            at += step
        writer.finish()
    assert (folder / "f").read_bytes() == data


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cached", [False, True])
def test_what_is_read_is_what_is_there(folder: Path, size: int, cached: bool) -> None:
    data = noise(size)
    (folder / "f").write_bytes(data)
    with FileIO(folder / "f") as file:
        assert b"".join(map(bytes, read_blocks(file, cached=cached))) == data


def test_what_disks_refuse_goes_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that are no whole sectors."""
    monkeypatch.setattr(direct, "BLOCK", 1000)
    data = noise(10_500)
    with FileIO(tmp_path / "f", "x") as file, BlockWriter(file) as writer:
        writer.write(data)
        writer.finish()
    with FileIO(tmp_path / "f") as file:
        assert b"".join(map(bytes, read_blocks(file))) == data


def test_a_failed_write_is_told_and_ends(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with FileIO(tmp_path / "f") as file, BlockWriter(file) as writer:  # open for reading only
        with pytest.raises(OSError, match="not open for writing"):
            for _ in range(3):
                writer.write(bytes(BLOCK))
        with pytest.raises(OSError, match="not open for writing"):
            writer.finish()


def test_a_reader_that_stops_early_ends_its_thread(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(noise(3 * BLOCK))
    with FileIO(tmp_path / "f") as file:
        blocks = read_blocks(file)
        assert len(next(blocks)) == BLOCK
        blocks.close()
    assert file.closed
