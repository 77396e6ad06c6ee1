"""What every conversion can be told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from facepack.convert.source import Source
from facepack.store.checks import ImageCheck

_Options = TypeVar("_Options", bound="ConvertOptions")


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """How a source is written into a target."""

    check: ImageCheck = field(default_factory=ImageCheck)  #: what each image must pass
    #: stop at the first record that cannot be used, instead of setting it aside
    strict: bool = False
    overwrite: bool = False  #: replace what an earlier run wrote
    resume: bool = False  #: complete what an interrupted run left
    workers: int = 1  #: processes that work side by side
    dask: str | None = None  #: address of a Dask scheduler whose workers do the work instead
    dry_run: bool = False  #: write nothing, and give a Preview of the result

    def for_source(self: _Options, source: Source) -> _Options:
        """The options for images of ``source``, which may state the order of their colours."""
        channels = self.check.channels or source.channels
        return replace(self, check=replace(self.check, channels=channels))
