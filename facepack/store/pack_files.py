"""What stands beside the shards of a pack, read as its manifest states it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from facepack.errors import DamageError
from facepack.reading import parse_json, read_bytes
from facepack.store import format as fmt
from facepack.store.manifest import manifest_files
from facepack.store.plan import PackPlan, check_plan


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


def read_stated_file(
    path: Path, manifest: dict[str, Any], name: str, *, checked: bool = True
) -> bytes:
    """The bytes of a file that the manifest states, compared with its digest if ``checked``.

    Raises:
        DamageError: it cannot be read, or differs, or the manifest does not list it.
    """
    stated = manifest_files(manifest).get(name)
    if stated is None:
        raise DamageError(
            f"{path / fmt.MANIFEST} does not list {name}: rebuild it with: facepack reindex {path}"
        )
    try:
        data = read_file(path, manifest, name)
    except OSError as error:
        raise DamageError(
            f"{path / name}: cannot be read: {error.strerror or error}: see what is wrong with: "
            f"facepack verify {path}"
        ) from error
    if checked and not is_stated(stated, data):
        raise DamageError(
            f"{path / name} differs from what the manifest states: see what is wrong with: "
            f"facepack verify {path}"
        )
    return data


def is_stated(stated: dict[str, Any], data: bytes) -> bool:
    """Whether ``data`` has the size and the digest that a manifest states of a file."""
    digest = xxhash.xxh3_128_hexdigest
    return len(data) == stated["bytes"] and digest(data) == stated["xxh3_128"]


def read_identity_names(path: Path, manifest: dict[str, Any], *, checked: bool = True) -> list[str]:
    """The source's name of each identity of the pack ``path``, by label; none where it has none.

    Raises:
        DamageError: the file differs from what the manifest states.
    """
    if fmt.LABELS not in manifest["files"]:
        return []
    try:
        data = read_stated_file(path, manifest, fmt.LABELS, checked=checked)
        return fmt.read_labels_text(data.decode())
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
    data = read_stated_file(path, manifest, fmt.PLAN)
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
    lines = io.BytesIO(read_stated_file(path, manifest, fmt.QUARANTINE))
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
