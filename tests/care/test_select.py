"""Packs of some of a pack's records: what they give is what a pack of these alone gives."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import facepack
from facepack.care.merge import merge
from facepack.care.reindex import reindex
from facepack.care.salvage import salvage
from facepack.care.select import exclude, split
from facepack.care.untrusted import verify_untrusted
from facepack.care.verify import verify
from facepack.cli import root as main
from facepack.convert.formats.kv.sink import convert_to_kv
from facepack.convert.formats.pack.append import append
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.pack.source import PackSource
from facepack.convert.options import ConvertOptions
from facepack.errors import DamageError, NewerFormatError, PackError
from facepack.loading.extents import Extents
from facepack.store import format as fmt
from facepack.store.writer import PackWriter
from facepack.view.listing import list_shards
from facepack.view.record_info import describe_record, find_record
from facepack.view.summary import summarize

MakeJpeg = Callable[..., bytes]

# Identity k has so many images; none has label 4.
COUNTS = (9, 2, 12, 3, 0, 9, 1)


@pytest.fixture
def source(tmp_path: Path, make_jpeg: MakeJpeg) -> Path:
    """A pack of several shards whose images of one identity lie apart, three without identity."""
    labels = np.repeat([*range(len(COUNTS)), -1], [*COUNTS, 3])
    order = np.random.default_rng(0).permutation(len(labels)).tolist()
    with facepack.PackWriter(
        tmp_path / "all", shard_records=10, classes=len(COUNTS), order="source"
    ) as writer:
        for i in order:
            label = int(labels[i])
            name = f"person {label}" if label >= 0 else None
            writer.add(make_jpeg(i), label, f"{i}.jpg", name)
    return tmp_path / "all"


def rows(path: Path | facepack.Pack) -> list[tuple[bytes, int, str | None, str | None]]:
    """Of each record its image, label, and the names of itself and its identity."""
    pack = path if isinstance(path, facepack.Pack) else facepack.open(path)
    names = pack.identity_names or []
    return [
        (r.image, r.label, pack.source_name(i), names[r.label] if r.label >= 0 else None)
        for i, r in enumerate(pack)
    ]


def twin(source: Path, out: Path, keep: Callable[[int], bool], relabel: dict[int, int]) -> Path:
    """The slow way: the records that ``keep`` takes by position, packed anew."""
    with (
        facepack.open(source) as pack,
        facepack.PackWriter(
            out, shard_records=10, classes=len(relabel) or len(COUNTS), order="source"
        ) as writer,
    ):
        names = pack.identity_names or []
        for i, record in enumerate(pack):
            if keep(i):
                label = relabel.get(record.label, record.label)
                identity = names[record.label] if record.label >= 0 else None
                writer.add(record.image, label, pack.source_name(i), identity)
    return out


@pytest.fixture
def parts(source: Path, tmp_path: Path) -> list[tuple[Path, Path]]:
    """Head and tail, each beside its twin."""
    labels = facepack.open(source).labels
    heads = [label for label, count in enumerate(COUNTS) if count >= 9]
    tails = [label for label, count in enumerate(COUNTS) if 0 < count < 9]
    split(source, tmp_path / "head", tmp_path / "tail")
    return [
        (
            tmp_path / name,
            twin(
                source,
                tmp_path / f"{name}-twin",
                lambda i, chosen=chosen: labels[i] in chosen,
                {label: k for k, label in enumerate(chosen)},
            ),
        )
        for name, chosen in (("head", heads), ("tail", tails))
    ]


def test_head_and_tail_equal_packs_of_these_records_alone(parts: list[tuple[Path, Path]]) -> None:
    for path, same in parts:
        assert rows(path) == rows(same)
        mine, theirs = facepack.open(path), facepack.open(same)
        assert mine.identity_names == theirs.identity_names
        assert (mine.classes, mine.identities) == (theirs.classes, theirs.identities)
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert mine.source_names() == theirs.source_names()
        for field in ("records", "payload_bytes", "images", "quarantined", "kind", "order"):
            assert mine.manifest[field] == theirs.manifest[field], field
        assert mine.manifest["requires"] == [fmt.SELECTION]
        report = verify(path, deep=True, decode=True)
        assert not report.damage and report.records == len(theirs)
        assert not verify(path).damage and not verify_untrusted(path).damage
        for i in range(len(mine)):
            assert mine.position(mine.key(i)) == i
            assert np.array_equal(mine.decode(i), theirs.decode(i))
            one, other = describe_record(mine, i), describe_record(theirs, i)
            assert (one.extra, one.source_name) == (other.extra, other.source_name) and one.sum_ok
            assert find_record(mine, str(mine.source_name(i)), by_name=True) == i
        whole, half = summarize(mine), summarize(theirs)
        assert (whole.images, whole.identities) == (half.images, half.identities)
        assert sum(row["records"] for row in list_shards(mine)["shards"]) == len(mine)


@pytest.mark.parametrize("order", ["auto", "global", "blocks"])
def test_the_loader_gives_the_same_batches(parts: list[tuple[Path, Path]], order: str) -> None:
    for path, same in parts:
        batches = []
        for each in (path, same):
            loader = facepack.Loader(
                facepack.open(each), batch_size=2, device="cpu", order=order, seed=5, mirror=True
            )
            with loader:
                batches.append(
                    [(b.images.tolist(), b.labels.tolist(), b.positions.tolist()) for b in loader]
                )
        assert batches[0] == batches[1]


def test_bytes_read_ahead_hold_every_record(parts: list[tuple[Path, Path]]) -> None:
    path = parts[0][0]
    pack = facepack.open(path)
    extents = Extents(pack)
    for start in range(len(pack)):
        for stop in range(start + 1, min(len(pack), start + 12) + 1):
            whole, single = extents.of(start, stop), extents.around(np.arange(start, stop), 0)
            for found in (whole, single):
                data = b"".join(
                    each.path.read_bytes()[each.offset : each.offset + each.length]
                    for each in found
                )
                assert all(record.image in data for record in pack[start:stop])


def test_sinks_write_the_same(parts: list[tuple[Path, Path]], tmp_path: Path) -> None:
    for path, same in parts:
        options = PackOptions(order="source")
        packed, repacked = tmp_path / f"{path.name}-1", tmp_path / f"{path.name}-2"
        convert_to_pack(PackSource(path), packed, options)
        convert_to_pack(PackSource(same), repacked, options)
        assert rows(packed) == rows(repacked) == rows(same)
        convert_to_kv(PackSource(path), tmp_path / f"{path.name}-kv1", ConvertOptions())
        convert_to_kv(PackSource(same), tmp_path / f"{path.name}-kv2", ConvertOptions())
        for file in (tmp_path / f"{path.name}-kv2").rglob("*"):
            if file.is_file() and file.suffix == ".kv":
                mine = (
                    tmp_path / f"{path.name}-kv1" / file.relative_to(tmp_path / f"{path.name}-kv2")
                )
                assert mine.read_bytes() == file.read_bytes()


def test_no_image_is_copied_and_a_pack_may_move(source: Path, tmp_path: Path) -> None:
    split(source, tmp_path / "head", tmp_path / "tail")
    if hasattr(os, "link"):
        names = [file.name for file in (tmp_path / "head").glob("*.mdb")]
        assert all((tmp_path / "head" / n).samefile(source / n) for n in names)
    split(source, tmp_path / "head2", tmp_path / "tail2", copy=True)
    expected = rows(tmp_path / "head")
    shutil.rmtree(source)
    (tmp_path / "head2").rename(tmp_path / "moved")
    assert rows(tmp_path / "moved") == expected == rows(tmp_path / "head")
    assert not verify(tmp_path / "moved").damage


def test_what_is_excluded_in_memory_is_the_pack_that_is_written(
    source: Path, tmp_path: Path
) -> None:
    pack = facepack.open(source)
    gone = np.array([0, 5, 6, 30, len(pack) - 1])
    exclude(source, tmp_path / "clean", gone)
    keep = np.ones(len(pack), bool)
    keep[gone] = False
    clean = facepack.open(tmp_path / "clean")
    memory = pack.select(keep)
    same = twin(source, tmp_path / "twin", lambda i: bool(keep[i]), {})
    assert rows(memory) == rows(clean) == rows(same)
    assert memory.content_id == clean.content_id != pack.content_id
    assert memory.classes == clean.classes == pack.classes
    assert clean.identity_names == memory.identity_names == pack.identity_names
    again = pickle.loads(pickle.dumps(memory))
    assert rows(again) == rows(memory)
    fewer = np.arange(len(memory)) % 2 == 0
    assert rows(memory.select(fewer)) == rows(memory)[::2]
    assert rows(clean.select(fewer)) == rows(memory)[::2]


def test_selections_of_selections_and_their_union(source: Path, tmp_path: Path) -> None:
    head, tail = tmp_path / "head", tmp_path / "tail"
    split(source, head, tail)
    exclude(head, tmp_path / "clean", np.array([1, 2]))
    assert rows(tmp_path / "clean") == [r for i, r in enumerate(rows(head)) if i not in (1, 2)]
    manifest = merge([tmp_path / "clean", tail], tmp_path / "union")
    assert manifest["requires"] == [fmt.SELECTION]
    assert manifest["classes"] == 6 and not verify(tmp_path / "union", deep=True).damage
    labels = {image: label for image, label, *_ in rows(tmp_path / "union")}
    for image, label, *_ in rows(tmp_path / "clean"):
        assert labels[image] == label
    for image, label, *_ in rows(tail):
        assert labels[image] == 3 + label
    assert rows(tmp_path / "union") == rows(facepack.open(tmp_path / "union"))
    before = (tmp_path / "union" / fmt.MANIFEST).read_bytes()
    reindex(tmp_path / "union")
    assert (tmp_path / "union" / fmt.MANIFEST).read_bytes() == before
    with pytest.raises(PackError, match="same shard"):
        merge([tmp_path / "clean", head], tmp_path / "no")
    with pytest.raises(PackError, match="same shard"):
        merge([source, tail], tmp_path / "no")


def test_a_selection_grows(source: Path, tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail")
    before = rows(head)
    with facepack.PackWriter(tmp_path / "more", classes=1) as writer:
        for i in range(4):
            writer.add(make_jpeg(500 + i), 0, f"new{i}", "someone")
    append(head, PackSource(tmp_path / "more"), PackOptions())
    assert rows(head)[: len(before)] == before and len(facepack.open(head)) == len(before) + 4
    assert facepack.open(head).identity_names == ["person 0", "person 2", "person 5", "someone"]
    assert not verify(head, deep=True).damage
    written = (head / fmt.MANIFEST).read_bytes()
    reindex(head)
    assert (head / fmt.MANIFEST).read_bytes() == written


def test_all_but_the_keys_is_rebuilt(source: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail")
    written = {file.name: file.read_bytes() for file in head.iterdir() if file.suffix != ".mdb"}
    (head / fmt.MANIFEST).unlink()
    (head / fmt.LABELS).unlink()
    reindex(head)
    assert {f.name: f.read_bytes() for f in head.iterdir() if f.suffix != ".mdb"} == written
    index = sorted(head.glob("*.kv"))[0]
    index.write_bytes(index.read_bytes()[: fmt.KV_LINE])
    with pytest.raises(DamageError, match="split the pack again"):
        reindex(head)


@pytest.mark.parametrize("lost", [[fmt.PLAN], [fmt.PLAN, fmt.MANIFEST]])
def test_without_its_plan_a_selection_does_not_become_the_whole(
    source: Path, tmp_path: Path, lost: list[str]
) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail")
    for name in lost:
        (head / name).unlink()
    left = {file.name: file.read_bytes() for file in head.iterdir() if file.suffix != ".mdb"}
    with pytest.raises(DamageError, match="copy that back"):
        reindex(head)
    assert {f.name: f.read_bytes() for f in head.iterdir() if f.suffix != ".mdb"} == left


def test_damage_to_a_selection_is_found(source: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail")
    index = sorted(head.glob("*.kv"))[0]
    lines = index.read_bytes()
    # Another record of the shard in the place of one that was selected.
    missing = next(k for k in range(10) if b"%010d " % k not in lines)
    keys = fmt.kv_keys(lines, "x")
    at = int(np.searchsorted(keys, missing))
    at = min(at, len(keys) - 1)
    changed = bytearray(lines)
    changed[20 * at : 20 * at + 10] = b"%010d" % missing
    index.write_bytes(changed)
    found = [str(damage) for damage in verify(head).damage]
    assert any(index.name in each and "selected" in each for each in found)
    index.write_bytes(lines)
    manifest = json.loads((head / fmt.MANIFEST).read_text())
    manifest["shards"][0]["selection"]["xxh3_128"] = "0" * 32
    (head / fmt.MANIFEST).write_text(fmt.json_text(manifest))
    assert verify(head).damage


def test_a_damaged_key_asks_for_no_memory(source: Path, tmp_path: Path) -> None:
    shard = sorted(source.glob("*.mdb"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"0000000007", b"9000000007", 1))
    with pytest.raises(DamageError, match=f"{shard.name}: the shard lacks records"):
        split(source, tmp_path / "head", tmp_path / "tail")


def test_figures_of_a_selection_are_not_believed(source: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail")
    for name in (fmt.MANIFEST, fmt.PLAN):
        stated = json.loads((head / name).read_text())
        stated["shards"][0]["selection"]["payload_bytes"] += 1
        (head / name).write_text(fmt.json_text(stated))
    assert any("figures" in str(damage) for damage in verify(head, deep=True).damage)


@pytest.mark.parametrize("field", ["height", "formats", "oriented"])
def test_figures_of_images_that_are_none_are_told(source: Path, tmp_path: Path, field: str) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail", copy=True)
    both = [head, tmp_path / "tail"]
    for name, use, words in (
        (fmt.PLAN, lambda: reindex(head), "is lost or another one"),
        (fmt.MANIFEST, lambda: merge(both, tmp_path / "both"), f"'images' has no .*{field}"),
    ):
        good = (head / name).read_text()
        stated = json.loads(good)
        del stated["shards"][0]["selection"]["images"][field]
        (head / name).write_text(fmt.json_text(stated))
        with pytest.raises(DamageError, match=words):
            use()
        (head / name).write_text(good)


def test_salvage_takes_what_was_selected(source: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    split(source, head, tmp_path / "tail", copy=True)
    expected = rows(head)
    (head / fmt.LABELS).unlink()
    found = salvage(head, tmp_path / "saved")
    assert (found.found, found.salvaged, found.lost) == (30, 30, 0)
    assert [row[:3] for row in rows(tmp_path / "saved")] == [row[:3] for row in expected]


def test_older_versions_refuse(source: Path, tmp_path: Path) -> None:
    split(source, tmp_path / "head", tmp_path / "tail")
    for name in (fmt.MANIFEST, fmt.PLAN):
        stated = json.loads((tmp_path / "head" / name).read_text())
        assert stated["requires"] == [fmt.SELECTION]
        with pytest.raises(NewerFormatError, match="teleport"):
            fmt.require_known({**stated, "requires": [fmt.SELECTION, "teleport"]}, name)


def test_a_killed_split_is_completed(source: Path, tmp_path: Path) -> None:
    split(source, tmp_path / "head", tmp_path / "tail")
    whole = {f.name: f.read_bytes() for f in (tmp_path / "tail").iterdir()}
    (tmp_path / "tail" / fmt.MANIFEST).unlink()
    sorted((tmp_path / "tail").glob("*.mdb"))[0].unlink()
    split(source, tmp_path / "head", tmp_path / "tail", resume=True)
    assert {f.name: f.read_bytes() for f in (tmp_path / "tail").iterdir()} == whole
    with pytest.raises(PackError, match="another plan"):
        split(source, tmp_path / "head", tmp_path / "tail", min_images=3, resume=True)


@pytest.mark.parametrize(("fewest", "word"), [(1, "tail"), (13, "head")])
def test_no_head_or_no_tail_is_said(source: Path, tmp_path: Path, fewest: int, word: str) -> None:
    with pytest.raises(PackError, match=r"none of its 6 identities .* 1 to 12 images"):
        split(source, tmp_path / "head", tmp_path / "tail", min_images=fewest)
    assert not (tmp_path / "head").exists() and not (tmp_path / "tail").exists()


@pytest.mark.parametrize(
    ("label", "words"), [(0, "they have 3 images each"), (-1, "no image in it has an identity")]
)
def test_identities_that_are_alike_or_none_are_not_parted(
    tmp_path: Path, make_jpeg: MakeJpeg, label: int, words: str
) -> None:
    with PackWriter(tmp_path / "pack") as writer:
        for k in range(3):
            writer.add(make_jpeg(k), label)
    with pytest.raises(PackError, match=words):
        split(tmp_path / "pack", tmp_path / "head", tmp_path / "tail", min_images=9)


def test_targets_are_looked_at(source: Path, tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    with pytest.raises(PackError, match="two targets"):
        split(source, tmp_path / "x", tmp_path / "x")
    with pytest.raises(PackError, match="selected from"):
        split(source, source, tmp_path / "x")
    with pytest.raises(PackError, match="no record"):
        exclude(source, tmp_path / "x", np.arange(len(facepack.open(source))))


# Lists of records, and the commands ---------------------------------------------------------------


def _lists(pack: facepack.Pack, chosen: list[int]) -> dict[str, str]:
    keys = [pack.key(i) for i in chosen]
    labels = pack.labels[chosen].tolist()
    found = [
        {"key": key, "position": i, "label": label, "max_p": 0.001}
        for key, i, label in zip(keys, chosen, labels, strict=True)
    ]
    return {
        "keys.txt": "# noise\n\n" + "\n".join(keys) + "\n",
        "positions.txt": "\n".join(map(str, chosen)),
        "published.txt": "\n".join(
            f"{label} {i} 0.00612 3.1e-05" for i, label in zip(chosen, labels, strict=True)
        ),
        "list.csv": "key,position,label\n"
        + "\n".join(f"{k},{i},{n}" for k, i, n in zip(keys, chosen, labels, strict=True)),
        "found.json": json.dumps({"content_id": pack.content_id, "noise": found}),
        "plain.json": json.dumps(keys),
        "numbers.json": json.dumps(chosen),
    }


def test_lists_of_every_form_name_the_same(source: Path, tmp_path: Path) -> None:
    chosen = [3, 17, 18, 33]
    contents = set()
    for name, text in _lists(facepack.open(source), chosen).items():
        file = tmp_path / name
        file.write_text(text)
        out = tmp_path / f"out-{name}"
        done = CliRunner().invoke(main, ["select", str(source), str(out), "--exclude", str(file)])
        assert done.exit_code == 0, done.output
        assert "35 records" in done.stdout
        contents.add(facepack.open(out).content_id)
    assert len(contents) == 1


def test_a_list_by_keys_holds_for_the_head(source: Path, tmp_path: Path) -> None:
    pack = facepack.open(source)
    heads = [i for i, label in enumerate(pack.labels) if label >= 0 and COUNTS[label] >= 9][:2]
    (tmp_path / "list.txt").write_text("\n".join(pack.key(i) for i in heads))
    split(source, tmp_path / "head", tmp_path / "tail")
    arguments = ["select", tmp_path / "head", tmp_path / "out", "--exclude", tmp_path / "list.txt"]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0 and len(facepack.open(tmp_path / "out")) == 28


@pytest.mark.parametrize(
    "text",
    [
        "train-000/0000099999",
        "999999",
        "-4",
        "3 0 0.001 0.0001\n77 1 0.1 0.1",
        "a b c",
        "1 2 3 4 5",
    ],
)
def test_a_list_of_another_pack_is_refused(source: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    arguments = ["select", source, tmp_path / "out", "--exclude", tmp_path / "list.txt"]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 2 and "list.txt" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "person-1/"),
        ("list.txt", "0\nperson-1\n"),
        ("list.txt", "person 1"),
        ("list.txt", "person-1/7.jpg"),
        ("list.json", '["person-1"]'),
        ("list.json", '["person-1/"]'),
        ("list.csv", "key\nperson-1/7.jpg\n"),
    ],
)
def test_names_are_no_records_and_what_takes_them_is_said(
    make_jpeg: MakeJpeg, tmp_path: Path, name: str, text: str
) -> None:
    with facepack.PackWriter(tmp_path / "p") as writer:
        for label in (0, 0, 1, 1):
            writer.add(make_jpeg(label), label, f"person-{label}/7.jpg", f"person-{label}")
    (tmp_path / name).write_text(text)
    arguments = ["select", tmp_path / "p", tmp_path / "out", "--exclude", tmp_path / name]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 2 and "person" in done.stderr
    assert "allowed are a key" in done.stderr and "another pack" not in done.stderr
    assert f"facepack lmdb2lmdb {tmp_path / 'p'} OUT --exclude LIST" in done.stderr
    (tmp_path / "names").write_text("person-1/\n")  # which it then does
    arguments = ["lmdb2lmdb", tmp_path / "p", tmp_path / "out", "--exclude", tmp_path / "names"]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert facepack.open(tmp_path / "out").identity_names == ["person-0"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "position\nperson-1\n"),
        ("list.json", '[{"position": []}]'),
        ("list.json", '[{"position": Infinity}]'),
        ("list.json", '[{"position": 1.5}]'),
        ("list.json", '[{"position": true}]'),
        ("list.json", '[{"position": 1, "label": {}}]'),
        ("list.csv", f"position\n{'x' * 200_000}\n"),
    ],
)
def test_a_list_of_no_numbers_is_refused(
    source: Path, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    arguments = ["select", source, tmp_path / "out", "--exclude", tmp_path / name]
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 2 and name in done.stderr
    assert len(done.stderr) < 1000 and not (tmp_path / "out").exists()


def test_the_command_splits(source: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("0\n1\n2\n")
    arguments = ["split", source, tmp_path / "head", tmp_path / "tail", "--min-images", "3"]
    done = CliRunner().invoke(
        main, [*map(str, arguments), "--json", "--exclude", str(tmp_path / "list.txt")]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    with_identity = int((facepack.open(source).labels[3:] >= 0).sum())
    assert found["head"]["records"] + found["tail"]["records"] == with_identity


@pytest.mark.parametrize("side", ["head", "tail"])
def test_nothing_is_written_where_one_of_the_two_is_refused(
    source: Path, tmp_path: Path, side: str
) -> None:
    (tmp_path / side).mkdir()
    (tmp_path / side / "thesis.tex").write_text("mine")
    with pytest.raises(PackError, match=r"thesis\.tex"):
        split(source, tmp_path / "head", tmp_path / "tail")
    other = tmp_path / ("tail" if side == "head" else "head")
    assert not other.exists() and [file.name for file in (tmp_path / side).iterdir()] == [
        "thesis.tex"
    ]
    (tmp_path / side / "thesis.tex").unlink()
    split(source, tmp_path / "head", tmp_path / "tail")
    with pytest.raises(PackError, match="--overwrite"):
        split(source, tmp_path / "more", tmp_path / "tail")
    assert not (tmp_path / "more").exists()
