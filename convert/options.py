"""What every conversion can be told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from facepack.convert.source import Source
from facepack.store.checks import ImageCheck

_Options = TypeVar("_Options", bound="ConvertOptions")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How a source is written into a target.

    Attributes:
        check: what each image must pass.
        strict: stop at the first record that cannot be used, instead of setting it aside.
        overwrite: replace what an earlier run wrote.
        resume: complete what an interrupted run left.
        workers: processes that work side by side.
        dask: address of a Dask scheduler whose workers do the work instead.
        dry_run: write nothing, and give a :class:`~facepack.convert.preview.Preview` of the result.
    """

    check: ImageCheck = field(default_factory=ImageCheck)
    strict: bool = False
    overwrite: bool = False
    resume: bool = False
    workers: int = 1
    dask: str | None = None
    dry_run: bool = False

    def for_source(self: _Options, source: Source) -> _Options:
        """The options for images of ``source``, which may state the order of their colours."""
        channels = self.check.channels or source.channels
        return replace(self, check=replace(self.check, channels=channels))
