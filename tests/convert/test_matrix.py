"""Every source into every sink, through the commands, against what the maker of the source knows.

A source or sink that is added to the registry without a row here, or an option without a case,
fails the first tests.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import simplejpeg
from click import Argument
from matrix.command import converted, facepack, invoke
from matrix.makers import MAKERS, PAIR_SETS, variants
from matrix.readers import READERS, Content, Kept, Row, expected_rows
from matrix.truth import (
    SIDE,
    Choose,
    Made,
    Shot,
    Truth,
    appended,
    between,
    capped,
    draw,
    draw_shots,
    everything,
    excluded,
    fewer,
    least,
    listed,
    lowest,
    of_listed,
    renumbered,
    sampled,
    without_excluded,
)
from PIL import Image

from facepack.convert import workers
from facepack.convert.commands.convert import conversion
from facepack.convert.formats.kv import writer as kv_writer
from facepack.convert.formats.kv.lmdb_sink import LmdbSink
from facepack.convert.formats.parquet.sink import ParquetSink
from facepack.convert.formats.rec.sink import RecSink
from facepack.convert.formats.tree.tree_sink import TreeSink
from facepack.convert.registry import CONVERSIONS, SINKS, SOURCES

Killed = Callable[[Callable[[], object], float], None]

SPAN = 4  # records of a shard or span, so that every target has several
OF_SINK = {sink: ("--shard-records", str(SPAN)) for sink in ("lmdb", "wds")}
STRICT = ("--strict",)
TWO = ("--workers", "2")
RESUME = ("--resume",)
ANEW = ("--overwrite",)
CLUSTER = ("--dask", "no address")
AS_JSON = ("--json",)
DRY = ("--dry-run",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """Options, and what they leave.

    Attributes:
        words: the options; ``{exclude}`` and ``{listed}`` stand for lists.
        parts: folders below the target, and what each is to hold; None: all, labels as they are.
        refuse: whether an image is to be set aside.
        change: what becomes of an image.
        sinks: that have these options.
    """

    words: str
    parts: dict[str, Choose | None]
    refuse: Callable[[Shot], bool] = lambda shot: False
    change: Callable[[Shot], Shot] = lambda shot: shot
    sinks: Sequence[str] = tuple(SINKS)

    @property
    def options(self) -> list[str]:
        return self.words.split()


def colored(shot: Shot) -> Shot:
    """A grey image becomes a JPEG of three channels, of quality 95 and without subsampling."""
    if not shot.grey:
        return shot
    pixels = simplejpeg.decode_jpeg(shot.image, colorspace="RGB")
    image = simplejpeg.encode_jpeg(pixels, quality=95, colorsubsampling="444")
    return replace(shot, image=image)


def put_right(shot: Shot) -> Shot:
    """Red and blue are swapped, in a JPEG of quality 95 and without subsampling."""
    pixels = simplejpeg.decode_jpeg(shot.image, colorspace="BGR")
    image = simplejpeg.encode_jpeg(pixels, quality=95, colorsubsampling="444")
    return replace(shot, image=image)


def scaled(shot: Shot) -> Shot:
    """A larger image becomes as large as the others, by the same way as in put_right."""
    if shot.side == SIDE:
        return shot
    pixels = Image.open(io.BytesIO(shot.image)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    image = simplejpeg.encode_jpeg(np.asarray(pixels), quality=95, colorsubsampling="444")
    return replace(shot, image=image, side=SIDE)


BY_IDENTITY = {"--identities", "--min-images", "--max-images", "--head-tail"}
ALL: dict[str, Choose | None] = {"": None}
CASES = {
    "exclude": Case(words="--exclude {exclude} --decode", parts={"": without_excluded}),
    "first": Case(words="--identities 2", parts={"": lowest(2)}),
    "range": Case(words="--identities 1:6 --color keep", parts={"": between(1, 6)}),
    "listed": Case(words="--identities {listed}", parts={"": of_listed}),
    "min": Case(words="--min-images 3", parts={"": least(3)}),
    "max": Case(words="--max-images 2 --seed 5", parts={"": capped(2, 5)}),
    "sample": Case(words="--sample 6 --seed 3", parts={"": sampled(6, 3)}),
    "one": Case(words="--sample 1", parts={"": sampled(1, 0)}),
    "halves": Case(words="--head-tail 3", parts={"head": least(3), "tail": fewer(3)}),
    "size": Case(words=f"--size {SIDE}", parts=ALL, refuse=lambda shot: shot.side != SIDE),
    "colour": Case(words="--color refuse", parts=ALL, refuse=lambda shot: shot.grey),
    "convert": Case(words="--color convert", parts=ALL, change=colored),
    "swapped": Case(words="--channels bgr", parts=ALL),
    "put right": Case(words="--channels bgr --color convert", parts=ALL, change=put_right),
    "scaled": Case(words=f"--resize {SIDE}", parts=ALL, change=scaled),
    "order": Case(words="--order source --shard-size 1", parts=ALL, sinks=["lmdb"]),
    "people": Case(words="--order identity", parts=ALL, sinks=["lmdb"]),
    "twice": Case(words="--duplicates", parts=ALL, sinks=["lmdb"]),
    "numbers": Case(words="--naming number", parts=ALL, sinks=["img", "wds"]),
    "tars": Case(words="--shard-size 1", parts=ALL, sinks=["wds"]),
}
PLAIN = Case(words="", parts=ALL)

ALL_WAYS = [(*each, sink) for each, sink in product(variants(), SINKS)]
# What is no verification set becomes none.
NO_WAYS = [way for way in ALL_WAYS if way[2] == "bin" and way[:2] not in PAIR_SETS]
WAYS = [way for way in ALL_WAYS if way not in NO_WAYS]
FIRST = {(source, sink): variant for source, variant, sink in reversed(WAYS)}
# Every case of the first variant of each source; a few of the others, into packs.
FEW = ("exclude", "max", "halves")
CHOICES = [
    (*way, name)
    for way, (name, case) in product(WAYS, CASES.items())
    if (FIRST[way[0], way[2]] == way[1] and way[2] in case.sinks)
    or (way[2] == "lmdb" and name in FEW)
]
every_way = pytest.mark.parametrize(("source", "variant", "sink"), WAYS)


# The workshop: each source is made once, each plain target too ------------------------------------


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Sources and plain targets, and processes that stay."""
    shop = Workshop(tmp_path_factory.mktemp("matrix"))
    yield shop
    shop.close()


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Small spans, and no waiting for the disk: power cuts are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(kv_writer.KvWriter, "sync", lambda writer: None)
        for kind in (LmdbSink, ParquetSink, RecSink, TreeSink):
            patch.setattr(kind, "span_records", SPAN)
        yield


class Workshop:
    """What tests share."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made = cache(self._made)
        self.plain = cache(self._plain)
        self._processes: _Kept | None = None

    def processes(self, count: int) -> _Kept:
        """Two processes that every conversion of this module uses in turn: a start takes long."""
        self._processes = self._processes or _Kept(count)
        return self._processes

    def other(self) -> Path:
        """A pack of other images of two of the people."""
        out = self.root / "other"
        if not out.exists():
            (self.root / "others").mkdir()
            shots = [
                Shot(person=who, image=draw(300 + k)) for k, who in enumerate(("a", "Zoë") * 2)
            ]
            made = MAKERS["img"]["tree"](self.root / "others", shots)
            facepack(*command(made, "img", "lmdb", out))
        return out

    def close(self) -> None:
        """End them."""
        if self._processes is not None:
            workers._Processes.end(self._processes, kill=False)

    def _made(self, source: str, variant: str, *, broken: bool = False) -> Made:
        folder = self.root / f"{source}-{variant}{'-broken' * broken}"
        folder.mkdir(exist_ok=True)  # of a maker that skips
        return MAKERS[source][variant](folder, draw_shots(broken=broken))

    def _plain(self, source: str, variant: str, sink: str) -> tuple[Path, int]:
        """A plain target, and how many files were renamed while it was written."""
        out = self.root / "plain" / f"{source}-{variant}-{sink}{suffix_of(sink)}"
        made = self.made(source, variant)
        renames = 0
        rename = Path.replace

        def counted(path: Path, target: Path) -> Path:
            nonlocal renames
            renames += 1
            return rename(path, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", counted)
            facepack(*command(made, source, sink, out), typed=made.typed)
        return out, renames


class _Kept(workers._Processes):
    """Processes that outlive a conversion."""

    def end(self, *, kill: bool) -> None:
        """Not yet."""


def command(made: Made, source: str, sink: str, out: Path, *options: str) -> list[object]:
    """The words of a conversion."""
    if "parquet" in (source, sink):
        pytest.importorskip("pyarrow")
    words = [f"{source}2{sink}", *made.paths, out, *made.options, *OF_SINK.get(sink, ()), *options]
    return [str(word) for word in words]


def files(out: Path) -> dict[str, Any]:
    """Every file of a target; of an LMDB the records, for its engine counts transactions."""
    if out.is_file():
        return {"": out.read_bytes()}
    found: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }
    if "faces.lmdb/data.mdb" in found:
        with lmdb.open(str(out / "faces.lmdb"), readonly=True, lock=False) as env:
            with env.begin() as txn:
                found["faces.lmdb/data.mdb"] = dict(txn.cursor())
    return found


LAST = (
    "pack.json", "index.kv", "pair_label.npy", "train.rec", "faces.kv", "dataset.json",
    "test-00000-of-00001.parquet",
)  # fmt: skip


def suffix_of(sink: str) -> str:
    """Of a target's name."""
    return ".bin" if sink == "bin" else ""


def works_alone(made: Made, sink: str) -> bool:
    """Whether one process does the work though the sink is parallel: what it is told of."""
    return holds_pairs(made.truth, sink)


# What a target must hold --------------------------------------------------------------------------


def holds_pairs(truth: Truth, sink: str) -> bool:
    """Whether the target holds pairs and nothing else, so that no image may be missing."""
    return truth.content == "pairs" and sink in ("bin", "img", "parquet")


def check_target(
    out: Path,
    figures: dict[str, Any],
    truth: Truth,
    sink: str,
    case: Case = PLAIN,
    choose: Choose | None = None,
) -> None:
    """Compare a target with the truth: rows, tables, figures, what was set aside."""
    faces = [replace(face, shot=case.change(face.shot)) for face in truth.faces]
    chosen = (choose or everything)(faces)
    labels = renumbered(faces, chosen) if choose else [face.label for face in faces]
    refused = [k for k in chosen if case.refuse(faces[k].shot) or not faces[k].shot.whole]
    kept: dict[int, Kept] = {}
    for ordinal, (k, label) in enumerate(zip(chosen, labels, strict=True)):
        if k not in refused:
            before = sum(each.label == label for each in kept.values())
            kept[k] = Kept(face=faces[k], label=label, ordinal=ordinal, before=before)
    content = READERS[sink](out)
    pairs = [pair for pair in truth.tables.get("pairs", ()) if {*pair[:2]} <= {*kept}]
    if holds_pairs(truth, sink):
        images = [face.shot.image for face in faces]
        assert content.pairs == [(images[a], images[b], bool(same)) for a, b, same in pairs]
        assert (figures["found"], figures["quarantined"]) == (2 * len(pairs), 0)
        assert figures["pairs"] == len(pairs)
        return
    numbered = "--naming" in case.words
    assert content.rows == expected_rows(sink, list(kept.values()), numbered=numbered)
    check_tables(content, truth, list(kept))
    assert (figures["found"], figures["packed"]) == (len(chosen), len(kept))
    assert figures["quarantined"] == len(refused)
    assert figures["identities"] == len({each.label for each in kept.values()} - {-1})
    path = out / "quarantine.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    assert len(lines) == len(refused)
    assert all({"reason", "remedy", "file", "ordinal"} <= {*json.loads(line)} for line in lines)
    if sink == "lmdb":
        told = json.loads(facepack("verify", out, *AS_JSON))
        assert told["ok"] and told["records"] == len(kept)
        if "--duplicates" in case.words:
            check_duplicates(out, list(kept.values()))


def check_tables(content: Content, truth: Truth, kept: Sequence[int]) -> None:
    """Compare the tables, which speak of images by position, with the truth, which has places."""
    assert {*content.tables} == {*truth.tables}
    at = dict(zip(content.positions, kept, strict=True))  # place in the truth, by position
    for name, rows in truth.tables.items():
        found = content.tables[name].tolist()
        if name == "pairs":
            whole = [row for row in rows if {*row[:2]} <= {*kept}]
            assert [(at[a], at[b], same) for a, b, same in found] == whole
        elif name.startswith(("gallery_", "probe_")):
            there = [(t, s, k if k in kept else -1) for t, s, k in rows]
            assert [(t, s, at.get(position, -1)) for t, s, position in found] == there
        elif name == "template_pairs":
            assert list(map(tuple, found)) == rows
        else:
            assert found == [rows[at[position]] for position in range(len(kept))]


def check_duplicates(out: Path, kept: Sequence[Kept]) -> None:
    """``duplicates.jsonl`` has a line for every image that is there twice."""
    labels: dict[bytes, list[int]] = {}
    for each in kept:
        labels.setdefault(each.face.shot.image, []).append(each.label)
    expected = sorted(sorted(them) for them in labels.values() if len(them) > 1)
    path = out / "duplicates.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    assert sorted(sorted(json.loads(line)["labels"]) for line in lines) == expected


def check_refusal(words: Sequence[object], code: int, *texts: str, typed: str | None) -> None:
    """A command that has no meaning says so in its last line, and writes nothing."""
    result = invoke(*words, typed=typed)
    assert result.exit_code == code, result.output
    assert result.stdout.strip() in ("", "Password:")
    for text in texts:
        assert text in result.stderr.splitlines()[-1]


# Nothing is left out ------------------------------------------------------------------------------


def test_every_source_and_sink_has_a_row() -> None:
    assert {*MAKERS} == {*SOURCES} and {*READERS} == {*SINKS}


def test_pair_sets_are_known(workshop: Workshop) -> None:
    sets = [way for way in variants() if workshop.made(*way).truth.content == "pairs"]
    assert {*sets} == PAIR_SETS


def test_every_option_has_a_case(workshop: Workshop) -> None:
    """What Click knows of each command, against the options that the tests below give it."""
    always = {*STRICT, *TWO, *RESUME, *ANEW, *CLUSTER, *AS_JSON, *DRY}
    missing = {}
    for name, (source, sink) in CONVERSIONS.items():
        if (source, sink) not in FIRST:
            continue
        given = always | {*OF_SINK.get(sink, ())}
        for variant in MAKERS[source]:
            given |= {*workshop.made(source, variant).options}
        for case in CASES.values():
            given |= {*case.options} if sink in case.sinks else set()
        known = {
            spelling
            for parameter in conversion(name).params
            if not isinstance(parameter, Argument)
            for spelling in (*parameter.opts, *parameter.secondary_opts)
        }
        if without := known - given:
            missing[name] = sorted(without)
    assert not missing


# All ways -----------------------------------------------------------------------------------------


@every_way
def test_plain(workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path) -> None:
    made = workshop.made(source, variant)
    out = tmp_path / f"out{suffix_of(sink)}"
    figures = converted(*command(made, source, sink, out), typed=made.typed)
    check_target(out, figures, made.truth, sink)


@every_way
def test_dry_run(workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path) -> None:
    """It tells what a run would find, and neither source nor target is another one behind it."""
    made = workshop.made(source, variant)
    out, _ = workshop.plain(source, variant, sink)
    before = [standing(workshop.root / f"{source}-{variant}"), standing(out)]
    new = tmp_path / "folder" / f"out{suffix_of(sink)}"
    told = converted(*command(made, source, sink, new, *DRY), typed=made.typed)
    assert not any(tmp_path.iterdir())
    labels = {face.label for face in made.truth.faces} - {-1}
    pairs = made.truth.tables.get("pairs")
    images = 2 * len(pairs or ()) if holds_pairs(made.truth, sink) else len(made.truth.faces)
    assert (told["target"], told["found"], told["refused"]) == ("new", images, [])
    assert told["identities"] == len(labels) and told["classes"] >= max(labels, default=-1) + 1
    assert told["pairs"] == (None if pairs is None else len(pairs))
    assert told["free_bytes"] > told["needed_bytes"] > 0
    if told["shards"]:
        assert sum(shard["records"] for shard in told["shards"]) == images
    written = {file.relative_to(out).as_posix() for file in out.rglob("*")} or {new.name}
    assert {*told["files"], *(shard["name"] for shard in told["shards"])} <= written
    for option, target in ((RESUME, "finished"), (ANEW, "replaced")):
        told = converted(*command(made, source, sink, out, *DRY, *option), typed=made.typed)
        assert told["target"] == target and (told["needed_bytes"] == 0) == (option is RESUME)
    check_refusal(command(made, source, sink, out, *DRY), 1, "--overwrite", typed=made.typed)
    assert before == [standing(workshop.root / f"{source}-{variant}"), standing(out)]


def standing(path: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file and folder at ``path``."""
    stats = {str(each): each.lstat() for each in (path, *path.rglob("*"))}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.mark.parametrize(("source", "variant", "sink"), NO_WAYS)
def test_no_way(workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path) -> None:
    made = workshop.made(source, variant)
    words = command(made, source, sink, tmp_path / "folder" / "out.bin")
    check_refusal(words, 1, f"holds no pairs (but {made.truth.content})", typed=made.typed)
    assert not (tmp_path / "folder").exists()


@every_way
def test_two_workers(
    workshop: Workshop,
    source: str,
    variant: str,
    sink: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = workshop.made(source, variant)
    out = tmp_path / f"out{suffix_of(sink)}"
    words = command(made, source, sink, out, *TWO)
    if not SINKS[sink].parallel:
        check_refusal(words, 2, "--workers", "one process", typed=made.typed)
        assert not out.exists()
        return
    monkeypatch.setattr(workers, "_take_processes", workshop.processes)
    result = invoke(*words, typed=made.typed)
    assert result.exit_code == 0, result.output
    assert ("one process" in result.stderr) == works_alone(made, sink)
    assert files(out) == files(workshop.plain(source, variant, sink)[0])


@every_way
def test_a_cluster_that_is_not_there(
    workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path
) -> None:
    made = workshop.made(source, variant)
    words = command(made, source, sink, tmp_path / "out", *CLUSTER)
    if not SINKS[sink].parallel:
        check_refusal(words, 2, "--dask", "one process", typed=made.typed)
        assert not (tmp_path / "out").exists()
    elif works_alone(made, sink):
        result = invoke(*words, typed=made.typed)
        assert result.exit_code == 0 and "one process" in result.stderr
    else:
        check_refusal(words, 1, "dask", typed=made.typed)


@every_way
def test_killed_and_resumed(
    workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path, killed: Killed
) -> None:
    made = workshop.made(source, variant)
    plain, renames = workshop.plain(source, variant, sink)
    out = tmp_path / plain.name
    words = command(made, source, sink, out, *RESUME)
    killed(lambda: facepack(*words, typed=made.typed), 2 * (renames // 2))
    assert files(out) != files(plain)
    facepack(*words, typed=made.typed)
    assert files(out) == files(plain)
    facepack(*words, typed=made.typed)  # nothing is left to do
    assert files(out) == files(plain)


@every_way
def test_overwritten(
    workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path
) -> None:
    made = workshop.made(source, variant)
    plain, _ = workshop.plain(source, variant, sink)
    out = tmp_path / plain.name
    facepack(*command(made, source, sink, out, "--sample", "6"), typed=made.typed)
    words = command(made, source, sink, out)
    before = files(out)
    check_refusal(words, 1, "--overwrite", typed=made.typed)
    assert files(out) == before != files(plain)
    facepack(*words, *ANEW, typed=made.typed)
    assert files(out) == files(plain)


@every_way
def test_one_image_is_broken(
    workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path
) -> None:
    made = workshop.made(source, variant, broken=True)
    out = tmp_path / f"out{suffix_of(sink)}"
    words = command(made, source, sink, out)
    if holds_pairs(made.truth, sink):
        check_refusal(words, 1, "or pack the set", typed=made.typed)
    else:
        figures = converted(*words, typed=made.typed)
        assert figures["quarantined"] == 1
        check_target(out, figures, made.truth, sink)
    strict = tmp_path / f"strict{suffix_of(sink)}"
    words = command(made, source, sink, strict, *STRICT)
    text = "or pack the set" if holds_pairs(made.truth, sink) else "--strict stops here"
    check_refusal(words, 1, text, typed=made.typed)
    assert not any((strict / name).exists() for name in LAST)


def what_is_left(truth: Truth, choose: Choose | None) -> int:
    """How many images are chosen; of a verification set, how many pairs."""
    chosen = {*(choose or everything)(truth.faces)}
    pairs = truth.tables.get("pairs")
    return len(chosen) if pairs is None else sum({*pair[:2]} <= chosen for pair in pairs)


@pytest.mark.parametrize(("source", "variant", "sink", "choice"), CHOICES)
def test_chosen(
    workshop: Workshop, source: str, variant: str, sink: str, choice: str, tmp_path: Path
) -> None:
    made = workshop.made(source, variant)
    truth, case = made.truth, CASES[choice]
    out = tmp_path / f"out{suffix_of(sink)}"
    lists = {"exclude": excluded(truth.faces), "listed": listed(truth.faces)}
    for name, lines in lists.items():
        lines = [*lines, "# a comment", *(["nobody/"] if name == "exclude" else [])]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    options = [word.format(**{name: tmp_path / name for name in lists}) for word in case.options]
    words = command(made, source, sink, out, *options)
    left = {part: what_is_left(truth, choose) for part, choose in case.parts.items()}
    nobody = all(face.label < 0 for face in truth.faces)
    if nobody and BY_IDENTITY & {*case.options}:
        check_refusal(words, 1, "has an identity", typed=made.typed)
    elif not any(left.values()):
        check_refusal(words, 1, "choose more loosely", typed=made.typed)
    elif holds_pairs(truth, sink) and any(case.refuse(face.shot) for face in truth.faces):
        check_refusal(words, 1, "or pack the set", typed=made.typed)
    else:
        told = converted(*words, typed=made.typed)
        figures = iter(told if isinstance(told, list) else [told])
        for part, choose in case.parts.items():
            target = out / part if part else out
            if left[part]:
                check_target(target, next(figures), truth, sink, case, choose)
            else:
                assert not target.exists()
        assert not list(figures)
        return
    assert not out.exists()


@every_way
def test_and_back(workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path) -> None:
    """What the sink wrote, read by its own source: the same, as far as the sink keeps it."""
    made = workshop.made(source, variant)
    plain, _ = workshop.plain(source, variant, sink)
    again = {"wds": "tar", "msgpack": "kv"}.get(sink, sink)
    figures = converted(f"{again}2lmdb", plain, tmp_path / "pack", *OF_SINK["lmdb"])
    check_target(tmp_path / "pack", figures, after(made.truth, sink), "lmdb")


def after(truth: Truth, sink: str) -> Truth:
    """What ``sink`` keeps of a source."""
    if sink == "lmdb":
        return truth
    if holds_pairs(truth, sink) and sink == "parquet":
        return truth  # names are paths
    if holds_pairs(truth, sink):
        return replace(truth, faces=[replace(face, name=None) for face in truth.faces])
    kept = []
    for k, face in enumerate(truth.faces):
        before = sum(each.label == face.label for each in truth.faces[:k])
        kept.append(Kept(face=face, label=face.label, ordinal=k, before=before))
    rows = expected_rows(sink, kept)
    faces = [
        replace(face, name=row.name, person=row.person, numbers=row.numbers or {})
        for face, row in zip(truth.faces, rows, strict=True)
    ]
    return Truth(faces=faces)


@pytest.mark.parametrize(("source", "variant"), list(variants()))
def test_appended(workshop: Workshop, source: str, variant: str, tmp_path: Path) -> None:
    made = workshop.made(source, variant)
    faces = made.truth.faces
    out = tmp_path / "pack"
    shutil.copytree(workshop.other(), out)
    before = READERS["lmdb"](out).rows
    words = ["append", out, *made.paths, "--source", source, *made.options, *OF_SINK["lmdb"]]
    if made.truth.content != "train":
        whole = files(out)
        check_refusal(words, 1, "is not a training set", typed=made.typed)
        assert files(out) == whole
        return
    printed = facepack(*words, *AS_JSON, typed=made.typed)
    figures = json.loads(printed)
    one_by_one = source == "zip" and "wds" not in variant
    stems = sorted({face.stem for face in faces}) if one_by_one else []
    each = [[face for face in faces if face.stem == stem] for stem in stems] or [faces]
    assert [told["packed"] for told in figures] == [len(them) for them in each]
    labels = appended(each, {str(row.person): row.label for row in before})
    new = [
        Row(label, face.shot.image, face.name, face.person, face.numbers)
        for face, label in zip(faces, labels, strict=True)
    ]
    assert READERS["lmdb"](out).rows == before + new
    assert json.loads(facepack("verify", out, *AS_JSON))["ok"]
    whole = files(out)
    facepack(*words, *RESUME, typed=made.typed)  # nothing is left to do
    assert files(out) == whole
    check_refusal(words, 1, "already", typed=made.typed)
    assert files(out) == whole


# Processes of their own ---------------------------------------------------------------------------

PROGRAM = f"""
import os, signal
from facepack.cli import main
from facepack.convert import workers
from facepack.convert.formats.tree.tree_sink import TreeSink
TreeSink.span_records = {SPAN}
run = workers.Workers.run
def until(self, function, tasks):
    for count, item in enumerate(run(self, function, tasks)):
        if count == int(os.environ["DIES_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
workers.Workers.run = until
main()
"""


@pytest.mark.parametrize(
    ("source", "variant", "sink"),
    [("tar", "rec", "lmdb"), ("zip", "secret", "img"), ("kv", "several", "wds")],
)
def test_killed_among_its_workers(
    workshop: Workshop, source: str, variant: str, sink: str, tmp_path: Path
) -> None:
    made = workshop.made(source, variant)
    plain, _ = workshop.plain(source, variant, sink)
    out = tmp_path / plain.name
    words = [sys.executable, "-c", PROGRAM, *command(made, source, sink, out, *TWO, *RESUME)]
    for dies_at, code in (("1", -signal.SIGKILL), ("99", 0)):
        environment = os.environ | {"DIES_AT": dies_at}
        done = subprocess.run(words, env=environment, capture_output=True, timeout=120)
        assert done.returncode == code, done.stderr
        assert (files(out) == files(plain)) == (code == 0)
