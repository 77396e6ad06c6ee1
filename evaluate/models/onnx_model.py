"""An ONNX file as a network: run by onnxruntime, asked as a backbone is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facepack.errors import EvaluationError, needs_extra
from facepack.evaluate.faces.decode import FACE_SIZE

_CHANNELS = 3


class OnnxModel(nn.Module):
    """A network in an ONNX file: one input (n, 3, H, W), its first output the embeddings (n, F).

    Pixels are RGB, (x − 127.5)/127.5. A graph that begins by normalising its input itself, a Sub
    followed by a Mul or Div as MXNet's exporter wrote them, gets pixels of 0 to 255, as InsightFace
    gives them to it.

    Attributes:
        image_size: (height, width) in pixels; 112×112 where the file leaves it open.
        takes_bytes: whether it normalises by itself.

    Raises:
        EvaluationError: the file cannot be read, or its input is no image.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with needs_extra("onnxruntime", "export"):
            import onnxruntime
        self._path = path
        self._runtime = onnxruntime
        self._device = torch.device("cpu")
        self._session = self._open(["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or shape[1] != _CHANNELS or inputs[0].type != "tensor(float)":
            stated = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise EvaluationError(
                f"{path} takes {stated}; one float32 input (n, 3, height, width) is needed"
            )
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        # A batch size that the exporter baked in is kept to: the images come in its portions.
        self._batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        sides = [side if isinstance(side, int) else None for side in shape[2:]]
        self.image_size: tuple[int, int] = (sides[0] or FACE_SIZE[0], sides[1] or FACE_SIZE[1])
        self.takes_bytes = _normalises(path, self._input)

    def _open(self, providers: list[str]) -> Any:
        try:
            return self._runtime.InferenceSession(str(self._path), providers=providers)
        except Exception as error:  # onnxruntime has a class for each kind of fault
            raise EvaluationError(
                f"{self._path} cannot be read as ONNX ({' '.join(str(error).split())}): give a "
                "good copy, with its file of weights beside it, if it has one"
            ) from error

    def to(self, *args: Any, **kwargs: Any) -> OnnxModel:
        """Choose where the graph runs: on a GPU, if this onnxruntime can."""
        device = torch.device(args[0] if args else kwargs["device"])
        if device.type == "cuda" and self._device != device:
            if "CUDAExecutionProvider" not in self._runtime.get_available_providers():
                raise EvaluationError(
                    f"{self._path}: this onnxruntime has no CUDA: install onnxruntime-gpu in its "
                    "place, or use --device cpu"
                )
            self._session = self._open(["CUDAExecutionProvider", "CPUExecutionProvider"])
        self._device = device
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Embed a batch: float32 (n, 3, H, W) → float32 (n, F), on the images' device."""
        pixels = images.contiguous().cpu().numpy()
        if self.takes_bytes:
            pixels = np.rint(pixels * np.float32(127.5) + np.float32(127.5))
        portion = self._batch or len(pixels)
        outputs = [
            self._run(pixels[start : start + portion], portion)
            for start in range(0, len(pixels), portion)
        ]
        return torch.from_numpy(np.concatenate(outputs)).to(images.device)

    def _run(self, pixels: np.ndarray, portion: int) -> np.ndarray:
        padded = np.zeros((portion, *pixels.shape[1:]), np.float32)
        padded[: len(pixels)] = pixels
        output: np.ndarray = self._session.run([self._output], {self._input: padded})[0]
        return output[: len(pixels)]


def _normalises(path: Path, name: str) -> bool:
    """Whether the graph takes pixels of 0 to 255: its input goes to a Sub, and that to a Mul."""
    with needs_extra("onnx", "export"):
        import onnx
    nodes = onnx.load(path, load_external_data=False).graph.node
    readers = [node for node in nodes if name in node.input]
    if len(readers) != 1 or readers[0].op_type != "Sub":
        return False
    following = [node for node in nodes if readers[0].output[0] in node.input]
    return bool(following) and all(node.op_type in ("Mul", "Div") for node in following)
