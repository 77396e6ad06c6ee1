from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import facepack
from facepack.convert.formats.benchmarks.megaface import MegaFaceSource, read_noises
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.source import Refusal
from facepack.errors import SourceError
from facepack.store.record import SourceRecord

MakeJpeg = Callable[..., bytes]

PROBES = [
    "Adam_Brody/Adam_Brody_2.png",
    "\u00c9va/\u00c9va_1.png",
    "Adam_Brody/Adam_Brody_1.png",
    "Zoe_B/Zoe_B_7.png",
]
DISTRACTORS = ["100/10056014@N03/29_0.jpg", "100/10056014@N03/29_1.jpg", "7/7@N00/5.x_2.jpg"]


@pytest.fixture
def megaface(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """Four probes of three persons and three distractors, in InsightFace's layout."""
    root = tmp_path / "megaface_testpack"
    for k, name in enumerate(
        [f"facescrub_images/{probe}" for probe in PROBES]
        + [f"megaface_images/{distractor}" for distractor in DISTRACTORS]
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(make_jpeg(k))
    (root / "facescrub_lst").write_text("\n".join(PROBES) + "\n")
    (root / "megaface_lst").write_text("\r\n".join(DISTRACTORS) + "\r\n\r\n")
    return root


def read_all(source: MegaFaceSource) -> list[SourceRecord | Refusal]:
    parts = [source.part(start, stop) for _, start, stop in source.groups()]
    return [record for part in parts for record in pickle.loads(pickle.dumps(part)).read()]


def test_insightfaces_layout(megaface: Path, make_jpeg: MakeJpeg) -> None:
    source = MegaFaceSource(megaface)
    assert (source.content, source.classes, source.table_names) == (
        "megaface",
        None,
        ("sets", "noisy"),
    )
    assert source.groups() == [("facescrub", 0, 4), ("megaface", 4, 7)]
    labels = [0, 2, 0, 1, -1, -1, -1]
    names = [f"facescrub_images/{name}" for name in PROBES]
    names += [f"megaface_images/{name}" for name in DISTRACTORS]
    assert read_all(source) == [
        SourceRecord(k, make_jpeg(k), labels[k], names[k]) for k in range(7)
    ]
    assert dict(source.part(0, 4).identity_names()) == {0: "Adam_Brody", 1: "Zoe_B", 2: "Éva"}
    assert source.part(4, 7).identity_names() == {}
    assert source.sizes().tolist() == [len(make_jpeg(k)) for k in range(7)]
    assert source.notices == [f"{megaface}: there are no lists of noisy images: none is marked"]
    tables = source.tables(np.array([5, 0, 1, -1, 2, 4, 3]))
    assert tables["sets"].tolist() == [0, 0, 1, 1, 1, 0] and tables["sets"].dtype == np.uint8
    assert tables["noisy"].tolist() == [False] * 6 and tables["noisy"].dtype == bool


def test_tables_follow_the_positions(megaface: Path) -> None:
    (megaface / "facescrub_noises.txt").write_text("#Please\nAdam_Brody_2.png\n")
    source = MegaFaceSource(megaface)
    positions = np.array([5, 0, 1, -1, 2, 4, 3])
    tables = source.tables(positions)
    for ordinal, position in enumerate(positions.tolist()):
        if position >= 0:
            assert tables["sets"][position] == (ordinal >= 4)
            assert tables["noisy"][position] == (ordinal == 0)


def test_packed_images_and_their_marks(megaface: Path, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    (megaface / "facescrub_noises.txt").write_text("Zoe_B_7.png\n")
    result = convert_to_pack(MegaFaceSource(megaface), tmp_path / "pack", PackOptions())
    assert (result.packed, result.shards, result.identities) == (7, 2, 3)
    pack = facepack.open(tmp_path / "pack")
    ordinals = {make_jpeg(k): k for k in range(7)}
    with pack.views(range(7)) as images:
        order_of_pack = np.array([ordinals[bytes(image)] for image in images])
    np.testing.assert_array_equal(np.load(tmp_path / "pack/sets.npy"), order_of_pack >= 4)
    np.testing.assert_array_equal(np.load(tmp_path / "pack/noisy.npy"), order_of_pack == 3)
    labels = np.array([0, 2, 0, 1, -1, -1, -1])
    np.testing.assert_array_equal(pack.labels, labels[order_of_pack])


def test_noise_lists_found_and_given(megaface: Path, tmp_path: Path) -> None:
    (megaface / "facescrub_noises.txt").write_text(
        "#Please follow the rules\nadam brody_1.JPG\nNobody_1.png\n"
    )
    (megaface / "megaface_noises.txt").write_text(
        "# rules\n\n12\t100/10056014@N03/29_1.jpg\r\n7/7@N00/5.x_2.png\n100/10056014@N03/29_1.jpg\n"
    )
    source = MegaFaceSource(megaface)
    marks = source.tables(np.arange(7))["noisy"]
    assert marks.tolist() == [False, False, True, False, False, True, True]
    assert source.notices == ["1 of 4 noisy images are not among those listed, first nobody_1"]
    given = tmp_path / "mine.txt"
    given.write_text("Zoe_B_7.png\n")
    other = MegaFaceSource(megaface, noises=(given,))
    assert np.flatnonzero(other.tables(np.arange(7))["noisy"]).tolist() == [3]
    assert other.notices == []
    assert other.describe() != source.describe()
    with pytest.raises(SourceError, match=r"none\.txt: cannot be read"):
        MegaFaceSource(megaface, noises=(tmp_path / "none.txt",))


def test_a_probe_is_no_distractor_of_the_same_file_name(megaface: Path) -> None:
    (megaface / "noises.txt").write_text("29_1.jpg\n1/2/Zoe_B_7.png\n")
    source = MegaFaceSource(megaface, noises=(megaface / "noises.txt",))
    assert not source.tables(np.arange(7))["noisy"].any()
    assert source.notices == ["2 of 2 noisy images are not among those listed, first 1/2/zoe_b_7"]


@pytest.mark.parametrize("folder", [".", "templatelists", "devkit/templatelists"])
def test_the_lists_of_the_development_kit(megaface: Path, folder: str) -> None:
    for name in ("facescrub_lst", "megaface_lst"):
        (megaface / name).unlink()
    lists = megaface / folder
    lists.mkdir(parents=True, exist_ok=True)
    ids = ["Adam", "Eva", "Adam", "Zoe"]
    listed = {"path": PROBES, "id": ids}
    (lists / "facescrub_features_list.json").write_text(json.dumps(listed))
    for size, count in (("10", 1), ("1000000", 3), ("100", 2)):
        for number in (2, 1):
            listed = {"path": DISTRACTORS[:count][:: 3 - 2 * number]}
            path = lists / f"megaface_features_list.json_{size}_{number}"
            path.write_text(json.dumps(listed))
    source = MegaFaceSource(megaface)
    assert [getattr(record, "label", None) for record in read_all(source)] == [
        0,
        1,
        0,
        2,
        *[-1] * 3,
    ]
    assert dict(source.part(0, 4).identity_names()) == {0: "Adam", 1: "Eva", 2: "Zoe"}
    assert [entry.name for entry in source.part(4, 7).entries()] == [
        f"megaface_images/{name}" for name in DISTRACTORS
    ]
    assert "json_1000000_1 lists the images of megaface, not" in source.notices[0]


def test_of_several_lists_the_plainest_is_taken(megaface: Path) -> None:
    (megaface / "facescrub_lst_all").write_text(PROBES[0] + "\n")
    (megaface / "facescrub_features_list.json").write_text("{}")
    source = MegaFaceSource(megaface)
    assert len(source) == 7
    assert source.notices[0] == (
        f"{megaface}/facescrub_lst lists the images of facescrub, not facescrub_lst_all, "
        "facescrub_features_list.json"
    )
    (megaface / "facescrub_lst").unlink()
    assert MegaFaceSource(megaface).groups()[0] == ("facescrub", 0, 1)


def test_what_is_missing_or_leads_out_is_refused(megaface: Path) -> None:
    (megaface / "secret.jpg").write_bytes(b"secret")
    (megaface / "facescrub_images" / "link").symlink_to("..")
    (megaface / "facescrub_lst").write_text(
        "\n".join([PROBES[0], "Nobody/1.png", "x/../../secret.jpg", "link/secret.jpg"])
    )
    refused = [
        record for record in read_all(MegaFaceSource(megaface)) if isinstance(record, Refusal)
    ]
    assert [(record.ordinal, record.file) for record in refused] == [
        (1, "facescrub_images/Nobody/1.png"),
        (2, "facescrub_images/x/../../secret.jpg"),
        (3, "facescrub_images/link/secret.jpg"),
    ]
    assert refused[0].reason == "the file is missing"
    assert all(record.reason.startswith("it lies outside") for record in refused[1:])


def test_images_may_lie_behind_a_link(megaface: Path, tmp_path: Path) -> None:
    (megaface / "megaface_images").rename(tmp_path / "elsewhere")
    (megaface / "megaface_images").symlink_to(tmp_path / "elsewhere")
    assert not [r for r in read_all(MegaFaceSource(megaface)) if isinstance(r, Refusal)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("facescrub_lst", "", "facescrub_lst: names no image"),
        ("facescrub_lst", "a/1.png\n1.png\n", "image 2 is of no person; expected person/file"),
        (
            "facescrub_lst",
            "a/1.png\n",
            "none of the 1 images that it names is in .*facescrub_images",
        ),
        ("facescrub_features_list.json", "[]", "is no list of the development kit"),
        ("facescrub_features_list.json", '{"path": ["a/b"]}', "KeyError: 'id'"),
        ("facescrub_features_list.json", '{"path": [1], "id": [1]}', "AttributeError"),
        ("facescrub_features_list.json", '{"path": ["a"], "id": []}', "1 paths and 0 ids"),
        ("facescrub_features_list.json", "{", "JSONDecodeError"),
        ("facescrub_features_list.json", "[" * 200_000, "nested more than 200 deep"),
    ],
)
def test_lists_that_are_malformed(megaface: Path, name: str, content: str, message: str) -> None:
    (megaface / "facescrub_lst").unlink()
    (megaface / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        MegaFaceSource(megaface)


def test_folders_that_lack_something(megaface: Path) -> None:
    (megaface / "megaface_lst").unlink()
    with pytest.raises(SourceError, match="holds neither megaface_lst nor megaface_features_list"):
        MegaFaceSource(megaface)
    with pytest.raises(SourceError, match="is no folder"):
        MegaFaceSource(megaface / "facescrub_lst")


def test_sources_that_differ_are_described_differently(megaface: Path, make_jpeg: MakeJpeg) -> None:
    seen = [MegaFaceSource(megaface).describe()]
    assert seen[0] == MegaFaceSource(megaface).describe() and str(megaface) not in str(seen[0])
    (megaface / "megaface_images" / DISTRACTORS[0]).write_bytes(make_jpeg(0) + b"x")
    seen.append(MegaFaceSource(megaface).describe())
    (megaface / "facescrub_lst").write_text("\n".join(PROBES[:3]))
    seen.append(MegaFaceSource(megaface).describe())
    (megaface / "facescrub_noises.txt").write_text("Adam_Brody_1")
    seen.append(MegaFaceSource(megaface).describe())
    assert len({str(one) for one in seen}) == 4


def test_the_published_noise_lists(shared: Path) -> None:
    facescrub = read_noises(shared / "megaface-lists" / "facescrub_noises.txt")
    distractors = read_noises(shared / "megaface-lists" / "megaface_noises.txt")
    assert len(facescrub) == 605 and len(distractors) == 707  # twelve are listed twice
    assert b"aaron_eckhart_136" in facescrub
    assert b"375/37531198@n00/4174611825_0" in distractors
    assert all(name.count(b"/") == 2 for name in distractors)
    assert not any(b"/" in name for name in facescrub)
