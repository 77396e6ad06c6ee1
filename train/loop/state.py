"""Where a run is, and all that its next steps depend on: what a checkpoint holds."""

from __future__ import annotations

from typing import Any

from facepack.train.loop.parts import RunParts
from facepack.train.loop.randomness import random_state, reseed_dropout, set_random_state


class RunState:
    """The state of a run on one rank, which is that of its parts and more.

    Attributes:
        step: optimizer steps done.
        skipped_images: left out so far because they do not decode, of all ranks.
        last: loss and learning rate as last logged; empty before.
    """

    def __init__(self, parts: RunParts) -> None:
        self.step = 0
        self.skipped_images = 0
        self.last: dict[str, float] = {}
        self._parts = parts

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on; waits for the device.

        Collective: each rank takes part, the state of rank 0 alone is whole.
        """
        parts = self._parts
        return {
            "config": parts.config.as_dict(),
            "data": parts.described_data,
            "ranks": parts.ranks.world,
            "step": self.step,
            "backbone": parts.backbone.state_dict(),
            "head": parts.method_run.head.whole_state(),
            "optimizer": parts.optimizer.state_dict(),
            "scaler": parts.scaler.state_dict(),
            "schedule": parts.schedule.state_dict(),
            "meter": parts.meter.state_dict(),
            "loader": parts.method_run.loader.state_dict(),
            "random": parts.ranks.gather_objects(random_state(parts.device)),
            "skipped_images": self.skipped_images,
            "last": dict(self.last),
            "best": {name: dict(best) for name, best in parts.verification.best.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; the settings and data must be those of the run.

        The number of ranks may be another: each then draws its dropout from a new beginning.
        """
        parts = self._parts
        self.step = state["step"]
        parts.backbone.load_state_dict(state["backbone"])
        parts.method_run.head.load_whole_state(state["head"])
        # The options are the settings', which agree, but for what suits this device (fused).
        options = parts.optimizer.state_dict()["param_groups"]
        parts.optimizer.load_state_dict(
            {"state": state["optimizer"]["state"], "param_groups": options}
        )
        parts.scaler.load_state_dict(state["scaler"])
        parts.schedule.load_state_dict(state["schedule"])
        parts.meter.load_state_dict(state["meter"])
        parts.method_run.loader.load_state_dict(state["loader"])
        if state["ranks"] == parts.ranks.world:
            set_random_state(state["random"][parts.ranks.rank], parts.device)
        else:
            reseed_dropout(parts.config.seed, parts.ranks, self.step)
        self.skipped_images = state["skipped_images"]
        self.last = state["last"]
        parts.verification.best = state["best"]
