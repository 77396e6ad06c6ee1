"""How many pictures the identities of a drawn set have: all alike, or with a long tail."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from facepack.errors import ConfigError
from facepack.hashing import hash64

_ZIPF = re.compile(r"zipf:([0-9]*\.?[0-9]+):([0-9]{1,10})-([0-9]{1,10})")
_HIGHEST = 1 << 20


@dataclass(frozen=True)
class LongTail:
    """An identity has n pictures, from ``low`` to ``high``, with probability ∝ n^−``exponent``.

    Which n it has depends on nothing but a key and its own number, so that a larger set begins with
    the identities of a smaller one.
    """

    exponent: float
    low: int
    high: int

    @classmethod
    def parse(cls, text: int | str) -> LongTail:
        """Of a number of pictures, which all have, or of ``zipf:EXPONENT:LOW-HIGH``.

        Raises:
            ConfigError: it is neither, or out of range.
        """
        if isinstance(text, int):
            return cls(0.0, text, text)
        found = _ZIPF.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"images_per_identity = {text!r}: give a number of images, or "
                "zipf:EXPONENT:LOW-HIGH, such as zipf:1.5:2-60"
            )
        exponent, low, high = float(found[1]), int(found[2]), int(found[3])
        if not (1 <= low <= high <= _HIGHEST and exponent <= 20):
            raise ConfigError(
                f"images_per_identity = {text!r}: LOW is from 1 to HIGH, HIGH at most "
                f"{_HIGHEST:,}, EXPONENT at most 20"
            )
        return cls(exponent, low, high)

    def counts(self, key: int, identities: np.ndarray) -> np.ndarray:
        """The pictures of ``identities`` (n,): int64 (n,)."""
        if self.low == self.high:
            return np.full(len(identities), self.low, np.int64)
        weights = np.arange(self.low, self.high + 1, dtype=np.float64) ** -self.exponent
        edges = weights.cumsum() / weights.sum()
        coin = (hash64(key, identities) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return self.low + np.searchsorted(edges[:-1], coin, "right").astype(np.int64)
