"""What tables and pages call models and runs: a path would tell where a user works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_SAY_NOTHING = ("model.pt", "results.json", "metrics.jsonl")  # alike in every run


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell it from the others; a number where all do not.

    A file that is called alike in every run is named with its folder.
    """
    parts = [path.resolve().parts for path in paths]
    lengths = {of: 2 if of[-1] in _SAY_NOTHING else 1 for of in parts}
    while True:
        names = {of: "/".join(of[-length:]) for of, length in lengths.items()}
        said = Counter(names.values())
        unclear = [of for of, name in names.items() if said[name] > 1 and lengths[of] < len(of) - 1]
        if not unclear:
            break
        for of in unclear:
            lengths[of] += 1
    seen: Counter[str] = Counter()
    numbered = []
    for of in parts:
        name = names[of]
        seen[name] += 1
        numbered.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return numbered
