"""``facepack SOURCE2SINK``: every source into every sink."""

from __future__ import annotations

import json
import os
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facepack.command_options import (
    DRY_RUN,
    OVERWRITE,
    PATH,
    RESUME,
    Option,
    with_options,
)
from facepack.convert.command_line import take
from facepack.convert.registry import CONVERSIONS, SINKS, SOURCES, SinkKind, SourceKind, summary
from facepack.errors import NothingChosenError
from facepack.terminal import NOTHING_WRITTEN, printable
from facepack.wording import count_of

if TYPE_CHECKING:
    from facepack.convert.result import Result
    from facepack.convert.source import Source
    from facepack.store.preview import Preview


class _Size(click.ParamType):
    """``112`` or ``112x96`` (width × height) as (height, width)."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        match = re.fullmatch(r"([1-9][0-9]{0,8})(?:x([1-9][0-9]{0,8}))?", str(value))
        if match is None:
            self.fail(f"{value!r} is no size such as 112 or 112x96", param, ctx)
        return int(match[2] or match[1]), int(match[1])


LOOK: tuple[Option, ...] = (
    click.option("--decode", is_flag=True, help="Decode every image, not only its header."),
    click.option("--size", type=_Size(), help="Set aside images of another size, e.g. 112."),
    click.option(
        "--color",
        type=click.Choice(["keep", "refuse", "convert"]),
        default="keep",
        show_default=True,
        help="Greyscale, CMYK and transparent images: keep, set aside, or encode as RGB.",
    ),
    click.option(
        "--resize", type=_Size(), help="Encode images of another size anew, at this one, e.g. 112."
    ),
    click.option(
        "--channels",
        type=click.Choice(["rgb", "bgr"]),
        help="Order of the colours in the images; bgr: red and blue are swapped. A pack tells its "
        "own; else rgb.",
    ),
    click.option("--strict", is_flag=True, help="Stop at the first record that cannot be used."),
)
_CHOOSE: tuple[Option, ...] = (
    click.option("--exclude", type=PATH, help="List of images (or identity/) to leave out."),
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
_RUN: tuple[Option, ...] = (
    click.option(
        "--workers",
        type=click.IntRange(1),
        help="Processes; by default as many as CPUs, if it pays.",
    ),
    click.option("--dask", metavar="ADDRESS", help="Let a Dask cluster do the work."),
    RESUME,
    OVERWRITE,
    DRY_RUN,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)


@cache
def conversion(name: str) -> click.Command:
    """The command ``name`` of :data:`~facepack.convert.registry.CONVERSIONS`."""
    source, sink = CONVERSIONS[name]
    read, written = SOURCES[source], SINKS[sink]

    def run(src: Any, out: Path, **options: Any) -> None:
        _convert(read, written, list(src) if read.many else [src], out, **options)

    options = (
        click.argument("src", type=PATH, nargs=-1 if read.many else 1, required=True),
        click.argument("out", type=PATH),
        *read.command.options,
        *written.command.options,
        *LOOK,
        *_CHOOSE,
        *_RUN,
    )
    text = f"{summary(name)}\n\n{read.src} {written.out}"
    return click.command(name=name, help=text)(with_options(options)(run))


def _convert(
    source: SourceKind,
    sink: SinkKind,
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
    listed: list[Result | Preview] = []
    several = False
    arguments = source.command.arguments(take(source.command.options, options))
    for path, target in source.command.conversions(paths, out, sink.command.suffix):
        empty: NothingChosenError | None = None
        for low, high, below in _halves(head_tail, target):
            several |= below != out
            try:
                with _workers(source, sink, path, options):
                    result = _convert_one(
                        source.open(path, arguments),
                        sink,
                        below,
                        min_at_least=low,
                        fewer_than=high,
                        **options,
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
        told = [vars(r) for r in listed] if several else vars(listed[0])
        click.echo(_printable(json.dumps(told, indent=1, ensure_ascii=False)))
    elif options["dry_run"]:
        click.echo(NOTHING_WRITTEN)


def _require_parallel(sink: SinkKind, options: dict[str, Any]) -> None:
    """Make sure that processes are asked for only where several can write the target."""
    if sink.parallel:
        return
    for option in _asked_for(options):
        raise click.UsageError(f"{option}: one process writes {sink.title}; leave {option} away")


def _asked_for(options: dict[str, Any]) -> list[str]:
    """Which of the options that ask for more than one process were given."""
    given = {"--workers": (options["workers"] or 1) > 1, "--dask": options["dask"] is not None}
    return [option for option, is_given in given.items() if is_given]


def _require_apart(
    source: SourceKind, sink: SinkKind, paths: list[Path], out: Path, options: dict[str, Any]
) -> None:
    """Make sure that the target holds nothing that is read, for overwriting would remove it.

    Nor may images be written where a source of image files looks for its own.
    """
    read = [*source.command.paths_read(paths)]
    for value in options.values():
        values = value if isinstance(value, tuple) else (value,)
        read += [path for path in values if isinstance(path, Path)]
    target = Path(os.path.realpath(out))
    for path in read:
        if Path(os.path.realpath(path)).is_relative_to(target):
            raise click.UsageError(f"{out} holds the source {path}: choose another target")
    for folder in source.command.image_folders(paths, options):
        if sink.command.writes_images and target.is_relative_to(os.path.realpath(folder)):
            raise click.UsageError(
                f"{out} lies in {folder}, where the images are read: choose another target"
            )


def _halves(head_tail: int | None, out: Path) -> list[tuple[int | None, int | None, Path]]:
    """Least images, images that are too many, and target, of each half; or of the whole."""
    if head_tail is None:
        return [(None, None, out)]
    return [(head_tail, None, out / "head"), (None, head_tail, out / "tail")]


def _workers(
    source: SourceKind, sink: SinkKind, paths: list[Path], options: dict[str, Any]
) -> AbstractContextManager[None]:
    """Starts worker processes before the source is opened, where they will surely be wanted."""
    from facepack.convert.workers import started_early

    if options["dask"] or options["dry_run"] or not sink.parallel:
        return nullcontext()
    modules = [kind.location.partition(":")[0] for kind in (source, sink)]
    return started_early(paths, options["workers"], modules)


def _convert_one(
    source: Source,
    sink: SinkKind,
    out: Path,
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
) -> Result | Preview:
    from facepack.convert.choose import Choice, choose, read_exclude_list

    alone = not source.parallel or sink.command.writes_alone(source)
    if alone and (asked := _asked_for(options)):
        source.notices.append(f"one process does it all, so that {asked[0]} changes nothing")
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
    own = take(sink.command.options, options)
    chosen = choose(source, choice)
    arguments = target_options(chosen, options) | sink.command.arguments(own, seed)
    result: Result | Preview = sink.write(chosen, out, arguments)
    if not options["dry_run"]:
        result.notices.extend(sink.command.look_over(out, own))
    return result


def target_options(source: Source, options: dict[str, Any]) -> dict[str, Any]:
    """Options that all conversions have, as those of the sinks call them."""
    from facepack.convert.spans import payload_bytes
    from facepack.convert.workers import suitable_count
    from facepack.store.checks import ImageCheck

    check = ImageCheck(
        **{name: options.pop(name) for name in ("decode", "size", "color", "channels", "resize")}
    )
    workers = options["workers"] or suitable_count(payload_bytes(source))
    return {**options, "check": check, "workers": workers}


def _comment(result: Result | Preview) -> None:
    from facepack.convert.result import Result

    for notice in result.notices:
        click.echo(f"note: {printable(notice)}", err=True)
    if isinstance(result, Result) and result.quarantined:
        listed = _printable(str(Path(result.out) / "quarantine.jsonl"))
        click.echo(
            f"{result.quarantined:,} of {result.found:,} records were set aside: see {listed}",
            err=True,
        )


def _summary(result: Result | Preview) -> str:
    from facepack.convert.result import Result

    if not isinstance(result, Result):
        return "\n".join(map(printable, result.lines()))
    what = (
        count_of(result.pairs, "pair")
        if result.pairs is not None
        else f"{count_of(result.identities, 'identity', 'identities')} of "
        f"{count_of(result.classes, 'class', 'classes')}"
    )
    ratio = result.file_bytes / result.payload_bytes if result.payload_bytes else float("nan")
    return (
        f"{_printable(result.out)}: {count_of(result.packed, 'image')}, {what}, "
        f"{result.file_bytes:,} bytes ({ratio:.4f} × payload), {result.seconds:.1f} s"
    )


def _printable(text: str) -> str:
    """``text`` with what is no UTF-8 in file names escaped, just as JSON escapes it."""
    return text.encode("utf-8", "backslashreplace").decode()
