"""What a run trains on: found by path or name, as pack or image tree; what cannot be trained on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import simplejpeg

import facepack
from facepack.care.select import exclude
from facepack.convert.formats.tree.source import ImgSource
from facepack.errors import ConfigError, PackError, SourceError, TrainingError
from facepack.store.sets import add_set
from facepack.train.config import TrainConfig
from facepack.train.data import (
    ImageTree,
    check_training_data,
    label_map_digest,
    open_training_data,
)
from facepack.train.loop.run import Trainer


def make_image(width: int, height: int) -> bytes:
    return simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8))


def unpack(pack_path: Path, folder: Path) -> Path:
    """The pack's images as a tree whose identities sort in the order of their labels."""
    with facepack.open(pack_path) as pack:
        for n, record in enumerate(pack):
            file = folder / f"person-{record.label}" / f"{n:03d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(record.image)
    return folder


def test_tree_has_the_images_under_the_same_labels(pack_path: Path, tmp_path: Path) -> None:
    tree = ImageTree(unpack(pack_path, tmp_path / "tree"))
    with facepack.open(pack_path) as pack:
        assert (len(tree), tree.classes, tree.identities) == (len(pack), 5, 5)
        assert tree.image_size == pack.image_size
        in_pack = sorted((r.label, r.image) for r in pack)
    with tree.views(range(len(tree))) as views:
        in_tree = sorted(zip(tree.labels.tolist(), map(bytes, views), strict=True))
    assert in_tree == in_pack
    assert tree.name == "tree"


def test_tree_is_ordered_by_the_bytes_of_names(tmp_path: Path, pack_path: Path) -> None:
    with facepack.open(pack_path) as pack:
        image = pack[0].image
    for name in ("ü/1.jpg", "Z/10.JPG", "Z/9.jpeg", "a/x.png", "ü/0.jpg", "10/0.jpg", "9/0.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image)
    for other in ("empty/readme.txt", ".git/0.jpg", "Z/.hidden.jpg", "0.jpg"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_bytes(b"no face")
    tree = ImageTree(tmp_path)
    assert tree.identity_names == ["10", "9", "Z", "a", "ü"]
    assert tree.labels.tolist() == [0, 1, 2, 2, 3, 4, 4]
    assert [tree.key(i) for i in range(len(tree))] == [
        "10/0.jpg",
        "9/0.jpg",
        "Z/10.JPG",
        "Z/9.jpeg",
        "a/x.png",
        "ü/0.jpg",
        "ü/1.jpg",
    ]


def test_tree_has_the_order_and_labels_of_its_pack(tmp_path: Path) -> None:
    """Whatever the depth, and whatever the suffix of a file that is an image by its name."""
    names = (
        "b/x/1.jpeg",
        "b/0.JPG",
        "a/y/z/2.jpg",
        "a-/3.png",
        "b/z.webp",
        "é/4.bmp",
        "a/@eaDir/5.jpg",
    )
    for name in names:
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / name).write_bytes(make_image(112, 112))
    tree, source = ImageTree(tmp_path / "faces"), ImgSource(tmp_path / "faces")
    assert len(tree) == 6
    part = source.part(0, len(source))
    assert [(tree.key(k), label) for k, label in enumerate(tree.labels.tolist())] == [
        (entry.name, entry.label) for entry in part.entries()
    ]
    assert dict(enumerate(tree.identity_names)) == part.identity_names()
    assert tree.notices == source.notices and len(tree.notices) == 2
    with tree.views(range(6)) as views:
        assert list(map(bytes, views)) == [make_image(112, 112)] * 6


def test_level_of_identities_can_be_chosen(pack_path: Path, tmp_path: Path) -> None:
    unpack(pack_path, tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    with pytest.raises(SourceError, match=r"'train', 'val' is rather a part.*--identity-level 2"):
        open_training_data(str(tmp_path))
    tree = open_training_data(str(tmp_path), identity_level=2)
    assert tree.classes == 5 and len(tree) == 2 * len(ImageTree(tmp_path / "train"))
    assert open_training_data(str(tmp_path), identity_level=1).identity_names == ["train", "val"]
    with pytest.raises(TrainingError, match="identity_level = 2 is for image trees"):
        open_training_data(str(pack_path), identity_level=2)
    with pytest.raises(ConfigError, match="identity_level = 0"):
        TrainConfig(shards="x", identity_level=0)


def test_tree_is_told_from_another_wherever_it_lies(pack_path: Path, tmp_path: Path) -> None:
    first = ImageTree(unpack(pack_path, tmp_path / "a"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert ImageTree(tmp_path / "b").content_id == first.content_id
    (tmp_path / "b" / "person-1" / "new.jpg").write_bytes(b"")
    assert ImageTree(tmp_path / "b").content_id != first.content_id


def test_folder_that_is_no_tree_is_told_by_what_it_holds(pack_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"folder of packs, of which name one: {pack_path.name}"):
        open_training_data(str(pack_path.parent))
    (tmp_path / "train.rec").touch()
    with pytest.raises(SourceError, match=rf"packed by: facepack rec2lmdb {tmp_path} PACK"):
        open_training_data(str(tmp_path))


def test_tree_without_images_or_with_none_that_reads(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(SourceError, match=r"holds no images in folders: .* identity/image\.jpg"):
        ImageTree(tmp_path)
    (tmp_path / "a" / "0.jpg").write_bytes(b"no face")
    (tmp_path / "a" / "1.jpg").write_bytes(b"nor this")
    with pytest.raises(SourceError, match=r"no image that can be read, first a/0\.jpg: not an im"):
        ImageTree(tmp_path)


def test_tree_takes_its_size_from_the_first_image_that_reads(
    pack_path: Path, tmp_path: Path
) -> None:
    tree = unpack(pack_path, tmp_path)
    (tree / "person-0" / "0.jpg").write_bytes(b"no face")
    assert ImageTree(tree).image_size == (112, 112)


def test_first_image_of_a_tree_may_be_left_out(pack_path: Path, tmp_path: Path) -> None:
    path = unpack(pack_path, tmp_path)
    (path / "person-0" / "0.jpg").write_bytes(make_image(240, 250))
    tree = ImageTree(path)
    with pytest.raises(TrainingError, match="holds images of 240×250 pixels"):
        check_training_data(tree, batch_size=4, image_size=(112, 112))
    check_training_data(tree, batch_size=4, image_size=(112, 112), skip_others=True)


def test_file_that_vanishes_is_named(pack_path: Path, tmp_path: Path) -> None:
    tree = ImageTree(unpack(pack_path, tmp_path))
    (tmp_path / tree.key(3)).unlink()
    with (
        pytest.raises(SourceError, match=rf"{tree.key(3)} can no longer be read"),
        tree.views([2, 3]),
    ):
        pass


def test_names_are_looked_up_in_the_data_home_first(
    pack_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACEPACK_HOME", raising=False)
    unpack(pack_path, tmp_path / "faces")
    assert isinstance(open_training_data("faces"), ImageTree)
    assert isinstance(open_training_data("faces", pack_path.parent), facepack.Pack)
    monkeypatch.setenv("FACEPACK_HOME", str(pack_path.parent))
    assert isinstance(open_training_data("faces"), facepack.Pack)
    assert isinstance(open_training_data("./faces"), facepack.Pack | ImageTree)
    assert isinstance(open_training_data(str(tmp_path / "faces")), ImageTree)


def test_shard_sets_are_found_by_name(
    pack_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    with facepack.open(pack_path) as pack:
        records = pack[:20]
    for name, stem in (("big", "0_0"), ("other", "x")):
        with facepack.PackWriter(home / name, stem=stem, shard_records=10) as writer:
            for record in records:
                writer.add(record.image, record.label)
    names = facepack.open(home / "big").shard_names
    add_set(home / "big", names, "half", names[:1])

    def found(shards: str) -> tuple[str, int]:
        data = open_training_data(shards, home)
        return data.path.name, len(data)

    assert found("big") == ("big", 20)
    assert found("half") == found("big:half") == ("big", 10)
    assert found(f"{home / 'big'}:half") == ("big", 10)
    assert found("webface4m") == found("big:webface4m") == ("big", 20)
    monkeypatch.setenv("FACEPACK_HOME", str(home))
    assert len(open_training_data("half")) == 10
    add_set(home / "other", ["x-000", "x-001"], "half", ["x-000"])
    with pytest.raises(
        TrainingError, match=r"2 packs have a shard set 'half': .* by big:half or other:half"
    ):
        found("half")
    assert found("other:half") == ("other", 10)
    (home / "half").mkdir()
    shutil.copytree(home / "other", home / "half", dirs_exist_ok=True)
    assert found("half") == ("half", 20)  # a pack of the name comes first
    with pytest.raises(
        PackError, match=r"big has no shard set 'no'; it has half, webface4m\. Make"
    ):
        found("big:no")
    with pytest.raises(
        TrainingError,
        match=rf"Nor is it a shard set of a pack in {home} \(big has webface4m, half; half ha",
    ):
        found("none")
    with pytest.raises(
        TrainingError, match=rf"looked at {home}/no:half and no:half and {home}/no and no\. N"
    ):
        found("no:half")


def test_what_is_not_there_is_told_with_the_places(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=rf"no pack or image tree 'faces': looked at {tmp_path}/faces and faces"
    ):
        open_training_data("faces", tmp_path)
    with pytest.raises(TrainingError, match=r"'faces': looked at faces\."):
        open_training_data("faces", Path())
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"train\.rec is a file; .* facepack rec2lmdb"):
        open_training_data(str(tmp_path / "train.rec"))


def test_unfinished_pack_is_not_taken_for_a_tree(pack_path: Path, tmp_path: Path) -> None:
    shutil.copytree(pack_path, tmp_path / "faces")
    (tmp_path / "faces" / "pack.json").unlink()
    with pytest.raises(PackError, match="is an unfinished pack"):
        open_training_data(str(tmp_path / "faces"))


def data(**changes: Any) -> Any:
    made = {
        "path": Path("faces"),
        "classes": 3,
        "labels": np.array([0, 1, 2, 1]),
        "image_size": (112, 112),
        **changes,
    }
    return type("Data", (SimpleNamespace,), {"__len__": lambda self: len(self.labels)})(**made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.array([], np.int64)}, "faces is empty: it holds no images to train on"),
        ({"labels": np.array([0, 1, 2])}, "batch_size = 4 is larger than faces, which holds 3 im"),
        ({"image_size": (250, 240)}, "holds images of 240×250 pixels; training takes aligned fac"),
        (
            {"image_size": None},
            "holds images of several sizes; training takes aligned faces of 112",
        ),
        (
            {"labels": np.array([-1, -1, -1, -1]), "classes": 0},
            "faces holds no identities: none of its 4 images has a label. A verification set is",
        ),
        ({"labels": np.array([0, -1, 2, -1])}, r"faces: label -1 \(at position 1\) is outside"),
        (
            {"labels": np.array([0, 1, 2, 3])},
            r"faces: label 3 \(at position 3\) is outside .* 3 cl",
        ),
        ({"labels": np.array([2, 2, 2, 2])}, r"faces holds one identity only \(label 2\)"),
    ],
)
def test_data_that_cannot_train_are_refused_in_words(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        check_training_data(data(**changes), batch_size=4, image_size=(112, 112))


def test_images_of_other_sizes_may_be_left_out() -> None:
    mixed = data(image_size=None)
    check_training_data(mixed, batch_size=4, image_size=(112, 112), skip_others=True)
    with pytest.raises(TrainingError, match="240×250"):
        check_training_data(
            data(image_size=(250, 240)), batch_size=4, image_size=(112, 112), skip_others=True
        )


def test_loader_serves_a_tree_as_it_serves_a_pack(pack_path: Path, tmp_path: Path) -> None:
    tree = ImageTree(unpack(pack_path, tmp_path))
    loader = facepack.Loader(tree, batch_size=8, mirror=False, threads=1, dtype="uint8")
    with loader, facepack.open(pack_path) as pack:
        by_image = {record.image: record.label for record in pack}
        for images, labels, positions in loader:
            with tree.views(positions) as views:
                assert [by_image[bytes(view)] for view in views] == labels.tolist()
            assert images.shape == (8, 3, 112, 112)


def test_pairs_of_a_tree_are_of_one_identity(pack_path: Path, tmp_path: Path) -> None:
    tree = ImageTree(unpack(pack_path, tmp_path))
    with facepack.Loader(tree, batch_size=8, pairs=6, threads=1) as loader:
        assert loader.order == "global"
        for batch in loader:
            x, y = batch.halves()
            assert x.labels[:6].tolist() == y.labels[:6].tolist()
            assert batch.labels.tolist() == tree.labels[batch.positions].tolist()


def test_key_survives_names_that_are_not_utf8(pack_path: Path, tmp_path: Path) -> None:
    with facepack.open(pack_path) as pack:
        image = pack[0].image
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (folder / "0.jpg").write_bytes(image)
    tree = ImageTree(tmp_path)
    with tree.views([0]) as views:
        assert bytes(views[0]) == image
    assert len(tree.content_id) == 32


def test_gaps_between_labels_are_told_before_the_head_is_made(
    small_config: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with facepack.PackWriter(tmp_path / "wide") as writer:
        for k in range(20):
            writer.add(make_image(112, 112), 400 * (k // 5))
    said: list[str] = []

    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("facepack.train.methods.softmax.method.make_head", refuse)
    with pytest.raises(MemoryError):
        Trainer(
            small_config(shards=str(tmp_path / "wide"), batch_size=4),
            out=tmp_path / "run",
            device="cpu",
            notify=said.append,
        )
    (note,) = said
    assert note.startswith("note: 4 identities have labels up to 1,200: a head of 1,201 classes")


def test_a_list_of_records_is_left_out(pack_path: Path, tmp_path: Path) -> None:
    whole = facepack.open(pack_path)
    (tmp_path / "noise.txt").write_text(f"{whole.key(3)}\n{whole.key(40)}\n")
    data = open_training_data(str(pack_path), exclude=str(tmp_path / "noise.txt"))
    assert isinstance(data, facepack.Pack)
    assert [r.image for r in data] == [r.image for i, r in enumerate(whole) if i not in (3, 40)]
    exclude(pack_path, tmp_path / "clean", np.array([3, 40]))
    assert data.content_id == facepack.open(tmp_path / "clean").content_id
    assert label_map_digest(data) == label_map_digest(whole)


def test_lists_that_leave_nothing_or_are_for_a_tree(pack_path: Path, tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n".join(map(str, range(45))))
    with pytest.raises(TrainingError, match="none is left"):
        open_training_data(str(pack_path), exclude=str(tmp_path / "all.txt"))
    with pytest.raises(ConfigError, match="nowhere"):
        open_training_data(str(pack_path), exclude=str(tmp_path / "nowhere.txt"))
    (tmp_path / "tree").mkdir()
    with pytest.raises(TrainingError, match="image tree"):
        open_training_data(str(tmp_path / "tree"), exclude=str(tmp_path / "all.txt"))
