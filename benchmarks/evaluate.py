"""Scores of whole sets beside the bare products, and IJB-C beside the published functions.

    python benchmarks/evaluate.py                                   # every part, at its real size
    python benchmarks/evaluate.py --only all-to-all --size 30000
    python benchmarks/evaluate.py --only ijb --arcface-torch DIR    # needs scikit-learn

``all-to-all``: exact TAR at FAR 1e-6 and 1e-4 of 100,000 embeddings of 512 features, beside the
products of the same tiles (the upper triangle), whose scores nobody sees. ``megaface``: a search
for each mate of 3,530 probes of 80 people among 1,000,000 distractors, and TAR at 1e-6 in the same
pass, beside the products. ``ijb``: templates, scores of 15,658,489 pairs and the TAR table of
469,375 embeddings, beside ``image2template_feature`` and ``verification`` of InsightFace's
``eval_ijbc.py`` and its reading of scikit-learn's ``roc_curve``, on the same arrays. Embeddings are
drawn: a direction for each person, and noise.

All take turns in rounds; a ratio is of one round. Seconds are of the clock; beside them stand those
of the processors, which tell the work where others use the machine as well. Threads that wait for
each other do not spin (OMP_WAIT_POLICY=PASSIVE), for all alike: on a busy machine what spins would
take the processor from the thread that is waited for.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported

import numpy as np
import torch

from facepack.evaluate.scores.identification import Identification
from facepack.evaluate.scores.listed import READINGS
from facepack.evaluate.scores.matching import Matching
from facepack.evaluate.scores.pairs import pair_scores
from facepack.evaluate.scores.pooling import pool_templates
from facepack.evaluate.scores.verification import verify

FEATURES = 512
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
PARTS = ("all-to-all", "megaface", "ijb")

Figures = dict[str, list[dict[str, float]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--size", type=int, help="embeddings, distractors, or pairs, of --only one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arcface-torch", type=Path, help="the folder that holds eval_ijbc.py")
    parser.add_argument("--folder", type=Path, default=Path("bench"), help="for ijb's arrays")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(json.dumps(ijb_trial(options.trial, options.folder, options.arcface_torch)))
        return
    if options.arcface_torch and importlib.util.find_spec("sklearn") is None:
        sys.exit(
            "the published functions need scikit-learn: pip install scikit-learn, or leave "
            "--arcface-torch out"
        )
    figures: dict[str, Figures] = {}
    for part in options.only:
        print(f"{part}:", file=sys.stderr)
        figures[part] = RUNS[part](options)
        for line in summary(figures[part]):
            print(f"{part}: {line}")
    setting = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "rounds": options.rounds,
    }
    print(", ".join(f"{key} {value}" for key, value in setting.items()))
    if options.json:
        options.json.write_text(json.dumps({"setting": setting, "figures": figures}, indent=1))


def drawn(labels: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Embeddings of unit length, of which ``share`` of the square is the person's direction."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((int(labels.max()) + 1, FEATURES), dtype=np.float32)
    embeddings = rng.standard_normal((len(labels), FEATURES), dtype=np.float32)
    embeddings *= np.float32((1 - share) ** 0.5)
    for start in range(0, len(labels), 65_536):
        some = slice(start, start + 65_536)
        embeddings[some] += np.float32(share**0.5) * centres[labels[some]]
    return embeddings


def take_turns(trials: dict[str, Callable[[], object]], rounds: int) -> Figures:
    """Seconds of each, in rounds."""
    figures: Figures = {name: [] for name in trials}
    for number in range(rounds):
        for name, trial in trials.items():
            clock, processors = time.perf_counter(), time.process_time()
            said = trial()
            seconds = time.perf_counter() - clock
            figures[name].append({"seconds": seconds, "cpu": time.process_time() - processors})
            print(f"  round {number + 1}: {name} {seconds:.1f} s, {said}", file=sys.stderr)
    return figures


def summary(figures: Figures) -> list[str]:
    """Medians with least and largest, and the ratios of the first to each other, by round."""
    lines = []
    for name, rows in figures.items():
        cells = [
            f"{what} {spread([row[what] for row in rows])}"
            for what in ("seconds", "cpu", "MB")
            if what in rows[0]
        ]
        lines.append(f"{name}: {', '.join(cells)} (n = {len(rows)})")
    first, *others = figures
    for name in others:
        for what in figures[first][0]:
            ratios = [a[what] / b[what] for a, b in zip(figures[first], figures[name], strict=True)]
            lines.append(f"{first} / {name}, {what}: {spread(ratios, 3)}")
    return lines


def spread(values: list[float], digits: int = 1) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def multiply(matching: Matching) -> Callable[[], str]:
    """The products of a matching's tiles into one buffer, and nothing else."""

    def run() -> str:
        block, left, right = matching.block, matching.first.units, matching.second.units
        buffer = torch.empty(block * block)
        with torch.inference_mode():
            for row in range(0, len(left), block):
                for column in range(row if matching.is_of_one_set else 0, len(right), block):
                    a, b = left[row : row + block], right[column : column + block]
                    torch.mm(a, b.T, out=buffer[: len(a) * len(b)].view(len(a), len(b)))
        return "nothing"

    return run


def all_to_all(options: argparse.Namespace) -> Figures:
    labels = np.arange(options.size or 100_000) // 10
    matching = Matching.all_to_all(drawn(labels, share=0.2, seed=0), labels)

    def run() -> str:
        found = verify(matching, (1e-6, 1e-4))
        return ", ".join(f"TAR@{far:g} {point.tar:.4f}" for far, point in found.points.items())

    return take_turns({"products": multiply(matching), "facepack": run}, options.rounds)


def megaface(options: argparse.Namespace) -> Figures:
    labels = np.sort(np.arange(3530) % 80)
    nobody = np.arange(options.size or 1_000_000)
    probes = drawn(labels, share=0.25, seed=1)
    rng = np.random.default_rng(2)
    distractors = rng.standard_normal((len(nobody), FEATURES), dtype=np.float32)
    matching = Matching.with_distractors(probes, labels, distractors)
    del distractors

    def run() -> str:
        identification = Identification(matching, each_mate=True)
        found = verify(matching, [1e-6], also=identification.collectors)
        rank_1 = identification.searches().share(1)
        return f"rank-1 {rank_1:.4f}, TAR@1e-6 {found.points[1e-6].tar:.4f}"

    return take_turns({"products": multiply(matching), "facepack": run}, options.rounds)


IMAGES, GALLERY, PROBES, PAIRS, MATES = 469_375, 3_531, 19_593, 15_658_489, 19_557
_ARRAYS = ("embeddings", "scores", "templates", "media", "pairs")


def ijb(options: argparse.Namespace) -> Figures:
    """Each trial in a process of its own, which tells what memory it took beyond the arrays."""
    folder = options.folder / "ijb"
    if not (folder / "pairs.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in draw_ijb(options.size or PAIRS).items():
            np.save(folder / f"{name}.npy", array)
    names = ["facepack", "facepack published", *(["published"] if options.arcface_torch else [])]
    figures: Figures = {name: [] for name in names[::-1]}
    for number in range(options.rounds):
        for name, rows in figures.items():
            words = [sys.executable, __file__, "--trial", name, "--folder", folder]
            if options.arcface_torch:
                words += ["--arcface-torch", options.arcface_torch]
            told = json.loads(subprocess.check_output([str(word) for word in words]))
            print(f"  round {number + 1}: {name} {told.pop('tar')}, {told}", file=sys.stderr)
            rows.append(told)
    return figures


def draw_ijb(pairs: int) -> dict[str, np.ndarray]:
    """Arrays of IJB-C's sizes: probes of a gallery's people, each with one mate and many others."""
    rng = np.random.default_rng(3)
    people = np.concatenate([np.arange(GALLERY), rng.integers(0, GALLERY, PROBES - 1)])
    count = len(people)
    templates = np.sort(np.concatenate([np.arange(count), rng.integers(0, count, IMAGES - count)]))
    media = rng.integers(0, 60_000, IMAGES)
    embeddings = drawn(people[templates], share=0.01, seed=4)
    embeddings *= rng.uniform(5, 30, (IMAGES, 1)).astype(np.float32)
    probes = np.arange(GALLERY, count)[:MATES]
    # A sorted choice of distinct pairs of gallery and probe, and every probe with its mate.
    chosen = np.unique(rng.integers(0, GALLERY * len(probes), pairs * 9 // 8))
    chosen = np.sort(rng.permutation(chosen)[: pairs - len(probes)])
    first = np.concatenate([people[probes], chosen // len(probes)])
    second = np.concatenate([probes, probes[chosen % len(probes)]])
    order = np.argsort(first, kind="stable")
    same = people[first] == people[second]
    return {
        "embeddings": embeddings,
        "scores": rng.uniform(0.3, 1, IMAGES).astype(np.float32),
        "templates": templates.astype(np.int32),
        "media": media.astype(np.int32),
        "pairs": np.stack([first, second, same], axis=1)[order].astype(np.int32),
    }


def ijb_trial(name: str, folder: Path, arcface_torch: Path | None) -> dict[str, Any]:
    arrays = {each: np.load(folder / f"{each}.npy") for each in _ARRAYS}
    for array in arrays.values():
        array.sum()  # all of them are in memory now
    if name == "published":
        assert arcface_torch is not None
        run = published(arcface_torch)
    else:
        reading = READINGS["published" if name.endswith("published") else "exact"]

        def run(embeddings, scores, templates, media, pairs):  # type: ignore[no-untyped-def]
            return table(reading, embeddings, scores, templates, media, pairs)

    # A process begins with the peak of the one that started it: it is put back to what is held now.
    Path("/proc/self/clear_refs").write_text("5")
    before, clock, processors = peak_mb(), time.perf_counter(), time.process_time()
    tars = run(*arrays.values())
    return {
        "seconds": time.perf_counter() - clock,
        "cpu": time.process_time() - processors,
        "MB": peak_mb() - before,
        "tar": [round(float(tar), 6) for tar in tars],
    }


def table(
    reading: Any,
    embeddings: np.ndarray,
    scores: np.ndarray,
    templates: np.ndarray,
    media: np.ndarray,
    pairs: np.ndarray,
) -> list[float | None]:
    pooled = pool_templates(
        embeddings,
        template_ids=templates,
        media_ids=media,
        weights=scores,
        usable=np.ones(len(scores), bool),
    )
    first, second = (pooled.positions(pairs[:, side]) for side in (0, 1))
    points = reading(pair_scores(pooled.units, first, second), pairs[:, 2] == 1, FARS)
    return [points[far].tar for far in FARS]


def published(folder: Path) -> Callable[..., list[float]]:
    """The functions of eval_ijbc.py, taken out of the script, which runs when it is imported."""
    import sklearn.metrics
    import sklearn.preprocessing

    tree = ast.parse((folder / "eval_ijbc.py").read_text(encoding="utf-8"))
    names = ("image2template_feature", "verification")
    wanted: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    space: dict[str, Any] = {"np": np, "sklearn": sklearn, "print": lambda *_: None}
    exec(compile(ast.Module(wanted, []), "eval_ijbc.py", "exec"), space)

    def run(embeddings, scores, templates, media, pairs):  # type: ignore[no-untyped-def]
        weighted = embeddings * scores[:, None]
        units, unique = space["image2template_feature"](weighted, templates, media)
        found = space["verification"](units, unique, pairs[:, 0], pairs[:, 1])
        far, tar, _ = sklearn.metrics.roc_curve(pairs[:, 2], found)
        far, tar = np.flipud(far), np.flipud(tar)
        return [tar[np.argmin(np.abs(far - wanted))] for wanted in FARS]

    return run


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


RUNS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "all-to-all": all_to_all,
    "megaface": megaface,
    "ijb": ijb,
}

if __name__ == "__main__":
    main()
