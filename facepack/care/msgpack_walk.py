"""Walking msgpack that a stranger wrote, before anything is made of it.

``msgpack.Unpacker`` limits the length of each array, not what arrays within arrays claim together,
and it makes room for what is claimed before it looks whether that is there.
"""

from __future__ import annotations

_DEPTH = 32  # of containers within containers
_FIXED = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_FIXED |= {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_TEXT = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY = {0xDC: 2, 0xDD: 4}
_MAP = {0xDE: 2, 0xDF: 4}


def walk_msgpack(data: memoryview) -> list[tuple[int, int]]:
    """Walk one msgpack value without making anything of it.

    An unpacker makes room for as many elements as an array's head claims, and one head within
    another claims as many again. Here, all elements that are owed together must fit in the bytes
    that are left, so that unpacking takes memory in proportion to the value's own size.

    Returns:
        Where each byte string in it begins and ends.

    Raises:
        ValueError: it ends early, claims more than it holds, nests deeper than 32 levels, has a map
            with keys that are no strings, or a type that no shard has.
    """
    strings: list[tuple[int, int]] = []
    at, end, owed = 0, len(data), 1
    open_ = [(1, False)]  # of each open container: elements to come, and whether it is a map
    while open_:
        left, is_map = open_.pop()
        if not left:
            continue
        open_.append((left - 1, is_map))
        owed -= 1
        if at >= end:
            raise ValueError("msgpack that ends early")
        code = data[at]
        at += 1
        is_key = is_map and left % 2 == 0
        if 0xA0 <= code <= 0xBF or code in _TEXT:
            size, at = _length(data, at, _TEXT[code]) if code in _TEXT else (code & 0x1F, at)
            at += size
        elif is_key:
            raise ValueError("a msgpack map with a key that is no string")
        elif code <= 0x7F or code >= 0xE0:
            continue
        elif code in _FIXED:
            at += _FIXED[code]
        elif code in _BYTES:
            size, at = _length(data, at, _BYTES[code])
            strings.append((at, at + size))
            at += size
        else:
            if code <= 0x9F:
                size, pairs = code & 0x0F, code <= 0x8F
            elif code in _ARRAY or code in _MAP:
                pairs = code in _MAP
                size, at = _length(data, at, (_MAP if pairs else _ARRAY)[code])
            else:
                raise ValueError(f"msgpack of type {code:#x}, which no shard has")
            size <<= pairs
            owed += size
            open_.append((size, pairs))
            if len(open_) > _DEPTH:
                raise ValueError(f"msgpack nested deeper than {_DEPTH} levels")
        if at + owed > end:
            raise ValueError("msgpack that claims more than it holds")
    if at != end:
        raise ValueError(f"{end - at} bytes behind a msgpack value")
    return strings


def _length(data: memoryview, at: int, width: int) -> tuple[int, int]:
    """The big-endian length of ``width`` bytes at ``at``, and where it ends."""
    return int.from_bytes(data[at : at + width], "big"), at + width
