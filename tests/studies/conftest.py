"""What the studies file is there for their own tests alone: others look at what facepack has."""

import pytest

import studies.schedules.runs  # noqa: F401  (files them)
from facepack.train.backbones import registry as backbones
from facepack.train.schedules import registry as schedules

_FILED = [
    (registry, name, registry.pop(name))
    for registry, name in (
        (schedules._SCHEDULES, "linear_tail"),
        (schedules._SCHEDULES, "trace"),
        (backbones._BUILDERS, "patches"),
    )
]


@pytest.fixture(autouse=True)
def _filed(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, name, value in _FILED:
        monkeypatch.setitem(registry, name, value)
