"""Arrow's library, which only these formats want: had when they are used, its errors made ours."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from facepack.convert.doing import say
from facepack.errors import SourceError, needs_extra

_LONGEST = 200  # characters of a message


def arrow() -> ModuleType:
    """``pyarrow``, with its ``ipc`` and ``parquet``.

    Where nobody else uses it, it takes its memory from the system's allocator: mimalloc, its own
    choice, takes memory that was not touched before for the images of each shard (a tenth of the
    CPU time of ``parquet2lmdb``; pyarrow 26.0.1).

    Raises:
        MissingExtraError: it is not installed.
    """
    first = "pyarrow" not in sys.modules
    with needs_extra("pyarrow", "parquet"):
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    if first and "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    module: ModuleType = pyarrow
    return module


def arrow_compute() -> ModuleType:
    """``pyarrow.compute``, which takes a while to import, and which few columns want."""
    arrow()
    import pyarrow.compute

    module: ModuleType = pyarrow.compute
    return module


@contextmanager
def engine_errors(where: str) -> Iterator[None]:
    """Within, what the library raises is an error of the source, at the place ``where``.

    If it ends the process, that place is named, too, where the process is a worker.

    The library raises a part of its errors as Python's own, and of damaged files also such as are
    meant for programmers.
    """
    say(where)
    try:
        yield
    except (
        arrow().ArrowException, OSError, ValueError, TypeError, LookupError, struct.error,
    ) as error:  # fmt: skip
        words = " ".join(str(error).split())[:_LONGEST] or type(error).__name__
        # Which pages may also say that are damaged.
        lacking = isinstance(error, arrow().ArrowNotImplementedError)
        why = "pyarrow does not read such columns, or " if lacking else ""
        raise SourceError(
            f"{where}: cannot be read ({words}): {why}the file is damaged or cut short; fetch it "
            "again and compare its size with the publisher's, or leave it out"
            + ", or have its writer cast these columns"
            * lacking
        ) from error
    finally:
        say("")
