"""The lock of a folder that is written into."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import pytest

from facepack import system
from facepack.errors import PackError
from facepack.store.format import LOCK
from facepack.store.lock import hold_lock

BUSY = PackError("somebody writes there")


def test_one_holds_a_folder_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="without it no file is locked")
    with hold_lock(tmp_path, BUSY):
        with pytest.raises(PackError, match="somebody writes there"), hold_lock(tmp_path, BUSY):
            pass
        assert (tmp_path / LOCK).exists()  # the one refused took nothing away
    assert list(tmp_path.iterdir()) == []
    (tmp_path / LOCK).touch()  # of a process that was killed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with hold_lock(tmp_path, BUSY):
            pass


def test_the_file_of_the_last_holder_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, who held it ends and takes the file away."""
    pytest.importorskip("fcntl", reason="without it no file is locked")
    opened: list[int] = []
    lock_file = system.lock_file

    def lock_late(descriptor: int) -> bool:
        if not opened:
            (tmp_path / LOCK).unlink()
        opened.append(descriptor)
        return lock_file(descriptor)

    monkeypatch.setattr(system, "lock_file", lock_late)
    with hold_lock(tmp_path, BUSY):
        assert len(opened) == 2
        assert os.fstat(opened[-1]).st_ino == (tmp_path / LOCK).stat().st_ino


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(system, "lock_file", refuse)
    with (
        pytest.warns(UserWarning, match=r"cannot be locked \(Function not implemented\)"),
        hold_lock(tmp_path, BUSY),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
