"""The command line's root: finds commands without importing them, turns errors into one line."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import click

from facepack.convert.registry import CONVERSIONS, SINKS, SOURCES
from facepack.errors import ConfigError, FacepackError, did_you_mean
from facepack.terminal import printable
from facepack.version import __version__

# command → (module, one line of help). The help stands here so that `facepack --help` imports no
# command; tests/test_cli.py holds it against each command's own first line. Conversions come from
# the registry of sources and sinks.
COMMANDS: dict[str, tuple[str, str]] = {
    "synth": (
        "facepack.convert.commands.synth",
        "Generate a data set of procedural faces.",
    ),
    "append": ("facepack.convert.commands.append", "Add a source to a pack as new shards."),
    "merge": ("facepack.convert.commands.merge", "Join several packs into one."),
    "split": (
        "facepack.commands.split",
        "Part a pack into identities with many images and with few.",
    ),
    "select": ("facepack.commands.select", "Make a pack of all records but those of a list."),
    "shards": ("facepack.commands.shards", "List, add and remove shard sets of a pack."),
    "inspect": ("facepack.commands.inspect", "Show what a pack holds."),
    "head": ("facepack.commands.head", "List records of a pack."),
    "sheet": ("facepack.commands.sheet", "Draw a contact sheet of a pack."),
    "report": ("facepack.commands.report", "Write a page about a pack."),
    "get": ("facepack.commands.get", "Get one image out of a pack."),
    "verify": ("facepack.commands.verify", "Check every byte of packs."),
    "reindex": ("facepack.commands.reindex", "Rebuild a pack's index files from its shards."),
    "salvage": ("facepack.commands.salvage", "Copy what is good out of a damaged pack."),
    "bench": ("facepack.commands.bench", "Measure how fast this machine reads a pack."),
    "train": ("facepack.train.commands.train", "Train a face-recognition model from a pack."),
    "unequal": (
        "facepack.evaluate.commands.unequal",
        "Train on long-tailed, noisy data in three stages.",
    ),
    "schedule": (
        "facepack.train.commands.schedule",
        "Replay a training log through a schedule.",
    ),
    "models": ("facepack.train.commands.models", "List the backbones."),
    "heads": ("facepack.train.commands.heads", "List the margins and their settings."),
    "export": ("facepack.train.commands.export", "Write a model as safetensors or ONNX."),
    "eval": (
        "facepack.evaluate.commands.eval",
        "Evaluate a model on verification sets and benchmarks.",
    ),
    "compare": ("facepack.evaluate.commands.compare", "Show models and runs side by side."),
    "embed": ("facepack.evaluate.commands.embed", "Embed images into a file."),
    "noise": (
        "facepack.evaluate.commands.noise",
        "Find images that are not what their labels say.",
    ),
    "submission": (
        "facepack.evaluate.commands.submission",
        "Check an ONNX file against MFR's rules.",
    ),
    "env": ("facepack.commands.env", "Show versions of everything that matters."),
}

_UNREACHABLE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)
_NO_THREAD = "can't start new thread"  # as CPython words it


class LazyGroup(click.Group):
    """A group whose commands live in :data:`COMMANDS` and are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which a user meets them."""
        return [*CONVERSIONS, *COMMANDS]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the command ``name``; its function is ``name`` with ``eval`` as ``eval_``."""
        if name in CONVERSIONS:
            conversion: click.Command = import_module(
                "facepack.convert.commands.convert"
            ).conversion(name)
            return conversion
        if name not in COMMANDS:
            return None
        module = import_module(COMMANDS[name][0])
        attribute = f"{name}_" if name in {"eval"} else name
        command: click.Command = getattr(module, attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Click does it; a name that there is none of comes with the nearest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"{error.message}{hint}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the sources, the sinks and the other commands from their tables alone."""
        with formatter.section("Conversions: facepack SOURCE2SINK SRC OUT, from"):
            formatter.write_dl([(name, kind.title) for name, kind in SOURCES.items()])
        with formatter.section("into"):
            formatter.write_dl([(name, kind.title) for name, kind in SINKS.items()])
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a :class:`FacepackError` becomes one line and its exit status."""
        try:
            _require_current_folder()
            return super().invoke(ctx)
        except FacepackError as error:
            name = f"facepack {ctx.invoked_subcommand or ''}".rstrip()
            click.echo(f"{name}: {printable(str(error))}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            # Path.exists, is_file and is_dir raise where a folder on the way cannot be entered.
            if error.filename is None or error.errno not in _UNREACHABLE:
                raise
            path = printable(str(error.filename))
            name = f"facepack {ctx.invoked_subcommand}"
            click.echo(f"{name}: {path}: {error.strerror}: choose another path", err=True)
            ctx.exit(1)
        except RuntimeError as error:
            if not _lacks_a_thread(error):
                raise
            click.echo(
                f"facepack {ctx.invoked_subcommand}: this process may start no further thread: "
                "raise the limit (ulimit -u, or that of the container or job), or run fewer "
                "processes beside it",
                err=True,
            )
            ctx.exit(1)
        except KeyboardInterrupt:
            name = str(ctx.invoked_subcommand)
            command = self.get_command(ctx, name)
            resumable = command and any(param.name == "resume" for param in command.params)
            hint = "; run it again with --resume to go on" if resumable else ""
            click.echo(f"facepack {name}: interrupted{hint}", err=True)
            ctx.exit(130)


def _lacks_a_thread(error: BaseException | None) -> bool:
    """Whether it came to this because no thread could be started."""
    while error is not None:
        if str(error) == _NO_THREAD:
            return True
        error = error.__context__
    return False


def _require_current_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the current folder is gone or cannot be read ({error.strerror}): change to another"
        ) from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="facepack")
def root() -> None:
    """Pack face data sets once, feed a GPU from the pack, train and evaluate from it."""


def main() -> None:
    """Entry point of the ``facepack`` command."""
    # torch's threads spin while they wait for each other. Where a loader's threads, or another
    # program, need the same cores, that costs several times what it saves on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # File names may hold bytes that are no text, and text what the terminal cannot show.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if "_FACEPACK_COMPLETE" in os.environ:
        import_module("facepack.completion")
    sys.exit(root(prog_name="facepack"))
