"""Arrow's library as it is had: whose memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from facepack.convert.formats.parquet import engine
from facepack.errors import SourceError

pytest.importorskip("pyarrow")

POOL = "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
OURS = "from facepack.convert.formats.parquet.engine import arrow; arrow(); "


def run(program: str, **environment: str) -> str:
    given = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=given | environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_memory_is_the_systems_where_nobody_else_uses_the_library() -> None:
    assert run(OURS + POOL) == "system"


def test_another_user_of_the_library_keeps_its_choice() -> None:
    own = run(POOL)
    assert run(f"import pyarrow; {OURS}{POOL}") == own
    other = "mimalloc" if own != "mimalloc" else "jemalloc"
    for pool in (own, other):
        assert run(OURS + POOL, ARROW_DEFAULT_MEMORY_POOL=pool) == pool


def test_columns_without_nulls_import_no_more_of_the_library() -> None:
    program = (
        OURS + "import sys, pyarrow; from facepack.convert.formats.parquet.rows import numbers; "
        "print(numbers(pyarrow.array([2, -1]), -7), 'pyarrow.compute' in sys.modules, "
        "numbers(pyarrow.array([2, None]), -7))"
    )
    assert run(program) == "[ 2 -1] False [ 2 -7]"


def test_what_the_library_lacks_is_no_sure_damage() -> None:
    arrow = engine.arrow()
    errors = {
        arrow.ArrowNotImplementedError(
            "no such integers"
        ): "pyarrow does not read such columns, or",
        arrow.ArrowInvalid("magic"): "the file is damaged",
    }
    for error, text in errors.items():
        with pytest.raises(SourceError) as caught, engine.engine_errors("x.parquet: row group 2"):
            raise error
        assert f"x.parquet: row group 2: cannot be read ({error}): {text}" in str(caught.value)
