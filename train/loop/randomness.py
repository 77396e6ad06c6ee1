"""Torch's random generators in a run: what seeds them, and their state in checkpoints."""

from __future__ import annotations

import torch

from facepack.hashing import derive_seed
from facepack.train.ranks.group import Ranks

_FOR_WEIGHTS, _FOR_DROPOUT = 0, 1


def seed_weights(seed: int) -> None:
    """Begin the draws of a backbone's weights: the same on every rank."""
    torch.manual_seed(derive_seed(seed, _FOR_WEIGHTS))


def seed_dropout(seed: int, ranks: Ranks) -> None:
    """Begin a rank's own draws; those of the first are the ones of a process alone."""
    own = () if ranks.is_first else (ranks.rank,)
    torch.manual_seed(derive_seed(seed, _FOR_DROPOUT, *own))


def reseed_dropout(seed: int, ranks: Ranks, step: int) -> None:
    """Begin a rank's own draws anew where the run goes on, at ``step``, with other ranks."""
    torch.manual_seed(derive_seed(seed, _FOR_DROPOUT, ranks.rank, step))


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the generators that a step on ``device`` draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Go on from :func:`random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
