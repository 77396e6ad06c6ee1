"""Choosing records: against a slow, obvious twin that works on lists."""

from __future__ import annotations

import pickle
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import facepack
from facepack.convert.choose import Choice, choose, read_exclude_list
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.rec.recordio import RecordWriter, pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tree.source import ImgSource
from facepack.convert.source import Refusal, Source
from facepack.convert.spans import cut_spans
from facepack.errors import ConfigError, NothingChosenError, SourceError
from facepack.hashing import hash64

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]


def make_tailed(folder: Path, images: list[bytes], labels: list[int]) -> RecSource:
    folder.mkdir(exist_ok=True)
    with RecordWriter(folder / "train.rec", folder / "train.idx") as writer:
        for key, (image, label) in enumerate(zip(images, labels, strict=True)):
            writer.write(key, pack_header(label, key) + image)
    return RecSource(folder)


def slowly(labels: list[int], choice: Choice) -> list[int]:
    """The ordinals that ``choice`` takes."""
    kept = [i for i in range(len(labels)) if str(i) not in choice.exclude]
    if choice.identities is not None:
        low, high = map(int, choice.identities.split(":"))
        kept = [i for i in kept if low <= labels[i] < high]
    chance = [int(hash64(choice.seed, i)) for i in range(len(labels))]
    if choice.sample is not None and choice.sample < 1:
        kept = [i for i in kept if chance[i] < int(choice.sample * 2.0**64)]
    elif choice.sample is not None:
        kept = sorted(sorted(kept, key=lambda i: chance[i])[: int(choice.sample)])
    images = Counter(labels[i] for i in kept)
    if choice.min_images is not None:
        kept = [i for i in kept if labels[i] < 0 or images[labels[i]] >= choice.min_images]
    if choice.fewer_than is not None:
        kept = [i for i in kept if labels[i] >= 0 and images[labels[i]] < choice.fewer_than]
    if choice.max_images is not None:
        taken: Counter[int] = Counter()
        chosen = []
        for i in sorted(kept, key=lambda i: chance[i]):
            taken[labels[i]] += 1
            if labels[i] < 0 or taken[labels[i]] <= choice.max_images:
                chosen.append(i)
        kept = sorted(chosen)
    return kept


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    labels=st.lists(st.integers(0, 8), min_size=1, max_size=60),
    exclude=st.sets(st.integers(0, 60), max_size=5),
    bounds=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 12)),
    sample=st.none() | st.floats(0.01, 0.99) | st.integers(1, 40),
    min_images=st.none() | st.integers(1, 6),
    fewer_than=st.none() | st.integers(2, 6),
    max_images=st.none() | st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_a_choice_takes_what_its_twin_takes(
    tmp_path: Path,
    make_jpeg: MakeJpeg,
    labels: list[int],
    exclude: set[int],
    bounds: tuple[int, int] | None,
    sample: float | None,
    min_images: int | None,
    fewer_than: int | None,
    max_images: int | None,
    seed: int,
) -> None:
    images = [make_jpeg(i) for i in range(len(labels))]
    source = make_tailed(tmp_path / "src", images, labels)
    choice = Choice(
        exclude=frozenset(map(str, exclude)),
        identities=f"{bounds[0]}:{bounds[1]}" if bounds else None,
        sample=sample,
        min_images=min_images,
        fewer_than=fewer_than,
        max_images=max_images,
        seed=seed,
    )
    expected = slowly(labels, choice)
    if not expected:
        with pytest.raises(SourceError, match="choose more loosely"):
            choose(source, choice)
        return
    chosen = choose(source, choice)
    present = sorted({labels[i] for i in expected} - {-1})
    if choice.is_everything:
        present = list(range(10))  # nothing is numbered anew
    records = [
        record
        for span in cut_spans(chosen, records=7, size=1 << 30)
        for record in pickle.loads(pickle.dumps(chosen.part(span.start, span.stop))).read()
    ]
    assert [record.ordinal for record in records] == list(range(len(expected)))
    assert [bytes(record.image) for record in records] == [images[i] for i in expected]
    assert [record.label for record in records] == [
        present.index(labels[i]) if labels[i] >= 0 else -1 for i in expected
    ]
    if not choice.is_everything:
        assert chosen.classes == len(present)
    assert len(chosen.sizes()) == len(chosen) == len(expected)


def test_a_broken_record_that_is_chosen_is_refused_by_its_own_place(make_rec: MakeRec) -> None:
    bad = {40: pack_header(8, 41) + b"?", 41: b"short"}
    source = RecSource(make_rec(100, bad=bad))
    # Without a header there is no label: identities of fewer than five usable images go.
    chosen = choose(source, Choice(identities="8:9"))
    part = chosen.part(0, len(chosen))
    refused = [part.refuse(r, "no image") for r in part.read() if len(r.image) < 10]
    assert [(r.ordinal, r.key) for r in refused] == [(0, "41")] and len(chosen) == 4
    with_broken = choose(source, Choice(exclude=frozenset({"1"})))
    (refusal,) = (r for r in with_broken.part(0, len(with_broken)).read() if isinstance(r, Refusal))
    assert (refusal.ordinal, refusal.key) == (40, "42")
    assert any("1 image is left out" in notice for notice in source.notices)


def test_head_and_tail_share_no_identity_and_lose_none(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    rng = random.Random(0)
    labels = sorted(min(int(rng.paretovariate(0.7)), 30) for _ in range(200))
    source = make_tailed(tmp_path / "src", [make_jpeg(i) for i in range(200)], labels)
    head, tail = choose(source, Choice(min_images=5)), choose(source, Choice(fewer_than=5))
    assert len(head) + len(tail) == 200
    assert head.classes + tail.classes == len(set(labels))
    result = convert_to_pack(head, tmp_path / "head", PackOptions(shard_records=20))
    with facepack.open(tmp_path / "head") as pack:
        counts = np.bincount(pack.labels)
        assert result.identities == pack.classes == len(counts) and counts.min() >= 5
    description = head.describe()
    assert description["chosen"]["min_images"] == 5 and description["kind"] == "rec"
    assert description["chosen_xxh3_128"] != tail.describe()["chosen_xxh3_128"]


def test_pairs_whose_images_are_left_out_go(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    write_bin(tmp_path / "x.bin", [make_jpeg(i) for i in range(8)], [True, False] * 2)
    source: Source = BinSource(tmp_path / "x.bin")
    chosen = choose(source, Choice(sample=7))
    assert len(chosen.tables(np.arange(7))["pairs"]) == 3
    assert any("1 of 4 pairs are left out" in notice for notice in source.notices)
    assert not any("refused" in notice for notice in source.notices)


def test_lists(tmp_path: Path, make_rec: MakeRec) -> None:
    (tmp_path / "noise.txt").write_text("# rules\na/1.jpg\n\nfoo\tb@N00/2 3.jpg\n")
    assert read_exclude_list(tmp_path / "noise.txt") == {"a/1.jpg", "b@N00/2 3.jpg"}
    with pytest.raises(SourceError, match=r"none\.txt: cannot be read"):
        read_exclude_list(tmp_path / "none.txt")
    (tmp_path / "people.txt").write_text("3\n5\n999\n")
    source = RecSource(make_rec(100))
    for words in ("5-9", "9" * 5000, "9:" + "9" * 5000):
        with pytest.raises(ConfigError, match=r"--identities .*: allowed are .* no such file"):
            choose(source, Choice(identities=words))
    chosen = choose(source, Choice(identities=str(tmp_path / "people.txt")))
    assert len(chosen) == 10 and chosen.describe()["chosen"]["identities"] == "people.txt"
    assert "1 of 3 identities listed" in source.notices[-1] and "'999'" in source.notices[-1]
    assert len(choose(RecSource(make_rec(100, "b")), Choice(identities="3"))) == 15


@pytest.mark.parametrize("sample", [0, -1, 1.5, float("inf"), float("nan")])
def test_a_sample_is_a_share_or_a_number(sample: float) -> None:
    with pytest.raises(ConfigError, match="--sample"):
        Choice(sample=sample)


def test_labels_without_end(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    labels = [7, 7, (1 << 24) - 1, (1 << 24) - 1, 3]
    source = make_tailed(tmp_path / "src", [make_jpeg(i) for i in range(5)], labels)
    assert len(choose(source, Choice(identities="5:"))) == 4  # labels beyond the number of images
    assert len(choose(source, Choice(min_images=2))) == 4  # counts of what is there alone
    with pytest.raises(SourceError, match=r"none of the 5 images .*\(identities: 9:20\)"):
        choose(source, Choice(identities="9:20"))


def make_tree(root: Path, make_jpeg: MakeJpeg, people: list[str]) -> ImgSource:
    for k, person in enumerate(people):
        (root / person).mkdir(parents=True)
        (root / person / "1.jpg").write_bytes(make_jpeg(k))
    return ImgSource(root)


def names_of(source: Source) -> set[str]:
    return set(source.part(0, len(source)).identity_names().values())


def test_numbers_in_a_list_are_names_where_names_are_numbers(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text(f"3\n10\n{10**30}\n")
    choice = Choice(identities=str(tmp_path / "list.txt"))
    numbered = make_tree(tmp_path / "numbered", make_jpeg, ["10", "20", "30", "40"])
    assert names_of(choose(numbered, choice)) == {"10"}  # 3 is nobody, not the label of 40
    assert "2 of 3 identities listed" in numbered.notices[-1]
    named = make_tree(tmp_path / "named", make_jpeg, ["a", "b", "c", "d"])
    assert names_of(choose(named, choice)) == {"d"}


def test_who_has_no_name_is_excluded_by_none(make_rec: MakeRec) -> None:
    source = make_rec(10)
    chosen = choose(RecSource(source), Choice(exclude=frozenset({"None/", "-1/", "1"})))
    assert len(chosen) == 9


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"identities": "9"}, "--identities 9: the source has 4, and all are taken"),
        ({"identities": "4"}, None),
        ({"identities": "2:9"}, "--identities 2:9: the labels of the source end at 3"),
        ({"identities": "2:4"}, None),
        ({"identities": "2:"}, None),
        ({"identities": "2:3", "sample": 9}, "--sample 9: there are 5 images to draw from"),
        ({"sample": 20}, None),
    ],
)
def test_fewer_than_were_asked_for_are_told(
    make_rec: MakeRec, choice: dict[str, Any], told: str | None
) -> None:
    source = RecSource(make_rec(20))
    choose(source, Choice(**choice))
    said = [notice for notice in source.notices if notice.startswith("--")]
    assert len(said) == (told is not None) and (told is None or said[0].startswith(told))


@pytest.mark.parametrize(
    "choice",
    [{"min_images": 2}, {"fewer_than": 5}, {"max_images": 3}, {"identities": "0:5"}],
)
def test_pairs_are_not_chosen_by_identities(
    make_jpeg: MakeJpeg, tmp_path: Path, choice: dict[str, Any]
) -> None:
    write_bin(tmp_path / "v.bin", [make_jpeg(k) for k in range(4)], [True, False])
    with pytest.raises(NothingChosenError, match=r"none of the 4 images has an identity.*leave"):
        choose(BinSource(tmp_path / "v.bin"), Choice(**choice))
    assert len(choose(BinSource(tmp_path / "v.bin"), Choice(sample=9))) == 4
