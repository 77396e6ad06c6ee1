"""What a pack holds already is known by its images, file by file, however they came into it."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.care.merge import merge
from facepack.care.verify import verify
from facepack.cli import root
from facepack.convert.formats.pack.append import append
from facepack.convert.formats.pack.delete_source import delete_source, source_files
from facepack.convert.formats.pack.held import held_files
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tar.source import TarSource
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.formats.zip.source import ZipSource
from facepack.convert.source import Source
from facepack.errors import PackError
from facepack.store.checks import ImageCheck

MakeJpeg = Callable[..., bytes]
SMALL = PackOptions(shard_records=4)


@pytest.fixture
def zips(tmp_path: Path, make_jpeg: MakeJpeg) -> list[Path]:
    """Three zips of 9 images each, of three people; one image of the second is none."""
    paths = []
    for k in range(3):
        paths.append(tmp_path / "zips" / f"0_{k}.zip")
        paths[-1].parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(paths[-1], "w") as file:
            for i in range(9):
                image = b"none" if (k, i) == (1, 4) else make_jpeg(100 * k + i)
                file.writestr(f"faces/p{k}{i // 3}/{i}.jpg", image)
    return paths


@pytest.fixture
def pack(zips: list[Path], tmp_path: Path) -> Path:
    """A pack of the first two, made at once."""
    convert_to_pack(ZipSource(zips[:2]), tmp_path / "pack", SMALL)
    return tmp_path / "pack"


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(root, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def most_often(path: Path) -> int:
    """How often the image that comes most often is there: the slow twin of what is held."""
    with facepack.open(path) as pack:
        return max(Counter(bytes(record.image) for record in pack).values())


def test_zips_packed_at_once_are_not_appended_again(pack: Path, zips: list[Path]) -> None:
    for zip_ in zips[:2]:
        said = run("append", pack, zip_, "--source", "zip", code=1).output
        assert "already has this source (shards: 3)" in said
    result = run("append", pack, zips[0].parent, "--source", "zip", "--resume")
    figures = [line.split(": ", 1)[1] for line in result.stdout.splitlines()]
    assert figures[0].startswith("9 images are in it already, 0 set aside, 6 identities")
    assert figures[1].startswith("8 images are in it already, 1 set aside, 6 identities")
    assert figures[2].startswith("9 images appended, 0 set aside, 9 identities")
    for stem in ("0_0", "0_1"):
        assert result.stderr.count(f"already has this source ({stem}), and nothing is left") == 1
    assert len(facepack.open(pack)) == 26 and most_often(pack) == 1
    assert not verify(pack).damage


def test_a_file_is_known_under_another_name(pack: Path, zips: list[Path], tmp_path: Path) -> None:
    copied = tmp_path / "other.zip"
    shutil.copy(zips[0], copied)
    with pytest.raises(PackError, match="already has this source"):
        append(pack, ZipSource([copied]), SMALL)


def test_a_source_of_which_a_part_is_there(pack: Path, zips: list[Path]) -> None:
    with pytest.raises(PackError, match="has 0_1 of this source already, and has not 0_2: append"):
        append(pack, ZipSource(zips[1:]), PackOptions(shard_records=4, resume=True))


def test_a_pack_appended_to_itself(pack: Path, zips: list[Path], tmp_path: Path) -> None:
    assert "already has this source" in run("append", pack, pack, "--source", "lmdb", code=1).output
    result = run("append", pack, pack, "--source", "lmdb", "--resume")
    assert result.stdout.startswith(f"{pack}: 17 images are in it already, 1 set aside")
    part = tmp_path / "part"
    convert_to_pack(ZipSource(zips[1:2]), part, PackOptions(shard_records=5, seed=1))
    run("append", pack, part, "--source", "lmdb", code=1)
    assert len(facepack.open(pack)) == 17


def test_what_came_by_other_ways(zips: list[Path], tmp_path: Path) -> None:
    """Through lmdb2lmdb, by appending, by merging: each zip is known, and a third is not."""
    packs = [tmp_path / "a", tmp_path / "b"]
    for path, zip_ in zip(packs, zips, strict=False):
        convert_to_pack(ZipSource([zip_]), path, SMALL)
    merge(packs, tmp_path / "merged")
    convert_to_pack(PackSource(tmp_path / "merged"), tmp_path / "again", PackOptions())
    append(packs[0], ZipSource(zips[1:2]), SMALL)
    for path in (packs[0], tmp_path / "merged"):
        held = held_files(path, ZipSource(zips))
        assert [(group.stem, len(shards)) for group, shards in held.items()] == [
            ("0_0", 3),
            ("0_1", 3),
        ]
    assert [group.stem for group in held_files(tmp_path / "again", ZipSource(zips))] == ["0_0"]
    # Of the second zip an image was set aside, of which a pack made of a pack knows nothing: there
    # it is as long as the pack that it came from.
    merged = PackSource(tmp_path / "merged")
    assert len(held_files(tmp_path / "again", merged)) == 2


@pytest.mark.parametrize("kind", ["rec", "img", "tar", "tar.gz"])
def test_sources_of_other_kinds(
    kind: str, make_rec: Callable[..., Path], make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    """Each is appended twice, as it was and as a copy; one that differs is taken."""

    def source(name: str, first: int = 0) -> Source:
        if kind == "rec":
            folder = make_rec(9, name)
            (folder / "train.idx").unlink()  # then keys are other ones
            return RecSource(folder)
        tree = tmp_path / name
        for i in range(9):
            (tree / f"p{i // 3}").mkdir(parents=True, exist_ok=True)
            (tree / f"p{i // 3}" / f"{i}.jpg").write_bytes(make_jpeg(first + i))
        if kind == "img":
            return ImgSource(tree)
        with tarfile.open(tmp_path / f"{name}.{kind}", "w:gz" if "gz" in kind else "w") as file:
            file.add(tree, "faces")
        return TarSource([tmp_path / f"{name}.{kind}"])

    path = tmp_path / "pack"
    convert_to_pack(RecSource(make_rec(9)) if kind == "rec" else source("src"), path, SMALL)
    with pytest.raises(PackError, match="already has this source"):
        append(path, source("copy"), SMALL)
    if kind != "rec":
        append(path, source("other", first=50), SMALL)  # as many, and other images
        assert len(facepack.open(path)) == 18 and most_often(path) == 1
        assert not verify(path, decode=True).damage


def test_colours_that_were_converted(zips: list[Path], make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    import io

    from PIL import Image

    with zipfile.ZipFile(tmp_path / "grey.zip", "w") as file:
        for i in range(9):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(make_jpeg(i))).convert("L").save(buffer, "JPEG")
            file.writestr(f"faces/p/{i}.jpg", buffer.getvalue())
    options = PackOptions(check=ImageCheck(color="convert"))
    convert_to_pack(ZipSource([zips[0], tmp_path / "grey.zip"]), tmp_path / "pack", options)
    with pytest.raises(PackError, match="already has this source"):
        append(tmp_path / "pack", ZipSource([tmp_path / "grey.zip"]), SMALL)


def test_a_choice_of_a_source(zips: list[Path], tmp_path: Path) -> None:
    run("zip2lmdb", *zips[:2], tmp_path / "pack", "--sample", "0.5", "--min-images", 1)
    for options in ((), ("--resume",)):
        said = run("append", tmp_path / "pack", zips[1], "--source", "zip", *options, code=1).output
        assert "has a choice of the images of this source (--min-images 1, --sample 0.5)" in said
    run("append", tmp_path / "pack", zips[2], "--source", "zip")


def test_a_zip_that_was_packed_with_others_is_deleted_once_it_was_compared(
    pack: Path, zips: list[Path], tmp_path: Path
) -> None:
    second = ZipSource(zips[1:2])
    assert "1 of its records were set aside" in delete_source(
        pack, second, source_files("zip", [zips[1]])
    )
    whole = tmp_path / "whole"
    convert_to_pack(ZipSource([zips[0], zips[2]]), whole, SMALL)
    result = run("append", whole, zips[2], "--source", "zip", "--resume", "--delete-source")
    assert "note: deleted: " in result.stderr and not zips[2].exists() and zips[0].exists()


def test_merging_packs_of_the_same_images_is_told(zips: list[Path], tmp_path: Path) -> None:
    packs = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for seed, path in enumerate(packs):
        files = zips[:2] if seed < 2 else zips[2:]
        convert_to_pack(ZipSource(files), path, PackOptions(shard_records=4, seed=seed))
    result = run("merge", *packs, tmp_path / "all")
    (note,) = result.stderr.splitlines()
    assert f"{packs[0]} and {packs[1]} were made of the same images: 17 (0_0, 0_1)" in note
    assert run("merge", packs[0], packs[2], tmp_path / "two").stderr == ""


def test_files_of_as_many_other_images(zips: list[Path], pack: Path) -> None:
    assert held_files(pack, ZipSource(zips[2:])) == {}


def test_nothing_to_compare(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    """Zips of which nothing could be packed say nothing of each other."""
    sources: list[Any] = []
    for k in range(2):
        with zipfile.ZipFile(tmp_path / f"{k}.zip", "w") as file:
            file.writestr("p/0.jpg", make_jpeg(0) if k else b"no image")
        sources.append(ZipSource([tmp_path / f"{k}.zip"]))
    both = ZipSource([tmp_path / "0.zip", tmp_path / "1.zip"])
    convert_to_pack(both, tmp_path / "pack", SMALL)
    assert [group.stem for group in held_files(tmp_path / "pack", both)] == ["1"]
