"""The errors facepack raises on purpose.

Each says what was received, what is allowed and what to do next. The command line turns any
:class:`FacepackError` into one line on stderr and the exit status it carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class FacepackError(Exception):
    """Base of all errors that the user can mend; ``exit_code`` is the command's exit status."""

    exit_code = 1


class SourceError(FacepackError):
    """A source cannot be read or holds what cannot be packed: names file, place and remedy."""


class NothingChosenError(SourceError):
    """No record of a source is left by the conditions that were given."""


class PackError(FacepackError):
    """A pack cannot be opened, written or resumed."""


class DamageError(PackError):
    """A pack's files differ from what was written: names shard and, where known, key."""

    exit_code = 3


class NewerFormatError(PackError):
    """A pack needs a newer facepack: of another format version, or with what is not known here."""


class DecodeError(FacepackError):
    """An image does not decode, or not to the size that is expected: names its key."""

    #: what to do, where that does not depend on where the image came from; else None
    remedy: str | None = None


class PointerImageError(DecodeError):
    """What was taken for an image is a pointer of Git LFS."""

    remedy = "fetch the images so, then convert again"


class UnwantedImageError(DecodeError):
    """A sound image that is not what was asked for: of another size, or with other colours."""

    remedy = "choose --size, --resize and --color otherwise, or change the image"


class ConfigError(FacepackError):
    """A setting is out of range, unknown or contradicts another: names the setting."""

    exit_code = 2


class WorkerError(FacepackError):
    """A process that shares the work died, or the cluster cannot be reached."""


class TrainingError(FacepackError):
    """A training run cannot start or go on: names the step and the last good checkpoint."""


class EvaluationError(FacepackError):
    """An evaluation set or a model cannot be used as asked."""


class MissingExtraError(FacepackError):
    """An optional dependency is absent: names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'facepack[{extra}]'"
        )


@contextmanager
def needs_extra(package: str, extra: str) -> Iterator[None]:
    """Within, an import that fails means that ``package`` is not installed."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(package, extra) from error


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """`` (did you mean mhlr?)`` for a mistyped ``name``; empty where nothing allowed is near it."""
    from difflib import get_close_matches  # only a mistake needs it

    matches = get_close_matches(name, list(allowed))
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""
