"""WebDataset samples: which label is whose, against a slow twin that sees all names at once."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import groupby

import pytest

from facepack.convert import samples as all_samples
from facepack.convert.samples import REASONS, Samples, read_class, read_object

Member = tuple[str, bytes]  # name and content; of images empty


def gather(archives: Sequence[Sequence[Member]]) -> Samples:
    samples = Samples()
    for members in archives:
        for name, content in members:
            if name.lower().endswith(".cls"):
                samples.add_class(name.encode(), read_class(content))
            elif name.endswith(".json"):
                samples.add_object(name.encode(), read_object(content))
            else:
                samples.add_image(name.encode())
        samples.end_archive()
    return samples


def labelled(*members: Member) -> list[int | str]:
    """What each image is labelled: a class, a name, or the beginning of the reason."""
    labels, _, names = gather([members]).finish()
    found: list[int | str] = []
    for label in labels.tolist():
        if label < -1:
            found.append(REASONS[label][0])
        else:
            found.append(label if names is None else names[label].decode())
    return found


def each(*names: str, label: bytes = b"7") -> list[Member]:
    return [(name, label if name.endswith(".cls") else b"") for name in names]


def test_a_label_stands_before_its_image_or_behind_it() -> None:
    assert labelled(*each("a.jpg", "a.cls")) == labelled(*each("a.cls", "a.JPG")) == [7]
    assert labelled(("a.json", b'{"label": 3}'), ("a.jpg", b"")) == [3]
    assert labelled(("a.json", b'{"label": 3}'), ("a.cls", b"4"), ("a.jpg", b"")) == [4]
    assert labelled(("a.jpg", b""), ("a.cls", b"4"), ("a.json", b'{"label": 3}')) == [4]


def test_a_name_that_comes_again_begins_a_new_sample() -> None:
    members = [row for k in range(4) for row in (("a.jpg", b""), ("a.cls", b"%d" % k))]
    assert labelled(*members) == [0, 1, 2, 3]
    assert labelled(*(row for row in reversed(members))) == [3, 2, 1, 0]
    samples = gather([members])
    samples.finish()
    assert "3 names come again" in samples.notices()[0] and "'a.jpg'" in samples.notices()[0]


@pytest.mark.parametrize("missing", [0, 2, 5])
def test_keys_that_come_again_need_all_their_labels(missing: int) -> None:
    # Without one of them, every later label would go to the wrong neighbour.
    for first in (".jpg", ".cls"):
        second = {".jpg": ".cls", ".cls": ".jpg"}[first]
        members = [
            (f"a{suffix}", b"%d" % k)
            for k in range(6)
            for suffix in (first, second)
            if (k, suffix) != (missing, ".cls")
        ]
        found = labelled(("0.cls", b"3"), ("0.jpg", b""), *members, ("b.jpg", b""), ("b.cls", b"4"))
        assert found[0] == 3 and found[-1] == 4
        assert len(found) == 8 and all("keys come again" in str(label) for label in found[1:-1])


def test_dots_in_names_and_two_suffixes() -> None:
    members = [
        row for k in range(4) for row in ((f"t/m.{k}_1.jpg", b""), (f"t/m.{k}_1.cls", b"%d" % k))
    ]
    labels, suffixes, _ = gather([members]).finish()
    assert labels.tolist() == [0, 1, 2, 3] and suffixes.tolist() == [1] * 4
    labels, suffixes, _ = gather([each("0.rgb.jpg", "0.cls", "1.x.y.png", "1.cls")]).finish()
    assert labels.tolist() == [7, 7] and suffixes.tolist() == [2, 3]
    assert labelled(("a.b.jpg", b""), ("a.cls", b"1"), ("a.b.cls", b"2")) == [2]
    assert labelled(("a.bc.jpg", b""), ("a.b.cls", b"2"))[0] == REASONS[-2][0]


def test_of_several_images_the_one_called_like_the_label_is_taken_or_none() -> None:
    found = labelled(*each("a.jpg", "a.seg.png", "a.cls"))
    assert found[0] == 7 and "another image, which is taken" in str(found[1])
    for names in (("a.rgb.jpg", "a.ir.jpg"), ("a.jpg", "a.png")):
        found = labelled(*each(*names, "a.cls"))
        assert all("several images" in str(label) for label in found) and len(found) == 2
    # Each has a label of its own.
    assert labelled(*each("a.l.jpg", "a.l.cls", "a.r.jpg", "a.r.cls")) == [7, 7]


def test_a_sample_ends_where_the_key_changes_or_the_archive_ends() -> None:
    assert labelled(*each("a.jpg", "b.jpg", "b.cls", "a.cls")) == [REASONS[-2][0], 7]
    labels, _, _ = gather([each("a.jpg"), each("a.cls", "a.jpg")]).finish()
    assert labels.tolist() == [-2, 7]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (b" 12\n", 12),
        (b"-1", -1),
        (b"3.0", 3),
        (b"[3]", 3),  # an array of NumPy, and tensors, as TarWriter prints them
        (b"[ 3]", 3),
        (b"tensor(3)", 3),
        (b"tensor([3])", 3),
        (b"99999999", 99_999_999),
        (b"0000000012", 12),
        (b"\xef\xbb\xbf12", 12),
        (b"Anna Low", "Anna Low"),
        ("Zoë".encode(), "Zoë"),
        (b"m.01abc", "m.01abc"),
        (b"0_0_17", "0_0_17"),
        (b"100000000", None),
        (b"9" * 200, None),
        (b"-2", None),
        (b"3.5", None),
        (b"1e3", None),
        (b"0 1 0", None),
        (b"[0, 1]", None),
        (b"[3", None),
        (b"tensor(3.5)", None),
        (b"a\nb", None),
        (b"\x93NUMPY\x01", None),
        (b"", None),
        (b" \n", None),
    ],
)
def test_a_cls_holds_a_class_or_a_name(content: bytes, label: int | str | None) -> None:
    found = labelled(("a.jpg", b""), ("a.cls", content))
    assert found == [REASONS[-3][0] if label is None else label]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ({"label": 3}, 3),
        ({"label": 3.0}, 3),
        ({"label": "3"}, 3),
        ({"label": -1}, -1),
        ({"label": "anna"}, "anna"),
        ({"label": True}, None),
        ({"label": 3.5}, None),
        ({"label": [3]}, None),
        ({"label": 100_000_000}, None),
        ({"caption": "x"}, None),
        ([1], None),
    ],
)
def test_a_json_holds_a_label(content: object, label: int | str | None) -> None:
    found = labelled(("a.jpg", b""), ("a.json", json.dumps(content).encode()))
    assert found == [REASONS[-2][0] if label is None else label]


@pytest.mark.parametrize(
    "content", [b"{", b"\xff", b"[" * 100_000, b'{"label": 1%b}' % (b"0" * 9999)]
)
def test_a_json_that_is_none_is_no_label(content: bytes) -> None:
    assert labelled(("a.jpg", b""), ("a.json", content)) == [REASONS[-2][0]]


def test_texts_name_identities_and_are_numbered_by_name() -> None:
    people = ["Zoe", "anna", "Bo", "anna", "Zoë"]
    members = [
        row
        for k, name in enumerate(people)
        for row in ((f"{k}.jpg", b""), (f"{k}.cls", name.encode()))
    ]
    stray, nobody = ("s.cls", b"Nobody"), [("n.jpg", b""), ("n.cls", b"-1")]
    labels, _, names = gather([[*members, stray, *nobody]]).finish()
    assert names is not None and [names[k] for k in range(len(names))] == [
        name.encode() for name in ("Bo", "Zoe", "Zoë", "anna")
    ]
    assert labels.tolist() == [1, 3, 0, 3, 2, -1]
    # Beside numbers a text is a mistake.
    found = labelled(*members, ("9.jpg", b""), ("9.cls", b"5"))
    assert found[-1] == 5 and all("is a text" in str(label) for label in found[:-1])


def test_labels_without_an_image_are_counted() -> None:
    samples = gather([each("0.jpg", "1.jpg", "2.jpg", "0.cls", "1.cls")])
    assert samples.finish()[0].tolist() == [-2] * 3
    assert samples.found  # folders are no labels here, though no image has one
    assert "2 labels" in samples.notices()[0] and "'0'" in samples.notices()[0]
    samples = gather([[("a/meta.json", b'{"label": 1}'), ("a/1.jpg", b"")]])
    assert samples.finish()[0].tolist() == [-2] and not samples.found


def twin(archives: Sequence[Sequence[Member]]) -> list[int | str]:
    """The same, as one would say it, of numeric ``.cls`` alone."""
    found: list[int | str] = []
    for members in archives:
        for _, run in groupby(members, key=lambda m: m[0][: m[0].index(".", m[0].rfind("/") + 1)]):
            samples: list[list[Member]] = [[]]
            for member in run:
                if member[0] in [name for name, _ in samples[-1]]:
                    samples.append([])
                samples[-1].append(member)
            told: list[int | str] = []
            lacking = False
            for sample in samples:
                stems = {name[:-4]: int(label) for name, label in sample if name.endswith(".cls")}
                images = [name for name, _ in sample if not name.endswith(".cls")]
                owner = {
                    name: max((s for s in stems if name.startswith(s + ".")), key=len, default=None)
                    for name in images
                }
                lacking |= set(owner.values()) != set(stems)
                for name in images:
                    stem = owner[name]
                    if stem is None:
                        told.append("its sample has neither")
                        continue
                    rivals = [other for other in images if owner[other] == stem]
                    alike = [other for other in rivals if other.count(".") == stem.count(".") + 1]
                    if len(rivals) == 1 or alike == [name]:
                        told.append(stems[stem])
                    elif len(alike) == 1:
                        told.append("its sample has another image")
                    else:
                        told.append("its sample has several images")
            if len(samples) > 1 and lacking:
                told = ["keys come again"] * len(told)
            found += told
    return found


def drawn(seed: int) -> list[list[Member]]:
    """Archives of related names, some of which come again or lack something."""
    rng = random.Random(seed)
    stems = ["a", "b", "a.x", "a.y", "a.x.z", "d/a", "d.e/a", "d.e/a.x", "aa", "a.xx"][
        : 2 + seed % 9
    ]
    archives = []
    for _ in range(rng.randrange(1, 3)):
        names: list[str] = []
        for _ in range(rng.randrange(12)):
            if names and rng.random() < 0.3:
                names += rng.choices(names[-2:], k=2)
            stem = rng.choice(stems)
            pair = [f"{stem}.{rng.choice(['jpg', 'png'])}", f"{stem}.cls"]
            names += rng.sample(pair, rng.choice([1, 2, 2, 2]))
        archives.append(
            [(name, b"%d" % k if ".cls" in name else b"") for k, name in enumerate(names)]
        )
    return archives


@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_labels_are_those_of_the_twin(start: int) -> None:
    for seed in range(start, start + 250):
        archives = drawn(seed)
        expected = twin(archives)
        labels, _, _ = gather(archives).finish()
        found = [label if label >= 0 else REASONS[label][0] for label in labels.tolist()]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same = one == other or (isinstance(other, str) and str(one).startswith(other))
            assert same, (seed, archives)


def test_a_sample_without_end_is_settled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        row for k in range(2000) for row in ((f"m.{k}.jpg", b""), (f"m.{k}.cls", b"%d" % (k % 99)))
    ]
    whole = gather([members]).finish()[0].tolist()
    assert whole == [k % 99 for k in range(2000)]
    monkeypatch.setattr(all_samples, "_MOST_NAMES", 100)
    samples = gather([members])
    assert len(samples._images) < 20
    assert samples.finish()[0].tolist() == whole
    # Where all are related, it is settled nevertheless.
    monkeypatch.setattr(all_samples, "_MOST_RELATED", 1000)
    samples = gather([[("m" + ".x" * k + ".jpg", b"") for k in range(400)]])
    assert len(samples._images) < 20


def test_many_dots_take_no_time() -> None:
    name = "a" + ".b" * 100_000
    members = [(f"{name}.jpg", b""), (f"{name}.cls", b"3"), ("a.cls", b"4")]
    labels, suffixes, _ = gather([members]).finish()
    assert labels.tolist() == [3] and suffixes.tolist() == [1]
    labels, suffixes, _ = gather([members[::2]]).finish()
    assert labels.tolist() == [4] and suffixes.tolist() == [255]
