"""``facepack synth``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from facepack.command_options import DRY_RUN, OVERWRITE, PATH
from facepack.wording import count_of


class _Count(click.ParamType):
    """A number, or text that names a distribution, which the options look at."""

    name = "count"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """As click's."""
        if isinstance(value, str) and value.startswith("zipf"):
            return value
        return int(click.IntRange(min=1).convert(value, param, ctx))


_COUNT = _Count()


@click.command()
@click.argument("out", type=PATH)
@click.option(
    "--identities", type=click.IntRange(min=1), default=1000, show_default=True, help="People."
)
@click.option(
    "--images-per-identity",
    type=_COUNT,
    default=20,
    show_default=True,
    metavar="N",
    help="Pictures of each; or zipf:EXPONENT:LOW-HIGH, a long tail: from LOW to HIGH, n of them "
    "with probability n^-EXPONENT.",
)
@click.option(
    "--pairs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Pairs of a verification set of other people, a multiple of 20.",
)
@click.option(
    "--bin-name", default="lfw", show_default=True, help="The verification set is OUT/<this>.bin."
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Another seed draws other people.",
)
@click.option(
    "--size",
    type=click.IntRange(32, 512),
    default=112,
    show_default=True,
    help="Side of the images, pixels.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=93,
    show_default=True,
    help="Of the JPEGs; 93 gives 5 to 8 KB at 112 pixels.",
)
@click.option(
    "--label-noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of images that show another person than their label says.",
)
@click.option(
    "--outside-noise",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Share of images that show people who have no label.",
)
@click.option(
    "--distinct",
    type=click.IntRange(1, 1 << 20),
    default=None,
    help="Draw only so many images and repeat them: for trials of size and speed.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes; one a CPU by default. The files do not depend on it.",
)
@OVERWRITE
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def synth(
    out: Path, workers: int | None, overwrite: bool, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Generate a data set of procedural faces.

    Writes OUT/train.rec, train.idx and property in InsightFace's layout and, with --pairs,
    OUT/lfw.bin with people who are in no training set. What --label-noise and --outside-noise made
    wrong is listed in OUT/label_noise.tsv and OUT/outside_noise.tsv: key, label, person shown. The
    same options give the same bytes.
    """
    from facepack.convert.faces.synth import SynthOptions, generate, preview
    from facepack.terminal import NOTHING_WRITTEN, printable

    settings = SynthOptions(**options)
    if dry_run:
        told = preview(out, settings, overwrite=overwrite)
        as_text = "\n".join([*map(printable, told.lines()), NOTHING_WRITTEN])
        click.echo(json.dumps(vars(told), indent=1) if as_json else as_text)
        return
    result = generate(out, settings, workers=workers, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps(vars(result), indent=1, ensure_ascii=False))
        return
    wrong = [
        f"{count:,} {what}"
        for count, what in (
            (result.mislabelled, "under a wrong label"),
            (result.outside, "of people outside the set"),
        )
        if count
    ]
    noise = f" ({', '.join(wrong)})" if wrong else ""
    pairs = f", {count_of(result.pairs, 'pair')}" if result.pairs else ""
    click.echo(
        f"{result.out}: {count_of(result.images, 'image')}{noise} of "
        f"{count_of(result.identities, 'identity', 'identities')}, "
        f"{result.image_bytes_mean:,.0f} bytes each{pairs}, {result.seconds:.1f} s"
    )
