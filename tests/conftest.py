"""Fixtures for every room: real images, made here."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

import facepack

# Test processes run side by side, and threads that spin for a busy core make each other wait. torch
# reads this when it is first imported; children inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C, and so do their children: those that are interrupted in a
# test must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real faces; tests that ask for it skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real faces are absent: {SHARED} is no folder")
    return SHARED


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    """``make_jpeg(seed, size=32, quality=80)``: a small JPEG of smooth colours and noise."""

    def make(seed: int, size: int = 32, quality: int = 80) -> bytes:
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.float32)
        image = np.kron(coarse, np.ones((size // 4, size // 4, 1), np.float32))
        image += rng.normal(0, 12, image.shape)
        pixels = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
        return simplejpeg.encode_jpeg(pixels, quality=quality)

    return make


_IDENTITIES = ["ann", "bob\nby", "c\\d", "dora"]


@pytest.fixture
def make_pack(tmp_path: Path, make_jpeg: Callable[..., bytes]) -> Callable[..., Path]:
    """``make_pack(count, name="pack", **PackWriter options)``: a pack of ``count`` small JPEGs."""

    def make(count: int = 60, name: str = "pack", **options: object) -> Path:
        options = {"shard_records": 25, "seed": 3, **options}
        with facepack.PackWriter(tmp_path / name, **options) as writer:
            for i in range(count):
                writer.add(make_jpeg(i), i % 4, name=f"{i}.jpg", identity=_IDENTITIES[i % 4])
        return tmp_path / name

    return make


_VOID = {"meta", "img", "wbr", "line", "rect", "link", "br"}


class PageReader(HTMLParser):
    """Checks that tags nest, and gathers texts, tags and attributes."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())  # as a browser shows them


@pytest.fixture(scope="session")
def read_page() -> type[PageReader]:
    """``read_page(html)``: the page's ``tags`` with their attributes, ``texts`` and ``words``."""
    return PageReader


# What is put in: structure of JSON and TOML, ends of lines, bytes that are no text, large numbers.
_PIECES = (
    *(b"{", b"}", b"[", b"]", b'"', b",", b":", b"=", b".", b"\n", b"\r\n", b"\t", b" ", b"\\"),
    *(b"\x00", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\ud800", b"\xe2\x80\xa8", b"#"),
    *(b"-1", b"0", b"1e999", b"NaN", b"-0.0", b"true", b"null", b"9" * 30, b"9" * 5000),
    *(b"[" * 3000, b'{"a":' * 300, b"a." * 1500, b"../", b"/etc/passwd", b"\x1b[2J"),
)


@pytest.fixture(scope="session")
def mutated() -> Callable[[bytes, random.Random], bytes]:
    """``mutated(good, rng)``: the bytes with one to five things removed, put in or changed."""

    def mutate(good: bytes, rng: random.Random) -> bytes:
        data = bytearray(good)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(len(data) + 1)
            to = min(len(data), at + rng.choice((0, 1, 1, 4, 30)))
            match rng.randrange(5):
                case 0:
                    data[at:to] = b""
                case 1:
                    data[at:to] = rng.choice(_PIECES)
                case 2:
                    data[at:at] = data[at:to] * rng.choice((1, 3, 100))
                case 3 if data:
                    data[at % len(data)] ^= 1 << rng.randrange(8)
                case _:
                    del data[at:]
        return bytes(data)

    return mutate


@pytest.fixture
def killed() -> Callable[..., None]:
    """``killed(work, at)``: run ``work()`` in a forked child that is killed on the way (SIGKILL).

    A float is so many seconds after its start; of an int, the half is the number of the file that
    it is renaming, before that for an even one and right after for an odd one. With
    ``by="unlink"`` it is the number of the file that it is deleting.
    """

    def run(work: Callable[[], object], at: float, by: str = "replace") -> None:
        child = os.fork()
        if child == 0:
            try:
                if isinstance(at, int):
                    _die_at(at, by)
                work()
            finally:
                os._exit(0)
        if isinstance(at, float):
            time.sleep(at)
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    return run


def _die_at(at: int, by: str) -> None:
    change = getattr(Path, by)
    changes = 0

    def call(self: Path, *arguments: Path, **options: bool) -> object:
        nonlocal changes
        if changes == at // 2:
            if at % 2:
                change(self, *arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        changes += 1
        return change(self, *arguments, **options)

    setattr(Path, by, call)
