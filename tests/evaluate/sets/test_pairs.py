"""Pair sets: one set from each kind of source, found by name or path, checked when read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.errors import DamageError, DecodeError, EvaluationError, PackError, SourceError
from facepack.evaluate.sets.pairs import PairSet, find_pair_set, load_pair_set
from facepack.images import decode

SHARED = Path(__file__).parents[3] / ".." / "shared/data"

Images = tuple[list[bytes], np.ndarray]
WriteTree = Callable[[Path, list[bytes], np.ndarray], Path]


def write_pack(path: Path, images: list[bytes], issame: np.ndarray) -> Path:
    with facepack.PackWriter(path, order="source") as writer:
        for image in images:
            writer.add(image, -1)
        positions = np.arange(len(images)).reshape(-1, 2)
        writer.add_table("pairs", np.column_stack([positions, issame]).astype(np.int64))
    return path


@pytest.fixture
def data(tmp_path: Path, pair_images: Images, write_tree: WriteTree) -> Path:
    """A data folder with one set in each form: a pack, a .bin, a tree."""
    write_pack(tmp_path / "packed", *pair_images)
    write_bin(tmp_path / "pickled.bin", *pair_images)
    write_tree(tmp_path / "treed", *pair_images)
    return tmp_path


def as_written(pair_set: PairSet) -> list[bytes]:
    """The 2P images, pair after pair, repeated ones too."""
    return [bytes(pair_set.images[i]) for i in pair_set.pairs.ravel()]


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("packed", "image 3 (0_0/0000000003)"),
        ("pickled", "image 3 (bins[3])"),
        ("treed", "image 3 (imgs/3.jpg)"),
    ],
)
def test_every_source_gives_the_same_set(
    data: Path, pair_images: Images, name: str, key: str
) -> None:
    images, issame = pair_images
    pair_set = load_pair_set(name, data)
    assert pair_set.name == name
    assert as_written(pair_set) == images
    assert pair_set.issame.tolist() == issame.tolist()
    assert pair_set.keys[int(pair_set.pairs[1, 1])].split("(")[0] == "image 3 "
    if name != "packed":  # how a pack names its shards is the writer's affair
        assert key in pair_set.keys


def test_each_distinct_image_is_held_once(pair_images: Images, data: Path) -> None:
    images, _ = pair_images
    pair_set = load_pair_set("pickled", data)
    assert len(pair_set.images) == len(set(images)) < len(images)
    assert pair_set.keys[int(pair_set.pairs[1, 0])] == "image 0 (bins[0])"  # where it came first


def test_decoded_keeps_pairs_and_pixels(pair_images: Images, data: Path) -> None:
    encoded = load_pair_set("pickled", data)
    decoded = encoded.decoded()
    assert isinstance(decoded.images, np.ndarray)
    for i, image in zip(decoded.pairs.ravel(), pair_images[0], strict=True):
        np.testing.assert_array_equal(decoded.images[i], decode(image))
    assert decoded.decoded() is decoded


def test_decoding_a_broken_set_names_the_image(tmp_path: Path, pair_images: Images) -> None:
    images, issame = pair_images
    images[7] = images[7][:900]
    write_bin(tmp_path / "bad.bin", images, issame)
    with pytest.raises(DecodeError, match=r"^bad: image 7 \(bins\[7\]\): "):
        load_pair_set("bad", tmp_path).decoded()


def test_trees_may_hold_png_and_labels_0_and_1(
    tmp_path: Path, pair_images: Images, write_tree: WriteTree
) -> None:
    images, issame = pair_images
    folder = write_tree(tmp_path / "set", images, issame.astype(np.int8))
    (folder / "imgs/0.jpg").rename(folder / "imgs/0.PNG")
    (folder / "imgs/notes.txt").write_text("not an image")
    pair_set = load_pair_set(folder)
    assert as_written(pair_set) == images
    assert pair_set.issame.tolist() == issame.tolist()
    np.save(folder / "pair_label.npy", issame.astype(np.float32))
    assert load_pair_set(folder).issame.tolist() == issame.tolist()


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no {SHARED}")
def test_lfw_has_7701_distinct_images() -> None:
    pair_set = load_pair_set("lfw", SHARED / "bins")
    assert len(pair_set.images) == 7701
    assert pair_set.pairs.shape == (6000, 2)
    assert pair_set.issame.sum() == 3000


# --- finding -----------------------------------------------------------------------------------


def test_a_name_is_looked_for_in_data_then_here(
    data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "pickled.bin").write_bytes(b"")
    (here / "only_here.bin").write_bytes(b"")
    monkeypatch.chdir(here)
    assert find_pair_set("pickled", data) == data / "pickled.bin"
    assert find_pair_set("pickled.bin", data) == data / "pickled.bin"
    assert find_pair_set("only_here", data) == Path("only_here.bin")
    assert find_pair_set("./pickled.bin", data) == Path("pickled.bin")


def test_without_data_the_home_and_then_the_current_folder_serve(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACEPACK_HOME", raising=False)
    with pytest.raises(EvaluationError):
        find_pair_set("packed")
    monkeypatch.setenv("FACEPACK_HOME", str(data))
    assert find_pair_set("packed") == data / "packed"
    monkeypatch.delenv("FACEPACK_HOME")
    monkeypatch.chdir(data)
    assert find_pair_set("treed") == Path("treed")


def test_paths_are_found_without_data(data: Path) -> None:
    assert find_pair_set(data / "packed") == data / "packed"
    assert find_pair_set(f"{data}/treed/") == data / "treed"
    assert find_pair_set(data / "pickled") == data / "pickled.bin"


def test_a_set_that_is_not_there_lists_the_places(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        load_pair_set("lfw", tmp_path)
    message = str(caught.value)
    for place in ("lfw/pack.json", "lfw.bin", "lfw/imgs"):
        assert str(tmp_path / place) in message
    assert "such as lfw, cfp_fp, agedb_30, calfw, cplfw, cfp_ff, vgg2_fp" in message


# --- refusing ----------------------------------------------------------------------------------


def test_a_pack_without_pairs_is_refused(tmp_path: Path, pair_images: Images) -> None:
    with facepack.PackWriter(tmp_path / "train") as writer:
        writer.add(pair_images[0][0], 0)
    with pytest.raises(EvaluationError, match="pack without pairs: it is not a verification set"):
        load_pair_set("train", tmp_path)


def test_an_unfinished_pack_is_called_that(data: Path) -> None:
    (data / "packed/pack.json").unlink()
    with pytest.raises(PackError, match="unfinished"):
        load_pair_set("packed", data)


def test_a_tree_with_a_missing_image_is_refused(
    tmp_path: Path, pair_images: Images, write_tree: WriteTree
) -> None:
    folder = write_tree(tmp_path / "set", *pair_images)
    (folder / "imgs/11.jpg").unlink()
    with pytest.raises(SourceError, match="images 0 to 39 are needed; imgs has 39 and lacks 11"):
        load_pair_set(folder)


def test_a_tree_with_more_images_than_its_labels_name_is_refused(
    tmp_path: Path, pair_images: Images, write_tree: WriteTree
) -> None:
    images, issame = pair_images
    folder = write_tree(tmp_path / "set", images, issame[:-1])  # figures of 19 pairs would mislead
    with pytest.raises(SourceError, match="images 0 to 37 are needed; imgs has 40"):
        load_pair_set(folder)
    np.save(folder / "pair_label.npy", issame)
    (folder / "imgs/7.png").write_bytes(images[8])  # which of the two is meant?
    with pytest.raises(SourceError, match=r"imgs/7\.\w+ and 7\.\w+ have the same number"):
        load_pair_set(folder)


def test_a_damaged_pack_gives_no_figures(data: Path, pair_images: Images) -> None:
    pack = data / "packed"
    table = pack / "pairs.npy"
    good = table.read_bytes()
    table.write_bytes(good[:-8] + bytes([good[-8] ^ 1]) + good[-7:])  # the last pair's flag
    with pytest.raises(DamageError, match=r"packed: pairs\.npy: .*differs.*facepack verify"):
        load_pair_set("packed", data)
    table.write_bytes(good)
    shard = pack / "shard-000.mdb"
    whole = shard.read_bytes()
    at = whole.index(pair_images[0][1]) + 700
    shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with facepack.open(pack) as opened:
        assert decode(opened[1].image).shape == (112, 112, 3)  # nothing but its sum tells
    with pytest.raises(DamageError, match=r"packed: shard-000/0000000001: .*differs"):
        load_pair_set("packed", data)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(20), r"int64 \(20,\); expected one flag a pair"),
        (np.zeros((20, 2), bool), r"bool \(20, 2\)"),
        (np.full(20, np.nan), r"float64 \(20,\); expected one flag a pair"),
        (np.zeros(20, [("a", "<i4")]), "expected one flag a pair"),
        (np.array([{}], object), "cannot be read"),
        (None, "pair_label"),
    ],
)
def test_labels_that_are_none_are_refused(
    tmp_path: Path,
    pair_images: Images,
    write_tree: WriteTree,
    labels: np.ndarray | None,
    message: str,
) -> None:
    folder = write_tree(tmp_path / "set", *pair_images)
    if labels is None:
        (folder / "pair_label.npy").unlink()
    else:
        np.save(folder / "pair_label.npy", labels, allow_pickle=True)
    with pytest.raises(SourceError, match=message):
        load_pair_set(folder)


def test_a_set_checks_itself(pair_images: Images) -> None:
    images, issame = pair_images
    keys = [str(i) for i in range(len(images))]
    pairs = np.arange(len(images)).reshape(-1, 2)

    def make(**changes: object) -> PairSet:
        fields = {"images": images, "keys": keys, "pairs": pairs, "issame": issame}
        return PairSet(name="set", **{**fields, **changes})  # type: ignore[arg-type]

    make()
    with pytest.raises(EvaluationError, match="set: the set holds no pairs"):
        make(pairs=pairs[:0], issame=issame[:0])
    with pytest.raises(EvaluationError, match=r"issame is int64 \(20,\); bool"):
        make(issame=issame.astype(np.int64))
    with pytest.raises(EvaluationError, match=r"pairs is \(19, 2\) for 20 pairs"):
        make(pairs=pairs[1:])
    with pytest.raises(EvaluationError, match="name images 1 to 40, but there are 40"):
        make(pairs=pairs + 1)
    with pytest.raises(EvaluationError, match="name images -1 to 38"):
        PairSet.from_images("set", images, keys=keys, pairs=pairs - 1, issame=issame)
    with pytest.raises(EvaluationError, match="39 keys for 40 images"):
        make(keys=keys[1:])
