"""``facepack SOURCE2SINK``: every source into every sink."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from facepack.convert.registry import CONVERSIONS, SINKS, SOURCES, summary
from facepack.errors import NothingChosenError
from facepack.terminal import printable

if TYPE_CHECKING:
    from facepack.convert.result import Result
    from facepack.convert.source import Source

_F = TypeVar("_F", bound=Callable[..., Any])
_Option = Callable[[Any], Any]
_PATH = click.Path(path_type=Path)


class _Size(click.ParamType):
    """``112`` or ``112x96`` (width × height) as (height, width)."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
        if match is None:
            self.fail(f"{value!r} is no size such as 112 or 112x96", param, ctx)
        return int(match[2] or match[1]), int(match[1])


class _Level(click.ParamType):
    """A number of folders from the top, or, below 0, from the image."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        level = click.INT.convert(value, param, ctx)
        if not level:
            self.fail("0 is no level: 1 is the topmost folder, -1 the image's own", param, ctx)
        return int(level)


LOOK: tuple[_Option, ...] = (
    click.option("--decode", is_flag=True, help="Decode every image, not only its header."),
    click.option("--size", type=_Size(), help="Set aside images of another size, e.g. 112."),
    click.option(
        "--color",
        type=click.Choice(["keep", "refuse", "convert"]),
        default="keep",
        show_default=True,
        help="Greyscale, CMYK and transparent images: keep, set aside, or encode as RGB.",
    ),
    click.option("--strict", is_flag=True, help="Stop at the first record that cannot be used."),
)
_CHOOSE: tuple[_Option, ...] = (
    click.option("--exclude", type=_PATH, help="List of images (or identity/) to leave out."),
    click.option(
        "--identities", metavar="WHICH", help="100 (the first), 100:200, or a file that lists them."
    ),
    click.option("--sample", type=float, help="Share (below 1) or number of images, by chance."),
    click.option("--min-images", type=click.IntRange(1), help="Leave out smaller identities."),
    click.option("--max-images", type=click.IntRange(1), help="Of an identity, by chance."),
    click.option(
        "--head-tail",
        type=click.IntRange(2),
        metavar="N",
        help="Write OUT/head (identities with N images or more) and OUT/tail (the others).",
    ),
    click.option(
        "--seed",
        type=click.IntRange(0, (1 << 63) - 1),
        default=0,
        show_default=True,
        help="Of order and chance.",
    ),
)
_RUN: tuple[_Option, ...] = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes; by default as many as CPUs, if it pays.",
    ),
    click.option("--dask", metavar="ADDRESS", help="Let a Dask cluster do the work."),
    click.option("--resume", is_flag=True, help="Complete what an interrupted run left."),
    click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
_ONLY_INDEXED = click.option(
    "--only-indexed", is_flag=True, help="Leave out images of a .rec that its .idx does not list."
)
_IDENTITY_LEVEL = click.option(
    "--identity-level",
    type=_Level(),
    help="Folder that is the identity: 1 the topmost of a path, 2 the next; -1 the image's own.",
)
_OF_SOURCE: dict[str, tuple[_Option, ...]] = {
    "rec": (_ONLY_INDEXED,),
    "zip": (
        click.option("--password-file", type=_PATH, help="First line is the zips' password."),
        click.option("--password", "ask", is_flag=True, help="Ask for the zips' password."),
        _IDENTITY_LEVEL,
    ),
    "img": (
        click.option("--index", type=_PATH, help="A kv, .lst or label.txt that gives the labels."),
        _IDENTITY_LEVEL,
    ),
    "kv": (
        click.option(
            "--offset-labels/--keep-labels",
            default=True,
            show_default=True,
            help="Of several kv files, number each one's labels after the last one's.",
        ),
    ),
    "tar": (
        click.option("--member", help="Take only this member, a .rec or .bin."),
        _ONLY_INDEXED,
        _IDENTITY_LEVEL,
    ),
    "lst": (
        click.option("--root", type=_PATH, help="Folder of the images; the list's by default."),
        click.option("--align", is_flag=True, help="Warp faces to 112×112 by their landmarks."),
    ),
    "megaface": (
        click.option("--noises", type=_PATH, multiple=True, help="A noise list; may be repeated."),
    ),
}
_OF_SINK: dict[str, tuple[_Option, ...]] = {
    "lmdb": (
        click.option(
            "--order",
            type=click.Choice(["shuffled", "source", "identity"]),
            default="shuffled",
            show_default=True,
            help="Order of records in a shard; shuffled fills pages best.",
        ),
        click.option(
            "--shard-size",
            type=click.IntRange(1, 384),
            default=384,
            show_default=True,
            help="A shard's greatest payload in MiB.",
        ),
        click.option(
            "--shard-records",
            type=click.IntRange(1, 65_536),
            default=65_536,
            show_default=True,
            help="A shard's greatest number of records.",
        ),
        click.option(
            "--duplicates", is_flag=True, help="List images that occur twice: duplicates.jsonl."
        ),
    ),
    "img": (
        click.option(
            "--naming",
            type=click.Choice(["source", "number"]),
            default="source",
            show_default=True,
            help="Files keep the source's names, or are <label>/<n>.jpg.",
        ),
    ),
}


@cache
def conversion(name: str) -> click.Command:
    """The command ``name`` of :data:`~facepack.convert.registry.CONVERSIONS`."""
    source, sink = CONVERSIONS[name]
    many = SOURCES[source].many

    def run(src: Any, out: Path, **options: Any) -> None:
        _convert(source, sink, list(src) if many else [src], out, **options)

    options = (
        click.argument("src", type=_PATH, nargs=-1 if many else 1, required=True),
        click.argument("out", type=_PATH),
        *source_options(source),
        *sink_options(sink),
        *LOOK,
        *_CHOOSE,
        *_RUN,
    )
    text = f"{summary(name)}\n\n{SOURCES[source].src} {SINKS[sink].out}"
    return click.command(name=name, help=text)(apply_options(options)(run))


def source_options(source: str) -> tuple[_Option, ...]:
    """The options that only this source has."""
    return _OF_SOURCE.get(source, ())


def sink_options(sink: str) -> tuple[_Option, ...]:
    """The options that only this sink has."""
    return _OF_SINK.get(sink, ())


def apply_options(options: tuple[_Option, ...]) -> Callable[[_F], _F]:
    """A decorator that adds ``options``, the first one first."""

    def decorate(function: _F) -> _F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def source_arguments(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a source's class takes, out of ``options``; asks for a password if that is wanted."""
    own = {name: options.pop(name) for name in parameter_names(source_options(source))}
    if source == "zip":
        own["password"] = _password(own.pop("password_file"), own.pop("ask"))
    return own


def parameter_names(options: tuple[_Option, ...]) -> list[str]:
    """What ``options`` are called in Python."""
    command = click.command()(apply_options(options)(lambda: None))
    return [str(parameter.name) for parameter in command.params]


def _password(file: Path | None, ask: bool) -> bytes | None:
    if file is not None:
        from facepack.errors import SourceError
        from facepack.reading import read_bytes

        try:
            password = read_bytes(file).partition(b"\n")[0].rstrip(b"\r")
        except OSError as error:
            raise SourceError(f"{file}: cannot be read: {error.strerror}") from error
        if not password:
            raise SourceError(f"{file}: its first line is empty; write the password there")
        return password
    return click.prompt("Password", hide_input=True, err=True).encode() if ask else None


def _convert(
    source: str,
    sink: str,
    paths: list[Path],
    out: Path,
    *,
    as_json: bool,
    head_tail: int | None,
    **options: Any,
) -> None:
    # NumPy's BLAS starts threads that spin for a while: a conversion has nothing for them to do.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _require_apart(source, sink, paths, out, options)
    _require_parallel(sink, options)
    listed: list[Result] = []
    several = False
    own = source_arguments(source, options)
    for path, target in _sets(source, sink, paths, out):
        empty: NothingChosenError | None = None
        for low, high, below in _halves(head_tail, target):
            several |= below != out
            try:
                with _workers(source, sink, path, options):
                    result = _convert_one(
                        source, sink, path, below, own, min_at_least=low, fewer_than=high, **options
                    )
            except NothingChosenError as error:
                if head_tail is None or empty is not None:
                    raise
                empty = error
                click.echo(f"note: {printable(str(below))} is not written: {error}", err=True)
                continue
            listed.append(result)
            _comment(result)
            if not as_json:
                click.echo(_summary(result))
    if as_json:
        click.echo(_json([vars(r) for r in listed] if several else vars(listed[0])))


def _require_parallel(sink: str, options: dict[str, Any]) -> None:
    """Make sure that processes are asked for only where several can write the target."""
    if SINKS[sink].parallel:
        return
    for option in _asked_for(options):
        raise click.UsageError(
            f"{option}: one process writes {SINKS[sink].title}; leave {option} away"
        )


def _asked_for(options: dict[str, Any]) -> list[str]:
    """Which of the options that ask for more than one process were given."""
    given = {"--workers": (options["workers"] or 1) > 1, "--dask": options["dask"] is not None}
    return [option for option, is_given in given.items() if is_given]


def _require_apart(
    source: str, sink: str, paths: list[Path], out: Path, options: dict[str, Any]
) -> None:
    """Make sure that the target holds nothing that is read, for overwriting would remove it.

    Nor may images be written where a source of image files looks for its own.
    """
    read = list(paths)
    for value in options.values():
        values = value if isinstance(value, tuple) else (value,)
        read += [path for path in values if isinstance(path, Path)]
    if source == "lmdb":
        from facepack.store.sets import split_set

        read += [split_set(path)[0] for path in paths]
    target = Path(os.path.realpath(out))
    for path in read:
        if Path(os.path.realpath(path)).is_relative_to(target):
            raise click.UsageError(f"{out} holds the source {path}: choose another target")
    folders = []
    if sink == "img" and source == "img":
        folders = paths
    elif sink == "img" and source == "lst" and options["overwrite"]:
        folders = [options["root"]] if options["root"] else [path.parent for path in paths]
    for folder in folders:
        if target.is_relative_to(os.path.realpath(folder)):
            raise click.UsageError(
                f"{out} lies in {folder}, where the images are read: choose another target"
            )


def _sets(source: str, sink: str, paths: list[Path], out: Path) -> list[tuple[list[Path], Path]]:
    """Source and target of each conversion: of a folder of .bin files there are several."""
    if source != "bin" or not paths[0].is_dir():
        return [(paths, out)]
    files = sorted(paths[0].glob("[!.]*.bin"))
    if not files:
        from facepack.errors import SourceError

        raise SourceError(f"{paths[0]}: the folder holds no .bin; pass a .bin or a folder of them")
    return [([file], out / (file.name if sink == "bin" else file.stem)) for file in files]


def _halves(head_tail: int | None, out: Path) -> list[tuple[int | None, int | None, Path]]:
    """Least images, images that are too many, and target, of each half; or of the whole."""
    if head_tail is None:
        return [(None, None, out)]
    return [(head_tail, None, out / "head"), (None, head_tail, out / "tail")]


def _workers(
    source: str, sink: str, paths: list[Path], options: dict[str, Any]
) -> AbstractContextManager[None]:
    """Starts worker processes before the source is opened, where they will surely be wanted."""
    from facepack.convert.workers import started_early

    if options["dask"] or not (SOURCES[source].parallel and SINKS[sink].parallel):
        return nullcontext()
    modules = [kind.location.partition(":")[0] for kind in (SOURCES[source], SINKS[sink])]
    return started_early(paths, options["workers"], modules)


def _convert_one(
    source: str,
    sink: str,
    paths: list[Path],
    out: Path,
    own: dict[str, Any],
    *,
    min_at_least: int | None,
    fewer_than: int | None,
    exclude: Path | None,
    identities: str | None,
    sample: float | None,
    min_images: int | None,
    max_images: int | None,
    seed: int,
    **options: Any,
) -> Result:
    from facepack.convert.choose import Choice, choose, read_exclude_list

    opened = SOURCES[source].open(paths, own)
    alone = not opened.parallel or (sink == "img" and opened.content == "pairs")
    if alone and (asked := _asked_for(options)):
        opened.notices.append(f"one process does it all, so that {asked[0]} changes nothing")
    bounds = [bound for bound in (min_images, min_at_least) if bound is not None]
    choice = Choice(
        exclude=read_exclude_list(exclude) if exclude else frozenset(),
        identities=identities,
        sample=sample,
        min_images=max(bounds, default=None),
        fewer_than=fewer_than,
        max_images=max_images,
        seed=seed,
    )
    duplicates = options.pop("duplicates", False)
    if sink == "lmdb":
        options["seed"] = seed
    chosen = choose(opened, choice)
    result = SINKS[sink].write(chosen, out, target_options(chosen, options))
    if duplicates:
        from facepack.view.duplicates import list_duplicates

        result.notices.append(list_duplicates(out))
    return cast("Result", result)


def target_options(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """Options of the command line as the sinks' options call them."""
    from facepack.convert.spans import payload_bytes
    from facepack.convert.workers import suitable_count
    from facepack.store.checks import ImageCheck

    check = ImageCheck(
        decode=options.pop("decode"), size=options.pop("size"), color=options.pop("color")
    )
    if "shard_size" in options:
        options["shard_bytes"] = options.pop("shard_size") << 20
    workers = options["workers"] or suitable_count(payload_bytes(source))
    return {**options, "check": check, "workers": workers}


def _comment(result: Result) -> None:
    for notice in result.notices:
        click.echo(f"note: {printable(notice)}", err=True)
    if result.quarantined:
        listed = _printable(str(Path(result.out) / "quarantine.jsonl"))
        click.echo(
            f"{result.quarantined:,} of {result.found:,} records were set aside: see {listed}",
            err=True,
        )


def _summary(result: Result) -> str:
    what = (
        f"{result.pairs:,} pairs"
        if result.pairs is not None
        else f"{result.identities:,} identities of {result.classes:,} classes"
    )
    ratio = result.file_bytes / result.payload_bytes if result.payload_bytes else float("nan")
    return (
        f"{_printable(result.out)}: {result.packed:,} images, {what}, {result.file_bytes:,} bytes "
        f"({ratio:.4f} × payload), {result.seconds:.1f} s"
    )


def _json(value: object) -> str:
    return _printable(json.dumps(value, indent=1, ensure_ascii=False))


def _printable(text: str) -> str:
    """``text`` with what is no UTF-8 in file names escaped, just as JSON escapes it."""
    return text.encode("utf-8", "backslashreplace").decode()
