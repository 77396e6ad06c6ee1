"""The protocols by name, and which of them a target is measured by.

Nothing is imported here but when it is called, so that ``facepack eval --help`` stays quick.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from facepack.errors import ConfigError, EvaluationError, PackError

if TYPE_CHECKING:
    from facepack.evaluate.command import ProtocolCommand
    from facepack.evaluate.protocol import Protocol


@dataclass(frozen=True, kw_only=True)
class ProtocolKind:
    """A protocol that is evaluated."""

    title: str  # the first line of its help
    module: str  # where its command is
    table: str = ""  # the table that a pack of its own has, by which facepack eval PACK knows it
    # what else the field calls it, in small letters: a user who says so is told the name
    also: tuple[str, ...] = ()

    def command(self) -> ProtocolCommand:
        """Its command: ``facepack eval NAME``."""
        command: ProtocolCommand = import_module(self.module).command
        return command


PROTOCOLS: dict[str, ProtocolKind] = {
    "pairs": ProtocolKind(
        title="Verify pairs of images: a published set, or a list of your own.",
        module="facepack.evaluate.protocols.pairs",
        table="pairs",
    ),
    "ijb": ProtocolKind(
        title="Verify and identify templates: IJB-B and IJB-C.",
        module="facepack.evaluate.protocols.ijb",
        table="template_ids",
        also=("ijbb", "ijbc", "ijb-b", "ijb-c"),
    ),
    "megaface": ProtocolKind(
        title="Identify FaceScrub's images among distractors: MegaFace's challenge 1.",
        module="facepack.evaluate.protocols.megaface",
        table="sets",
    ),
    "probe-gallery": ProtocolKind(
        title="Verify probes against a gallery: F2C's variant of MegaFace.",
        module="facepack.evaluate.protocols.probes",
        also=("probe_gallery", "ffc"),
    ),
    "identities": ProtocolKind(
        title="Verify and identify all images of labelled ones among each other.",
        module="facepack.evaluate.protocols.identities",
        also=("identity", "all-to-all", "all_to_all"),
    ),
    "mfr": ProtocolKind(
        title="Verify all pairs of labelled images: MFR (ICCV 2021) and IFRT.",
        module="facepack.evaluate.protocols.mfr",
        also=("mfr-all", "ifrt", "multiracial", "mask", "children"),
    ),
    "tinyface": ProtocolKind(
        title="Identify low-resolution probes among mates and distractors: TinyFace.",
        module="facepack.evaluate.protocols.tinyface",
    ),
    "sllfw": ProtocolKind(
        title="Verify pairs of similar-looking people: SLLFW, or any list of F2C's form.",
        module="facepack.evaluate.protocols.sllfw",
    ),
    "ytf": ProtocolKind(
        title="Verify pairs of videos, each the mean of its frames: YTF.",
        module="facepack.evaluate.protocols.ytf",
    ),
}

Opener = Callable[[], "Protocol"]
"""Opens a target that was found: reads what its protocol needs."""


def find_target(text: str, data: Path | None) -> Opener:
    """What opens the target that a user calls ``text``; that it is there is looked at now.

    A text is the name or path of a verification set or of a pack that has a protocol's tables; or
    a protocol's name and what follows it behind ``facepack eval``, such as
    ``identities packs/faces --group race.csv``. ``data`` is the data home.

    Raises:
        ConfigError: a protocol's words are not as its command takes them.
        EvaluationError: there is no such target.
    """
    name, words = split_words(text)
    if name:
        return PROTOCOLS[name].command().opener(words, data)
    kind = PROTOCOLS[_protocol_of(text, data)]
    try:
        return kind.command().opener([text], data)
    except EvaluationError as error:
        raise EvaluationError(f"{error}. {_advice(text)}") from error


def _advice(text: str) -> str:
    """The protocol that a user may have meant who named no set; else all of them."""
    word = text.partition(" ")[0].lower()
    for name, kind in PROTOCOLS.items():
        if word in (name, *kind.also):
            return f"As a protocol it is facepack eval {name}: see facepack eval {name} --help"
    return f"What is no set of pairs needs its protocol first: {', '.join(PROTOCOLS)}"


def split_words(text: str) -> tuple[str, list[str]]:
    """The protocol that ``text`` names first, and the words behind it; no name, if it does not.

    Raises:
        ConfigError: a quote is not closed.
    """
    name, _, rest = text.strip().partition(" ")
    if name not in PROTOCOLS or not rest or os.path.lexists(text):
        return "", []
    try:
        return name, shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"{text!r}: {error}: quote names as in a shell") from error


def _protocol_of(target: str, data: Path | None) -> str:
    """The protocol whose table a pack of that name or path has; else that of pairs."""
    from facepack.store.format import table_names
    from facepack.store.home import data_home, is_pack
    from facepack.store.manifest import read_manifest

    for folder in (data_home(data) / target, Path(target)):
        if is_pack(folder):
            try:
                tables = table_names(read_manifest(folder)["files"])
            except PackError:
                break  # whoever opens it says what is wrong
            return next((name for name, kind in PROTOCOLS.items() if kind.table in tables), "pairs")
    return "pairs"
