"""Work side by side: the same bytes, errors at once, no orphans; and on a real Dask cluster."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facepack.convert import workers as module
from facepack.convert.doing import say
from facepack.convert.formats.pack.sink import PackOptions, convert_to_pack
from facepack.convert.formats.rec.recordio import pack_header
from facepack.convert.formats.rec.source import RecSource
from facepack.convert.formats.tree.tree_sink import TreeOptions, convert_to_tree
from facepack.convert.workers import Workers, run_early, started_early, suitable_count
from facepack.errors import PackError, SourceError, WorkerError
from facepack.processors import usable_processors

MakeRec = Callable[..., Path]


def contents(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def double(x: int) -> int:
    return 2 * x


def fail_at_three(x: int) -> int:
    if x == 3:
        raise SourceError("three is broken: choose another")
    return x


def die_at_three(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return x


def pid_after(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_task_is_done_once(count: int) -> None:
    with Workers(count) as workers:
        assert sorted(workers.run(double, ((x,) for x in range(20)))) == [
            (x, 2 * x) for x in range(20)
        ]
        assert list(workers.run(double, [])) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_a_task_is_raised_here(count: int) -> None:
    with pytest.raises(SourceError, match="three is broken"), Workers(count) as workers:
        list(workers.run(fail_at_three, ((x,) for x in range(100))))


def test_a_worker_that_dies_is_noticed_and_the_remedy_named() -> None:
    with pytest.raises(WorkerError, match=r"worker process died.*--resume"), Workers(2) as workers:
        list(workers.run(die_at_three, ((x,) for x in range(1000))))


def abort_at_three(x: int) -> int:
    say(f"faces.parquet: row group {x}")
    if x == 3:
        os.abort()
    time.sleep(0.01)
    return x


def test_what_a_worker_read_when_a_crash_ended_it_is_named() -> None:
    with pytest.raises(WorkerError) as caught, Workers(2) as workers:
        list(workers.run(abort_at_three, ((x,) for x in range(1000))))
    told = "a worker process died (Aborted) while it read faces.parquet: row group 3: "
    assert str(caught.value).startswith(told) and "--resume" in str(caught.value)


def test_processes_that_were_started_early_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORTH_A_PROCESS", 100)
    (tmp_path / "source.rec").write_bytes(bytes(1000))
    for paths in ([tmp_path], [tmp_path / "source.rec"]):
        with started_early(paths, 2, ["json"]):
            assert module._early is not None and module._early.count == 2
            early = set(module._early.executor._processes)
            with Workers(2) as workers:
                pids = {pid for _, pid in workers.run(pid_after, ((0.05,) for _ in range(20)))}
            assert pids <= early and module._early is None
    with started_early([tmp_path], 2, ["json"]):
        assert module._early is not None
        running = set(module._early.executor._processes)
        with Workers(3) as workers:
            pids = {pid for _, pid in workers.run(pid_after, ((0.05,) for _ in range(20)))}
        assert not pids & running
    assert module._early is None and not any(is_running(pid) for pid in running)
    for paths, count in (([tmp_path / "none"], 2), ([tmp_path], 1)):
        with started_early(paths, count, ["json"]):
            assert module._early is None


def pid_or_fault(x: float) -> tuple[float, int]:
    time.sleep(0.02)
    if x < 0:
        raise SourceError(f"file {x} is damaged")
    return x, os.getpid()


def test_files_are_looked_at_by_the_processes_that_were_started_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORTH_A_PROCESS", 100)
    (tmp_path / "source.zip").write_bytes(bytes(1000))
    tasks = [(float(x),) for x in range(12)]
    here = list(run_early(pid_or_fault, tasks))
    assert here == [(x, os.getpid()) for (x,) in tasks]
    with started_early([tmp_path], 2, ["json"]):
        assert list(run_early(pid_or_fault, tasks[:1])) == here[:1]  # one is not worth the way
        assert module._early is not None
        early = set(module._early.executor._processes)
        there = list(run_early(pid_or_fault, tasks))
        assert [x for x, _ in there] == [x for (x,) in tasks]
        assert {pid for _, pid in there} <= early
        with pytest.raises(SourceError, match=r"file -3\.0 is damaged"):
            list(run_early(pid_or_fault, [(1.0,), (-3.0,), (2.0,), (-5.0,)]))
        with Workers(2) as workers:  # they are still there for what is planned then
            pids = {pid for _, pid in workers.run(pid_after, ((0.05,) for _ in range(20)))}
        assert pids <= early


def test_a_death_while_files_are_looked_at_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORTH_A_PROCESS", 100)
    (tmp_path / "source.zip").write_bytes(bytes(1000))
    with (
        started_early([tmp_path], 2, ["json"]),
        pytest.raises(WorkerError, match="a worker process died"),
    ):
        list(run_early(os._exit, [(3,), (3,)]))


EARLY = """
import sys, threading
from pathlib import Path
from facepack import cli
from facepack.convert import workers
method, *words = sys.argv[1:]
workers._WORTH_A_PROCESS = 100
take = workers._take_processes
def told(count):
    processes = take(count)
    print(processes.executor._mp_context.get_start_method(), file=sys.stderr)
    return processes
if __name__ == "__main__":
    if method == "spawn":  # as a library's thread, of whose locks nobody knows
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    workers._take_processes = told
    sys.argv[1:] = words
    cli.main()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_early_processes_are_forks_where_no_other_thread_runs(
    make_rec: MakeRec, tmp_path: Path, method: str
) -> None:
    if method == "fork" and not (sys.platform == "linux" and sys.version_info >= (3, 10, 5)):
        pytest.skip("only Linux tells of all threads, and executors of 3.10.4 fork beside one")
    source = make_rec(300, bad={7: b"short"})
    (tmp_path / "early.py").write_text(EARLY)
    words = ["rec2lmdb", source, tmp_path / "out", "--workers", "2", "--shard-records", "40"]
    done = subprocess.run(
        [sys.executable, tmp_path / "early.py", method, *words],
        check=True,
        capture_output=True,
        text=True,
    )
    assert method in done.stderr.splitlines()
    convert_to_pack(RecSource(source), tmp_path / "here", PackOptions(shard_records=40))
    assert contents(tmp_path / "out") == contents(tmp_path / "here")


@pytest.mark.parametrize("early", [False, True])
def test_workers_end_with_their_parent(tmp_path: Path, early: bool) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import os, sys, time\n"
        "from contextlib import nullcontext\n"
        "from pathlib import Path\n"
        "from facepack.convert import workers\n"
        "sys.path.insert(0, os.path.dirname(__file__))\n"
        "from task import work\n"
        "workers._WORTH_A_PROCESS = 1\n"
        "if __name__ == '__main__':\n"
        "    start = workers.started_early([Path(__file__)], 2, ['task'])\n"
        f"    with start if {early} else nullcontext(), workers.Workers(2) as pool:\n"
        "        for _, pid in pool.run(work, [(0,), (0,), (600,), (600,)]):\n"
        "            print(pid, flush=True)\n"
    )
    (tmp_path / "task.py").write_text(
        "import os, time\n"
        "def work(seconds):\n"
        "    time.sleep(seconds + 0.3)\n"
        "    return os.getpid()\n"
    )
    parent = subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = {int(parent.stdout.readline()), int(parent.stdout.readline())}
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_how_many_processes_pay() -> None:
    assert suitable_count(1000) == 1
    assert suitable_count(1 << 60) == usable_processors() >= 1


def test_workers_make_the_same_pack_and_the_same_tree(make_rec: MakeRec, tmp_path: Path) -> None:
    bad = {7: b"short", 150: pack_header(9, 151) + b"?"}
    source = make_rec(300, bad=bad)
    for count in (1, 2):
        pack = PackOptions(shard_records=40, workers=count)
        result = convert_to_pack(RecSource(source), tmp_path / f"pack{count}", pack)
        assert (result.packed, result.quarantined) == (298, 2)
        tree = TreeOptions(workers=count)
        convert_to_tree(RecSource(source), tmp_path / f"tree{count}", tree)
    assert contents(tmp_path / "pack1") == contents(tmp_path / "pack2")
    assert contents(tmp_path / "tree1") == contents(tmp_path / "tree2")


def test_strict_stops_workers_too(make_rec: MakeRec, tmp_path: Path) -> None:
    source = make_rec(300, bad={150: pack_header(9, 151) + b"?"})
    options = PackOptions(shard_records=40, workers=2, strict=True)
    with pytest.raises(SourceError, match=r"record 150 .*--strict"):
        convert_to_pack(RecSource(source), tmp_path / "out", options)
    assert not (tmp_path / "out" / "pack.json").exists()
    lenient = PackOptions(shard_records=40, workers=2, resume=True)
    assert convert_to_pack(RecSource(source), tmp_path / "out", lenient).packed == 299


# Dask ---------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler on loopback and two worker processes: its address, and the workers."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("the extra dask is not installed")
    import json

    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = ["--no-dashboard", "--scheduler-file", str(file)]
    ours = {**os.environ, "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "False"}
    scheduler = subprocess.Popen(
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *quiet],
        env=ours,
        stderr=subprocess.DEVNULL,
    )
    workers: list[subprocess.Popen[bytes]] = []
    try:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert scheduler.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        command = [*dask, "worker", "--nthreads", "1", "--no-nanny", *quiet]
        command += ["--local-directory", str(tmp_path)]
        for _ in range(2):
            workers.append(subprocess.Popen(command, env=ours, stderr=subprocess.DEVNULL))
        yield json.loads(file.read_text())["address"], workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_a_dask_cluster_that_loses_a_worker_makes_the_same_pack(
    make_rec: MakeRec,
    tmp_path: Path,
    cluster: tuple[str, list[subprocess.Popen[bytes]]],
) -> None:
    import threading

    address, workers = cluster
    source, out = make_rec(3000), tmp_path / "dask"
    convert_to_pack(RecSource(source), tmp_path / "here", PackOptions(shard_records=30))

    def kill_one() -> None:
        while not (out / "train-020.mdb").exists():
            time.sleep(0.001)
        workers[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    options = PackOptions(shard_records=30, dask=address)
    result = convert_to_pack(RecSource(source), out, options)
    killer.join()
    assert workers[0].wait() == -signal.SIGKILL and workers[1].poll() is None
    assert result.packed == 3000
    assert contents(out) == contents(tmp_path / "here")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "foo://bar:1", ""])
def test_no_scheduler_is_an_error_in_one_line(
    make_rec: MakeRec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("the extra dask is not installed")
    monkeypatch.setattr(module, "_CONNECT", 0.5)
    options = PackOptions(dask=address, shard_records=3)
    with pytest.raises(WorkerError, match=f"no Dask scheduler .* answers at {address}: start one"):
        convert_to_pack(RecSource(make_rec(10)), tmp_path / "out", options)


def test_a_target_that_cannot_be_written_stops_workers(make_rec: MakeRec, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-003.mdb").mkdir()  # the rename onto it fails
    (out / "plan.json").write_text("{}")
    with pytest.raises(PackError):
        convert_to_pack(
            RecSource(make_rec(300)), out, PackOptions(shard_records=40, workers=2, overwrite=True)
        )


def test_a_script_without_a_guard_is_told_of_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from facepack.convert.workers import Workers\n"
        "from facepack.processors import usable_processors\n"
        "with Workers(2) as workers:\n"
        "    list(workers.run(usable_processors, [(), ()]))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no worker process could start" in done.stderr and "__name__ ==" in done.stderr


class Apart(RuntimeError):
    """As Dask raises when its scheduler has gone: without a word."""


def go_apart() -> None:
    raise Apart


def test_a_cluster_that_is_gone_is_named(cluster: tuple[str, object]) -> None:
    with (
        pytest.raises(WorkerError, match=r"failed on the Dask cluster: .*\w.*; run .* --resume"),
        Workers(1, cluster[0]) as workers,
    ):
        list(workers.run(go_apart, [()]))
