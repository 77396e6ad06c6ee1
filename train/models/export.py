"""Models for other programs, safetensors and ONNX: read back and compared before they are kept."""

from __future__ import annotations

import copy
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from facepack.errors import ConfigError, DecodeError, TrainingError, needs_extra
from facepack.loading.pixels import decode_checked
from facepack.store.places import require_outside_packs
from facepack.train.backbones import Backbone, build
from facepack.train.models.checksums import tensors_digest
from facepack.train.models.pretrained import DIGEST, SAFETENSORS, load_pretrained
from facepack.version import __version__

if TYPE_CHECKING:
    from facepack.store.pack import Pack

ONNX = ".onnx"
OPSET = 18
INPUT, OUTPUT = "images", "embeddings"
TOLERANCE = 1e-4

_BATCH = 16
_ONNX_LIMIT = (1 << 31) - (1 << 24)  # a protobuf holds 2 GiB; the graph itself takes some

Embed = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the embeddings of a written model are from those of the original."""

    images: str
    """Which images were embedded by both."""
    count: int
    max_difference: float
    """Largest absolute difference of two values."""
    relative_difference: float
    """That, as a share of the largest absolute value."""
    min_cosine: float
    """Lowest cosine between two embeddings of one image."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """A model that was written."""

    out: str
    """The file."""
    bytes: int
    """Its size, with the file of weights beside it, if any."""
    metadata: dict[str, str]
    """What the file says of itself."""
    parity: tuple[Parity, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def describe(model: Backbone, suffix: str) -> dict[str, str]:
    """What an exported file says of itself: the network, and the images that it takes.

    ONNX takes RGB of any network: the graph turns the colours around where that is needed.
    """
    height, width = model.image_size
    return {
        "format": "pt",
        "backbone": model.name,
        "features": str(model.embedding_size),
        "image_height": str(height),
        "image_width": str(width),
        "layout": "NCHW",
        "color": "RGB" if suffix == ONNX else model.channels.upper(),
        "mean": "127.5",
        "std": "127.5",
        "facepack": __version__,
    }


def export_model(
    model: Backbone,
    out: Path,
    *,
    images: int = 32,
    pack: Pack | None = None,
    tolerance: float = TOLERANCE,
) -> Export:
    """Write a model in float32 and compare what was written with the original.

    ``out`` is written, or replaced, once the comparison has passed. It ends in ``.safetensors``
    (the ``state_dict`` as it is, read back by facepack and compared) or ``.onnx`` (opset 18, input
    ``images`` N×3×H×W, output ``embeddings`` N×F, any N, run by onnxruntime on the CPU). ONNX
    weights of 2 GiB and more go into a second file, ``out`` + ``.data``.

    Args:
        images: how many images of each kind are compared: random pixels, and those of ``pack``.
        pack: real images to compare on, at even distances through the pack.
        tolerance: largest difference, as a share of the largest value of an embedding.

    Raises:
        ConfigError: ``out`` ends in something else.
        MissingExtraError: a package of the extra ``export`` is not installed.
        TrainingError: the written model's embeddings differ by more, or the file cannot be written.
        DecodeError: an image of the pack does not decode, or not to the model's size.
    """
    check_format(out)
    model = copy.deepcopy(model).cpu().float().eval()
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    model.autocast = None
    batches = {f"{images} images of random pixels": _random_pixels(model, images)}
    if pack is not None:
        batches[f"{min(images, len(pack))} images of {pack.path}"] = _pack_pixels(
            model, pack, images
        )
    with _folder_beside(out) as folder:
        written = folder / out.name
        embed = (_write_safetensors if out.suffix == SAFETENSORS else _write_onnx)(model, written)
        parity = tuple(_compare(name, model, embed, pixels) for name, pixels in batches.items())
        for result in parity:
            # Written so that NaN does not pass.
            if not result.relative_difference <= tolerance:
                raise TrainingError(
                    f"{out} is not written: on {result.images}, embeddings differ by up to "
                    f"{result.max_difference:.3g}, {result.relative_difference:.2g} of the largest "
                    f"value (lowest cosine {result.min_cosine:.7f}); --tolerance allows "
                    f"{tolerance:g}"
                )
        # The weights first: a graph without them is of no use.
        parts = sorted(folder.iterdir(), key=lambda path: path == written)
        size = sum(path.stat().st_size for path in parts)
        for path in parts:
            path.replace(out.with_name(path.name))
    return Export(out=str(out), bytes=size, metadata=describe(model, out.suffix), parity=parity)


def check_format(out: Path) -> None:
    """Make sure that a file of this ending can be written here.

    Raises:
        ConfigError: it ends in neither ``.safetensors`` nor ``.onnx``.
        MissingExtraError: a package of the extra ``export`` is not installed.
        PackError: it would lie in a pack.
    """
    require_outside_packs(out)
    if out.suffix not in (SAFETENSORS, ONNX):
        raise ConfigError(
            f"{out}: the file's ending says what to write: {SAFETENSORS} or {ONNX}, not "
            f"{out.suffix or 'none'!r}"
        )
    safetensors = out.suffix == SAFETENSORS
    for package in ["safetensors"] if safetensors else ["onnx", "onnxscript", "onnxruntime"]:
        with needs_extra(package, "export"):
            __import__(package)


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder on the disk of ``out``, gone afterwards."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise TrainingError(
            f"cannot write {out}: {error.strerror or error}; choose another folder"
        ) from error
    try:
        yield folder
    except OSError as error:
        raise TrainingError(
            f"cannot write {out}: {error.strerror or error}; make room or choose another file"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# What is compared ---------------------------------------------------------------------------


def _random_pixels(model: Backbone, count: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, *model.image_size), np.uint8)
    return _normalized(pixels)


def _pack_pixels(model: Backbone, pack: Pack, count: int) -> torch.Tensor:
    positions = np.linspace(0, len(pack) - 1, min(count, len(pack))).round().astype(int)
    pixels = []
    for record in pack.batch(positions):
        try:
            pixels.append(decode_checked(record.image, model.image_size, pack.channels))
        except DecodeError as error:
            raise DecodeError(f"{pack.path}: {record.key}: {error}") from error
    return _normalized(np.stack(pixels).transpose(0, 3, 1, 2))


def _normalized(pixels: np.ndarray) -> torch.Tensor:
    """uint8 N×3×H×W to float32."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float().sub_(127.5).div_(127.5)


def _compare(name: str, model: Backbone, embed: Embed, pixels: torch.Tensor) -> Parity:
    # An image alone and then several at once: any batch size must do.
    batches = [pixels[:1], *pixels[1:].split(_BATCH)] if len(pixels) > 1 else [pixels]
    with torch.inference_mode():
        expected = torch.cat([model(batch) for batch in batches]).double()
        actual = torch.cat([embed(batch) for batch in batches]).double()
    difference = float((actual - expected).abs().max())
    largest = float(expected.abs().max())
    return Parity(
        images=name,
        count=len(pixels),
        max_difference=difference,
        relative_difference=difference / largest if difference else 0.0,
        min_cosine=float(torch.cosine_similarity(actual, expected).min()),
    )


# The formats --------------------------------------------------------------------------------


def _write_safetensors(model: Backbone, path: Path) -> Embed:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(
            state, path, metadata={**describe(model, SAFETENSORS), DIGEST: tensors_digest(state)}
        )
    except SafetensorError as error:  # of the disk, too
        raise OSError(str(error)) from error
    path.chmod(mode)  # save_file makes files that nobody else may read
    again = build(model.name, features=model.embedding_size).eval()
    load_pretrained(again, path)
    return again


class _BothHalves(nn.Module):
    """The network without its choice of precision, which means nothing in a file."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N×3×H×W to N×F."""
        return self.backbone.head(self.backbone.trunk(self.backbone.in_order(images)))


def _write_onnx(model: Backbone, path: Path) -> Embed:
    import onnxruntime

    example = torch.zeros(2, 3, *model.image_size)
    with _quiet():
        program = torch.onnx.export(
            _BothHalves(model),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None  # it is None only where a file name was given
        program.model.metadata_props.update(describe(model, ONNX))
        program.model.producer_name = "facepack"
        weights = sum(value.nbytes for value in model.state_dict().values())
        program.save(path, external_data=weights >= _ONNX_LIMIT)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def embed(images: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    return embed


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it, the exporter says nothing of its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
