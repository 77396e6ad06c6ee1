"""A list of pairs, and images that lie elsewhere, as a source."""

from __future__ import annotations

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import facepack
from facepack.cli import root
from facepack.convert.formats.pair_list.by_name import find_by_name
from facepack.convert.formats.pair_list.landmarks import Landmarks
from facepack.convert.formats.pair_list.pair_list import read_pair_list
from facepack.convert.formats.pair_list.source import ListSource
from facepack.convert.formats.pairs.pickles import read_bin
from facepack.errors import SourceError
from facepack.evaluate.sets.pairs import load_pair_set

MakeJpeg = Callable[..., bytes]


@pytest.fixture
def tree(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Four people of three images each, called as LFW's are."""
    for person in range(4):
        (tmp_path / f"faces/p{person}").mkdir(parents=True)
        for shot in range(1, 4):
            image = tmp_path / f"faces/p{person}/p{person}_{shot:04d}.jpg"
            image.write_bytes(make_jpeg(10 * person + shot))
    return tmp_path / "faces"


def run(*words: object) -> Result:
    return CliRunner().invoke(root, [str(word) for word in words])


def listed(folder: Path, text: str, name: str = "pairs.txt") -> Path:
    (folder / name).write_text(text)
    return folder / name


LFW = "2\t1\np0\t1\t2\np0\t1\tp1\t3\np2\t2\t3\np2\t1\tp3\t1\n"


def named_pairs(pack: Path) -> list[tuple[str | None, str | None, int]]:
    with facepack.open(pack) as opened:
        names = opened.source_names()
        assert opened.pairs is not None
        return [(names[row[0]], names[row[1]], int(row[2])) for row in opened.pairs]


def test_lfws_list_keeps_its_folds(tree: Path, tmp_path: Path) -> None:
    path = listed(tmp_path, LFW)
    assert run("pairs2lmdb", path, tmp_path / "pack", "--root", tree).exit_code == 0
    assert named_pairs(tmp_path / "pack") == [
        ("p0/p0_0001.jpg", "p0/p0_0002.jpg", 1),
        ("p0/p0_0001.jpg", "p1/p1_0003.jpg", 0),
        ("p2/p2_0002.jpg", "p2/p2_0003.jpg", 1),
        ("p2/p2_0001.jpg", "p3/p3_0001.jpg", 0),
    ]
    read = load_pair_set(tmp_path / "pack")
    assert read.folds is not None and read.folds.tolist() == [0, 0, 1, 1]
    assert len(read.images) == 7  # p0's first is in two pairs
    assert run("verify", tmp_path / "pack").exit_code == 0
    # A pack made of the pack keeps them; a .bin has no room for them, and that is said.
    assert run("lmdb2lmdb", tmp_path / "pack", tmp_path / "copy").exit_code == 0
    again = load_pair_set(tmp_path / "copy").folds
    assert again is not None and again.tolist() == [0, 0, 1, 1]
    said = run("lmdb2bin", tmp_path / "pack", tmp_path / "lfw.bin")
    assert said.exit_code == 0 and "folds are not written" in said.stderr
    images = read_bin(tmp_path / "lfw.bin").images
    assert bytes(images[3]) == (tree / "p1/p1_0003.jpg").read_bytes()


def test_ten_equal_folds_in_order_are_the_fields_own(tree: Path, tmp_path: Path) -> None:
    lines = ["a,b,same,fold"] + [
        f"p0/p0_0001.jpg,p{k % 4}/p{k % 4}_0002.jpg,{int(k % 4 == 0)},{k // 2}" for k in range(20)
    ]
    source = ListSource(listed(tmp_path, "\n".join(lines)), root=tree)
    assert source.folds is None and len(source.issame) == 20


@pytest.mark.parametrize(
    ("text", "issame"),
    [
        ("p0/p0_0001.jpg p0/p0_0002.jpg 1\np0/p0_0001.jpg p1/p1_0001.jpg 0\n", [True, False]),
        ("p0_0001.jpg 3\np0_0002.jpg 3\np0_0001.jpg 0\np1_0001.jpg 0\n", [True, False]),  # CPLFW's
        ("p0/p0_0001.png\np0/p0_0002.png\np0/p0_0001.png\np1/p1_0001.png\n", [True, False]),
        ("same;one;two\nyes;p0_0001;p0_0002\nno;p0_0001;p1_0001\n", [True, False]),
    ],
)
def test_other_lists(text: str, issame: list[bool], tree: Path, tmp_path: Path) -> None:
    source = ListSource(listed(tmp_path, text), root=tree)
    assert source.issame.tolist() == issame
    assert source.uses.tolist() == [0, 1, 0, 2]
    images = [bytes(record.image) for record in source.part(0, 3).read()]  # type: ignore[union-attr]
    files = ("p0/p0_0001.jpg", "p0/p0_0002.jpg", "p1/p1_0001.jpg")
    assert images == [(tree / file).read_bytes() for file in files]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a 1\nb 1\nc 1\n", "3 lines of one image make no pairs"),
        ("a 1\nb 0\n", "line 2 .* the flag of the line before it"),
        ("p/a\nb\n", "line 2 .* person/file"),
        ("a 1\nb\n", "line 2"),
        ("a x\nb x\n", "line 1"),
        ("0\n", "tells of 0 pairs"),
        ("10\t0\n", "tells of 0 pairs"),
    ],
)
def test_what_is_no_list(text: str, told: str, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=told):
        ListSource(listed(tmp_path, text), root=tree)


@pytest.mark.parametrize("sink", ["lmdb", "bin"])
def test_missing_images(sink: str, tree: Path, tmp_path: Path) -> None:
    """A pack sets them aside and leaves their pairs out; a .bin has no gaps."""
    path = listed(tmp_path, LFW.replace("p3", "nobody"))
    out = tmp_path / f"out.{sink}"
    said = run(f"pairs2{sink}", path, out, "--root", tree)
    if sink == "bin":
        assert said.exit_code and "nobody/nobody_0001.jpg" in said.stderr and not out.exists()
        return
    assert "1 of 4 pairs are left out" in said.stderr
    (line,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "nobody/nobody_0001.jpg"
    assert [pair[2] for pair in named_pairs(out)] == [1, 0, 1]
    (tmp_path / "empty").mkdir()
    none = run("pairs2lmdb", path, tmp_path / "none", "--root", tmp_path / "empty")
    assert none.exit_code and "--root" in none.stderr


def test_names_that_lead_out_of_the_folder_are_not_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes((tree / "p0/p0_0001.jpg").read_bytes())
    path = listed(tmp_path, "../secret.jpg p0/p0_0001.jpg 1\np0/p0_0001.jpg p0/p0_0002.jpg 1\n")
    said = run("pairs2lmdb", path, tmp_path / "pack", "--root", tree)
    assert "1 of 2 pairs are left out" in said.stderr
    with facepack.open(tmp_path / "pack") as pack:
        assert len(pack) == 2


def test_of_several_images_of_one_name_none_is_taken() -> None:
    names = ["a/x.jpg", "a/x.jpg", "b/y.png", "c/z.jpg", "d/c/z.jpg"]
    assert find_by_name(["a/x.jpg", "y.jpg", "c/z.jpg", "z.jpg"], names).tolist() == [-1, 2, 3, -1]


def test_why_an_archive_does_not_give_an_image_is_told(tree: Path, tmp_path: Path) -> None:
    lost = (tree / "p0/p0_0002.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for image in sorted(tree.rglob("*.jpg")):
            archive.write(image, image.relative_to(tree))
    content = (tmp_path / "faces.zip").read_bytes()
    (tmp_path / "faces.zip").write_bytes(content.replace(lost, lost[:-1] + b"!"))
    words = ("pairs2lmdb", listed(tmp_path, LFW), tmp_path / "pack")
    said = run(*words, "--root", tmp_path / "faces.zip")
    assert "1 of 4 pairs are left out" in said.stderr
    (line,) = (tmp_path / "pack/quarantine.jsonl").read_text().splitlines()
    told = json.loads(line)
    assert told["file"] == "p0/p0_0002.jpg" or told["key"] == "p0/p0_0002.jpg"
    assert "CRC" in told["reason"]


def test_the_same_from_a_pack_a_zip_and_a_folder(tree: Path, tmp_path: Path) -> None:
    path = listed(tmp_path, LFW)
    assert run("img2lmdb", tree, tmp_path / "faces.pack").exit_code == 0
    packs = []
    for images in (tree, tmp_path / "faces.pack"):
        packs.append(tmp_path / f"from-{images.name}")
        assert run("pairs2lmdb", path, packs[-1], "--root", images).exit_code == 0
    first, second = ({f.name: f.read_bytes() for f in p.glob("*.npy")} for p in packs)
    assert first == second
    assert load_pair_set(packs[0]).images == load_pair_set(packs[1]).images


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    "place",
    [
        lambda k, file: file.name,
        lambda k, file: f"{('train', 'val')[k % 2]}/{file.name}",
        lambda k, file: "a/" * (k % 3) + file.name,
    ],
    ids=["flat", "parts", "depths"],
)
def test_archives_need_no_folders_of_identities(
    place: Callable[[int, Path], str], kind: str, tree: Path, tmp_path: Path
) -> None:
    archive = tmp_path / f"faces.{kind}"
    files = sorted(tree.rglob("*.jpg"))
    label = listed(tmp_path, "7")
    # Neither the label of a sample nor a list of images matters.
    members = [(file, place(k, file)) for k, file in enumerate(files)]
    members += [(label, "p0_0001.cls"), (listed(tmp_path, "0\t1\tp0_0001.jpg\n", "x"), "x.lst")]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as written:
            for file, name in members:
                written.write(file, name)
    else:
        with tarfile.open(archive, f"w:{kind[4:]}") as tar:
            for file, name in members:
                tar.add(file, name)
    path = listed(tmp_path, "p0_0001.jpg,p0_0002.jpg,1\np0_0001.jpg,p1_0003.jpg,0\n")
    said = run("pairs2lmdb", path, tmp_path / "pack", "--root", archive)
    assert said.exit_code == 0, said.output
    assert named_pairs(tmp_path / "pack") == [
        ("p0_0001.jpg", "p0_0002.jpg", 1),
        ("p0_0001.jpg", "p1_0003.jpg", 0),
    ]
    images = [bytes(r.image) for r in ListSource(path, root=archive).part(0, 3).read()]  # type: ignore[union-attr]
    wanted = ("p0/p0_0001.jpg", "p0/p0_0002.jpg", "p1/p1_0003.jpg")
    assert images == [(tree / name).read_bytes() for name in wanted]


@pytest.mark.parametrize(
    "text",
    [
        "p0\\p0_0001.jpg,p0\\p0_0002.jpg,1\np0\\p0_0001.jpg,p1\\p1_0001.jpg,0\n",
        "p0\\p0_0001.jpg\np0\\p0_0002.jpg\np0\\p0_0001.jpg\np1\\p1_0001.jpg\n",
        "p0\\p0_0001.jpg 3\np0\\p0_0002.jpg 3\np0/p0_0001.jpg 0\np1\\p1_0001.jpg 0\n",
    ],
)
def test_lists_written_on_windows(text: str, tree: Path, tmp_path: Path) -> None:
    """A group keeps its backslashes."""
    source = ListSource(listed(tmp_path, text), root=tree)
    assert source.issame.tolist() == [True, False] and source.uses.tolist() == [0, 1, 0, 2]
    assert [entry.name for entry in source.part(0, 3).entries()] == [
        "p0/p0_0001.jpg",
        "p0/p0_0002.jpg",
        "p1/p1_0001.jpg",
    ]
    grouped = listed(tmp_path, "a,b,same,group\np0\\p0_0001,p0\\p0_0002,1,x\\y\n")
    assert read_pair_list(grouped).columns == {"group": ["x\\y"]}
    points = listed(tmp_path, "p0\\p0_0001.jpg 1 2 3 4 5 6 7 8 9 10\n", "points.txt")
    assert Landmarks(points).of("p0/p0_0001.jpg").shape == (5, 2)


def test_landmarks(tree: Path, tmp_path: Path) -> None:
    """Both orders of coordinates say the same; an image without landmarks is set aside."""
    points = [(38.5, 51.0), (73.5, 51.25), (56.0, 71.75), (41.5, 92.0), (70.75, 92.25)]
    paired = " ".join(f"{x} {y}" for x, y in points)
    columns = "\t".join(str(point[axis]) for axis in (0, 1) for point in points)
    names = ["p0/p0_0001.jpg", "p0/p0_0002.jpg", "p1/p1_0003.jpg", "p2/p2_0002.jpg"]
    one = listed(tmp_path, "".join(f"{name} {paired}\n" for name in names), "one.txt")
    two = listed(
        tmp_path, "".join(f"0\t{name}\t0\t1\t2\t3\t4\t{columns}\n" for name in names), "two.txt"
    )
    for name in names:
        assert np.array_equal(Landmarks(one).of(name), np.array(points))
        assert np.array_equal(Landmarks(two).of(name), np.array(points))
    path = listed(tmp_path, LFW)
    said = run("pairs2lmdb", path, tmp_path / "pack", "--root", tree, "--landmarks", one)
    assert "2 of 4 pairs are left out" in said.stderr
    assert "landmarks does not name it" in (tmp_path / "pack/quarantine.jsonl").read_text()
    with facepack.open(tmp_path / "pack") as pack:
        assert len(pack) == 4 and pack.decode(0).shape == (112, 112, 3)
    for text in ("p0/a.jpg 1 2 3\n", "p0/a.jpg 1 2 3 4 5 6 7 8 9 nan\n"):
        with pytest.raises(SourceError, match="line 1"):
            Landmarks(listed(tmp_path, text, "bad.txt"))
