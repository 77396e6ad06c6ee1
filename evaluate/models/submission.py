"""What MFR's server asks of a model that is sent in, looked at before it is.

The rules are those of the InsightFace track of ICCV 2021's Masked Face Recognition challenge and of
its successor, and of the script that both hand out, ``onnx_helper.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facepack.errors import EvaluationError, needs_extra

MOST_BYTES = 1024 << 20
SIZE = (3, 112, 112)

_PARSED = (1 << 31) - 1  # bytes that protobuf takes
_LEAST_BYTES = 4  # of a weight: halves would make the file look like that of a smaller model
_BATCH = 2
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule, and whether a file keeps it."""

    name: str
    kept: bool
    found: str
    """What the file has."""
    remedy: str
    """What to do where the rule is not kept."""


def check_submission(path: Path) -> list[Rule]:
    """Hold an ONNX file against every rule, whatever the others say of it.

    Raises:
        EvaluationError: it cannot be read as ONNX.
        MissingExtraError: onnx is not installed.
    """
    with needs_extra("onnx", "export"):
        import onnx
    try:
        size = path.stat().st_size
        if size > _PARSED:
            return [_size(size)]
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read: {error.strerror}; check the name"
        ) from error
    except Exception as error:  # protobuf's own kinds of faults
        raise EvaluationError(
            f"{path} cannot be read as ONNX ({' '.join(str(error).split())}): give a file that "
            "`facepack export` or another exporter wrote"
        ) from error
    graph = model.graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    return [
        _size(size),
        _one_file(graph, onnx),
        _input(inputs),
        _output(graph),
        _weights(graph, onnx),
        *_run(path, inputs),
    ]


def _size(size: int) -> Rule:
    return Rule(
        name="at most 1024 MB",
        kept=size <= MOST_BYTES,
        found=f"{size / (1 << 20):,.1f} MB",
        remedy="send a smaller backbone in",
    )


def _one_file(graph: Any, onnx: Any) -> Rule:
    outside = [
        weight.name
        for weight in graph.initializer
        if weight.data_location == onnx.TensorProto.EXTERNAL
    ]
    return Rule(
        name="weights inside the file",
        kept=not outside,
        found=f"{len(outside)} of {len(graph.initializer)} weights lie in another file"
        + _first(outside),
        remedy="save the model without external data: onnx.save(model, FILE)",
    )


def _input(inputs: list[Any]) -> Rule:
    shapes = [_shape(each) for each in inputs]
    kept = len(shapes) == 1 and len(shapes[0]) == 4 and tuple(shapes[0][1:]) == SIZE
    free = kept and not isinstance(shapes[0][0], int)
    stated = ", ".join(
        f"{each.name} [{','.join(map(str, shape))}]"
        for each, shape in zip(inputs, shapes, strict=True)
    )
    return Rule(
        name="one input [*,3,112,112]",
        kept=free,
        found=stated or "no input",
        remedy=(
            "export with a batch of any size (dynamic shapes); onnx_helper.py frees a fixed one, "
            "but what was reshaped to it then fails"
            if kept
            else "export for RGB images of 112×112; put an interpolation first if the model "
            "takes others"
        ),
    )


def _shape(value: Any) -> list[int | str]:
    """Each side: a number, or a name, ``*`` without one."""
    sides = value.type.tensor_type.shape.dim
    return [
        side.dim_value
        if side.HasField("dim_value") and side.dim_value > 0
        else side.dim_param or "*"
        for side in sides
    ]


def _output(graph: Any) -> Rule:
    names = [each.name for each in graph.output]
    return Rule(
        name="one output",
        kept=len(names) == 1,
        found=f"{len(names)}: {', '.join(names[:_SHOWN])}",
        remedy="export the embedding alone",
    )


def _weights(graph: Any, onnx: Any) -> Rule:
    small: dict[str, list[str]] = {}
    for weight in _tensors(graph):
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(weight.data_type))
        if dtype.kind != "O" and dtype.itemsize < _LEAST_BYTES:
            kind = onnx.TensorProto.DataType.Name(weight.data_type)
            small.setdefault(kind, []).append(weight.name)
    found = "; ".join(
        f"{len(names)} of {kind}{_first(names)}" for kind, names in sorted(small.items())
    )
    return Rule(
        name="no float16 or other weights below 32 bits",
        kept=not small,
        found=found or "none",
        remedy="export the weights as float32",
    )


def _tensors(graph: Any) -> Iterator[Any]:
    """Initializers, and what constants in the graph hold."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield attribute.t


def _run(path: Path, inputs: list[Any]) -> list[Rule]:
    """That a batch of images becomes finite embeddings; nothing without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        return []
    images = np.random.default_rng(0).uniform(-1, 1, (_BATCH, *SIZE)).astype(np.float32)
    remedy = "run it on a batch of two with onnxruntime, and mend what it says"
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found, *_) = session.run(None, {inputs[0].name: images})
    except Exception as error:  # onnxruntime has a class for each kind of fault
        what, kept = " ".join(str(error).split()), False
    else:
        finite = bool(np.isfinite(found).all())
        what = f"{'×'.join(map(str, found.shape))} of {found.dtype}" + (
            "" if finite else ", not all of them finite"
        )
        kept = finite and found.ndim == 2 and len(found) == _BATCH
    return [Rule(name="a batch of 2 gives 2 embeddings", kept=kept, found=what, remedy=remedy)]


def _first(names: list[str]) -> str:
    return f", first {names[0]}" if names else ""
