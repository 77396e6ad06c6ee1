"""Verification during training: the sets are decoded once, the run goes on as if untouched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from facepack.evaluate.faces import EncodedFaces
from facepack.evaluate.pair_result import PairResult
from facepack.evaluate.pairs import find_pair_set
from facepack.evaluate.protocol import Protocol
from facepack.evaluate.registry import find_target
from facepack.evaluate.run import evaluate
from facepack.store.home import absolute, data_home, is_named


class Validator:
    """Evaluates a backbone on verification sets, which it keeps decoded in memory.

    Args:
        sets: name → path of a pack, a ``.bin`` or a tree, or its name in the data home.
        home: the data home.
        image_size: (height, width) that the backbone takes.
        batch_size: images a forward pass.

    Raises:
        EvaluationError, SourceError, PackError, DecodeError: a set cannot be read.

    Attributes:
        lasting: ``sets`` in a form that finds them from any current folder, as ``lasting_shards``
            makes it of training data.
    """

    def __init__(
        self,
        sets: Mapping[str, str],
        *,
        home: Path | None,
        image_size: tuple[int, int],
        batch_size: int,
    ) -> None:
        self._protocols = [
            _decoded(find_target(path, home)(), name, image_size) for name, path in sets.items()
        ]
        self.lasting = _lasting(sets, home)
        self._batch_size = batch_size

    def __call__(self, backbone: nn.Module) -> Iterator[PairResult]:
        """Yield each set's figures; modes, buffers and random generators stay as they were."""
        for protocol in self._protocols:
            result = evaluate(backbone, protocol, batch_size=self._batch_size)
            yield PairResult.from_result(result)


def _decoded(protocol: Protocol, name: str, image_size: tuple[int, int]) -> Protocol:
    """The protocol under the name that a run knows it by, with images decoded if they are few."""
    protocol.target = name
    if isinstance(protocol.faces, EncodedFaces):
        protocol.faces = protocol.faces.decoded(image_size)
    return protocol


def _lasting(sets: Mapping[str, str], home: Path | None) -> dict[str, str]:
    lasting = {}
    for name, target in sets.items():
        found = find_pair_set(target, home)
        stays = Path(target).name == target and is_named(home) and found.parent == data_home(home)
        lasting[name] = target if stays else absolute(str(found))
    return lasting
