"""Tables of evaluation sets, when the images that they speak of move.

A table beside a pack speaks of images in one of three ways:

===================== ================ ===========================================================
tables                columns          what they hold
===================== ================ ===========================================================
``pairs``             (P, 3 or 4)      position, position, 1 for the same person, perhaps the fold
``gallery_*``         (rows, 3)        template, subject, position (-1: not among the images)
``probe_*``           (rows, 3)        template, subject, position (-1: not among the images)
``landmarks``         (images, 5, 2)   x and y of five points, a row for each position
``scores``            (images,)        of the detector
``template_ids``      (images,)        the template that an image belongs to
``media_ids``         (images,)        the medium that an image is from
``sets``              (images,)        which of several sets an image belongs to
``noisy``             (images,)        whether a noise list names the image
``template_pairs``    (P, 3)           template, template, 1 for the same person: no positions
===================== ================ ===========================================================
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from facepack.errors import NothingChosenError, SourceError

_BY_IMAGE = ("landmarks", "scores", "template_ids", "media_ids", "sets", "noisy")
_WITHOUT_IMAGES = ("template_pairs",)


def is_known(name: str) -> bool:
    """Whether it is known how the table ``name`` speaks of images."""
    return bool(_position_columns(name)) or name in (*_BY_IMAGE, *_WITHOUT_IMAGES)


def move_tables(
    tables: Mapping[str, np.ndarray], positions: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The tables that say of images at their new positions what ``tables`` said at the old ones.

    Of images that are no longer there, rows and pairs are left out; galleries and probes keep their
    rows, which then point at no image.

    Args:
        tables: by name; all are known.
        positions: (n,) new position of the image at each old one, -1 where it is not taken along;
            the others are 0 to m - 1, each once.

    Returns:
        The tables, and notices of what was left out.

    Raises:
        SourceError: a table has not the shape that its name stands for, or points at no image.
        NothingChosenError: no pair is left.
    """
    moved: dict[str, np.ndarray] = {}
    notices: list[str] = []
    for name, table in tables.items():
        if columns := _position_columns(name):
            moved[name] = _point_anew(name, table, columns, positions)
            there = np.count_nonzero((moved[name][:, columns] >= 0).all(axis=1))
            if name == "pairs":
                require_pairs(int(there), len(table))
            if lost := np.count_nonzero((table[:, columns] >= 0).all(axis=1)) - there:
                notices.append(lost_rows(name, lost, len(table)))
        elif name in _BY_IMAGE:
            moved[name] = _arrange(name, table, positions)
        else:
            moved[name] = table
    return moved, notices


def _position_columns(name: str) -> tuple[int, ...]:
    if name == "pairs":
        return (0, 1)
    return (2,) if name.startswith(("gallery_", "probe_")) else ()


def _point_anew(
    name: str, table: np.ndarray, columns: tuple[int, ...], positions: np.ndarray
) -> np.ndarray:
    widths = (3, 4) if name == "pairs" else (3,)
    if table.ndim != 2 or table.shape[1] not in widths or table.dtype.kind not in "iu":
        raise SourceError(
            f"{name}.npy: {table.dtype} of shape {table.shape}, not integers (rows, 3); "
            "copy the pack again or convert again"
        )
    old = table[:, columns].astype(np.int64)
    lowest = 0 if name == "pairs" else -1
    if old.size and not lowest <= old.min() <= old.max() < len(positions):
        raise SourceError(
            f"{name}.npy: a position lies outside the {len(positions)} images; "
            "copy the pack again or convert again"
        )
    new = np.where(old < 0, -1, positions[old])
    there = (new >= 0).all(axis=1) | (name != "pairs")
    # A narrow type is widened where the new positions reach beyond it.
    kind = np.promote_types(table.dtype, np.min_scalar_type(int(new.max(initial=0))))
    moved = table.astype(kind)
    moved[:, columns] = new
    return moved[there]


def _arrange(name: str, table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    if len(table) != len(positions):
        raise SourceError(
            f"{name}.npy: {len(table)} rows for {len(positions)} images; "
            "copy the pack again or convert again"
        )
    return arrange(table, positions)


def arrange(table: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The rows of ``table`` (n, …), one of each record, in the order of ``positions`` (n,).

    Those at -1 are left out.
    """
    there = positions >= 0
    moved = np.empty((np.count_nonzero(there), *table.shape[1:]), table.dtype)
    moved[positions[there]] = table[there]
    return moved


def require_pairs(left: int, of: int) -> None:
    """Make sure that a verification set of ``of`` pairs, of which ``left`` are left, still is one.

    Raises:
        NothingChosenError: none is left.
    """
    if not left:
        raise NothingChosenError(
            f"none of the {of:,} pairs is left, for an image of each is left out: choose more "
            "loosely, or repair the images"
        )


def lost_rows(name: str, lost: int, of: int) -> str:
    """The notice that as many rows of table ``name`` are of no use: their images are left out."""
    if name == "pairs":
        return (
            f"{lost} of {of} pairs are left out because an image of theirs is: later folds shift, "
            "so that results do not compare with published ones"
        )
    return (
        f"{name}: {lost} of {of} rows point at no image because theirs are left out: results do "
        "not compare with published ones"
    )
