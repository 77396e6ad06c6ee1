"""What all evaluating commands share: options, reading targets, running, printing."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from facepack.command_options import BACKBONE, FILE, MODEL_CHANNELS, PATH, with_options
from facepack.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from facepack.evaluate.embedding.preview import EmbedPreview
    from facepack.evaluate.faces.bad_images import OnBadImage
    from facepack.evaluate.noise.preview import NoisePreview
    from facepack.evaluate.protocol import Protocol
    from facepack.evaluate.registry import Opener
    from facepack.evaluate.results.result import Result


_MODEL = "A run's folder, a file with a backbone's state_dict, or an .onnx"
MODEL_OPTION = click.option(
    "--model",
    required=True,
    type=PATH,
    metavar="RUN_OR_FILE",
    help=f"{_MODEL}.",
)
MODELS_OPTION = click.option(
    "--model",
    "models",
    multiple=True,
    type=PATH,
    metavar="RUN_OR_FILE",
    help=f"{_MODEL}; repeatable.",
)
BATCH_SIZE_OPTION = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    metavar="N",
    help="Images a forward pass.",
)
ON_BAD_IMAGE_OPTION = click.option(
    "--on-bad-image",
    type=click.Choice(["skip", "raise"]),
    default="skip",
    show_default=True,
    help="An image that cannot be decoded is left out, told and counted; or is an error.",
)
FORWARD_OPTIONS = (
    BACKBONE,
    MODEL_CHANNELS,
    click.option(
        "--torchscript",
        is_flag=True,
        help="The model is TorchScript, a program that is run: of those whom you trust.",
    ),
    click.option(
        "--device",
        metavar="NAME",
        help="Where to compute, such as cuda:0 or cpu; a GPU if there is one.",
    ),
    BATCH_SIZE_OPTION,
    ON_BAD_IMAGE_OPTION,
)
DATA_OPTION = click.option(
    "--data",
    type=PATH,
    metavar="DIR",
    help="Where sets are looked for by name: FACEPACK_HOME, or else the current folder, if unset.",
)
GROUP_OPTION = click.option(
    "--group",
    type=PATH,
    metavar="FILE[:COLUMN]",
    help="Groups, by image or identity: CSV with a header, or lines of NAME GROUP.",
)
EVALUATION_OPTIONS = (
    MODELS_OPTION,
    *FORWARD_OPTIONS,
    click.option(
        "--embeddings",
        type=PATH,
        metavar="E",
        help="Evaluate these, not a model: what `facepack embed` wrote, or a .npy.",
    ),
    click.option(
        "--keys",
        type=PATH,
        metavar="FILE",
        help="The image of each row of a .npy: one key a line, or a .npy of texts.",
    ),
    DATA_OPTION,
    click.option(
        "--results",
        type=PATH,
        metavar="FILE",
        help="Keep results here, those of other targets too. Default: RUN/results.json of a run.",
    ),
    click.option(
        "--report",
        "reports",
        multiple=True,
        type=FILE,
        metavar="OUT",
        help="Write a page (.html), its curves (.png, .svg, .pdf) or its figures (.csv); "
        "repeatable.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print a list of objects, shares of one."),
)


def tell_preview(preview: EmbedPreview | NoisePreview, as_json: bool) -> None:
    """Print what would be done."""
    from facepack.terminal import NOTHING_WRITTEN, printable

    if as_json:
        click.echo(json.dumps(asdict(preview)))
        return
    click.echo("\n".join(map(printable, preview.lines())))
    click.echo(NOTHING_WRITTEN)


Declaration = Callable[..., "Opener"]


class ProtocolCommand(click.Command):
    """``facepack eval PROTOCOL``: ``own`` arguments and options, and those of all evaluations.

    ``find`` takes the values of its own, and ``data``, the data home; makes sure that the target is
    there, and returns what opens it.
    """

    def __init__(
        self, name: str, find: Declaration, own: Sequence[click.Parameter], text: str
    ) -> None:
        self._find = find
        self._own = list(own)
        common = _parameters(with_options(EVALUATION_OPTIONS)(lambda: None))
        super().__init__(name, params=[*own, *common], callback=self._run, help=text)

    def opener(self, words: Sequence[str], data: Path | None) -> Opener:
        """What opens the target that ``words`` name with their options.

        Raises:
            ConfigError: the words are not as the command takes them.
            EvaluationError: there is no such target.
        """
        assert self.name is not None
        reader = click.Command(self.name, params=self._own, add_help_option=False)
        try:
            context = reader.make_context(self.name, list(words))
        except click.UsageError as error:
            raise ConfigError(
                f"{self.name} {shlex.join(words)}: {error.format_message()} It is written as "
                f"behind `facepack eval`: see facepack eval {self.name} --help"
            ) from error
        return self._find(**context.params, data=data)

    def _run(self, **values: Any) -> None:
        own = {str(each.name): values.pop(str(each.name)) for each in self._own}
        data = values.pop("data")
        run_evaluation(lambda: [self._find(**own, data=data)], **values)


def protocol_command(name: str) -> Callable[[Declaration], ProtocolCommand]:
    """Decorate a function that finds a target, with click's decorators below for its parameters.

    The function takes ``data``, the data home, beside them, and returns what opens the target: see
    :class:`ProtocolCommand`. Its docstring is the command's help.
    """

    def make(find: Declaration) -> ProtocolCommand:
        return ProtocolCommand(name, find, _parameters(find), (find.__doc__ or "").strip())

    return make


def find_images(target: str, data: Path | None) -> Path:
    """The pack or folder that ``target`` means: by name in the data home, or by path.

    Raises:
        EvaluationError: there is none.
    """
    from facepack.errors import EvaluationError
    from facepack.store.home import data_home
    from facepack.store.sets import split_set

    places = dict.fromkeys([data_home(data) / target, Path(target)])
    found = next((place for place in places if split_set(place)[0].is_dir()), None)
    if found is None:
        raise EvaluationError(
            f"there is no pack or folder {target!r}: looked for {', '.join(map(str, places))}. "
            f"Give a path, or the name of one in the data home, which is {data_home(data)} now "
            "(--data or FACEPACK_HOME)"
        )
    return found


def _parameters(function: Any) -> list[click.Parameter]:
    """Those that click's decorators left on a function, in their order."""
    return list(reversed(getattr(function, "__click_params__", [])))


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is evaluated: a model, or embeddings from elsewhere."""

    name: str  # what results call it
    measure: Callable[[Protocol], Result]  # gives its result under a protocol
    image_size: tuple[int, int]  # (height, width) in pixels that it takes
    results: Path | None  # where its results are kept; None keeps none


def run_evaluation(
    find: Callable[[], Sequence[Opener]],
    *,
    models: Sequence[Path],
    embeddings: Path | None,
    keys: Path | None,
    backbone: str | None,
    channels: str | None,
    torchscript: bool,
    device: str | None,
    batch_size: int,
    on_bad_image: OnBadImage,
    results: Path | None,
    reports: Sequence[Path],
    as_json: bool,
    names: Sequence[str] = (),
) -> None:
    """Evaluate models, or embeddings, on targets in turn; print each result and keep them all.

    ``find`` finds the targets, once the options are known to make sense. ``names`` are what they
    are called, so that a table of pair sets is as wide as all need; the rest are the options.

    Raises:
        click.UsageError: neither models nor embeddings are given, or both; or one file is to keep
            the results of several models.
        FacepackError: anything that goes wrong on the way.
    """
    if (not models) == (embeddings is None):
        raise click.UsageError("give --model, or --embeddings, and not both")
    if results is not None and len(models) > 1:
        raise click.UsageError("--results keeps those of one model: leave it out, or evaluate each")
    # A mistyped name must not cost the targets before it, nor wait for the model.
    openers = find()
    from facepack.evaluate.report import hard_images, require_writable_report, write_report
    from facepack.evaluate.results.results_file import add_results, read_results
    from facepack.evaluate.results.table import TablePrinter, json_object
    from facepack.store.output import require_writable
    from facepack.terminal import printable

    for out in reports:
        require_writable_report(out)
    from facepack.train.build import enter_device

    entered = enter_device(device)
    done: list[Result] = []
    images: dict[Any, Any] = {}
    load = {"backbone": backbone, "channels": channels, "torchscript": torchscript}
    measure = partial(
        _measure_model, device=entered, batch_size=batch_size, on_bad_image=on_bad_image
    )
    for subject in _subjects(models, load, measure, embeddings, keys, results, entered):
        printer = TablePrinter(names)
        if len(models) > 1 and not as_json:
            click.echo(printable(f"{subject.name}:"))
        if subject.results is not None:  # now, not after hours, it must be fit to be added to
            require_writable(subject.results)
            if subject.results.exists():
                read_results(subject.results)
        for opener in openers:
            protocol = opener()
            result = subject.measure(protocol)
            if any(out.suffix.lower() == ".html" for out in reports):
                images.update(hard_images(protocol, result, subject.image_size))
            for notice in result.notices:
                click.echo(printable(f"{result.target}: {notice}"), err=True)
            if not as_json:
                for line in printer.lines(result):
                    click.echo(printable(line))
            if subject.results is not None:
                add_results(subject.results, [result])  # a target that fails costs no other
            done.append(result)
    if as_json:
        click.echo(json.dumps([json_object(result) for result in done], indent=2))
    for out in reports:
        write_report(done, out, images=images)
        click.echo(f"{out}", err=True)


def _subjects(
    models: Sequence[Path],
    load: dict[str, Any],
    measure: Callable[[Any, str, str, Protocol], Result],
    embeddings: Path | None,
    keys: Path | None,
    results: Path | None,
    device: torch.device,
) -> Iterator[Subject]:
    from facepack.evaluate.embedding.embed import model_image_size
    from facepack.evaluate.faces.decode import FACE_SIZE
    from facepack.evaluate.models import open_model
    from facepack.evaluate.results.short_names import short_names

    if embeddings is not None:
        from facepack.evaluate.embedding.embeddings import open_embeddings
        from facepack.evaluate.run import evaluate_embeddings

        rows = open_embeddings(embeddings, keys)
        (name,) = short_names([embeddings])
        yield Subject(
            name=name,
            measure=lambda protocol: replace(
                evaluate_embeddings(protocol, rows, device=device), model=name
            ),
            image_size=FACE_SIZE,
            results=results,
        )
    for model, name in zip(models, short_names(models), strict=True):
        loaded = open_model(model, **load)
        network = loaded.network.to(device)
        yield Subject(
            name=name,
            measure=partial(measure, network, name, loaded.checksum),
            image_size=model_image_size(network),
            results=_results_beside(model) if results is None else results,
        )


def _results_beside(model: Path) -> Path | None:
    """The file that keeps a run's results; None of what is no run, or may not be written."""
    from facepack.evaluate.results.results_file import RESULTS
    from facepack.terminal import printable

    if not model.is_dir():
        return None
    if not os.access(model, os.W_OK):
        click.echo(printable(f"{model} cannot be written: {RESULTS} is not kept there"), err=True)
        return None
    return model / RESULTS


def _measure_model(
    network: Any, name: str, checksum: str, protocol: Protocol, **options: Any
) -> Result:
    from facepack.evaluate.run import evaluate
    from facepack.progress import Progress

    with Progress(len(protocol.faces), unit="images", label=protocol.target) as progress:
        result = evaluate(network, protocol, name=name, on_batch=progress.update, **options)
    return replace(result, weights=checksum)
