from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xxhash

from facepack.store.digests import digest_ahead, file_digest
from facepack.store.direct import BLOCK


@pytest.mark.parametrize("cached", [False, True])
def test_the_digest_is_that_of_all_bytes(tmp_path: Path, cached: bool) -> None:
    """Just behind the writing too, when the disk may not have them yet."""
    for size in (0, 1, BLOCK, BLOCK + 1, 2 * BLOCK + 4096 + 77):
        data = np.random.default_rng(size).bytes(size)
        (tmp_path / "f").write_bytes(data)
        expected = (xxhash.xxh3_128_hexdigest(data), size)
        assert file_digest(tmp_path / "f", cached=cached) == expected


def test_files_are_digested_ahead_in_order(tmp_path: Path) -> None:
    files = [tmp_path / str(i) for i in range(7)]
    for i, file in enumerate(files):
        if i != 3:
            file.write_bytes(bytes([i]) * i)
    calls = list(digest_ahead(files))
    assert [calls[i]() for i in (0, 1, 6)] == [file_digest(files[i]) for i in (0, 1, 6)]
    assert calls[6]() == (xxhash.xxh3_128_hexdigest(bytes([6]) * 6), 6)
    with pytest.raises(FileNotFoundError):
        calls[3]()
