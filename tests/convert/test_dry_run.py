"""What ``--dry-run`` tells of targets that hold something, and of records that cannot be used.

What it tells of every source and sink, ``test_matrix.py`` holds against the sources.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matrix.command import converted, facepack, invoke

from facepack.convert.formats.kv.sink import KvSink
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.rec.sink import RecSink
from facepack.convert.formats.tree.tree_sink import TreeSink
from facepack.store.writer import PackWriter
from facepack.terminal import NOTHING_WRITTEN

MakeRec = Callable[..., Path]
DRY = "--dry-run"


@pytest.fixture(autouse=True)
def small_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several spans to a target."""
    for kind in (KvSink, RecSink, TreeSink):
        monkeypatch.setattr(kind, "span_records", 5)


def standing(path: Path) -> dict[str, tuple[int, int, int]]:
    """What tells every file and folder of ``path`` from itself after a change."""
    stats = {str(each): each.lstat() for each in (path, *path.rglob("*"))}
    return {name: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def ends_once(text: str) -> bool:
    """Whether a dry run says that it wrote nothing once, at its end."""
    return text.endswith(f"{NOTHING_WRITTEN}\n") and text.count(NOTHING_WRITTEN) == 1


@pytest.mark.parametrize("sink", ["lmdb", "img", "rec", "kv", "wds"])
def test_what_an_interrupted_run_left_is_counted(
    make_rec: MakeRec, tmp_path: Path, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--strict`` ends it in the fourth span, with three written."""
    usage = shutil.disk_usage(tmp_path)  # of a disk that nobody else writes on
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    source = make_rec(20, bad={17: b"no record"})
    options = ["--shard-records", "5", "--workers", "1"] if sink in ("lmdb", "wds") else []
    words = [f"rec2{sink}", source, tmp_path / "out", *options]
    whole = converted(*words, DRY)
    assert invoke(*words, "--strict").exit_code == 1
    before = standing(tmp_path)
    assert "--resume completes it" in invoke(*words, DRY).stderr
    told = converted(*words, DRY, "--resume")
    assert told["target"] == "resumed"
    assert told["needed_bytes"] < 0.6 * whole["needed_bytes"]
    again = converted(*words, DRY, "--overwrite")
    assert (again["target"], again["needed_bytes"]) == ("replaced", whole["needed_bytes"])
    assert again["free_bytes"] > told["free_bytes"] == usage.free
    assert standing(tmp_path) == before
    assert converted(*words, "--resume")["packed"] == 19


def test_the_last_steps_of_a_rec_are_looked_at_and_not_taken(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    """A run that was killed between putting ``train.rec`` in place and noting that it is done."""
    words = ["rec2rec", make_rec(20), tmp_path / "out"]
    state = tmp_path / "out" / ".facepack"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecSink, "state_files", lambda sink: [])
        facepack(*words)
    (state / "done.json").unlink()
    before = standing(tmp_path)
    assert converted(*words, DRY, "--resume")["target"] == "resumed"
    assert standing(tmp_path) == before
    assert converted(*words, "--resume")["packed"] == 20


@pytest.mark.parametrize("sink", ["lmdb", "img", "wds"])
def test_a_finished_target_that_lacks_a_file_is_not_finished(
    make_rec: MakeRec, tmp_path: Path, sink: str
) -> None:
    words = [f"rec2{sink}", make_rec(20), tmp_path / "out"]
    facepack(*words)
    suffix = {"lmdb": "*.mdb", "img": "*/*.jpg", "wds": "*.tar"}[sink]
    next((tmp_path / "out").glob(suffix)).unlink()
    told = converted(*words, DRY, "--resume")
    assert told["target"] == "resumed" and told["needed_bytes"] > 0


def test_records_that_would_be_set_aside_are_told(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(20, bad={3: b"no record"})
    words = ["rec2lmdb", source, tmp_path / "out"]
    told = converted(*words, DRY)
    assert (told["looked_at"], [entry["ordinal"] for entry in told["refused"]]) == (20, [3])
    done = converted(*words)
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert told["refused"] == [json.loads(line) for line in lines] and done["quarantined"] == 1
    other = ["rec2lmdb", source, tmp_path / "other", DRY]
    assert len(converted(*other, "--size", "999")["refused"]) == 20
    assert "1 would be set aside" in facepack(*other)
    strict = invoke(*other, "--strict")
    assert strict.exit_code == 1 and "record 3" in strict.stderr


@pytest.mark.parametrize("sink", ["lmdb", "img", "rec", "kv", "wds"])
@pytest.mark.parametrize(
    "options", [("--resize", "160"), ("--color", "convert", "--channels", "bgr")]
)
def test_bytes_of_what_is_encoded_anew_are_reckoned(
    make_rec: MakeRec, tmp_path: Path, sink: str, options: tuple[str, ...]
) -> None:
    """By the images that are looked at, which are all of these."""
    words = [f"rec2{sink}", make_rec(20), tmp_path / "out", *options]
    plain = converted(*words[:3], DRY)
    told = converted(*words, DRY)
    done = converted(*words)
    assert (plain["encoded"], told["encoded"]) == (0, 20)
    assert told["payload_bytes"] == pytest.approx(done["payload_bytes"], rel=0.05)
    grown = told["needed_bytes"] - plain["needed_bytes"]
    assert grown == told["payload_bytes"] - plain["payload_bytes"] > 0
    payloads = [shard["payload_bytes"] for shard in told["shards"]]
    assert not payloads or sum(payloads) == pytest.approx(told["payload_bytes"], rel=0.01)
    assert "20 would be encoded anew" in facepack(*words[:2], tmp_path / "new", *words[3:], DRY)


def test_no_room_for_what_is_encoded_anew(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["rec2lmdb", make_rec(20), tmp_path / "out", DRY]
    free = 2 * converted(*words)["needed_bytes"]
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    facepack(*words)
    result = invoke(*words, "--resize", "400")
    assert result.exit_code == 1 and "MB are needed" in result.stderr


@pytest.mark.parametrize("sink", ["img", "bin"])
def test_bytes_of_pairs_are_known(
    make_jpeg: Callable[..., bytes], tmp_path: Path, sink: str
) -> None:
    images = [make_jpeg(k) for k in range(4)]
    write_bin(tmp_path / "set.bin", images, [True, False])
    words = [f"bin2{sink}", tmp_path / "set.bin", tmp_path / "out", "--resize", "80"]
    told, done = converted(*words, DRY), converted(*words)
    assert told["payload_bytes"] == done["payload_bytes"]


def test_few_records_of_many_are_looked_at(make_rec: MakeRec, tmp_path: Path) -> None:
    told = converted("rec2lmdb", make_rec(2000), tmp_path / "out", DRY)
    assert 256 <= told["looked_at"] <= 512


def test_what_cannot_be_written_is_refused(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_rec(20)
    (tmp_path / "file").write_bytes(b"")
    for sink in ("lmdb", "img", "bin"):
        result = invoke(f"rec2{sink}", source, tmp_path / "file" / "out", DRY)
        assert result.exit_code == 1
    for flag, word in ((os.ST_RDONLY, "read-only"), (0, "permission denied")):
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda path, mode: mode != os.W_OK | os.X_OK)
            patch.setattr(os, "statvfs", lambda path, flag=flag: SimpleNamespace(f_flag=flag))
            assert word in invoke("rec2lmdb", source, tmp_path / "new", DRY).stderr
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    for sink in ("lmdb", "wds", "rec"):
        result = invoke(f"rec2{sink}", source, tmp_path / sink, DRY)
        assert result.exit_code == 1 and "MB are needed" in result.stderr
        assert not (tmp_path / sink).exists()


def test_both_halves_are_told(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(18)
    told: Any = converted("rec2lmdb", source, tmp_path / "out", DRY, "--head-tail", "4")
    assert [(each["found"], each["identities"]) for each in told] == [(15, 3), (3, 1)]
    assert ends_once(facepack("rec2img", source, tmp_path / "out", DRY, "--head-tail", "4"))
    assert not (tmp_path / "out").exists()


# Packs that grow ----------------------------------------------------------------------------------


def appended(*words: object) -> dict[str, Any]:
    """What one append prints."""
    (told,) = json.loads(facepack("append", *words, "--source", "rec", "--json"))
    return dict(told)


def test_append(make_rec: MakeRec, tmp_path: Path) -> None:
    first, second, pack = make_rec(20), make_rec(35, name="more"), tmp_path / "pack"
    third = make_rec(5, name="third")
    facepack("rec2lmdb", first, pack)
    before = standing(tmp_path)
    told = appended(pack, second, DRY)
    assert ends_once(facepack("append", pack, second, "--source", "rec", DRY))
    assert (told["target"], told["found"], told["identities"], told["classes"]) == (
        "new",
        35,
        7,
        11,
    )
    assert f"{pack} would grow: 35 images" in facepack(
        "append", pack, second, "--source", "rec", DRY
    )
    both = invoke("append", pack, second, third, "--source", "rec", DRY)
    assert both.exit_code == 0 and "as if it were the first" in both.stderr
    assert standing(tmp_path) == before
    done = appended(pack, second)
    assert (done["packed"], done["classes"]) == (35, 11)
    grown = standing(tmp_path)
    assert appended(pack, second, DRY, "--resume")["target"] == "finished"
    words = ["append", pack, second, "--source", "rec"]
    assert "nothing to append" in invoke(*words, DRY).stderr
    assert standing(tmp_path) == grown


def test_an_append_that_was_interrupted(make_rec: MakeRec, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    facepack("rec2lmdb", make_rec(20), pack)
    more = make_rec(25, name="more", bad={17: b"no record"})
    words = ["append", pack, more, "--source", "rec", "--shard-records", "5", "--workers", "1"]
    whole = json.loads(facepack(*words, DRY, "--json"))[0]["needed_bytes"]
    assert invoke(*words, "--strict").exit_code == 1
    before = standing(pack)
    assert "--discard" in invoke(*words, DRY).stderr
    for option, target in (("--resume", "resumed"), ("--discard", "new")):
        (told,) = json.loads(facepack(*words, DRY, "--json", option))
        assert told["target"] == target
        assert (told["needed_bytes"] == whole) == (option == "--discard")
    assert standing(pack) == before


def test_an_append_whose_last_step_is_left_to_do(make_rec: MakeRec, tmp_path: Path) -> None:
    """The manifest is in place, the journal not yet removed: a dry run does not remove it."""
    pack, more = tmp_path / "pack", make_rec(25, name="more")
    facepack("rec2lmdb", make_rec(20), pack)
    facepack("append", pack, more, "--source", "rec")
    plan = json.loads((pack / "plan.json").read_bytes())["appended"][-1]
    (pack / "append.json").write_text(json.dumps(plan))
    before = standing(pack)
    assert appended(pack, more, DRY, "--resume")["target"] == "finished"
    third = make_rec(10, name="third")
    assert appended(pack, third, DRY)["target"] == "new"
    assert standing(pack) == before


def test_delete_source_deletes_nothing(make_rec: MakeRec, tmp_path: Path) -> None:
    pack, more = tmp_path / "pack", make_rec(25, name="more")
    facepack("rec2lmdb", make_rec(20), pack)
    appended(pack, more / "train.rec", DRY, "--delete-source")
    assert (more / "train.rec").exists()


# Commands that are no conversions -----------------------------------------------------------------


def previewed(*words: object) -> Any:
    """What a command of packs says under ``--dry-run``, which changes nothing."""
    return json.loads(facepack(*words, DRY, "--json"))


def require_same(told: dict[str, Any], done: dict[str, Any], out: Path) -> None:
    """Hold what was told of a pack against the manifest of what was then written to ``out``."""
    same = {"found": "records", **{name: name for name in ("identities", "classes")}}
    assert {theirs: told[name] for name, theirs in same.items()} == {
        name: done[name] for name in same.values()
    }
    assert told["payload_bytes"] == done["payload_bytes"]
    shards = [(each["name"], each["records"], each["payload_bytes"]) for each in told["shards"]]
    assert shards == [
        (f"{each['name']}.mdb", each["records"], each["payload_bytes"]) for each in done["shards"]
    ]
    written = {file.name for file in out.iterdir()}
    indexes = {f"{each['name']}.kv" for each in done["shards"]}
    assert {name for name, *_ in shards} | {*told["files"]} | indexes == written


@pytest.fixture
def packs(make_jpeg: Callable[..., bytes], tmp_path: Path) -> tuple[Path, Path]:
    """Two packs of three named people each, one of them in both, with two, four and six images."""
    for k, names in enumerate((["ann", "bob", "cy"], ["cy", "dora", "ed"])):
        with PackWriter(tmp_path / f"pack-{k}", shard_records=7, stem=f"s{k}") as writer:
            for label, name in enumerate(names):
                for i in range(2 + 2 * label):
                    writer.add(make_jpeg(100 * k + 10 * label + i), label, None, name)
    return tmp_path / "pack-0", tmp_path / "pack-1"


@pytest.mark.parametrize("how", ["merge", "merge --by-name", "split", "select"])
@pytest.mark.parametrize("copy", [(), ("--copy",)])
def test_packs_of_packs_are_told_as_they_are_made(
    packs: tuple[Path, Path], tmp_path: Path, how: str, copy: tuple[str, ...]
) -> None:
    (tmp_path / "list").write_text("0\n3\n")
    outs = [tmp_path / "head", tmp_path / "tail"] if how == "split" else [tmp_path / "out"]
    words: list[object] = {
        "split": ["split", packs[0], *outs, "--min-images", "3"],
        "select": ["select", packs[0], *outs, "--exclude", tmp_path / "list"],
    }.get(how, [*how.split()[:1], *packs, *outs, *how.split()[1:]])
    words += copy
    before = standing(tmp_path)
    told = previewed(*words)
    assert ends_once(facepack(*words, DRY))
    assert standing(tmp_path) == before
    done = json.loads(facepack(*words, "--json"))
    for out, mine, its in zip(
        outs,
        told.values() if how == "split" else [told],
        done.values() if how == "split" else [done],
        strict=True,
    ):
        assert mine["target"] == "new" and mine["dry_run"]
        require_same(mine, its, out)
        wanted = (".kv", ".mdb") if copy else (".kv",)
        written = [file.stat().st_size for file in out.iterdir() if file.suffix in wanted]
        # Lines of what is left out are reckoned, as the source's index has them.
        assert sum(written) <= mine["needed_bytes"] <= sum(written) * 4
    assert "--overwrite replaces it" in invoke(*words, DRY).stderr
    again = previewed(*words, "--resume")
    for each in again.values() if how == "split" else [again]:
        assert (each["target"], each["needed_bytes"]) == ("finished", 0)
    over = previewed(*words, "--overwrite")
    for each in over.values() if how == "split" else [over]:
        assert each["target"] == "replaced"


@pytest.mark.parametrize("how", ["merge", "split", "select"])
def test_no_room_for_packs_of_packs(
    packs: tuple[Path, Path], tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of head and tail, each alone would fit."""
    (tmp_path / "list").write_text("0\n")
    words: list[object] = {
        "merge": ["merge", *packs, tmp_path / "out"],
        "split": ["split", packs[0], tmp_path / "head", tmp_path / "out", "--min-images", "3"],
        "select": ["select", packs[0], tmp_path / "out", "--exclude", tmp_path / "list"],
    }[how] + ["--copy"]
    told = previewed(*words)
    parts = told.values() if how == "split" else [told]
    usage = shutil.disk_usage(tmp_path)
    free = sum(each["needed_bytes"] for each in parts) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    before = standing(tmp_path)
    for more in ((DRY,), ()):
        result = invoke(*words, *more)
        assert result.exit_code == 1 and "MB are needed" in result.stderr
    assert standing(tmp_path) == before


def test_what_would_be_salvaged(packs: tuple[Path, Path], tmp_path: Path) -> None:
    next(packs[0].glob("*.mdb")).unlink()
    words = ["salvage", packs[0], tmp_path / "out"]
    before = standing(tmp_path)
    told = previewed(*words)
    assert ends_once(facepack(*words, DRY))
    assert standing(tmp_path) == before and told["lost"] > 0
    assert json.loads(facepack(*words, "--json")) == told
    assert "--overwrite" in invoke(*words, DRY).stderr


@pytest.mark.parametrize(
    "options", [(), ("--pairs", "20", "--label-noise", "0.5"), ("--distinct", "8", "--size", "64")]
)
def test_faces_that_would_be_drawn(tmp_path: Path, options: tuple[str, ...]) -> None:
    words = ["synth", tmp_path / "out", "--identities", "20", "--images-per-identity", "4"]
    words += [*options, "--workers", "1"]
    told = previewed(*words)
    assert ends_once(facepack(*words, DRY))
    assert not (tmp_path / "out").exists()
    facepack(*words)
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()}
    assert {*sizes} == {"train.rec", *told["files"]}
    assert told["needed_bytes"] == pytest.approx(sum(sizes.values()), rel=0.05)
    assert (told["found"], told["identities"], told["target"]) == (80, 20, "new")
    assert "--overwrite" in invoke(*words, DRY).stderr
    assert previewed(*words, "--overwrite")["target"] == "replaced"


def test_no_room_for_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    for more in ((DRY,), ()):
        result = invoke("synth", tmp_path / "out", "--identities", "2", *more)
        assert result.exit_code == 1 and "MB are needed" in result.stderr
        assert not (tmp_path / "out").exists()
