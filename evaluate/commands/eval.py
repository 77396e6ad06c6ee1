"""``facepack eval``: the command of targets by name, behind which the protocols' own stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from facepack.command_options import with_options
from facepack.evaluate.command import EVALUATION_OPTIONS, run_evaluation
from facepack.evaluate.registry import PROTOCOLS, find_target


class EvalCommand(click.Command):
    """``facepack eval TARGET…``; the first word may be a protocol, and then its command is run."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """A context of this command, or of the protocol's that ``args`` begin with."""
        if args and args[0] in PROTOCOLS:
            command = PROTOCOLS[args[0]].command()
            return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the protocols."""
        with formatter.section("Protocols: facepack eval PROTOCOL …"):
            formatter.write_dl([(name, kind.title) for name, kind in PROTOCOLS.items()])


@click.command("eval", cls=EvalCommand)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET…")
@with_options(EVALUATION_OPTIONS)
def eval_(targets: tuple[str, ...], *, data: Path | None, **options: Any) -> None:
    """Evaluate a model on verification sets and benchmarks.

    TARGET is a set's name (lfw, cfp_fp, agedb_30, calfw, cplfw, cfp_ff, vgg2_fp or any other), or
    the path of one: a pack, a .bin, or a folder of imgs/ and pair_label.npy; or a protocol with its
    arguments, in quotes. The table is in percent: accuracy ± standard deviation over ten folds, TAR
    at three FARs, AUC and EER; norm is the mean length of the embeddings, image plus mirror image.
    """
    run_evaluation(
        lambda: [find_target(target, data) for target in targets], names=targets, **options
    )
