"""``torchrun -m facepack.train`` as a user runs it: output, exit codes, a rank that is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SETTINGS = {
    "backbone": "tiny",
    "features": 16,
    "batch_size": 8,
    "lr": 0.05,
    "threads": 1,
    "log_every": 1,
}


def start(shards: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    own = ["--shards", str(shards), "--out", str(out), "--device=cpu", *settings, *more]
    return subprocess.Popen(
        [*TORCHRUN, "-m", "facepack.train", *own],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def ranks_of(launcher: int) -> list[int]:
    """The processes that the launcher started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(child) for child in children]


def wait_for_lines(process: subprocess.Popen[str], file: Path, lines: int) -> None:
    while process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)


def exit_codes(said: str) -> dict[int, int]:
    """What each rank that failed ended with, from the launcher's report."""
    found = re.findall(r"rank *: (\d+) \(local.*\n *exitcode *: (-?\d+)", said)
    return {int(rank): int(code) for rank, code in found}


def test_each_rank_says_and_ends_as_it_means(pack_path: Path, tmp_path: Path) -> None:
    process = start(pack_path, tmp_path / "run", "--set=batch_size=9")
    _, said = process.communicate(timeout=120)
    assert exit_codes(said) == {0: 2, 1: 1}, said
    assert said.count("facepack train: batch_size = 9 does not divide by 2 ranks") == 1


# Rank 1 ends by an error and leaves a collective behind, which the first rank enters only when the
# other's interpreter is about to end: a thread of rank 1 then waits to let go of a tensor, behind a
# function that keeps the interpreter to itself.
LEAVING = """
import atexit
atexit.register(sum, range(10**8))  # runs as the last of all that is registered
import os, sys, time
from pathlib import Path
import torch
from facepack.train.ranks.group import Ranks, keep_exit_code

ending = Path(sys.argv[1]) / "ending"
atexit.register(ending.touch)
with keep_exit_code(), Ranks.from_environment(torch.device("cpu")) as ranks:
    other = ranks.gather_objects(os.getpid())[1]
    if ranks.rank == 1:
        ranks.start_all_reduce(torch.ones(3))
        raise RuntimeError("nobody was told")
    while Path(f"/proc/{other}").exists() and not ending.exists():
        time.sleep(0.01)
    ranks.all_reduce(torch.ones(3))
    time.sleep(60)
"""


def test_untold_error_keeps_its_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    process = subprocess.run(
        [*TORCHRUN, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert exit_codes(process.stderr)[1] == 1, process.stderr
    assert "RuntimeError: nobody was told" in process.stderr


def test_a_killed_rank_ends_the_others_and_the_run_goes_on(pack_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(pack_path, out, "--set=steps=100000", "--set=checkpoint_every=2")
    wait_for_lines(process, out / "metrics.jsonl", 3)
    ranks = ranks_of(process.pid)
    assert len(ranks) == 2, process.communicate()[1]
    os.kill(ranks[1], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0, said
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    assert said.count("training tiny (") == 1
    saved = torch.load(out / "checkpoint.pt", weights_only=True)
    assert saved["step"] >= 2 and saved["ranks"] == 2

    more = ("--resume", "--json", f"--max-steps={saved['step'] + 2}")
    process = start(pack_path, out, "--set=steps=100000", *more)
    output, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    (line,) = output.splitlines()
    summary = json.loads(line)
    assert (summary["stopped"], summary["images"]) == ("max_steps", 16)
    assert f"resuming {out} at step {saved['step']:,} of 100,000" in said
