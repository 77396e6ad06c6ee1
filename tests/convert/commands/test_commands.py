"""The converters as a user meets them: processes that are killed, interrupted, out of disk."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from facepack.convert.formats.pairs.pickles import write_bin
from facepack.convert.formats.rec.recordio import pack_header
from facepack.errors import PackError

MakeRec = Callable[..., Path]
MakeJpeg = Callable[..., bytes]
FACEPACK = [sys.executable, "-m", "facepack"]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [*FACEPACK, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_json_goes_to_stdout_and_a_pipe_sees_no_progress(make_rec: MakeRec, tmp_path: Path) -> None:
    done = run("rec2lmdb", make_rec(30), tmp_path / "out", "--json")
    assert done.returncode == 0 and done.stderr == ""
    result = json.loads(done.stdout)
    assert result["packed"] == 30 and result["out"] == str(tmp_path / "out")


def test_plain_words_and_notices(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(30)
    (source / "train.idx").unlink()
    done = run("rec2lmdb", source, tmp_path / "out")
    assert "30 images, 6 identities of 6 classes" in done.stdout
    assert "train.rec was scanned" in done.stderr


def test_bins_one_by_one_and_by_the_folder(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    (tmp_path / "bins").mkdir()
    for name in ("lfw", "cfp_fp"):
        write_bin(tmp_path / "bins" / f"{name}.bin", [make_jpeg(i) for i in range(20)], [True] * 10)
    assert run("bin2lmdb", tmp_path / "bins" / "lfw.bin", tmp_path / "one").returncode == 0
    assert (tmp_path / "one" / "pairs.npy").exists()
    assert run("bin2img", tmp_path / "bins", tmp_path / "all").returncode == 0
    assert (tmp_path / "all" / "cfp_fp" / "imgs" / "19.jpg").exists()
    done = run("bin2img", tmp_path, tmp_path / "none")
    assert done.returncode == 1 and "holds no .bin" in done.stderr


def test_the_json_of_a_folder_of_bins_is_one_list(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    (tmp_path / "bins").mkdir()
    for name in ("lfw", "cfp_fp"):
        write_bin(tmp_path / "bins" / f"{name}.bin", [make_jpeg(i) for i in range(20)], [True] * 10)
    for command in ("bin2lmdb", "bin2img"):
        results = json.loads(run(command, tmp_path / "bins", tmp_path / command, "--json").stdout)
        assert [Path(result["out"]).name for result in results] == ["cfp_fp", "lfw"]
        one = run(command, tmp_path / "bins" / "lfw.bin", tmp_path / f"{command}-1", "--json")
        assert json.loads(one.stdout)["pairs"] == 10


@pytest.mark.parametrize("command", ["rec2lmdb", "rec2img", "bin2lmdb", "bin2img"])
def test_a_pipe_is_no_source(tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    done = run(command, tmp_path / "pipe", tmp_path / "out")
    assert done.returncode == 1 and "pipe: is no regular file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_names_that_are_no_utf_8(make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    source = make_rec(5, bad={2: pack_header(0, 3) + b"nothing"})
    odd = os.fsdecode(b"f\xffce")
    try:
        (source / "train.rec").rename(source / f"{odd}.rec")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    write_bin(tmp_path / f"{odd}.bin", [make_jpeg(0), make_jpeg(1)], [True])
    for kind, file in (("rec", source / f"{odd}.rec"), ("bin", tmp_path / f"{odd}.bin")):
        for sink, name in (("lmdb", "out"), ("img", odd)):
            out = tmp_path / f"{kind}{sink}{name}"
            done = run(f"{kind}2{sink}", file, out, "--json")
            assert done.returncode == 0 and "Traceback" not in done.stderr
            assert json.loads(done.stdout)["out"] == str(out)
            if kind == "rec":
                assert json.loads((out / "quarantine.jsonl").read_text())["file"] == "f\\xffce.rec"
        pack = tmp_path / f"{kind}{odd}"  # which LMDB could not open
        done = run(f"{kind}2lmdb", file, pack)
        assert done.returncode == 1 and "path is not UTF-8" in done.stderr
        assert not pack.exists()


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("train.rec", lambda data: data[: len(data) // 2], "points at byte"),
        ("train.rec", lambda data: b"\0" * len(data), "magic"),
        ("train.rec", lambda data: b"", "the file is empty"),
        ("train.idx", lambda data: b"1\t99999999\n", "points at byte 99999999"),
        ("train.idx", lambda data: b"hello\n", "line 1"),
        ("property", lambda data: b"many,faces", "expected classes,height,width"),
    ],
)
def test_bad_sources_end_in_one_line_with_file_and_remedy(
    make_rec: MakeRec, tmp_path: Path, name: str, change: Callable[[bytes], bytes], text: str
) -> None:
    source = make_rec(30)
    (source / name).write_bytes(change((source / name).read_bytes()))
    done = run("rec2lmdb", source, tmp_path / "out")
    assert done.returncode == 1 and done.stdout == ""
    assert text in done.stderr and str(source) in done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "x.bin").write_bytes(b"cos\nsystem\n(S'touch " + bytes(mark) + b"'\ntR.")
    done = run("bin2lmdb", tmp_path / "x.bin", tmp_path / "out")
    assert done.returncode == 1 and "os.system" in done.stderr
    assert not mark.exists()


def start(source: Path, out: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [*FACEPACK, "rec2lmdb", str(source), str(out), "--shard-records", "40", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists() and process.poll() is None:
        time.sleep(0.001)


def test_kill_and_resume_gives_the_same_bytes(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(2500)
    assert run("rec2lmdb", source, tmp_path / "whole", "--shard-records", "40").returncode == 0
    good = contents(tmp_path / "whole")
    rng = random.Random(0)
    out = tmp_path / "out"
    killed = 0
    for _ in range(4):
        process = start(source, out, "--resume")
        wait_for(out / f"train-{rng.randrange(60):03d}.mdb", process)
        time.sleep(rng.random() / 100)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    assert run("rec2lmdb", source, out, "--shard-records", "40", "--resume").returncode == 0
    assert contents(out) == good


def test_a_worker_that_is_killed_ends_the_command_at_once(
    make_rec: MakeRec, tmp_path: Path
) -> None:
    source, out = make_rec(2500), tmp_path / "out"
    assert run("rec2lmdb", source, tmp_path / "whole", "--shard-records", "40").returncode == 0
    process = start(source, out, "--workers", "2")
    wait_for(out / "train-010.mdb", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    spawned = [c for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    os.kill(int(spawned[0]), signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1 and b"a worker process died" in error
    assert b"Traceback" not in error and not (out / "pack.json").exists()
    again = run("rec2lmdb", source, out, "--shard-records", "40", "--resume", "--workers", "2")
    assert again.returncode == 0 and contents(out) == contents(tmp_path / "whole")


def test_ctrl_c_with_workers_says_so_in_one_line(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(2500), tmp_path / "out"
    command = [*FACEPACK, "rec2lmdb", source, out, "--shard-records", "40", "--workers", "2"]
    process = subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.PIPE, start_new_session=True
    )
    wait_for(out / "train-010.mdb", process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and error.count(b"\n") == 1 and b"--resume" in error


def test_ctrl_c_exits_130_and_leaves_a_resumable_target(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(2500), tmp_path / "out"
    process = start(source, out)
    wait_for(out / "train-002.mdb", process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert b"interrupted" in error and b"--resume" in error and b"Traceback" not in error
    assert (out / "plan.json").exists() and not (out / "pack.json").exists()
    assert not list(out.glob("*.part-*")) and not (out / ".lock").exists()
    assert run("rec2lmdb", source, out, "--shard-records", "40", "--resume").returncode == 0


def test_two_conversions_into_one_target(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(2500), tmp_path / "out"
    process = start(source, out)
    wait_for(out / "train-000.mdb", process)
    process.send_signal(signal.SIGSTOP)
    second = run("rec2lmdb", source, out, "--shard-records", "40", "--resume")
    assert second.returncode == 1 and "another process is writing here" in second.stderr
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    assert run("verify", out).returncode == 0


def test_a_full_disk_is_reported_as_that(
    make_rec: MakeRec, make_jpeg: MakeJpeg, tmp_path: Path, small_disk: Path
) -> None:
    source = make_rec(1500)
    (small_disk / "ballast").write_bytes(bytes(3 << 20))
    done = run("rec2lmdb", source, small_disk / "out")
    assert done.returncode == 1
    assert "are needed and" in done.stderr and "free some space" in done.stderr
    # The space may also go while the pack is written.
    from facepack.store.record import SourceRecord
    from facepack.store.shard import ShardBuilder

    builder = ShardBuilder()
    for i in range(1500):
        builder.add(SourceRecord(i, make_jpeg(i % 50), i))
    with pytest.raises(PackError, match=r"the disk is full: free some space.*--resume"):
        builder.write(small_disk, "shard", order="source", seed=0, meta={})
    assert not list(small_disk.rglob("*.mdb*"))


def test_what_is_read_is_never_overwritten(make_rec: MakeRec, tmp_path: Path) -> None:
    source, pack, tree = make_rec(20), tmp_path / "pack", tmp_path / "tree"
    assert run("rec2lmdb", source, pack).returncode == 0
    assert run("shards", pack, "--add", "all", "*").returncode == 0
    assert run("rec2img", source, tree).returncode == 0
    lines = [line.split() for line in (tree / "index.kv").read_text().splitlines()]
    for name in (tmp_path / "some.lst", tree.with_suffix(".lst")):
        name.write_text("".join(f"{k}\t{n}\t{path}\n" for k, (path, n) in enumerate(lines)))
    good = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ("lmdb2lmdb", f"{pack}:all", pack),
        ("lst2img", tmp_path / "some.lst", tree, "--root", tree),
        ("lst2img", tmp_path / "some.lst", tree, "--root", tmp_path),
        ("img2img", tmp_path, tree, "--index", tree / "index.kv"),
        ("img2img", tmp_path, tree),
    ):
        done = run(*words, "--overwrite")
        assert done.returncode == 2 and "choose another target" in done.stderr, words
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == good
    # Beside what is read, there is room.
    assert run("lst2img", tmp_path / "some.lst", tmp_path / "b", "--root", tree).returncode == 0


def test_a_target_of_another_kind_is_not_overwritten(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(20), tmp_path / "out"
    assert run("rec2rec", source, out).returncode == 0
    for command in ("rec2img", "rec2kv", "rec2wds", "rec2lmdb"):
        done = run(command, source, out, "--overwrite")
        assert done.returncode == 1 and "choose another target" in done.stderr, command
    assert sorted(path.name for path in out.iterdir()) == [
        ".facepack",
        "property",
        "train.idx",
        "train.rec",
    ]


def test_a_tree_is_not_overwritten_by_another_kind(make_rec: MakeRec, tmp_path: Path) -> None:
    source, out = make_rec(20), tmp_path / "out"
    assert run("rec2img", source, out).returncode == 0
    names = sorted(path.name for path in out.iterdir())
    for command in ("rec2rec", "rec2kv", "rec2wds", "rec2lmdb"):
        done = run(command, source, out, "--overwrite")
        assert done.returncode == 1 and "choose another target" in done.stderr, command
        assert (
            sorted(path.name for path in out.iterdir())
            == names
            == [".facepack.json", *"0123", "index.kv"]
        )


def test_bins_of_a_folder_stay_files(make_jpeg: MakeJpeg, tmp_path: Path) -> None:
    (tmp_path / "bins").mkdir()
    for name in ("lfw", "cfp_fp"):
        write_bin(tmp_path / "bins" / f"{name}.bin", [make_jpeg(i) for i in range(20)], [True] * 10)
    assert run("bin2bin", tmp_path / "bins", tmp_path / "out").returncode == 0
    assert sorted(contents(tmp_path / "out")) == ["cfp_fp.bin", "lfw.bin"]


def test_wrong_numbers_are_wrong_usage(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(5)
    wrong = ("--seed", "-1"), ("--seed", 1 << 63), ("--sample", "inf"), ("--size", "0")
    for words in wrong:
        assert run("rec2img", source, tmp_path / "out", *words).returncode == 2


def test_a_half_without_identities_is_not_written(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(20)  # five images of each
    done = run("rec2lmdb", source, tmp_path / "out", "--head-tail", "5")
    assert done.returncode == 0 and (tmp_path / "out" / "head" / "pack.json").exists()
    assert not (tmp_path / "out" / "tail").exists() and "tail is not written" in done.stderr
    done = run("rec2lmdb", source, tmp_path / "none", "--head-tail", "5", "--identities", "50:60")
    assert done.returncode == 1 and "choose more loosely" in done.stderr.splitlines()[-1]


def test_names_of_strangers_cannot_write_lines_of_their_own(
    make_jpeg: MakeJpeg, tmp_path: Path
) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "0_0.zip", "w") as file:
        file.writestr("faces/ann/1.jpg", make_jpeg(0))
        file.writestr("\x1b[31mevil\nfacepack: all good.txt", "?")
        file.writestr("faces/p/\n.jpg", b"no image")
    done = run("zip2lmdb", tmp_path / "0_0.zip", tmp_path / "out")
    assert done.returncode == 0 and "\x1b" not in done.stderr
    assert "evil\\nfacepack: all good" in done.stderr
    strict = run("zip2lmdb", tmp_path / "0_0.zip", tmp_path / "strict", "--strict")
    assert strict.returncode == 1 and len(strict.stderr.splitlines()) == 1


def test_a_password_file_without_a_password(tmp_path: Path, make_jpeg: MakeJpeg) -> None:
    (tmp_path / "empty").write_text("\nwebface\n")
    done = run("zip2lmdb", "x.zip", tmp_path / "out", "--password-file", tmp_path / "empty")
    assert done.returncode == 1 and "its first line is empty" in done.stderr
