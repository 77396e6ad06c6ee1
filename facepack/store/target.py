"""A target folder: one writer at a time, a plan that resuming must match, and no half results."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Any

from facepack.errors import PackError
from facepack.reading import read_json
from facepack.store import format as fmt
from facepack.store.files import write_errors, write_file
from facepack.store.lock import hold_lock
from facepack.store.places import made_folder, nearest, require_writable
from facepack.system import free_files

_SHARD_SUFFIXES = (".mdb", ".kv", ".jsonl", ".bytes")
_KNOWN_NAMES = (fmt.PLAN, fmt.LABELS, fmt.QUARANTINE, fmt.DUPLICATES, fmt.APPENDING)


class Found(Enum):
    """What a run finds in its target."""

    NOTHING = "new"
    UNFINISHED = "resumed"  # what an interrupted run of the same plan left
    FINISHED = "finished"  # all of it
    REPLACED = "replaced"  # what an earlier run wrote, to be overwritten


class Target:
    """The folder that a pack is written into, locked from ``with`` to its end.

    Args:
        folder: made if it is not there; what was made and is left empty is removed at the end.
        finished: the file that is written last.
        shown: what messages call the target, if it is not the folder that the user named.

    Raises:
        PackError: another process is writing here, or the folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        *,
        overwrite: bool = False,
        resume: bool = False,
        finished: str = fmt.MANIFEST,
        shown: Path | None = None,
    ) -> None:
        if overwrite and resume:
            raise PackError("resume keeps what is there and overwrite removes it: choose one")
        self.folder = folder
        self.overwrite = overwrite
        self._resume = resume
        self._finished = finished
        self._shown = shown or folder
        self._held = ExitStack()

    def __enter__(self) -> Target:
        busy = PackError(
            f"{self._shown}: another process is writing here; wait for it or choose another target"
        )
        if self._finished == fmt.MANIFEST:
            _require_openable(self.folder)
        with ExitStack() as stack:
            with write_errors(self.folder):
                stack.enter_context(made_folder(self.folder, self._shown, itself=False))
                stack.enter_context(hold_lock(self.folder, busy))
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def look(self, plan: dict[str, Any]) -> Found:
        """What the folder, if it is there, holds for a run of ``plan``; nothing is changed.

        Raises:
            PackError: the folder holds something that may not be touched, or another plan.
        """
        finished = self._holds(self._finished)
        if finished or self._holds(fmt.PLAN):
            if self.overwrite:
                self.written_files()  # refuses what is none of ours
                return Found.REPLACED
            if not self._resume:
                what = "a finished result" if finished else "an unfinished conversion"
                how = "--overwrite replaces it" + ("" if finished else "; --resume completes it")
                raise PackError(f"{self._shown} holds {what}: {how}")
            self._compare(plan)
            return Found.FINISHED if finished else Found.UNFINISHED
        others = [file.name for file in self._entries() if file.name != fmt.LOCK]
        strangers = [name for name in others if not fmt.PART.fullmatch(name)]
        if strangers:
            raise PackError(
                f"{self.folder} is not empty and holds no pack (but {sorted(strangers)[0]!r}): "
                f"choose another target, such as a new folder {self._shown / 'NAME'}"
            )
        return Found.NOTHING

    def begin(self, plan: dict[str, Any]) -> bool:
        """Write the plan, or find it there when resuming.

        Returns:
            Whether the pack is finished already (possible only when resuming).

        Raises:
            PackError: the folder holds something that may not be touched, or another plan.
        """
        found = self.look(plan)
        if found is Found.REPLACED:
            self._clear()
        self.remove_parts()
        if found in (Found.NOTHING, Found.REPLACED):
            write_file(self.folder / fmt.PLAN, [fmt.json_text(plan).encode()])
        return found is Found.FINISHED

    def _holds(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _state(self, name: str) -> Any:
        """What the JSON file ``name`` says; OSError or ValueError if it cannot be read."""
        return read_json(self.folder / name)

    def _entries(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _compare(self, plan: dict[str, Any]) -> None:
        try:
            found = self._state(fmt.PLAN)
            if not isinstance(found, dict):
                raise ValueError("not a map")
        except (OSError, ValueError) as error:
            raise PackError(
                f"{self.folder / fmt.PLAN} cannot be read ({error}), so it is unknown what was "
                f"begun: remove {self._shown} yourself or choose another target"
            ) from error
        wanted = json.loads(fmt.json_text(plan))
        differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
        if differing:
            details = "; ".join(
                f"{key}: {_short(found.get(key))} there, {_short(wanted.get(key))} now"
                for key in differing
            )
            raise PackError(
                f"{self._shown} was begun under another plan ({details}): resume with the same "
                "source and options, or start over with --overwrite"
            )

    def _clear(self) -> None:
        """Remove what a conversion wrote here, by the names that its plan and manifest give."""
        ours = self.written_files()
        # The manifest goes first: from then on, nobody takes the rest for a pack. The plan goes
        # last: by it, whoever comes after a kill knows what is ours.
        (self.folder / self._finished).unlink(missing_ok=True)
        for path in sorted(ours, key=lambda path: path.name == fmt.PLAN):
            path.unlink(missing_ok=True)

    def written_files(self) -> list[Path]:
        """The files that an earlier conversion wrote here, finished or not.

        Raises:
            PackError: neither plan nor manifest is one of ours: the folder holds something else.
        """
        plan = self._read(fmt.PLAN)
        manifest = self._read(self._finished)
        if not {"format", "kind", "source"} <= {*plan} and "files" not in manifest:
            raise PackError(
                f"{self.folder} holds a {fmt.PLAN} that facepack did not write: choose another "
                "target"
            )
        names = {*_KNOWN_NAMES, *manifest.get("files", {})}
        names |= {f"{table}.npy" for table in plan.get("tables", [])}
        names |= {*plan.get("label_maps", {})}
        stems = [shard["name"] for shard in manifest.get("shards", [])]
        for part in (plan, *plan.get("appended", []), self._read(fmt.APPENDING)):
            stems += [shard["name"] for shard in part.get("shards") or []]
        entries = [entry for entry in self._entries() if entry.is_file()]
        if not plan.get("shards"):  # a stream: its shards are numbered
            numbered = re.compile(re.escape(plan.get("source", {}).get("stem", "")) + r"-\d{3,}")
            stems += [entry.stem for entry in entries if numbered.fullmatch(entry.stem)]
        names |= {stem + suffix for stem in stems for suffix in _SHARD_SUFFIXES}
        return [entry for entry in entries if entry.name in names or fmt.NEXT.fullmatch(entry.name)]

    def _read(self, name: str) -> dict[str, Any]:
        try:
            value = self._state(name)
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def remove_parts(self) -> None:
        """Remove what killed writers left half written."""
        for entry in self._entries():
            if fmt.PART.fullmatch(entry.name) and not entry.is_dir():
                entry.unlink()

    def require_place(self) -> None:
        """Make sure that the folder is there or can be made, without making it.

        Raises:
            PackError: it cannot, or nothing can be written there.
        """
        if self._finished == fmt.MANIFEST:
            _require_openable(self.folder)
        require_writable(self.folder, self._shown, itself=False)

    def free_bytes(self) -> int:
        """Bytes that can be written, with those that overwriting will free."""
        free = shutil.disk_usage(nearest(self.folder)).free
        return free + (self._freed_bytes() if self.overwrite and self._holds(fmt.PLAN) else 0)

    def _freed_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.written_files())

    def require_space(self, size: int, files: int = 0) -> None:
        """Make sure that ``size`` bytes fit, with what overwriting will free, and new ``files``.

        Raises:
            PackError: they do not; says how much is missing.
        """
        allowed = free_files(nearest(self.folder)) if files else None
        if allowed is not None and files > allowed:
            raise PackError(
                f"{self._shown}: {files:,} files would be made and the disk takes {allowed:,} more "
                "(df -i): choose another target, or a format of few files, such as a pack"
            )
        free = self.free_bytes()
        if size > free:
            raise PackError(
                f"{self._shown}: about {size / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB "
                "are free: free some space or choose another target"
            )


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


def _require_openable(pack: Path) -> None:
    """Make sure that LMDB will open the shards; it takes no path that is not UTF-8."""
    try:
        str(pack.absolute()).encode()
    except UnicodeEncodeError as error:
        raise PackError(
            f"{pack}: LMDB opens no file whose path is not UTF-8, so that nobody could read a pack "
            "there: choose another target"
        ) from error
