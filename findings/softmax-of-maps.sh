#!/bin/bash
# openvino 2026.4.1, OpenCV 5.0.0.93, onnxruntime 1.32.0, onnx 1.23.2 (Python 3.11): the same Softmax is two functions, by reader and opset.
#
# One would guess: Softmax(axis=1) in a file of opset 11 is one function, and readers of ONNX agree on it to the last digits.
# What happens:    up to opset 12 ONNX flattens all axes from `axis` on: over (N, 2, H, W) one sum runs over both classes and every
#                  place of the map. onnxruntime does so; OpenCV and onnx's own ReferenceEvaluator give the softmax over the two
#                  classes at each place, as from opset 13 on, and OpenVINO does the one up to opset 10 and the other at 11 and 12.
#                  version_converter to opset 13 keeps the flattening. On (N, 2), and with the classes last, all agree.
# Why it matters:  a detector of the kind of MTCNN's P-Net ends in this layer over a map, as its Caffe file did, and its thresholds
#                  (0.6) are for two classes that sum to 1 at each place. In onnxruntime a face scores 0.05 and none is found; a
#                  file that was tried out in OpenVINO or OpenCV loses its detector there, or the other way round.
#
# Seen when written (logits of 2 × 9 × 9 with one face; over what the sum runs, and the probability of that face):
#   opset            onnxruntime     openvino        opencv          reference
#   9                map     0.0454  map     0.0454  classes 0.9933  classes 0.9933
#   11               map     0.0454  classes 0.9933  classes 0.9933  classes 0.9933
#   12               map     0.0454  classes 0.9933  classes 0.9933  classes 0.9933
#   13               classes 0.9933  classes 0.9933  classes 0.9933  classes 0.9933
#   12 made 13       map     0.0454  map     0.0454  map     0.0454  map     0.0454
#   (5, 2) and (1, 81, 2) along the last axis: all agree
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 opencv-python-headless==5.0.0.93 \
    onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import cv2
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper, version_converter
from onnx.reference import ReferenceEvaluator

random = np.random.default_rng(0)


def softmax(values, axes):
    """Softmax with one sum over these axes."""
    raised = np.exp(values - values.max(axis=axes, keepdims=True))
    return raised / raised.sum(axis=axes, keepdims=True)


def network(opset, shape, axis):
    node = helper.make_node("Softmax", ["logits"], ["probability"], axis=axis)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("logits", "probability")]
    graph = helper.make_graph([node], "head", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def by_onnxruntime(model, logits):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"logits": logits})[0]


def by_openvino(model, logits):
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(model.SerializeToString()), "CPU", exact)(logits)[0]


def by_opencv(model, logits):
    read = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))
    read.setInput(logits, "logits")
    return np.array(read.forward())


def by_reference(model, logits):
    return ReferenceEvaluator(model).run(None, {"logits": logits})[0]


readers = {
    "onnxruntime": by_onnxruntime,
    "openvino": by_openvino,
    "opencv": by_opencv,
    "reference": by_reference,
}
logits = random.normal(size=(1, 2, 9, 9)).astype(np.float32)
logits[:, 0] += 2  # no face, but for one place
logits[0, :, 4, 4] = (-1, 4)
flattened = softmax(logits, (1, 2, 3))
of_classes = softmax(logits, (1,))
print("opset            " + "".join(f"{name:<16}" for name in readers).rstrip())
seen = {}
for opset in (9, 11, 12, 13, "12 made 13"):
    model = network(opset if isinstance(opset, int) else 12, logits.shape, 1)
    if opset == "12 made 13":
        model = version_converter.convert_version(model, 13)
    line = f"{opset:<17}"
    for name, read in readers.items():
        given = read(model, logits)
        flat, classes = (np.allclose(given, twin, atol=1e-5) for twin in (flattened, of_classes))
        assert flat != classes
        seen[opset, name] = "map" if flat else "classes"
        line += f"{seen[opset, name]:<8}{given[0, 1, 4, 4]:.4f}  "
    print(line.rstrip())
for opset in (9, 11, 12):
    assert seen[opset, "onnxruntime"] == "map"
    assert seen[opset, "openvino"] == ("map" if opset == 9 else "classes")
    assert seen[opset, "opencv"] == seen[opset, "reference"] == "classes"
assert all(seen[13, name] == "classes" for name in readers)
assert all(seen["12 made 13", name] == "map" for name in readers)

for shape, axis in (((5, 2), 1), ((1, 81, 2), 2)):
    values = random.normal(size=shape).astype(np.float32)
    for opset in (9, 11, 12, 13):
        for read in readers.values():
            assert np.allclose(read(network(opset, shape, axis), values), softmax(values, (axis,)), atol=1e-5)
print("(5, 2) and (1, 81, 2) along the last axis: all agree")
PY
"$tmp/venv/bin/python" "$tmp/see.py" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
