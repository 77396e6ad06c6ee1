"""Which of DALI's decoders serves, where some of them do not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from facepack.loading import dali_decoder
from facepack.loading.dali_decoder import choose_decoder
from facepack.loading.dali_pipeline import Decoder
from facepack.loading.loader import Loader
from facepack.loading.stream import StreamSettings
from facepack.store.pack import Pack

CPU, MIXED, ENGINE = Decoder("cpu"), Decoder("mixed"), Decoder("mixed", 0.65)


@pytest.fixture
def settings(faces: Pack, monkeypatch: pytest.MonkeyPatch) -> Iterator[StreamSettings]:
    monkeypatch.setattr(dali_decoder, "_chosen", {})
    monkeypatch.setattr(dali_decoder, "_candidates", lambda _: [CPU, MIXED, ENGINE])
    with Loader(faces, batch_size=4) as loader:
        yield loader._settings


def let_run(monkeypatch: pytest.MonkeyPatch, speeds: dict[Decoder, float]) -> None:
    """Have the decoders run as fast as stated, and the others fail as DALI's pipelines do."""

    def speed(_: Any, decoder: Decoder, sample: list[np.ndarray]) -> float:
        assert len(sample) == 4
        if decoder not in speeds:
            raise RuntimeError("Critical error in pipeline:\nnvJPEG is not there")
        return speeds[decoder]

    monkeypatch.setattr(dali_decoder, "_speed", speed)


def test_the_fastest_serves(settings: StreamSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    let_run(monkeypatch, {CPU: 2.0, MIXED: 3.0, ENGINE: 1.0})
    assert choose_decoder(settings) == MIXED


def test_one_that_does_not_run_is_left_out(
    settings: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_run(monkeypatch, {CPU: 2.0, MIXED: 3.0})
    with pytest.warns(UserWarning, match="hw_load=0.65.*is left out: .* pipeline: nvJPEG is"):
        assert choose_decoder(settings) == MIXED


def test_where_none_runs_the_error_is_raised(
    settings: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_run(monkeypatch, {})
    with (
        pytest.warns(UserWarning, match="is left out"),
        pytest.raises(RuntimeError, match="nvJPEG is not there"),
    ):
        choose_decoder(settings)


def test_without_a_jpeg_the_first_serves(
    settings: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dali_decoder, "_sample", lambda _: [])
    assert choose_decoder(settings) == CPU


def test_on_the_processor_there_is_no_choice(faces: Pack) -> None:
    with Loader(faces, batch_size=4) as loader:
        assert loader._settings.device == torch.device("cpu")
        assert choose_decoder(loader._settings) == CPU
