"""Which folder is the identity, against an obvious twin, in every source of folders."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from facepack.cli import root as command_group
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.identity_folder import ImageFolders, find_identities, folder_at
from facepack.convert.source import Part, Refusal, Source
from facepack.errors import SourceError

MakeJpeg = Callable[..., bytes]
Sourced = dict[str, str | None]  # the identity of each image, by its path


def folders(*files: str, name: str = "src") -> ImageFolders:
    paths = [file.encode() for file in files]
    return ImageFolders(name, paths, [1] * len(paths))


def found(*files: ImageFolders, level: int | None = None) -> list[str | None]:
    """The identity of each folder."""
    identities = find_identities(files, level)
    assert identities.names.tolist() == sorted(set(identities.names.tolist()))
    labels = np.concatenate(identities.labels).tolist()
    return [None if label < 0 else identities.names[label].decode() for label in labels]


def twin_level(paths: list[tuple[str, ...]]) -> int:
    """The rule, as it is told: pass over what is common, but for the last folder above images."""
    level = 0
    while len({path[: level + 1] for path in paths if path}) == 1:
        if any(len(path) == level + 1 for path in paths if path):
            return level + 1
        level += 1
    return level + 1


@pytest.mark.parametrize("seed", range(200))
def test_the_rule_is_the_obvious_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    common = ("set", "faces")[: int(rng.integers(3))]
    deepest = int(rng.integers(1, 4))
    paths = {
        (*common, *rng.choice(["a", "a-", "b", "é"], int(rng.integers(1, deepest + 1))).tolist())
        for _ in range(int(rng.integers(1, 6)))
    }
    listed = sorted(paths) + ([()] if seed % 3 == 0 else [])
    level = twin_level(listed)
    files = folders(*("".join(f"{name}/" for name in path) for path in listed))
    expected = [path[level - 1] if len(path) >= level else None for path in listed]
    in_one = len({path[:level] for path in paths}) == 1
    if in_one and len(paths) > 1:  # some right in the one folder, some below it
        with pytest.raises(SourceError, match="some right in it and some in folders below"):
            find_identities([files])
        assert found(files, level=level) == expected
    else:
        assert found(files) == expected


@pytest.mark.parametrize(
    ("paths", "identities"),
    [
        (["WebFace260M/0_0_0/", "WebFace260M/0_0_1/"], ["0_0_0", "0_0_1"]),
        (["001/frontal/", "001/profile/", "002/frontal/"], ["001", "001", "002"]),
        (["person/"], ["person"]),
        (["a/b/person/"], ["person"]),
        (["train/1/", "train/2/"], ["1", "2"]),
        (["train/only/"], ["only"]),
        (["", "set/1/", "set/2/"], [None, "1", "2"]),
        (["1/", "2/side/", "2/"], ["1", "2", "2"]),
        (["1/", "test/"], ["1", "test"]),  # a person may be called so
    ],
)
def test_what_comes_out_right_by_itself(paths: list[str], identities: list[str | None]) -> None:
    assert found(folders(*paths)) == identities


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["train/1/", "val/2/"], "'train', 'val'"),
        (["faces/Train/1/", "faces/test/1/"], "'Train', 'test'"),
        (["train/1/", "more/2/"], "'train'"),
        (["images/"], "'images'"),
        (["train/", "test/"], "'test', 'train'"),
    ],
)
def test_parts_of_a_data_set_are_no_people(paths: list[str], names: str) -> None:
    with pytest.raises(SourceError, match=rf"src: a folder called {names}.*--identity-level \d"):
        find_identities([folders(*paths)])
    last = [path.split("/")[-2] for path in paths]
    assert found(folders(*paths), level=-1) == last


def test_images_that_lie_deeper_are_told() -> None:
    files = ImageFolders("src", [b"1/", b"2/side/", b"2/"], np.array([5, 3, 2]))
    (note,) = find_identities([files]).notices
    assert "level 1, as '2' in 2/side/; 3 of 10 images lie deeper, as in 'side' of level 2" in note
    assert "--identity-level 2" in note and "--identity-level -1" in note
    assert find_identities([files], 1).notices == []


def test_few_folders_below_one_may_be_the_views_of_a_person() -> None:
    (note,) = find_identities([folders("001/frontal/", "001/profile/")]).notices
    assert "'001'" in note and "2 folders" in note and "--identity-level 1" in note
    assert found(folders("001/frontal/", "001/profile/"), level=1) == ["001", "001"]
    many = folders(*(f"WebFace260M/0_0_{k:07d}/" for k in range(6)))
    assert find_identities([many]).notices == []
    assert find_identities([folders("001/")]).notices == []  # a person, and nothing passed over


def test_files_that_alone_would_be_taken_otherwise_are_refused() -> None:
    """Parts of a data set with a folder each look as people with views do."""
    zips = [folders("0_0/p/", "0_0/q/", name="0_0.zip"), folders("0_1/r/", name="0_1.zip")]
    with pytest.raises(SourceError, match=r"0_0\.zip.*level 1 takes '0_0'.*level 2 takes '[pq]'"):
        find_identities(zips)
    assert found(*zips, level=2) == ["p", "q", "r"]
    assert found(*zips, level=1) == ["0_0", "0_0", "0_1"]
    of_other_depths = [folders("set/p/", "set/q/"), folders("r/", "s/")]
    with pytest.raises(SourceError, match="--identity-level -1"):
        find_identities(of_other_depths)
    assert found(*of_other_depths, level=-1) == ["p", "q", "r", "s"]
    together = [folders("set/p/", "set/q/"), folders("set/r/"), folders()]
    assert found(*together) == ["p", "q", "r"]


def test_one_name_at_several_places_is_one_identity() -> None:
    files = folders("train/1/", "val/1/", "val/2/", "1/")
    assert found(files, level=2) == ["1", "1", "2", None]
    (note,) = find_identities([files], 2).notices
    assert note.startswith("1 name of folders occurs at several places")
    (note,) = find_identities([files], -1).notices
    assert note.startswith("1 name of folders")


def test_a_level_that_no_image_has() -> None:
    with pytest.raises(SourceError, match=r"no image has a folder of level 3.* of level 2"):
        find_identities([folders("1/2/")], 3)
    assert [folder_at(b"1/2/", level) for level in (1, 2, 3, -1, -2, -3)] == [
        b"1", b"2", None, b"2", b"1", None,
    ]  # fmt: skip


def identities_of(source: Source) -> Sourced:
    parts: list[Part] = [source.part(start, stop) for _, start, stop in source.groups()]
    return {
        str(entry.name): part.identity_names().get(entry.label)
        for part in parts
        for entry in part.entries()
    }


def labels_of(source: Source) -> list[tuple[str | None, int]]:
    parts = [source.part(start, stop) for _, start, stop in source.groups()]
    entries = chain.from_iterable(part.entries() for part in parts)
    return sorted((entry.name, entry.label) for entry in entries)


TREES = {
    "flat": ["a-b/0.jpg", "a/0.jpg", "é/0.JPG", "B/1.webp"],
    "rooted": ["set/a-b/0.jpg", "set/a/0.jpg", "set/é/0.jpg"],
    "views": ["1/left/0.jpg", "1/left/1.jpg", "1/right/0.jpg", "2/left/0.jpg"],
    "mixed": ["1/0.jpg", "1/sub/1.jpg", "1/z.jpg", "2/0.jpg"],
    "person": ["set/1/0.jpg", "set/1/1.jpg"],
    "clutter": ["1/0.jpg", "1/._0.jpg", "2/@eaDir/0.jpg",
                "__MACOSX/1/0.jpg", ".t/0.jpg", "2/1.jpg"],
}  # fmt: skip


def as_tree(root: Path, files: list[str], make_jpeg: MakeJpeg) -> Path:
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(make_jpeg(number))
    return root


def as_zip(root: Path, files: list[str]) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(root / file, file)
    return path


def as_tar(root: Path, files: list[str]) -> Path:
    path = root.with_suffix(".tar")
    with tarfile.open(path, "w") as archive:
        for file in files:
            archive.add(root / file, file)
    return path


@pytest.mark.parametrize("level", [None, 1, 2, -1])
@pytest.mark.parametrize("name", TREES)
def test_a_tree_its_zip_and_its_tar_are_numbered_alike(
    name: str, level: int | None, tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    files = TREES[name]
    root = as_tree(tmp_path / "src", files, make_jpeg)
    archives = ((ZipSource, as_zip(root, files)), (TarSource, as_tar(root, files)))
    try:
        tree = ImgSource(root, identity_level=level)
    except SourceError as error:
        reason = str(error).partition(": ")[2].partition(". ")[0]
        for kind, packed in archives:
            with pytest.raises(SourceError, match=re.escape(reason)):
                kind([packed], identity_level=level)
        return
    for kind, packed in archives:
        source = kind([packed], identity_level=level)
        labelled = [entry for entry in labels_of(source) if entry[1] >= 0]
        assert labels_of(tree) == labelled  # what lies too high is refused here, passed over there
        assert {k: v for k, v in identities_of(source).items() if v} == identities_of(tree)
        assert tree.classes == source.classes
        refused = [r for _, start, stop in source.groups() for r in source.part(start, stop).read()]
        assert sum(isinstance(record, Refusal) for record in refused) == len(source) - len(labelled)


def test_tars_are_looked_at_one_by_one_too(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    tars = []
    for part, people in (("0_0", "ab"), ("0_1", "bc")):
        files = [f"{part}/{person}/0.jpg" for person in people]
        tars.append(as_tar(as_tree(tmp_path / part, files, make_jpeg), files))
    with pytest.raises(SourceError, match=r"0_0\.tar.*--identity-level 2"):
        TarSource(tars)
    source = TarSource(tars, identity_level=2)
    assert [label for _, label in labels_of(source)] == [0, 1, 1, 2]
    (note,) = source.notices
    assert note.startswith("1 name of folders occurs at several places")


def test_the_plan_of_what_was_always_right_has_no_level(
    tmp_path: Path, make_jpeg: MakeJpeg
) -> None:
    for name, usual in {"flat": True, "rooted": False, "views": True, "person": False}.items():
        root = as_tree(tmp_path / name, TREES[name], make_jpeg)
        assert ("identity_level" not in ImgSource(root).describe()) == usual
    for name, usual in {"flat": True, "rooted": True, "views": False, "person": True}.items():
        path = as_zip(tmp_path / name, TREES[name])
        assert ("identity_level" not in ZipSource([path]).describe()) == usual


def test_the_option_of_the_commands(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    files = ["train/1/0.jpg", "train/2/0.jpg", "val/3/0.jpg"]
    root = as_tree(tmp_path / "src", files, make_jpeg)
    for command, source in (
        ("img2lmdb", root),
        ("zip2lmdb", as_zip(root, files)),
        ("tar2lmdb", as_tar(root, files)),
    ):
        run = [command, str(source), os.fspath(tmp_path / command)]
        refused = CliRunner().invoke(command_group, run)
        assert refused.exit_code == 1 and "--identity-level 2" in refused.output
        assert CliRunner().invoke(command_group, [*run, "--identity-level", "0"]).exit_code == 2
        done = CliRunner().invoke(command_group, [*run, "--identity-level", "2"])
        assert done.exit_code == 0 and "3 identities of 3 classes" in done.output
    with pytest.raises(SourceError, match=r"index\.kv, not from folders: leave --identity-level"):
        (root / "index.kv").write_text("train/1/0.jpg 0\n")
        ImgSource(root, identity_level=2)
