"""What CONTRIBUTING says of a new margin is all there is to do: one file with one decorator."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from facepack.errors import ConfigError
from facepack.train.build import make_margin
from facepack.train.collect import collect_settings, make_config
from facepack.train.heads import margins
from facepack.train.heads.margins import registry
from facepack.train.loop.run import Trainer

TOY = '''"""A margin that takes a share of the cosine away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from facepack.settings import Range
from facepack.train.heads.margins.registry import CosineMargin, register


@register("toy")
@dataclass(frozen=True, kw_only=True)
class Toy(CosineMargin):
    """cos θ·(1 − share)."""

    share: Annotated[float, Range(low=0, below=1)] = 0.2
    """What is taken away, in [0, 1)."""

    def apply(self, cos_target: torch.Tensor) -> torch.Tensor:
        """Lower the cosines (n,) to the own classes."""
        return cos_target * (1 - self.share)
'''


@pytest.fixture(autouse=True)
def _toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file lies in a folder of its own, which is taken for that of the margins."""
    (tmp_path / "margins").mkdir()
    (tmp_path / "margins" / "toy.py").write_text(TOY, encoding="utf-8")
    for table in ("MARGINS", "_RUN_SETTINGS"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    monkeypatch.setattr(margins, "__path__", [str(tmp_path / "margins")])
    monkeypatch.delitem(sys.modules, "facepack.train.heads.margins.toy", raising=False)
    margins.discover()


def run(pack: Path, out: Path, backbone: str, *overrides: str) -> tuple[float, dict[str, Any]]:
    """The loss of one step, and the settings that the checkpoint keeps."""
    fixed = [f"backbone={backbone}", "features=16", "steps=1", "batch_size=8", "threads=1"]
    settings = collect_settings(overrides=[*fixed, *overrides], shards=str(pack))
    trainer = Trainer(make_config(settings), out=out, device="cpu", notify=lambda _: None)
    trainer.run()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kept = torch.load(out / "checkpoint.pt", weights_only=True)["config"]
    return next(line["loss"] for line in lines if line["kind"] == "train"), kept


def test_a_run_trains_through_it(pack_path: Path, small_backbone: str, tmp_path: Path) -> None:
    plain, _ = run(pack_path, tmp_path / "a", small_backbone, "margin=cosface", "m3=0")
    none, _ = run(pack_path, tmp_path / "b", small_backbone, "margin=toy", "margin_options.share=0")
    assert none == plain
    lowered, kept = run(
        pack_path, tmp_path / "c", small_backbone, "margin=toy", "margin_options.share=0.9"
    )
    assert lowered != plain
    assert (kept["margin"], kept["margin_options"]) == ("toy", {"share": 0.9})


def test_its_options_are_checked_like_those_of_others() -> None:
    def make(**settings: Any) -> Any:
        return make_margin(make_config({"shards": "faces", "margin": "toy", **settings}))

    assert make().share == 0.2
    with pytest.raises(ConfigError, match=r"margin toy: share = 1 is not allowed: .* below 1"):
        make(margin_options={"share": 1})
    with pytest.raises(ConfigError, match="margin toy: unknown setting 'm2'; allowed: share"):
        make(margin_options={"m2": 1})
    with pytest.raises(ConfigError, match="m2 is set, but margin = toy takes only margin_options"):
        make(m2=0.3)
