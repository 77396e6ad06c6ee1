"""Labels that leave most numbers out: what they cost a classification head."""

from __future__ import annotations

_SIZE = 512  # numbers of a class centre in nearly every recipe
_FEW = 1000  # classes too many, some 6 MB of a head and its optimizer: not worth a note


def note_on_gaps(identities: int, classes: int) -> str | None:
    """What to say if a head over ``classes`` is far wider than ``identities`` need; else None."""
    if not identities or classes - identities <= _FEW or classes <= 2 * identities:
        return None
    size = 4 * _SIZE * classes
    return (
        f"{identities:,} identities have labels up to {classes - 1:,}: a head of {classes:,} "
        f"classes takes {_bytes(size)}, and about {_bytes(3 * size)} with gradients and "
        "momentum; a conversion with --min-images 1 numbers identities without gaps (of a pack: "
        "facepack lmdb2lmdb PACK OUT --min-images 1)"
    )


def _bytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"
