"""NumPy scalars in files that ``torch.save`` wrote: their numbers, whatever else the file says.

Trainers keep an accuracy or a learning rate beside the weights as ``numpy.float64``. To rebuild
one, NumPy lets the file state the flags of a dtype, by which bytes can be passed off as pointers;
so the stand-ins here are called in its place, and know numbers alone.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pickle import UnpicklingError
from typing import Any

import torch

# NumPy's code → struct's.
_NUMBERS = {
    "b1": "?",
    **dict(zip(("i1", "i2", "i4", "i8"), "bhiq", strict=True)),
    **dict(zip(("u1", "u2", "u4", "u8"), "BHIQ", strict=True)),
    **dict(zip(("f2", "f4", "f8"), "efd", strict=True)),
}


class _Dtype:
    """For ``numpy.dtype(code, align, copy)`` and the state that it is given next."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"


def _as_number(dtype: _Dtype, data: bytes) -> int | float | bool:
    """For ``numpy.core.multiarray.scalar(dtype, data)``."""
    if dtype.code not in _NUMBERS:
        raise UnpicklingError(f"GLOBAL numpy.dtype({dtype.code!a}) is not of a number")
    number: int | float | bool = struct.unpack(dtype.order + _NUMBERS[dtype.code], data)[0]
    return number


def _stand_in(name: str, thing: Callable[..., Any]) -> Callable[..., Any]:
    """``thing`` under the name by which torch's unpickler looks for it."""
    thing.__module__, _, thing.__qualname__ = name.rpartition(".")
    thing.__name__ = thing.__qualname__
    return thing


_STAND_INS = [
    _stand_in("numpy.dtype", _Dtype),
    # Before NumPy 2, and since: two functions, as each has one name.
    _stand_in("numpy.core.multiarray.scalar", lambda dtype, data: _as_number(dtype, data)),
    _stand_in("numpy._core.multiarray.scalar", lambda dtype, data: _as_number(dtype, data)),
]


def scalars_allowed() -> AbstractContextManager[Any]:
    """Within it ``torch.load(…, weights_only=True)`` takes NumPy's scalars, as Python's numbers.

    torch before 2.5 has no such choice, and refuses them as ever.
    """
    safe_globals = getattr(torch.serialization, "safe_globals", None)
    return nullcontext() if safe_globals is None else safe_globals(_STAND_INS)
