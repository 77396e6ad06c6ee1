"""Fixtures for every room: real images, made here."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

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

ROOT = Path(__file__).resolve().parents[1]
ROOMS = tuple(str(ROOT / room) for room in ("facepack", "convert", "train", "evaluate"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--start-method``: how processes begin, whatever is usual on this system."""
    parser.addoption("--start-method", choices=multiprocessing.get_all_start_methods())


def pytest_configure(config: pytest.Config) -> None:
    method = config.getoption("--start-method")
    if method is not None:
        multiprocessing.set_start_method(method, force=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip tests that themselves ask for what a system lacks (see tests/bare): no fault of ours."""
    try:
        return (yield)
    except AttributeError as error:
        frames = traceback.extract_tb(error.__traceback__)
        if error.obj is not os or any(frame.filename.startswith(ROOMS) for frame in frames):
            raise
        pytest.skip(f"this system has no os.{error.name}")


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


# A page in a frame as wide as asked for, and what a browser makes of it, for --dump-dom to show.
_FRAME = """<!DOCTYPE html><meta charset="utf-8"><iframe width="{width}" height="900"
style="border: 0" srcdoc="{html}"></iframe><script>addEventListener("load", () => {{
  const view = document.querySelector("iframe").contentWindow;
  const page = view.document, root = page.documentElement;
  document.body.dataset.facts = JSON.stringify({{
    width: view.innerWidth, overflow: root.scrollWidth - root.clientWidth,
    rows: page.querySelectorAll("tbody tr").length,
    charts: [...page.querySelectorAll("svg")].filter(e => e.getBBox().width > 0).length,
    images: [...page.images].filter(e => e.complete && e.naturalWidth > 0).length,
    acted: (view => {act})(view),
    loaded: view.performance.getEntriesByType("resource").map(e => e.name.slice(0, 40)),
  }});
}});</script>"""


@pytest.fixture(scope="session")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """``browse(html, width=390)``: what headless Chromium makes of a page.

    Pixels of ``width`` and of ``overflow`` beside it, ``rows`` of tables, ``charts`` and ``images``
    that are drawn, addresses ``loaded``, and lines of its ``console``; and what it ``acted``, where
    ``act`` is JavaScript of the page's window, ``view``.
    """
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")

    def browse(html: str, width: int = 390, act: str = "null") -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("page")
        # Images that wait to be scrolled to would not be loaded.
        page = escape(html.replace(' loading="lazy"', ""))
        framed = _FRAME.format(width=width, html=page, act=act)
        (folder / "page.html").write_text(framed, encoding="utf-8")
        command = [
            *(browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *(f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr"),
            *("--no-first-run", "--disable-background-networking", "--disable-extensions"),
            (folder / "page.html").as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r'data-facts="([^"]*)"', done.stdout)
        assert found, f"Chromium ended with {done.returncode}: {done.stderr[-500:]}"
        facts: dict[str, Any] = json.loads(unescape(found[1]))
        facts["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return facts

    return browse


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
