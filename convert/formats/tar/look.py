"""The first reading of tars: what archives there are, and what they hold.

Several files that are archives of their own are looked at side by side, by the processes that pack
them then; one process looks at all of them in order where anything is unusual, or wrong. What is
gzipped is kept inflated, if there is room, for the second reading.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import numpy as np

from facepack import lfs
from facepack.convert.files import CLUTTER_NAMES, lies_in_clutter, text
from facepack.convert.formats.pairs.source import BinSource
from facepack.convert.formats.tar.headers import (
    BLOCK,
    Member,
    Members,
    is_header,
    read_member,
    usual_members,
)
from facepack.convert.formats.tar.images import Archive, ImageMembers, ImageSet
from facepack.convert.formats.tar.records import Records, RecordSet, read_index, scan_records
from facepack.convert.formats.tar.spool import Spool, SpooledFiles, SpoolError, SpoolingStream
from facepack.convert.formats.tar.stream import Files, Stream, StreamEndError, cut_short
from facepack.convert.inputs import unused_stem
from facepack.convert.names import Names
from facepack.convert.passed_over import PassedOver
from facepack.convert.source import shard_stem
from facepack.convert.workers import can_run_early, run_early
from facepack.errors import SourceError
from facepack.processors import usable_processors
from facepack.progress import Progress
from facepack.store import format as fmt

_SUFFIX = re.compile(
    r"(\.tgz|\.tar(\.gz)?)([._-]?(part)?[0-9A-Za-z]{1,6})?$|_\d{2,3}$", re.IGNORECASE
)
_MOST_PROPERTY = 1 << 16
_MOST_BIN = 1 << 30
_SHOWN = 5
_FEW = 64 << 10  # bytes in memory, about, of which to read members together does not pay
_FETCH_AGAIN = "the archive is damaged; fetch it again, and give pieces in order"
# Inflated again, an archive of up to so many bytes is one of a process: it makes a shard or two.
_MOST_AGAIN = fmt.MAX_SHARD_BYTES
_NO_ROOM = (
    "what the archives hold has no room inflated, in half of the memory that is free and of the "
    "disk of TMPDIR (else /var/tmp): they are inflated twice"
)


def look_at(files: Files, member: str | None) -> Look:
    """Look at the files, and keep what is inflated where there is room.

    ``member`` is the name of a ``.rec`` or ``.bin`` that is taken alone; None takes what there is.

    Raises:
        SourceError: a file cannot be read, or is damaged.
    """
    if files.compressed:
        with suppress(SpoolError):
            return _look_with(files, member, Spool.new(files))
    return _look_with(files, member, None)


def _look_with(files: Files, member: str | None, spool: Spool | None) -> Look:
    """Look at the files, which if they are gzipped are inflated into ``spool``.

    Raises:
        SpoolError: there is no room in it.
    """
    with Progress(sum(files.sizes) >> 20, unit="MiB", label="looking") as progress:
        look = None if member is not None else _look_side_by_side(files, spool, progress)
        if look is None:
            look = Look(files, member)
            look.run(spool, progress)
    look.plan_second(spool)
    return look


def _look_side_by_side(files: Files, spool: Spool | None, progress: Progress) -> Look | None:
    """Look at archives by several processes; None where one must look at all of them in order.

    Raises:
        SpoolError: there is no room in the spool.
    """
    streams = files.apart()
    kept = not files.compressed or (spool is not None and spool.shared)
    if len(streams) < 2 or not kept or not can_run_early():
        return None
    ahead = len(streams) < usable_processors()
    firsts = accumulate((len(some.paths) for some in streams), initial=0)
    tasks = [
        (some, spool and spool.some(first, len(some.paths)), ahead)
        for some, first in zip(streams, firsts, strict=False)
    ]
    look, begin, done = Look(files, None), 0, 0
    for some, found in zip(streams, run_early(_look_apart, tasks), strict=True):
        if found is None:
            return None
        look.extend(found, begin)
        begin += sum(found.sizes)
        done += sum(some.sizes)
        progress.update((done >> 20) - progress.done)
    return look


def _look_apart(files: Files, spool: Spool | None, ahead: bool) -> Look | None:
    """Look at files by themselves; None if anything about them is unusual, or wrong.

    Raises:
        SpoolError: there is no room in the spool.
    """
    look = Look(files, None)
    try:
        look.run(spool, ahead=ahead)
    except SourceError:  # told when all are looked at in order
        return None
    return look if look.is_usual else None


class Look:
    """The first reading: what archives there are and what they hold, or the one ``member`` of them.

    Attributes:
        sizes: how many bytes each file has in the stream.
        sums: the XXH3-128 of each gzipped file.
        complete: whether all was read, so that all sums are known.
        parallel: whether several processes can read the files at once.
    """

    def __init__(self, files: Files, member: str | None) -> None:
        self.sizes: list[int] = []
        self.sums: dict[int, str] = {}
        self.complete = True
        self.notices: list[str] = []
        self.parallel = not files.compressed
        self._files = files
        self._readable = files  # in the second reading
        self._member = member
        self._archives: list[tuple[Archive, int]] = []
        self._stems: set[str] = set()
        self._images = ImageMembers()
        self._memory = b""  # a piece of the stream, and the usual members that were found in it
        self._usual = Members.none()
        self._records: Records | None = None
        self._set: BinSource | None = None
        self._indexes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._classes: dict[str, int] = {}
        self._choices: list[str] = []  # what --member could name
        self._passed = PassedOver()

    def run(
        self, spool: Spool | None, progress: Progress | None = None, *, ahead: bool = True
    ) -> None:
        """Read the archives through; a set that is asked for ends the reading.

        Args:
            spool: what is inflated is kept in it.
            progress: told the MiB of the files that were read.
            ahead: have threads read and inflate what comes next.

        Raises:
            SourceError: a file cannot be read, or is damaged.
            SpoolError: there is no room in the spool.
        """
        sums = self.sums.__setitem__
        stream = (
            self._files.open(sums)
            if spool is None
            else SpoolingStream(self._files, sums, spool, ahead=ahead)
        )
        with stream:
            while self._set is None and self._find_archive(stream):
                self._run_archive(stream, progress)
                _tell(progress, stream)
            self.complete = self._set is None
            self.sizes += stream.sizes()
        self._memory, self._usual = b"", Members.none()

    @property
    def is_usual(self) -> bool:
        """Whether nothing but images and their samples was found, and nothing to tell."""
        found = self._records or self._indexes or self._classes or self._choices or self.notices
        return not found and not self._images.has_list

    def extend(self, other: Look, begin: int) -> None:
        """Take what another look found, nothing unusual, in the next files, from ``begin`` on."""
        number, row = len(self.sizes), len(self._images)
        for archive, first in other._archives:
            stem = unused_stem(_stem(archive.file), self._stems)
            moved = Archive(stem, archive.file, begin + archive.begin)
            self._archives.append((moved, row + first))
        self._images.extend(other._images, begin)
        self._passed.add_all(other._passed)
        self.sums |= {number + k: digest for k, digest in other.sums.items()}
        self.sizes += other.sizes

    def plan_second(self, spool: Spool | None) -> None:
        """Decide how gzipped files are read the second time, if all were read the first."""
        if not self._files.compressed or not self.complete:
            return
        again = SpooledFiles.of(self._files, tuple(self.sizes), spool)
        self.parallel = again.longest <= _MOST_AGAIN if spool is None else spool.shared
        if spool is not None or self.parallel:
            self._readable = again
        if spool is None:
            in_order = "" if self.parallel else ", the second time by one process"
            self.notices.append(_NO_ROOM + in_order)

    def content(
        self, names: Names | None, *, only_indexed: bool, identity_level: int | None
    ) -> RecordSet | ImageSet | BinSource:
        """What was found, in the order of preference; without ``names``, images have no identities.

        The other arguments are those of :class:`TarSource`.

        Raises:
            SourceError: nothing was, or it is in doubt what.
        """
        if self._member is not None and self._records is None and self._set is None:
            raise SourceError(
                f"--member {self._member}: the archives hold none of this name; there are: "
                f"{_some(self._choices) or 'no .rec and no .bin'}"
            )
        if self._set is not None:
            return self._set
        self._tell_sets()
        self.notices += self._passed.notices()
        if self._records is not None:
            if len(self._images):
                self.notices.append(
                    f"{len(self._images):,} images outside {self._records.name} were passed over, "
                    f"first {text(self._images.first)!r}"
                )
            folder = _folder(self._records.name)
            index = self._indexes.get(self._records.name.removesuffix(".rec"))
            classes = self._classes.get(folder)
            return RecordSet(
                self._records,
                index,
                classes,
                only_indexed=only_indexed,
                files=self._readable,
                shared=self._stream(),
            )
        if not len(self._images):
            raise SourceError(
                f"{self._files.names[0]}: the archives hold no image and no .rec; "
                + (
                    f"--member takes one of {_some(self._choices)}"
                    if self._choices
                    else "pass archives that do"
                )
            )
        return self._images.finish(
            self._archives, names, identity_level, self._readable, self._stream()
        )

    def _stream(self) -> Stream | None:
        """The one stream of files that can only be read in order."""
        return self._readable.open() if self._readable.compressed else None

    def _find_archive(self, stream: Stream) -> bool:
        """Go to where the next archive begins; returns whether there is one.

        It may follow in the same file, as with ``tar --ignore-zeros``. What follows and is no
        archive is told.
        """
        while True:
            behind = stream.position  # of the last archive, its end marker included
            if not stream.skip_zeros():
                return False
            # To look further may reach into the next file.
            name, start = self._files.names[stream.number], stream.start
            if is_header(stream.peek(BLOCK)):
                return True
            if start >= behind:
                raise SourceError(
                    f"{name}: begins neither as a tar nor as a gzipped one; pass tars or, in "
                    "order, all pieces of one"
                )
            self._pass_over(stream, name, start, behind)

    def _pass_over(self, stream: Stream, name: str, start: int, behind: int) -> None:
        """Pass over what is no archive, up to the next start behind ``start``, and tell it.

        Raises:
            SourceError: members follow it, as after a hole in an archive.
        """
        begin = stream.position
        count = -(begin - behind) % BLOCK or BLOCK  # members begin at whole blocks
        while (block := stream.peek(count)) and stream.start == start:
            if is_header(block):
                raise SourceError(
                    f"{name}: zeros end an archive, but it goes on behind them and "
                    f"{stream.position - begin:,} bytes that are no tar: {_FETCH_AGAIN}"
                )
            stream.skip(len(block))
            count = BLOCK
        if stream.start != start:
            stream.seek(stream.start)
        self.notices.append(
            f"{name}: {stream.position - begin:,} bytes behind the end of an archive are no tar "
            "and were passed over: if nobody put them there, it is damaged: fetch it again"
        )

    def _run_archive(self, stream: Stream, progress: Progress | None) -> None:
        name = self._files.names[stream.number]
        begin = stream.position
        self._images.begin_archive()
        archive = Archive(unused_stem(_stem(name), self._stems), name, min(stream.start, begin))
        self._archives.append((archive, len(self._images)))
        members = 0
        while stream.peek(1):
            self._take_pairs(stream, begin)
            member = read_member(stream)
            if member is None:
                break
            try:
                self._take(member, stream)
                if self._set is not None:
                    break
                self._pass_boundary(member, stream)
                stream.seek(member.end)
                if begin < stream.foreign < member.end:
                    raise SourceError(
                        f"{stream.name_byte(stream.foreign)}: the gzipped data end inside the "
                        f"archive, and others follow that are none: {_FETCH_AGAIN}"
                    )
            except StreamEndError as error:
                raise SourceError(f"{text(member.name)} is not complete: {error}") from error
            members += 1
            if members % 1024 == 0:
                _tell(progress, stream)
        else:
            self.notices.append(
                f"{name}: ends without the mark that ends an archive: it may be cut short"
            )
        self._images.end_archive()

    def _take_pairs(self, stream: Stream, begin: int) -> None:
        """Take the usual samples of the archive at ``begin`` that lie in memory."""
        data, at = stream.buffered()
        if (
            len(data) - at < _FEW
            or begin < stream.foreign
            or self._images.is_open(data[at : at + 100])
        ):
            return
        position = stream.position
        ends = stream.ends()
        stop = len(data) if ends is None else min(len(data), ends - position + at)
        if data is not self._memory:
            self._memory, self._usual = data, Members.none()
        first = bisect_left(self._usual.begins, at)
        if self._usual.begins[first : first + 1] != [at]:
            self._usual, first = usual_members(data, at, stop), 0
        count = self._images.add_pairs(self._usual, first, data, position - at)
        if count:
            stream.seek(position - at + self._usual.begins[first + count])

    def _pass_boundary(self, member: Member, stream: Stream) -> None:
        """Make sure that a member that reaches over a file's end has its rest in the next one."""
        end = stream.ends()
        if end is None or member.end <= end:
            return
        following = stream.files.number_at(end)
        if following is not None:
            stream.seek(end)
            if is_header(stream.peek(512)):
                raise cut_short(stream.files, following)

    def _take(self, member: Member, stream: Stream) -> None:
        if not member.regular:
            if not member.name.endswith(b"/"):
                self._pass("links, folders, devices or pipes", member)
            return
        if self._images.add(member, stream):  # as nearly all are
            return
        name = text(member.name.removeprefix(b"./"))
        base = name.rpartition("/")[2]
        if lies_in_clutter(member.name):
            self._pass(f"files, {CLUTTER_NAMES},", member)
        elif base.endswith(".rec"):
            self._take_rec(name, member, stream)
        elif base.endswith(".bin"):
            self._choices.append(name)
            if self._wanted(name):
                self._set = _read_set(name, member, stream)
        elif base.endswith(".idx"):
            self._indexes[name.removesuffix(".idx")] = read_index(stream, name, member.size)
        elif base == "property":
            self._take_property(name, member, stream)
        else:
            self._pass("files that are no images by their names", member)

    def _take_rec(self, name: str, member: Member, stream: Stream) -> None:
        self._choices.append(name)
        if self._member is not None and not self._wanted(name):
            return
        if self._records is not None:
            raise SourceError(
                f"the archives hold {self._records.name} and {name}: choose one of them by --member"
            )
        if lfs.is_pointer(stream.peek(BLOCK)):
            raise SourceError(
                f"{name}: is a pointer of Git LFS, not the file itself: {lfs.REMEDY}, and pack "
                "the archive anew"
            )
        self._records = scan_records(stream, name, member.size)

    def _take_property(self, name: str, member: Member, stream: Stream) -> None:
        content = stream.read(member.size) if member.size < _MOST_PROPERTY else b""
        match = re.match(rb"\s*(\d{1,9})[\s,]+\d+[\s,]+\d+", content)
        if match and int(match[1]):
            self._classes[_folder(name)] = int(match[1])
        else:
            self.notices.append(
                f"{name}: does not begin with classes,height,width: the classes are counted"
            )

    def _wanted(self, name: str) -> bool:
        return self._member in (name, name.rpartition("/")[2])

    def _pass(self, kind: str, member: Member) -> None:
        self._passed.add(kind, text(member.name))

    def _tell_sets(self) -> None:
        source = self._files.names[0] + (" …" if len(self._files.paths) > 1 else "")
        for name in self._choices:
            if name.endswith(".bin"):
                self.notices.append(
                    f"{name} was passed over: a verification set, packed by `facepack tar2lmdb "
                    f"{source} OUT --member {name}`"
                )


def _tell(progress: Progress | None, stream: Stream) -> None:
    """How far the reading is."""
    if progress is not None:
        progress.update((stream.consumed() >> 20) - progress.done)


def _read_set(name: str, member: Member, stream: Stream) -> BinSource:
    if member.size > _MOST_BIN:
        raise SourceError(
            f"{name}: {member.size:,} bytes; a verification set of more than {_MOST_BIN:,} is not "
            "read from an archive: unpack it and convert it by itself"
        )
    return BinSource(Path(name), data=stream.read(member.size))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _stem(name: str) -> str:
    return shard_stem(_SUFFIX.sub("", name))
