"""A new format is one folder and one row of the registry: here it is made, and nothing else."""

from __future__ import annotations

import difflib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from facepack.convert import registry
from facepack.convert.formats.pack.source import PackSource

FOLDER = {
    "__init__.py": "",
    "source.py": '''
import numpy as np
import xxhash
from facepack.convert.source import OwnPart, Entry, Part, Refusal, Source
from facepack.store.record import SourceRecord


class ToySource(Source):
    """A text, a line an image: its label, and its bytes in hexadecimal."""

    kind = "toy"

    def __init__(self, path, *, add):
        self.name, self.notices = path.stem, []
        text = path.read_text()
        self._digest = xxhash.xxh3_128_hexdigest(f"{add} {text}".encode())
        lines = [line.split() for line in text.splitlines()]
        self._images = [(int(label) + add, bytes.fromhex(image)) for label, image in lines]

    def __len__(self):
        return len(self._images)

    def describe(self):
        return {"kind": self.kind, "xxh3_128": self._digest}

    def sizes(self):
        return np.array([len(image) for _, image in self._images], np.uint32)

    def part(self, start, stop):
        return ToyPart(start, self._images[start:stop])


class ToyPart(OwnPart):
    remedy = "draw it again"

    def __init__(self, start, images):
        self.start, self.stop, self._images = start, start + len(images), images

    def read(self, keep=None):
        for row, (label, image) in enumerate(self._images):
            if keep is None or keep[row]:
                yield SourceRecord(self.start + row, image, label)

    def entries(self):
        return (Entry(label, None) for label, _ in self._images)

    def _refuse(self, row, name, reason, remedy):
        return Refusal(self.start + row, "toy", None, None, reason, remedy)
''',
    "sink.py": """
from facepack.convert.delivery import deliver
from facepack.convert.sink import SpanSink
from facepack.convert.spans import payload_bytes
from facepack.store import format as fmt
from facepack.store.files import write_file


class ToySink(SpanSink):
    kind = "toy"
    written = ("set.toy",)

    def expected_bytes(self):
        return 2 * payload_bytes(self.source)

    def write(self):
        self.lines, self.labels, self.refused, self.payload = [], set(), [], 0
        for span in self.spans:
            part = self.source.part(span.start, span.stop)
            self.refused += deliver(part, self.accept, strict=self.options.strict)

    def accept(self, record):
        image, _ = self.options.check.look(record.image)
        self.lines.append(f"{record.label} {bytes(image).hex()}\\n".encode())
        self.labels.add(record.label)
        self.payload += len(image)

    def finish(self):
        refused = fmt.json_lines(self.refused)
        self.require_usable(len(self.lines), refused)
        files, pairs = self.write_beside(refused)
        files["set.toy"] = write_file(self.out / "set.toy", self.lines)[1]
        return {
            "files": files, "packed": len(self.lines), "quarantined": len(self.refused),
            "identities": len(self.labels), "classes": max(self.labels) + 1,
            "pairs": pairs, "payload_bytes": self.payload,
        }


convert_to_toy = ToySink.convert
""",
    "command.py": """
import click
from facepack.convert.command_line import SourceCommand


class ToyCommand(SourceCommand):
    options = (click.option("--add", type=int, default=0, help="Is added to labels."),)
""",
}
ROWS = {
    "SOURCES = {\n": """    "toy": SourceKind(
        title="toys",
        src="SRC is a toy.",
        location="facepack.convert.formats.toy.source:ToySource",
        own="facepack.convert.formats.toy.command:ToyCommand",
    ),
""",
    "SINKS = {\n": """    "toy": SinkKind(
        title="toys",
        out="OUT gets set.toy.",
        location="facepack.convert.formats.toy.sink:convert_to_toy",
    ),
""",
}
# The folder lies elsewhere, and a registry with the new rows stands for the one that is there.
MAIN = """
import importlib.util, sys
import facepack.convert.formats as formats
formats.__path__.append(sys.argv.pop(1))
spec = importlib.util.spec_from_file_location("facepack.convert.registry", sys.argv.pop(1))
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
from facepack.cli import main
main()
"""

Facepack = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def facepack(tmp_path: Path) -> Facepack:
    """``facepack(*words)``: the program with the toy format in it."""
    folder = tmp_path / "formats" / "toy"
    folder.mkdir(parents=True)
    for name, text in FOLDER.items():
        (folder / name).write_text(text, encoding="utf-8")
    before = after = Path(registry.__file__).read_text(encoding="utf-8")
    for begin, row in ROWS.items():
        after = after.replace(begin, begin + row)
    changed = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    assert not [line for line in changed if line.startswith("-")]
    added = [line[2:] for line in changed if line.startswith("+")]
    assert sorted(added) == sorted("".join(ROWS.values()).splitlines())
    (tmp_path / "registry.py").write_text(after, encoding="utf-8")

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        begin = [sys.executable, "-c", MAIN, str(folder.parent), str(tmp_path / "registry.py")]
        return subprocess.run([*begin, *map(str, words)], capture_output=True, text=True)

    return run


def test_a_format_is_a_folder_and_a_row(
    facepack: Facepack, make_jpeg: Callable[..., bytes], tmp_path: Path
) -> None:
    images = [make_jpeg(k) for k in range(6)]
    lines = [f"{k // 2} {image.hex()}\n" for k, image in enumerate([*images, b"no image"])]
    (tmp_path / "faces.toy").write_text("".join(lines))

    help_text = facepack("--help").stdout
    assert help_text.count("toys") == 2  # a source and a sink
    assert "--add" in facepack("toy2wds", "--help").stdout
    assert "--add" in facepack("append", "--help").stdout

    done = facepack("toy2lmdb", tmp_path / "faces.toy", tmp_path / "pack", "--add", 10, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["packed"], result["quarantined"], result["classes"]) == (6, 1, 13)
    with_labels = [(k // 2 + 10, image) for k, image in enumerate(images)]
    records = PackSource(tmp_path / "pack").part(0, 6).read()
    assert [(record.label, bytes(record.image)) for record in records] == with_labels

    assert facepack("lmdb2toy", tmp_path / "pack", tmp_path / "back").returncode == 0
    back = (tmp_path / "back" / "set.toy").read_text()
    assert back == "".join(f"{label} {image.hex()}\n" for label, image in with_labels)
    again = facepack("lmdb2toy", tmp_path / "pack", tmp_path / "back")
    assert again.returncode == 1 and "--overwrite" in again.stderr
    chosen = ("--identities", 1, "--overwrite")
    assert facepack("lmdb2toy", tmp_path / "pack", tmp_path / "back", *chosen).returncode == 0
    assert (tmp_path / "back" / "set.toy").read_text().count("\n") == 2
