"""What a system may lack: facepack works without it, and gives the same bytes."""

from __future__ import annotations

import errno
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import facepack
from facepack import system
from facepack.convert.formats.rec.recordio import RecordWriter, pack_header
from facepack.errors import PackError
from facepack.store.lock import hold_lock

CORE = sorted(
    module.name
    for module in pkgutil.walk_packages(facepack.__path__, "facepack.")
    if not module.name.startswith(("facepack.convert", "facepack.train", "facepack.evaluate"))
    and not module.name.endswith("__main__")
)


@pytest.fixture(scope="module")
def lacking() -> dict[str, str]:
    """Variables under which Python, and each Python that it starts, lacks what Windows lacks."""
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent / "bare")}


def run(lacking: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], env=lacking, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_core_module_is_imported(lacking: dict[str, str]) -> None:
    assert "facepack.store.pack" in CORE
    code = f"""
import importlib, os
assert not hasattr(os, "pread")
for name in {CORE}:
    importlib.import_module(name)
"""
    run(lacking, "-c", code)


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory, images: list[bytes]) -> Path:
    folder = tmp_path_factory.mktemp("rec")
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for key, image in enumerate(images, 1):
            writer.write(key, pack_header(float(key % 3), key) + image)
    (folder / "property").write_text("3,112,112\n")
    return folder


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    import simplejpeg

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 112, 112, 3), np.uint8)
    return [simplejpeg.encode_jpeg(np.ascontiguousarray(image)) for image in pixels]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_way_of_a_set_through_the_commands(
    lacking: dict[str, str], rec: Path, images: list[bytes], tmp_path: Path
) -> None:
    """From a .rec to a pack, a tree, a pack of that and a .rec; checked and merged."""
    usual = dict(os.environ)
    for variables, out in ((usual, tmp_path / "usual"), (lacking, tmp_path / "lacking")):
        out.mkdir()

        def cli(*arguments: object, variables: dict[str, str] = variables) -> str:
            return run(variables, "-m", "facepack", *map(str, arguments))

        cli("rec2lmdb", rec, out / "pack", "--shard-size", 20, "--workers", 2)
        cli("verify", out / "pack", "--decode")
        cli("lmdb2img", out / "pack", out / "tree")
        cli("img2lmdb", out / "tree", out / "again")
        cli("lmdb2rec", out / "pack", out / "rec")
        cli("merge", out / "pack", out / "again", out / "merged")
        cli("verify", out / "merged")
    assert files(tmp_path / "usual") == files(tmp_path / "lacking")


def test_the_loader_gives_the_same_batches(
    lacking: dict[str, str], rec: Path, tmp_path: Path
) -> None:
    pack = tmp_path / "pack"
    run(lacking, "-m", "facepack", "rec2lmdb", str(rec), str(pack))
    code = f"""
import hashlib
import facepack
pack = facepack.open({str(pack)!r})
with pack, facepack.Loader(pack, batch_size=8, seed=1, order="blocks", backend="cpu") as loader:
    for batch in loader:
        digest = hashlib.md5(batch.images.numpy().tobytes()).hexdigest()
        print(batch.positions.tolist(), digest, batch.labels.tolist())
"""
    assert run(lacking, "-c", code) == run(dict(os.environ), "-c", code)


def test_where_nobody_can_tell_a_folder_counts_as_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not system.is_read_only(tmp_path)
    monkeypatch.delattr(os, "statvfs")
    assert not system.is_read_only(tmp_path)


@pytest.mark.parametrize("missing", [(), ("preadv",), ("pread", "preadv")])
def test_reading_at_an_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    for name in missing:
        monkeypatch.delattr(os, name, raising=False)
    data = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "f").write_bytes(data)
    descriptor = os.open(tmp_path / "f", system.READ)
    try:
        for offset, count in ((5000, 100), (0, 10_000), (9_990, 100), (10_000, 1)):
            expected = data[offset : offset + count]
            assert system.read_at(descriptor, count, offset) == expected
            block = bytearray(count)
            done = system.read_into(descriptor, memoryview(block), offset)
            assert bytes(block[:done]) == expected
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("flag", [system._NO_FOLLOW, 0])
def test_a_new_file_is_never_written_through_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int
) -> None:
    monkeypatch.setattr(system, "_NO_FOLLOW", flag)
    monkeypatch.setattr(system, "_WRITE", system._WRITE & ~os.O_NOFOLLOW | flag)
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    with pytest.raises(OSError, match="symbolic links"):
        system.open_new(tmp_path / "link")
    assert (tmp_path / "kept").read_text() == "kept"
    with pytest.raises(FileExistsError):
        system.open_new(tmp_path / "kept", replace=False)
    assert (tmp_path / "kept").read_text() == "kept"
    os.close(system.open_new(tmp_path / "kept"))
    assert (tmp_path / "kept").read_text() == ""


def test_windows_locks_serve_where_there_is_no_flock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its functions are played here: they have been run on no Windows yet."""
    held: set[int] = set()

    def locking(descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (2, 1)
        file = os.fstat(descriptor).st_ino
        if file in held:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        held.add(file)

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    busy = PackError("somebody writes there")
    with hold_lock(tmp_path, busy), pytest.raises(PackError, match="somebody writes there"):
        with hold_lock(tmp_path, busy):
            pass
    assert list(tmp_path.iterdir()) == []


def test_how_many_files_a_disk_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "statvfs"):
        assert system.free_files(tmp_path) is None
        return
    for disk, free in (({"f_files": 9, "f_favail": 4}, 4), ({"f_files": 0, "f_favail": 0}, None)):
        monkeypatch.setattr(os, "statvfs", lambda folder, disk=disk: SimpleNamespace(**disk))
        assert system.free_files(tmp_path) == free
