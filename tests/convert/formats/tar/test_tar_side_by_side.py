"""Archives that are looked at side by side give what they give in order."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepack.convert import workers
from facepack.convert.formats.tar import look as tar_look
from facepack.convert.formats.tar import spool
from facepack.convert.formats.tar.headers import BLOCK, member_header
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.source import Refusal
from facepack.errors import SourceError

Archive = list[tuple[str, bytes]]
KINDS = ["samples", "names", "tree", "unlabelled", "odd"]


@pytest.fixture
def jpeg(make_jpeg: Callable[[int], bytes]) -> bytes:
    return make_jpeg(0)


def tar(members: Archive) -> bytes:
    data = b"".join(
        member_header(name, len(content)) + content + bytes(-len(content) % BLOCK)
        for name, content in members
    )
    return data + bytes(2 * BLOCK)


def archives(kind: str, count: int, jpeg: bytes) -> list[Archive]:
    """Archives of images with labels of that kind; none holds as many as another."""
    rng = np.random.default_rng(count)
    found = []
    for k in range(count):
        members: Archive = []
        for number in range(int(rng.integers(1, 30))):
            image = jpeg + rng.bytes(int(rng.integers(400)))
            person = int(rng.integers(6))
            if kind == "tree":
                members.append((f"set/p{person}/{k}_{number}.jpg", image))
                continue
            key = f"{k}/{number}"
            members.append((f"{key}.jpg", image))
            if kind == "samples":
                members.append((f"{key}.cls", b"%d" % person))
            elif kind == "names":
                members.append((f"{key}.json", b'{"label": "person %d"}' % person))
            elif kind == "odd" and rng.random() < 0.8:
                label = [b"3", b"4", b"", b"x\0y"][int(rng.integers(4))]
                members.append((f"{key}.cls", label))
                members.append((f"{'' if rng.random() < 0.5 else 'x'}{key}.txt", b"passed over"))
                if rng.random() < 0.3:
                    members.append((f"{key}.jpg", image))
        found.append(members)
    return found


def write(folder: Path, contents: Sequence[bytes], *, squeezed: bool) -> list[Path]:
    paths = []
    for k, content in enumerate(contents):
        paths.append(folder / f"a{k:03d}.tar{'.gz' if squeezed else ''}")
        paths[-1].write_bytes(gzip.compress(content, 1) if squeezed else content)
    return paths


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Side by side in one process, what is sent to others and back pickled; whether it did."""
    did: list[bool] = []
    look = tar_look._look_side_by_side

    def early(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        for task in tasks:
            yield pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(task)))))

    def watched(*arguments: Any) -> Any:
        found = look(*arguments)
        did.append(found is not None)
        return found

    monkeypatch.setattr(tar_look, "can_run_early", lambda: True)
    monkeypatch.setattr(tar_look, "run_early", early)
    monkeypatch.setattr(tar_look, "_look_side_by_side", watched)
    yield did


def told(source: TarSource) -> dict[str, Any]:
    """All that a source says, and all that it gives, its parts as workers have them."""
    records = []
    for _, start, stop in source.groups():
        part = source.part(start, stop)
        for record in (pickle.loads(pickle.dumps(part)) if source.parallel else part).read():
            if isinstance(record, Refusal):
                records.append(record)
            else:
                image = bytes(record.image)
                records.append((record.ordinal, record.label, record.name, image))
        records.append(part.identity_names())
    return {
        "description": source.describe(),
        "notices": source.notices,
        "groups": source.groups(),
        "sizes": source.sizes().tolist(),
        "classes": source.classes,
        "parallel": source.parallel,
        "records": records,
    }


def in_order(paths: Sequence[Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the archives give, or are refused for, looked at in order."""
    with monkeypatch.context() as patch:
        patch.setattr(tar_look, "can_run_early", lambda: False)
        return given(paths)


def given(paths: Sequence[Path]) -> dict[str, Any]:
    try:
        return told(TarSource(paths))
    except SourceError as error:
        return {"error": str(error)}


@pytest.mark.parametrize("squeezed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 5])
def test_side_by_side_is_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked: list[bool],
    jpeg: bytes,
    kind: str,
    squeezed: bool,
    count: int,
) -> None:
    contents = [*map(tar, archives(kind, count, jpeg))]
    contents[0] += bytes(700)  # padding, as tapes have it
    contents[1] += contents[0]  # two archives in one file
    expected = in_order(write(tmp_path, contents, squeezed=squeezed), monkeypatch)
    assert "error" not in expected
    paths = sorted(tmp_path.iterdir())
    assert given(paths) == expected
    assert looked == [False, True]


def test_gzipped_pieces_stand_among_archives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked: list[bool], jpeg: bytes
) -> None:
    first, second, third = map(tar, archives("samples", 3, jpeg))
    cut = gzip.compress(second)
    half = len(cut) // 2
    contents = [gzip.compress(first), cut[:half], cut[half:], third]
    paths = write(tmp_path, contents, squeezed=False)
    expected = in_order(paths, monkeypatch)
    assert len(expected["groups"]) == 3 and expected["notices"] == []
    assert given(paths) == expected and looked[-1]


@pytest.mark.parametrize("squeezed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(
    "case",
    ["no mark", "cut", "header", "list", "rec", "behind", "crc", "piece", "bomb"],
)
def test_what_is_unusual_is_looked_at_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looked: list[bool],
    jpeg: bytes,
    case: str,
    squeezed: bool,
) -> None:
    sets = archives("tree" if case == "list" else "samples", 4, jpeg)
    if case == "list":
        sets[2].append(("label.txt", b"".join(b"%b 3\n" % n.encode() for n, _ in sets[2])))
    if case == "rec":
        sets[1].append(("train.rec", b"no records"))
    if case == "bomb":
        sets[1].append(("zeros.txt", bytes(4 << 20)))
    contents = [*map(tar, sets)]
    if case == "no mark":
        contents[1] = contents[1][: -2 * BLOCK]
    if case == "cut":
        contents[1] = contents[1][: -2 * BLOCK - 600]
    if case == "header":
        contents[2] = bytes([contents[2][0] ^ 1]) + contents[2][1:]
    if case == "behind":
        contents[3] += b"no tar" * 1000
    if case == "piece":  # which begins with a header by chance
        whole, at = contents[1], (BLOCK + len(sets[1][0][1]) + BLOCK - 1) // BLOCK * BLOCK
        contents[1:2] = [whole[:at], whole[at:]]
    paths = write(tmp_path, contents, squeezed=squeezed)
    if case == "crc" and squeezed:
        data = bytearray(paths[3].read_bytes())
        data[-6] ^= 1
        paths[3].write_bytes(data)
    expected = in_order(paths, monkeypatch)
    assert given(paths) == expected
    assert looked[-1] == (case in ("crc", "bomb") and not squeezed)


def test_what_has_no_room_is_looked_at_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked: list[bool], jpeg: bytes
) -> None:
    paths = write(tmp_path, [*map(tar, archives("samples", 3, jpeg))], squeezed=True)
    monkeypatch.setattr(spool, "room", lambda folder: 0)
    expected = in_order(paths, monkeypatch)
    assert given(paths) == expected and not looked[-1]
    assert "they are inflated twice" in " ".join(expected["notices"])


@pytest.mark.parametrize("squeezed", [False, True], ids=["plain", "gzipped"])
def test_processes_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jpeg: bytes, squeezed: bool
) -> None:
    paths = write(tmp_path, [*map(tar, archives("names", 6, jpeg))], squeezed=squeezed)
    expected = given(paths)
    run: list[int] = []
    early = tar_look.run_early

    def counted(function: Callable[..., Any], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        run.append(len(tasks))
        return early(function, tasks)

    monkeypatch.setattr(workers, "_WORTH_A_PROCESS", 1)
    monkeypatch.setattr(tar_look, "run_early", counted)
    with workers.started_early(paths, 2, [TarSource.__module__]):
        assert given(paths) == expected
    assert run == [6]


def test_names_that_cannot_be_read_are_told_before_all_is_looked_at(
    tmp_path: Path, jpeg: bytes
) -> None:
    contents = [*map(tar, archives("samples", 2, jpeg))]
    contents[1] = contents[1][:-3000]
    write(tmp_path, contents, squeezed=False)
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"labels\.txt: cannot be read"):
        TarSource([tmp_path])
