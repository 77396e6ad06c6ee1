"""Two builds of facepack side by side: one of the other scripts here, run from both by turns.

    python benchmarks/builds.py OLD NEW convert.py --rounds 5 -- --records 400000
    python benchmarks/builds.py OLD NEW loader.py --rounds 15 -- PACK
    python benchmarks/builds.py OLD NEW reading.py -- --only "pack blocks" --pack PACK
    python benchmarks/builds.py OLD NEW convert.py --script-of-new -- --only tar2lmdb pieces

OLD and NEW are checkouts whose environments lie in ``.venv``; each runs its own copy of the script
(or that of NEW, where only it has what is measured), one round at a time, and goes first in every
other round. A ratio is the old build's seconds over
the new one's, of one round: above 1 means that NEW is faster. What follows ``--`` goes to the
script.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    words, rest = sys.argv[1:], []
    if "--" in words:
        cut = words.index("--")
        words, rest = words[:cut], words[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("script", choices=[*SECONDS])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--script-of-new", action="store_true", help="both run NEW's copy")
    parser.add_argument("--json", type=Path, help="write the seconds of all rounds here too")
    options = parser.parse_args(words)

    builds = {"old": options.old.resolve(), "new": options.new.resolve()}
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(-1, options.rounds):  # the first warms up, and makes the data
        turn = {}
        for name in ("old", "new") if number % 2 else ("new", "old"):
            scripts = builds["new" if options.script_of_new else name] / "benchmarks"
            turn[name] = SECONDS[options.script](run(builds[name], scripts / options.script, rest))
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        if number >= 0:
            rounds.append(turn)

    commits = {name: commit(build) for name, build in builds.items()}
    print(f"{options.script}: old {commits['old']}, new {commits['new']}, n = {len(rounds)}")
    for what in rounds[0]["new"]:
        if all(what in build for turn in rounds for build in turn.values()):
            ratios = sorted(turn["old"][what] / turn["new"][what] for turn in rounds)
            median = statistics.median(ratios)
            print(f"{median:7.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f})  {what}")
        else:
            print(f"      –  {what}: not in both builds")
    if options.json:
        options.json.write_text(json.dumps({"commits": commits, "rounds": rounds}, indent=1))


def run(build: Path, script: Path, rest: list[str]) -> dict[str, Any]:
    """The figures that one round of a build's script writes."""
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.json"
        python = build / ".venv" / "bin" / "python"
        command = [python, script, *rest, "--rounds", 1, "--json", figures]
        subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
        return dict(json.loads(figures.read_text()))


def commit(build: Path) -> str:
    """The commit that a checkout stands at."""
    command = ["git", "-C", str(build), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def of_conversion(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds by the clock, and those of the processors for a gigabyte, of each command."""
    seconds = {}
    for name, trial in figures.items():
        if isinstance(trial, dict):
            seconds[name] = trial["seconds"][0]
            seconds[f"{name}, CPU"] = trial["cpu_seconds_per_gb"]
    return seconds


def of_loader(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds an image of each stage."""
    return {stage["name"]: 1 / stage["rates"][0] for stage in figures["stages"]}


def of_reading(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds a byte of each order."""
    return {
        name: trials[0]["seconds"] / trials[0]["bytes"]
        for name, trials in figures["figures"].items()
    }


SECONDS: dict[str, Callable[[dict[str, Any]], dict[str, float]]] = {
    "convert.py": of_conversion,
    "loader.py": of_loader,
    "reading.py": of_reading,
}

if __name__ == "__main__":
    main()
