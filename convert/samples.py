"""WebDataset samples: which of the labels in an archive is whose; the one rule for tars and zips.

Members whose names are equal up to the first dot of their last part are one sample and follow each
other: ``key.jpg``, and its label in ``key.cls`` or as ``{"label": …}`` in ``key.json``, before the
image or behind it. Archives in use depart from that in three ways, which are all read:

- Names have dots themselves (``m.01abc_1.jpg``), or images two suffixes (``000.rgb.jpg``). A label
  is of the images whose names begin with its own, suffix aside, and a dot; of several labels the
  one with the longest name counts.
- A key comes again (``face.jpg face.cls face.jpg face.cls``): a name that was there before begins a
  new sample.
- Labels are texts, which name identities, or numbers as arrays and tensors are printed.

An image whose label cannot be told for sure has none. Memory holds 5 bytes an image, and the names
of one sample.

Source: ``group_by_keys`` and ``TarWriter`` of the webdataset library, 1.0.2, which takes the second
for an error.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facepack.convert.files import text
from facepack.convert.names import Names
from facepack.convert.whole_numbers import as_whole
from facepack.errors import SourceError
from facepack.reading import read_text
from facepack.store import format as fmt
from facepack.store.format import MAX_LABEL, NO_IDENTITY

Label = int | bytes  # a class, or the text that names an identity

LONGEST_CLS = 256  # bytes
LONGEST_JSON = 1 << 20
_MOST_NAMES = 1 << 16  # bytes of names after which a sample is settled between two that differ
_MOST_RELATED = 1 << 22  # the same, wherever it is

# What stands for a label where there is none.
NO_LABEL, _BAD, _SEVERAL, _ANOTHER, _UNTOLD, _MIXED = range(-2, -8, -1)
_TEXT = -16  # the first text; the next is one less
REASONS = {
    NO_LABEL: (
        "its sample has neither a .cls nor a label in a .json",
        "add one of them, right before or behind the image",
    ),
    _BAD: (
        f"its .cls holds no class, a whole number up to {MAX_LABEL} or a name on one line",
        "correct the .cls",
    ),
    _SEVERAL: (
        "its sample has several images, and which of them the label is of is not told",
        "leave one of them in the sample, or give each a .cls of its own name",
    ),
    _ANOTHER: (
        "its sample has another image, which is taken, for it is called like the label",
        "give it a .cls of its own name, unless it is a mask or the like",
    ),
    _UNTOLD: (
        "keys come again here and not every one has a label, so that whose is whose is not told",
        "write the archive anew, with a key for every sample",
    ),
    _MIXED: (
        "its label is a text, where others of the source are numbers",
        "correct the label",
    ),
}
"""Why a label below -1 is none, and what to do."""

_CLASS = re.compile(rb"(tensor\()?(\[)?\s*(-1|0*[0-9]{1,8})(?:\.0*)?\s*(?(2)\])(?(1)\))")
_NUMBER = rb"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
_NO_NAME = re.compile(
    rb"(?:%b[\s,]+)*%b[\s,]*|[\[(].*|tensor\(.*|.*[\0-\x1f\x7f].*|" % (_NUMBER, _NUMBER), re.DOTALL
)


class Samples:
    """Gathers the labels of images as the members of archives go by, in order."""

    def __init__(self) -> None:
        # whether there was a .cls, or an image with a label in a .json: then the source is made of
        # samples, and folders say nothing
        self.found = False
        self._labels = array("i")
        self._suffixes = array("B")
        self._texts: dict[bytes, int] = {}
        self._strays = self._repeats = 0
        self._first_stray = self._first_repeat = b""
        self._key: bytes | None = None
        self._run = 0  # the first row since the key or, in a long sample, the name changed
        self._again = self._lacking = False  # in the run: names come again; labels lack
        self._last = b""  # the stem of the member before
        self._members: set[bytes] = set()
        self._bytes = 0
        self._images: list[bytes] = []
        self._classes: dict[bytes, int] = {}  # label by stem, of .cls
        self._objects: dict[bytes, int] = {}  # and of .json

    def end_archive(self) -> None:
        """No sample goes on in the next archive."""
        self._end_run()
        self._key = None

    def extend(self, other: Samples) -> None:
        """Take what another gathered of the archives that come next."""
        labels = np.array(other._labels, np.int32)
        texts = labels <= _TEXT
        if texts.any():
            numbers = np.array([self._number(label) for label in other._texts], np.int32)
            labels[texts] = numbers[_TEXT - labels[texts]]
        self._labels.frombytes(labels.tobytes())
        self._suffixes.extend(other._suffixes)
        self._run = len(self._labels)
        self.found |= other.found
        self._strays += other._strays
        self._first_stray = self._first_stray or other._first_stray
        self._repeats += other._repeats
        self._first_repeat = self._first_repeat or other._first_repeat

    def add_image(self, name: bytes) -> None:
        """The next member is an image."""
        self._begin(name)
        self._images.append(name)

    def add_class(self, name: bytes, label: Label | None) -> None:
        """The next member is a ``.cls``, of which :func:`read_class` has read the label."""
        self.found = True
        stem = self._begin(name)
        self._classes[stem] = _BAD if label is None else self._number(label)

    def add_object(self, name: bytes, label: Label | None) -> None:
        """The next member is a ``.json``, of which :func:`read_object` has read the label."""
        if label is not None:
            self._objects[self._begin(name)] = self._number(label)

    def add_pairs(self, stems: list[bytes], labels: list[int]) -> None:
        """The next members are images, each with a ``.cls`` beside it, which holds its label.

        ``stems`` are their names, of which each differs from the one before, up to their only dot.
        """
        self._end_run()
        self.found = True
        self._key = self._last = stems[-1]
        self._labels.extend(labels)
        self._suffixes.frombytes(b"\1" * len(labels))
        self._run = len(self._labels)

    def is_open(self, name: bytes) -> bool:
        """Whether a member whose name begins like this goes on with the last sample."""
        return self._key is not None and name.startswith(self._key + b".")

    def finish(self) -> tuple[np.ndarray, np.ndarray, Names | None]:
        """What all images are labelled.

        Returns:
            Their labels, int32 (n,), those below -1 as in :data:`REASONS`; how many suffixes each
            name has that its sample's has not, uint8 (n,); and where labels are texts, these, of
            which the labels are the numbers.
        """
        self._end_run()
        labels = np.array(self._labels, np.int32)
        suffixes = np.array(self._suffixes, np.uint8)
        texts = labels <= _TEXT
        if not texts.any():
            return labels, suffixes, None
        if (labels >= 0).any():
            labels[texts] = _MIXED
            return labels, suffixes, None
        codes, code_of = np.unique(labels[texts], return_inverse=True)
        known = list(self._texts)
        used = [known[_TEXT - code] for code in codes.tolist()]
        order = sorted(range(len(used)), key=used.__getitem__)
        ranks = np.empty(len(used), np.int32)
        ranks[order] = np.arange(len(used))
        labels[texts] = ranks[code_of]
        return labels, suffixes, Names.of(used[k] for k in order)

    def notices(self) -> list[str]:
        """What the user should know, after :meth:`finish`."""
        notices = []
        if self._strays:
            notices.append(
                f"{self._strays:,} labels (.cls, or .json with a label) have no image beside them "
                f"and were passed over, first {text(self._first_stray)!r}: members of a sample "
                "must follow each other"
            )
        if self._repeats and self.found:
            notices.append(
                f"{self._repeats:,} names come again right behind those of their sample, first "
                f"{text(self._first_repeat)!r}: each begins a new sample (the webdataset library "
                "refuses them)"
            )
        return notices

    def _begin(self, name: bytes) -> bytes:
        """Make sure that the sample is that of the member ``name``; returns the name's stem."""
        key = sample_key(name)
        dot = name.rfind(b".")
        stem = name[:dot]
        member = stem + name[dot:].lower()
        if key != self._key:
            self._end_run()
            self._key = key
        elif member in self._members:
            self._repeats += 1
            self._first_repeat = self._first_repeat or name
            self._again = True
            self._settle()
        elif self._bytes > _MOST_NAMES and (
            self._bytes > _MOST_RELATED or not _related(stem, self._last)
        ):
            self._end_run()
        self._members.add(member)
        self._bytes += len(name)
        self._last = stem
        return stem

    def _number(self, label: Label) -> int:
        """A label as it is stored."""
        if isinstance(label, int):
            return label
        return _TEXT - self._texts.setdefault(label, len(self._texts))

    def _end_run(self) -> None:
        self._settle()
        if self._again and self._lacking:
            for row in range(self._run, len(self._labels)):
                self._labels[row] = _UNTOLD
        self._run = len(self._labels)
        self._again = self._lacking = False

    def _settle(self) -> None:
        """Label the images of the sample, which ends here."""
        if not self._members:
            return
        labels = self._objects | self._classes if self._objects else self._classes
        if labels:
            self._label_images(labels)
        else:  # as in trees
            self._lacking = True
            for _ in self._images:
                self._labels.append(NO_LABEL)
                self._suffixes.append(1)
        self._members.clear()
        self._bytes = 0
        self._images.clear()
        self._classes.clear()
        self._objects.clear()

    def _label_images(self, labels: dict[bytes, int]) -> None:
        stems, faults = _match(self._images, labels)
        for name, stem, fault in zip(self._images, stems, faults, strict=True):
            self._labels.append(labels[stem] if stem is not None and not fault else fault)
            self._suffixes.append(_suffixes(name, stem, fault))
        strays = labels.keys() - stems
        if strays:
            self._strays += len(strays)
            self._first_stray = self._first_stray or min(strays)
        self.found |= len(strays) < len(labels)
        self._lacking |= bool(strays) or None in stems


def names_beside(paths: Sequence[Path]) -> Names:
    """Names of identities, by label: the lines of ``labels.txt`` in the one folder given.

    Raises:
        SourceError: it cannot be read.
    """
    names = Names()
    path = paths[0] / fmt.LABELS
    if len(paths) == 1 and path.is_file():
        try:
            lines = fmt.read_labels_text(read_text(path))
        except (OSError, ValueError) as error:
            raise SourceError(
                f"{path}: cannot be read ({error}): remove it, and identities have no names"
            ) from error
        for line in lines:
            names.append(line.encode())
    return names


def _match(images: list[bytes], labels: dict[bytes, int]) -> tuple[list[bytes | None], list[int]]:
    """Whose label is each image's: the label's stem, or None; and 0, or why it has none."""
    lengths = {len(stem) for stem in labels}
    stems = [_longest_stem(name, labels, lengths) for name in images]
    faults = [NO_LABEL if stem is None else 0 for stem in stems]
    if len(images) == 1:
        return stems, faults
    owned: dict[bytes, list[int]] = {}
    for image, stem in enumerate(stems):
        if stem is not None:
            owned.setdefault(stem, []).append(image)
    for stem, whose in owned.items():
        if len(whose) == 1:
            continue
        alike = [image for image in whose if b"." not in images[image][len(stem) + 1 :]]
        for image in whose:
            faults[image] = _SEVERAL if len(alike) != 1 else 0 if image == alike[0] else _ANOTHER
    return stems, faults


def _longest_stem(name: bytes, labels: dict[bytes, int], lengths: set[int]) -> bytes | None:
    """The longest of the labels' stems that ``name`` begins with, before a dot."""
    dot = name.rfind(b".")
    while dot > 0:
        if dot in lengths and name[:dot] in labels:
            return name[:dot]
        dot = name.rfind(b".", 0, dot)
    return None


def _suffixes(name: bytes, stem: bytes | None, fault: int) -> int:
    """How many suffixes of ``name`` its sample is not called by; none where it is one of many."""
    if stem is None:
        return 1
    return 0 if fault else min(name.count(b".", len(stem)), 255)


def _related(one: bytes, other: bytes) -> bool:
    """Whether one of two stems is the other, or is continued by it behind a dot."""
    shorter, longer = sorted((one, other), key=len)
    return longer == shorter or longer.startswith(shorter + b".")


def sample_key(name: bytes) -> bytes:
    """The key of the sample that the member ``name``, which has a suffix, is of."""
    return name[: name.find(b".", name.rfind(b"/") + 1)]


def read_class(content: bytes) -> Label | None:
    """The class in a ``.cls``, or the text that names an identity; None if it is neither."""
    content = content.removeprefix(codecs.BOM_UTF8).strip()
    match = _CLASS.fullmatch(content)
    if match:
        return int(match[3])
    return None if _NO_NAME.fullmatch(content) else content


def read_object(content: bytes) -> Label | None:
    """The ``label`` of a JSON object, if it has one that is a class or names an identity."""
    try:
        label = as_whole(json.loads(content)["label"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if isinstance(label, str):
        return read_class(label.strip().encode("utf-8", "backslashreplace")[:LONGEST_CLS])
    if isinstance(label, bool) or not isinstance(label, int):
        return None
    return label if NO_IDENTITY <= label <= MAX_LABEL else None
