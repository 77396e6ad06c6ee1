"""Verification during training: the run goes on as if untouched.

Images of pair sets are decoded once and kept; those of other targets, which may be many, are read
anew each time.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from facepack.evaluate.faces.bad_images import BAD_IMAGES
from facepack.evaluate.faces.faces import EncodedFaces
from facepack.evaluate.protocol import Protocol
from facepack.evaluate.registry import find_target, split_words
from facepack.evaluate.results.result import Result
from facepack.evaluate.run import evaluate
from facepack.evaluate.sets.pairs import find_pair_set
from facepack.store.home import absolute, data_home, is_named
from facepack.train.loop.verification import ACCURACY, SetFigures

_HEADLINES = (ACCURACY, "rank-1", "TAR@1e-4")


class Validator:
    """Evaluates a backbone on verification sets, which it keeps decoded in memory.

    ``sets`` are name → target, as :func:`~facepack.evaluate.registry.find_target` takes it; the
    rest is as :class:`~facepack.train.loop.verification.MakeValidator` has it.

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

    def __call__(self, backbone: nn.Module) -> Iterator[SetFigures]:
        """Yield each set's figures; modes, buffers and random generators stay as they were."""
        for protocol in self._protocols:
            result = evaluate(backbone, protocol, batch_size=self._batch_size, on_bad_image="skip")
            yield _as_run_keeps_them(result)


def _as_run_keeps_them(result: Result) -> SetFigures:
    """A result's figures; of pairs accuracy is the first, else rank 1 or the first TAR."""
    known = result.figures
    name = next((name for name in _HEADLINES if name in known), next(iter(known)))
    if name == ACCURACY:
        rest = {"std": known[name].std, "auc": known["AUC"].value, "norm": known["norm"].value}
    else:
        rest = {other: figure.value for other, figure in known.items() if other != name}
    notices: tuple[str, ...] = ()
    if bad := result.counts.get(BAD_IMAGES):
        rest[BAD_IMAGES] = bad
        notices = result.notices[:1]  # which images are not in the figures
    return SetFigures(
        target=result.target,
        figure=name,
        value=known[name].value,
        std=known[name].std,
        values={name: known[name].value, **rest},
        notices=notices,
    )


def _decoded(protocol: Protocol, name: str, image_size: tuple[int, int]) -> Protocol:
    """The protocol under the name that a run knows it by, with images decoded if they are few."""
    protocol.target = name
    if isinstance(protocol.faces, EncodedFaces):
        protocol.faces = protocol.faces.decoded(image_size, {})
    return protocol


def _lasting(sets: Mapping[str, str], home: Path | None) -> dict[str, str]:
    lasting = {}
    for name, target in sets.items():
        protocol, words = split_words(target)
        if protocol:
            lasting[name] = shlex.join([protocol, *(_lasting_word(word, home) for word in words)])
            continue
        found = find_pair_set(target, home)
        stays = Path(target).name == target and is_named(home) and found.parent == data_home(home)
        lasting[name] = target if stays else absolute(str(found))
    return lasting


def _lasting_word(word: str, home: Path | None) -> str:
    """A word behind a protocol's name; one that names a file or folder, from the root.

    It may be ``--option=PATH``, and a column may stand behind the path: ``PATH:COLUMN``.
    """
    option, equals, path = word.partition("=") if word.startswith("-") else ("", "", word)
    if not path:
        return word
    if is_named(home) and Path(path).name == path and (data_home(home) / path).exists():
        return word
    before, colon, column = path.rpartition(":")
    if Path(path).exists():
        path = absolute(path)
    elif colon and Path(before).exists():
        path = f"{absolute(before)}:{column}"
    return f"{option}{equals}{path}"
