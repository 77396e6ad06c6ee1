"""Which class centres a step uses: all positive classes and a random sample of the others."""

from __future__ import annotations

import torch


def sample_rows(
    labels: torch.Tensor, classes: int, size: int, generator: torch.Generator
) -> torch.Tensor:
    """Draw the classes of one micro-batch (Partial FC, An et al., 2021, section 3.2).

    The classes besides the positive ones are a uniform sample without replacement. Work and memory
    follow the number of rows drawn, not the number of classes: ids are drawn at random, those
    already taken are thrown away, and as many as are missing are drawn again. A sample of more than
    half of what there is comes from drawing what to leave out.

    On CUDA each round waits for the device, to learn how many ids are new.

    Args:
        labels: (B,) int64, the classes that must be among the rows.
        classes: number of classes C; labels lie in [0, C).
        size: number of rows wanted, at most C; if the labels name more, all of those and no others.
        generator: on the device of ``labels``.

    Returns:
        Sorted distinct class ids, int64, on the device of ``labels``.
    """
    positives = torch.unique(labels)
    others = classes - len(positives)
    negatives = max(0, size - len(positives))
    if negatives <= others // 2:
        drawn = _draw_others(positives, classes, negatives, generator)
        return torch.cat([positives, *drawn]).sort().values
    left_out = _draw_others(positives, classes, others - negatives, generator)
    kept = torch.ones(classes, dtype=torch.bool, device=labels.device)
    for ids in left_out:
        kept[ids] = False
    return kept.nonzero().squeeze(1)


def _draw_others(
    taken: torch.Tensor, classes: int, count: int, generator: torch.Generator
) -> list[torch.Tensor]:
    """Draw ``count`` distinct ids that are not in ``taken``: sorted runs, disjoint.

    Taking ids one at a time and passing over any seen before gives each set of ``count`` the same
    probability. Drawing just as many as are missing does that in bulk, with nothing to cut off at
    the end that could favour some ids.
    """
    runs = [taken]
    while count:
        ids = torch.randint(
            classes, (count,), generator=generator, device=taken.device, dtype=torch.int64
        ).unique()
        for run in runs:
            ids = ids[~_is_in(ids, run)]
        runs.append(ids)
        count -= len(ids)
    return runs[1:]


def _is_in(ids: torch.Tensor, run: torch.Tensor) -> torch.Tensor:
    """Mask of the ``ids`` that the sorted ``run`` holds."""
    if not len(run):
        return torch.zeros_like(ids, dtype=torch.bool)
    place = torch.searchsorted(run, ids).clamp(max=len(run) - 1)
    return run[place] == ids
