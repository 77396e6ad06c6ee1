"""Reading packs."""

from __future__ import annotations

import io
import operator
import os
import re
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast, overload

import lmdb
import numpy as np
import xxhash

from facepack import lfs
from facepack.errors import DamageError, DecodeError, PackError
from facepack.images import decode
from facepack.reading import parse_json, parse_npy, read_bytes, read_json
from facepack.store import environments
from facepack.store import format as fmt
from facepack.store.plan import PackPlan, check_plan, require_fields
from facepack.store.sets import recount, split_set, subset_manifest


class Record(NamedTuple):
    """A packed image: the encoded bytes, the label (-1: no identity), and ``shard/key``."""

    image: bytes
    label: int
    key: str


def open(path: str | os.PathLike[str], *, shards: str | Sequence[str] | None = None) -> Pack:
    """Open the pack in the folder ``path``, or some of its shards as a pack.

    Of some shards, positions count through them in the order of the pack, labels stay what they
    are, and ``classes`` is the highest label + 1.

    Args:
        path: the pack's folder; or ``PACK:SET``, which is a shard set of it.
        shards: names or shell patterns of shards (``["0_0", "1_*"]``), or the name of a shard set
            (``"webface12m"``); None opens all.

    Raises:
        PackError: no finished pack is there, or not those shards.
        DamageError: a file is missing or has not the size that the manifest states.
    """
    folder, shard_set = (Path(path), None) if shards is not None else split_set(Path(path))
    return Pack(folder, shards if shard_set is None else shard_set)


class Pack:
    """A finished pack, for reading; a sequence of :class:`Record`.

    A pack may be used from many threads, is safe across ``fork``, and pickles as its path and the
    names of its shards. It is a context manager; leaving it closes the shards.
    """

    def __init__(self, path: Path, shards: str | Sequence[str] | None = None) -> None:
        self.path = Path(os.path.realpath(path))
        self.manifest = _read_checked(self.path, shards)
        self._chosen = shards is not None
        self._names: list[str] = [shard["name"] for shard in self.manifest["shards"]]
        counts = (shard["records"] for shard in self.manifest["shards"])
        self._starts = list(accumulate(counts, initial=0))
        self._labels: np.ndarray | None = None
        self._held = _Held()
        self._finalizer = weakref.finalize(self, self._held.release_all)
        self._files = [_identity(self.path / f"{name}.mdb") for name in self._names]
        if self._chosen:
            self.manifest = recount(self.manifest, self.labels)

    # What it is -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def pack_id(self) -> str:
        """32 hex digits drawn from the plan; every shard says it, to find the others by."""
        return str(self.manifest["pack_id"])

    @property
    def content_id(self) -> str:
        """32 hex digits drawn from the digests of all shards: equal for equal content alone."""
        return str(self.manifest["content_id"])

    @property
    def shard_names(self) -> list[str]:
        """The names of the shards, in the order in which positions count through them."""
        return list(self._names)

    @property
    def classes(self) -> int:
        """The width of a classification head: every label lies below it; gaps are allowed."""
        return int(self.manifest["classes"])

    @property
    def identities(self) -> int:
        """How many different labels are present, -1 not counted."""
        return int(self.manifest["identities"])

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(height, width) of every image in pixels; None where sizes differ."""
        (low_h, high_h), (low_w, high_w) = (
            self.manifest["images"]["height"],
            self.manifest["images"]["width"],
        )
        return (low_h, low_w) if (low_h, low_w) == (high_h, high_w) else None

    @property
    def labels(self) -> np.ndarray:
        """All labels in the order of positions: int64 (len(self),), read-only."""
        if self._labels is None:
            labels = np.empty(len(self), np.int64)
            for k, name in enumerate(self._names):
                data = read_checked_file(self.path, self.manifest, f"{name}.kv")
                part = fmt.kv_labels(data, str(self.path / f"{name}.kv"))
                labels[self._starts[k] : self._starts[k + 1]] = part
            labels.flags.writeable = False
            self._labels = labels
        return self._labels

    @property
    def identity_names(self) -> list[str] | None:
        """The source's name of each identity, by label; None where it had none."""
        if fmt.LABELS not in self.manifest["files"]:
            return None
        return _label_names(self.path, self.manifest, read_stated_file)[: self.classes]

    def source_name(self, index: int) -> str | None:
        """The source's name of the record at ``index``; None where it had none."""
        k, place = self._locate(*self._integers([index]))
        with environments.engine_calls:
            file_id, environment = self._held.shard(k, self._shard_file(k))
            try:
                value = environments.get(environment, fmt.NAMES)
            finally:
                environments.release(file_id)
        if value is None:
            return None
        name = fmt.unpack_reserved(fmt.NAMES, value)[place]
        return None if name is None else str(name)

    @property
    def pairs(self) -> np.ndarray | None:
        """The pairs of an evaluation set, or None.

        int64 (P, 3): the first image's position, the second's, and 1 for the same person.
        """
        if "pairs.npy" not in self.manifest["files"]:
            return None
        pairs = self.table("pairs")
        fmt.check_pairs(pairs, len(self), f"{self.path / 'pairs.npy'}")
        return pairs.astype(np.int64)

    def table(self, name: str) -> np.ndarray:
        """The table ``name`` of an evaluation set.

        Raises:
            PackError: the pack has no such table.
            DamageError: it cannot be read, or differs from what the manifest states.
        """
        file = f"{name}.npy"
        if name not in fmt.table_names(self.manifest["files"]):
            have = fmt.table_names(self.manifest["files"])
            raise PackError(f"{self.path} has no table {name!r}; it has {have}")
        try:
            return parse_npy(read_checked_file(self.path, self.manifest, file))
        except ValueError as error:
            raise DamageError(
                f"{self.path / file}: {error}: copy the pack again or convert anew"
            ) from error

    # Records --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[Record]:
        for start in range(0, len(self), 256):
            yield from self.batch(range(start, min(start + 256, len(self))))

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return self.batch(range(*index.indices(len(self))))
        return self.batch([operator.index(index)])[0]

    def batch(self, positions: Sequence[int] | np.ndarray) -> list[Record]:
        """The records at ``positions``, in the order asked; negative ones count from the end."""
        places = self._integers(positions)
        with self.views(places) as views:
            images = [bytes(view) for view in views]
        labels = self.labels[np.array(places, np.int64)].tolist()
        keys = map(self.key, places)
        return [Record(*fields) for fields in zip(images, labels, keys, strict=True)]

    @contextmanager
    def views(self, positions: Sequence[int] | np.ndarray) -> Iterator[list[memoryview]]:
        """The encoded images at ``positions`` without a copy, valid only inside the ``with``.

        Any thread may call it, also inside the ``with`` of another call.

        Raises:
            IndexError: a position outside the pack.
            DamageError: a shard lacks a record that the manifest counts, or was replaced.
        """
        places = self._integers(positions)
        views = []
        with self._held.transactions() as transactions:
            opened = transactions.gets
            with environments.engine_calls:
                # In plain Python: a few calls of NumPy take longer than to find a few records.
                for k, place in map(self._locate, places):
                    try:
                        get = opened.get(k)
                        if get is None:
                            get = transactions.open(k, *self._held.shard(k, self._shard_file(k)))
                        view = get(fmt.record_key(place))
                    except lmdb.Error as error:
                        raise self._damage(k, place, f"LMDB says: {error}") from error
                    if view is None:
                        raise self._damage(k, place, "the record is missing")
                    views.append(view)
            yield views

    def _shard_file(self, k: int) -> Path:
        """The shard's file, if it is still the one that was there when the pack was opened."""
        path = self.path / f"{self._names[k]}.mdb"
        if not self._held.has(k) and _identity(path) != self._files[k]:
            raise DamageError(f"{path} was replaced since the pack was opened: open the pack anew")
        return path

    def _damage(self, k: int, place: int, reason: str) -> DamageError:
        return DamageError(
            f"{self.path}: {self._names[k]}/{place:010d}: {reason}: check the pack with: "
            f"facepack verify {self.path}"
        )

    def decode(self, index: int) -> np.ndarray:
        """The image at ``index`` as RGB: uint8 (height, width, 3).

        Raises:
            DecodeError: it does not decode; names its key.
        """
        record = self[index]
        try:
            return decode(record.image)
        except DecodeError as error:
            raise DecodeError(f"{self.path}: {record.key}: {error}") from error

    def key(self, index: int) -> str:
        """``shard/key`` of a position: ``0_0/0000000012``."""
        k, place = self._locate(*self._integers([index]))
        return f"{self._names[k]}/{place:010d}"

    def position(self, key: str) -> int:
        """The position of a ``shard/key``.

        Raises:
            KeyError: the pack has no such record.
        """
        shard, _, digits = key.rpartition("/")
        if shard in self._names and digits.isascii() and digits.isdigit():
            k = self._names.index(shard)
            place = int(digits)
            if len(digits) == 10 and place < self._starts[k + 1] - self._starts[k]:
                return self._starts[k] + place
        raise KeyError(f"{self.path} has no record {key!r}")

    def _integers(self, positions: Sequence[int] | np.ndarray) -> list[int]:
        given = np.asarray(positions)
        if given.dtype.kind not in "iu" and given.size:
            raise IndexError(f"positions must be integers, not {given.dtype}: {self.path}")
        return cast(list[int], given.tolist())

    def _locate(self, position: int) -> tuple[int, int]:
        """The number of a record's shard, and its place there."""
        place = position + len(self) if position < 0 else position
        k = bisect_right(self._starts, place) - 1
        if k < 0 or place >= self._starts[-1]:
            raise IndexError(f"position {position}: {self.path} has {len(self)} records")
        return k, place - self._starts[k]

    # Life -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the shards; they open again on the next use."""
        self._held.release_all()

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.content_id, self._names if self._chosen else None)

    def __repr__(self) -> str:
        part = f" ({len(self._names)} of its shards)" if self._chosen else ""
        return f"<Pack {self.path}{part}: {len(self)} records, {self.identities} identities>"


def _reopen(path: Path, content_id: str, shards: list[str] | None) -> Pack:
    pack = Pack(path, shards)
    if pack.content_id != content_id:
        raise PackError(f"{path} holds another pack than the one that was pickled: open it anew")
    return pack


class _Transactions:
    """Read transactions of some shards, one each, for one thread at a time.

    They stay open from one reading to the next: beginning one takes longer than finding a record.
    A shard never changes, so that an old transaction sees all of it and holds nothing back.
    """

    def __init__(self) -> None:
        self.gets: dict[int, Callable[[bytes], memoryview | None]] = {}
        self._open: list[Any] = []
        self._users: list[environments.FileId] = []
        self._pid = os.getpid()

    @property
    def inherited(self) -> bool:
        """Whether they belong to the process that this one was forked from."""
        return self._pid != os.getpid()

    def open(
        self, k: int, file_id: environments.FileId, environment: Any
    ) -> Callable[[bytes], memoryview | None]:
        """Begin to read shard ``k``, whose environment was retained for it."""
        self._users.append(file_id)
        transaction = environment.begin(buffers=True)
        self._open.append(transaction)
        self.gets[k] = transaction.get
        return self.gets[k]

    def close(self) -> None:
        """End them, and only then give the environments back: the other way round is a crash."""
        if self.inherited:
            return  # the registry forgot them; what it counts now is others' use
        with environments.engine_calls:
            self.gets.clear()
            while self._open:
                self._open.pop().abort()
            while self._users:
                environments.release(self._users.pop())


class _Held:
    """The environments that a pack keeps open, and transactions for as many threads as read."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        # Reentrant: a finalizer may call release_all in the middle of shard.
        self._guard = threading.RLock()
        self._shards: dict[int, environments.FileId] = {}
        self._idle: list[_Transactions] = []
        self._pid = os.getpid()  # last: it tells other threads that the rest is new

    @contextmanager
    def transactions(self) -> Iterator[_Transactions]:
        """Transactions that nobody else uses meanwhile; they may have shards open already."""
        if self._pid != os.getpid():  # forked: what was held belongs to the parent
            self._reset()
        with self._guard:
            home = self._idle
            taken = home.pop() if home else _Transactions()
        try:
            yield taken
        except BaseException:
            taken.close()  # one that met damage reads nothing any more
            raise
        if taken.inherited:
            return
        with self._guard:
            kept = home is self._idle
            if kept:
                home.append(taken)
        if not kept:  # all was released meanwhile
            taken.close()

    def has(self, k: int) -> bool:
        """Whether shard ``k`` is held open."""
        return self._pid == os.getpid() and k in self._shards

    def shard(self, k: int, path: Path) -> tuple[environments.FileId, Any]:
        """Shard ``k``'s environment for one more user, opened and held on first use."""
        if self._pid != os.getpid():  # forked: what was held belongs to the parent
            self._reset()
        with self._guard:
            file_id = self._shards.get(k)
            if file_id is None:
                file_id, _ = environments.acquire(path)
                self._shards[k] = file_id
            return file_id, environments.retain(file_id)

    def release_all(self) -> None:
        """Give everything back."""
        if self._pid != os.getpid():
            return
        with self._guard:
            idle, self._idle = self._idle, []
            while idle:
                idle.pop().close()
            while self._shards:
                environments.release(self._shards.popitem()[1])


def _read_checked(path: Path, shards: str | Sequence[str] | None) -> dict[str, Any]:
    """The manifest, with all shards or those chosen, whose files have the right sizes."""
    while True:
        whole = read_manifest(path)
        manifest = whole if shards is None else subset_manifest(path, whole, shards)
        try:
            check_sizes(path, manifest)
        except DamageError:
            if read_manifest(path) == whole:
                raise
            continue  # the pack grew between the two looks
        return manifest


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the pack in ``path``.

    Raises:
        PackError: no finished pack is there; says what is.
        NewerFormatError: this facepack cannot read it.
        DamageError: the manifest is damaged.
    """
    file = path / fmt.MANIFEST
    try:
        manifest = read_json(file)
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise ValueError("it has no 'format'")
        fmt.require_known(manifest, str(path))
        _check_shape(manifest)
    except FileNotFoundError:
        if (path / fmt.PLAN).exists():
            raise PackError(
                f"{path} is an unfinished pack: run its conversion again with --resume. If it was "
                f"finished and only its {fmt.MANIFEST} is lost: facepack reindex {path}"
            ) from None
        raise PackError(f"{path} {_why_no_pack(path)}") from None
    except NotADirectoryError:
        raise PackError(f"{path} is not a pack: it is no folder") from None
    except OSError as error:
        raise PackError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        lfs.require_content(file, DamageError)
        raise DamageError(f"{file}: {error}: rebuild it with: facepack reindex {path}") from error
    return manifest


def _why_no_pack(path: Path) -> str:
    """What is wrong with ``path``, which has no manifest, and what to do about it."""
    folder, shard_set = split_set(path)
    if shard_set is not None and (folder / fmt.MANIFEST).exists():
        return (
            f"is a shard set, and this command takes whole packs: give {folder}, or make the set a "
            f"pack of its own with: facepack lmdb2lmdb {path} OUT"
        )
    if not path.is_dir():
        return "is not a pack: it is no folder"
    if next(path.glob("*.mdb"), None):
        return (
            f"has no {fmt.MANIFEST}: if it was a pack, rebuild that from the shards with: facepack "
            f"reindex {path}"
        )
    return f"is not a pack: it has no {fmt.MANIFEST}"


_SHARD_SHAPE = {
    "name": str,
    "own_name": str,
    "pack_id": str,
    "shard": int,
    "records": int,
    "payload_bytes": int,
    "page_size": int,
    "quarantined": int,
    "images": dict,
    "files": dict,
}
_MANIFEST_SHAPE = {
    "requires": list,
    "pack_id": str,
    "content_id": str,
    "partial": bool,
    "kind": str,
    "order": str,
    "seed": int,
    "source": dict,
    "classes": int,
    "identities": int,
    "records": int,
    "quarantined": int,
    "payload_bytes": int,
    "images": dict,
    "shards": list,
    "files": dict,
}


_ID = re.compile(r"[0-9a-f]{32}")


def _check_shape(manifest: dict[str, Any]) -> None:
    """Make sure that every field is there and of its type; a ValueError names the first not."""

    require_fields("the manifest", manifest, _MANIFEST_SHAPE)
    _check_images("the manifest", manifest["images"])
    if not _ID.fullmatch(manifest["pack_id"]):
        raise ValueError(f"'pack_id' is {manifest['pack_id']!r}, not 32 hexadecimal digits")
    for number, shard in enumerate(manifest["shards"]):
        require_fields(f"shard {number}", shard, _SHARD_SHAPE)
        _check_images(f"shard {number}", shard["images"])
        label_map = shard.get("label_map", "")
        if label_map is not None and not (
            isinstance(label_map, str)
            and fmt.is_label_map(label_map)
            and label_map in manifest["files"]
        ):
            raise ValueError(f"shard {shard['name']!r}: 'label_map' is {label_map!r}")
        if set(shard["files"]) != {f"{shard['name']}.kv", f"{shard['name']}.mdb"}:
            raise ValueError(f"shard {shard['name']!r} has the files {sorted(shard['files'])}")
        index = shard["files"][f"{shard['name']}.kv"]
        if not isinstance(index, dict) or index.get("bytes") != fmt.KV_LINE * shard["records"]:
            raise ValueError(
                f"shard {shard['name']!r}: its index is not of {shard['records']} lines"
            )
        fmt.check_shard_name(shard["name"])
    for name, stated in manifest_files(manifest).items():
        require_fields(f"the file {name!r}", stated, {"bytes": int, "xxh3_128": str})
        if not fmt.is_plain_name(name):
            raise ValueError(f"the file name {name!r} leads outside the pack")


def _check_images(where: str, images: dict[str, Any]) -> None:
    """Make sure that image statistics can be joined and shown; a ValueError says why not."""
    for field in ("height", "width"):
        span = images.get(field)
        if not isinstance(span, list) or [type(bound) for bound in span] != [int, int]:
            raise ValueError(f"{where}: 'images' has no {field!r} of two numbers")
    for field in ("formats", "channels"):
        counts = images.get(field)
        if not isinstance(counts, dict) or {*map(type, counts.values())} - {int}:
            raise ValueError(f"{where}: 'images' has no {field!r} of counts")
    if type(images.get("oriented")) is not int:
        raise ValueError(f"{where}: 'images' has no count 'oriented'")


def check_sizes(path: Path, manifest: dict[str, Any]) -> None:
    """Compare the size of every file with the manifest.

    Raises:
        DamageError: a file is missing or has another size; says what to do.
    """
    with os.scandir(path) as entries:
        found = {entry.name: size for entry in entries if (size := _file_size(entry)) is not None}
    for name, stated in manifest_files(manifest).items():
        size = found.get(fmt.next_name(name, manifest["pack_id"]), found.get(name))
        remedy = (
            "copy the pack again or convert anew"
            if name.endswith((".mdb", ".npy"))
            else f"rebuild it with: facepack reindex {path}"
        )
        if size is None:
            raise DamageError(f"{path}: {name} is missing: {remedy}")
        if size != stated["bytes"]:
            lfs.require_content(path / name, DamageError)
            raise DamageError(
                f"{path}: {name} has {size} bytes, the manifest says {stated['bytes']}: {remedy}"
            )


def _file_size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a regular file, or of that which a link leads to; None if it is none."""
    try:
        return entry.stat().st_size if entry.is_file() else None
    except OSError:  # a link that leads to itself
        return None


def read_file(path: Path, manifest: dict[str, Any], name: str) -> bytes:
    """The bytes of a file beside the shards.

    A pack that was just appended to may still keep it under its next name.

    Raises:
        FileNotFoundError: it is missing.
    """
    try:
        return read_bytes(path / fmt.next_name(name, manifest["pack_id"]), None)
    except FileNotFoundError:
        return read_bytes(path / name, None)


def read_stated_file(path: Path, manifest: dict[str, Any], name: str) -> bytes:
    """The bytes of a file that the manifest states.

    Raises:
        DamageError: it cannot be read.
    """
    try:
        return read_file(path, manifest, name)
    except OSError as error:
        raise _cannot_read(path / name, error) from error


def _cannot_read(file: Path, error: OSError) -> DamageError:
    return DamageError(
        f"{file}: cannot be read: {error.strerror or error}: see what is wrong with: "
        f"facepack verify {file.parent}"
    )


def read_checked_file(path: Path, manifest: dict[str, Any], name: str) -> bytes:
    """The bytes of a file that the manifest states, compared with its digest.

    Raises:
        DamageError: it is missing, or differs, or the manifest does not tell of it.
    """
    stated = manifest_files(manifest).get(name)
    if stated is None:
        raise DamageError(
            f"{path / fmt.MANIFEST} does not tell of {name}: rebuild it with: "
            f"facepack reindex {path}"
        )
    data = read_stated_file(path, manifest, name)
    if len(data) != stated["bytes"] or xxhash.xxh3_128_hexdigest(data) != stated["xxh3_128"]:
        raise DamageError(
            f"{path / name} differs from what the manifest states: see what is wrong with: "
            f"facepack verify {path}"
        )
    return data


def read_identity_names(path: Path, manifest: dict[str, Any]) -> list[str]:
    """The source's name of each identity of the pack ``path``, by label; none where it has none.

    Raises:
        DamageError: the file differs from what the manifest states.
    """
    if fmt.LABELS not in manifest["files"]:
        return []
    return _label_names(path, manifest, read_checked_file)


def _label_names(
    path: Path, manifest: dict[str, Any], read: Callable[[Path, dict[str, Any], str], bytes]
) -> list[str]:
    try:
        return fmt.read_labels_text(read(path, manifest, fmt.LABELS).decode())
    except UnicodeDecodeError as error:
        raise DamageError(
            f"{path / fmt.LABELS}: {error}: rebuild it with: facepack reindex {path}"
        ) from error


def read_plan(path: Path, manifest: dict[str, Any]) -> PackPlan:
    """The plan of the pack ``path``, under the id that the manifest states.

    Raises:
        DamageError: it differs from what the manifest states, or is no plan.
        NewerFormatError: this facepack does not know all that it requires.
    """
    data = read_checked_file(path, manifest, fmt.PLAN)
    try:
        plan = parse_json(data)
        if isinstance(plan, dict):
            fmt.require_known(plan, str(path / fmt.PLAN))
        check_plan(plan)
    except ValueError as error:
        raise DamageError(
            f"{path / fmt.PLAN}: {error}: rebuild it with: facepack reindex {path}"
        ) from error
    return PackPlan(plan, manifest["pack_id"])


def read_quarantine(path: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The records that were refused when the pack ``path`` was made.

    Raises:
        DamageError: the file differs from what the manifest states, or has lines of another form.
    """
    if fmt.QUARANTINE not in manifest["files"]:
        return
    lines = io.BytesIO(read_checked_file(path, manifest, fmt.QUARANTINE))
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
            if not isinstance(entry, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise DamageError(
                f"{path / fmt.QUARANTINE}: line {number}: {error}: rebuild it with: "
                f"facepack reindex {path}"
            ) from error
        yield entry


def _identity(path: Path) -> tuple[int, int, int, int]:
    """Device, inode, size and time of change: another file under the name has others."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return (0, 0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def manifest_files(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All files that the manifest states, with their sizes and digests."""
    files: dict[str, dict[str, Any]] = {}
    for shard in manifest["shards"]:
        files.update(shard["files"])
    files.update(manifest["files"])
    return files
