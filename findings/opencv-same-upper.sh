#!/bin/bash
# opencv-python-headless 5.0.0.93 (beside onnxruntime 1.32.0, onnx 1.23.2; Python 3.11): cv2.dnn pads SAME_UPPER on the other side.
#
# One would guess: auto_pad=SAME_UPPER puts the odd row and column of padding at the end, as ONNX defines it, so that a file gives
#                  in cv2.dnn what it gives in onnxruntime.
# What happens:    the new engine, which readNetFromONNX takes first since 5.0, puts them at the beginning: an even side with
#                  stride 2 is padded with pads=[1, 1, 0, 0] in place of [0, 0, 1, 1]. Convolutions, depthwise ones and pooling are
#                  alike. ENGINE_CLASSIC pads as defined; odd sides, which are padded alike on both, are right in each engine, and
#                  so is auto_pad spelt out in pads.
# Why it matters:  SAME with stride 2 over 112, 128 or 160 is what every network out of TensorFlow or Keras does (BlazeFace,
#                  FaceMesh, FaceNet), and files say it by auto_pad where sides are not fixed. No shape changes and nothing is
#                  said. Each such layer looks one of its pixels up and left: after five of them a cell sees what lies 31 pixels of
#                  the image beside its place.
#
# Seen when written:
#   against onnxruntime, greatest difference          engine: new    classic
#   Conv 3 x 3, stride 2, 112 x 112                     33.94436    0.00001
#   the same with pads=[0, 0, 1, 1]                      0.00001    0.00001
#   the same at 111 x 111                                0.00000    0.00000
#   depthwise Conv, stride 2                            17.31606    0.00000
#   MaxPool 3 x 3, stride 2                              3.30086    0.00000
#   AveragePool 3 x 3, stride 2                          1.42067    0.00000
#   columns that the second cell of a row sees after five layers of stride 2, of 128
#   onnxruntime 32 to 94  new 1 to 63  classic 32 to 94
#   embeddings of a network of four such layers: cosine to onnxruntime's   classic 1.0000   new 0.5814
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
"${PYTHON:-python3.11}" -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check opencv-python-headless==5.0.0.93 onnx==1.23.2 \
    onnxruntime==1.32.0 numpy==2.4.6
cat > "$tmp/see.py" <<'PY'
import sys

import cv2
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
path = f"{sys.argv[1]}/network.onnx"
upper = {"auto_pad": "SAME_UPPER", "strides": [2, 2]}
engines = {"new": cv2.dnn.ENGINE_AUTO, "classic": cv2.dnn.ENGINE_CLASSIC}


def node(kind, *inputs, output="y", **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def drawn(*shape):
    return random.normal(size=shape).astype(np.float32)


def outputs(nodes, weights, image, shape):
    """What onnxruntime and both engines of OpenCV give for the network of these nodes."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    with open(path, "wb") as out:
        out.write(model.SerializeToString())
    given = {"onnxruntime": onnxruntime.InferenceSession(path).run(None, {"x": image})[0]}
    for name, engine in engines.items():
        network = cv2.dnn.readNetFromONNX(path, engine)
        network.setInput(image, "x")
        given[name] = np.array(network.forward())
    return given


even, odd = drawn(1, 4, 112, 112), drawn(1, 4, 111, 111)
full = {"w": drawn(4, 4, 3, 3)}
halved = (1, 4, 56, 56)
cases = {
    "Conv 3 x 3, stride 2, 112 x 112": (node("Conv", "x", "w", **upper), full, even, halved),
    "the same with pads=[0, 0, 1, 1]": (node("Conv", "x", "w", pads=[0, 0, 1, 1], strides=[2, 2]), full, even, halved),
    "the same at 111 x 111": (node("Conv", "x", "w", **upper), full, odd, halved),
    "depthwise Conv, stride 2": (node("Conv", "x", "w", group=4, **upper), {"w": drawn(4, 1, 3, 3)}, even, halved),
    "MaxPool 3 x 3, stride 2": (node("MaxPool", "x", kernel_shape=[3, 3], **upper), {}, even, halved),
    "AveragePool 3 x 3, stride 2": (node("AveragePool", "x", kernel_shape=[3, 3], **upper), {}, even, halved),
}
print("against onnxruntime, greatest difference          engine: new    classic")
for name, (layer, weights, image, shape) in cases.items():
    given = outputs([layer], weights, image, shape)
    right = given.pop("onnxruntime")
    away = {engine: float(np.abs(values - right).max()) for engine, values in given.items()}
    print(f"{name:<50} {away['new']:9.5f}  {away['classic']:9.5f}")
    assert away["classic"] < 1e-4
    assert away["new"] < 1e-4 if name.startswith("the same") else away["new"] > 1

lit = np.zeros((128, 1, 128, 128), np.float32)
lit[np.arange(128), 0, :, np.arange(128)] = 1  # one column of each image
names = ["x", "a", "b", "c", "d", "y"]
pools = [node("MaxPool", one, output=to, kernel_shape=[3, 3], **upper) for one, to in zip(names, names[1:])]
seen = {}
print("columns that the second cell of a row sees after five layers of stride 2, of 128")
for name, values in outputs(pools, {}, lit, (128, 1, 4, 4)).items():
    columns = np.flatnonzero(values[:, 0, 1, 1])
    seen[name] = int(columns[0]), int(columns[-1])
print("  ".join(f"{name} {first} to {last}" for name, (first, last) in seen.items()))
assert seen == {"onnxruntime": (32, 94), "new": (1, 63), "classic": (32, 94)}

weights = {name: drawn(*shape) / np.sqrt(np.prod(shape[1:])) for name, shape in (
    ("w1", (8, 3, 3, 3)), ("w2", (16, 8, 3, 3)), ("w3", (32, 16, 3, 3)), ("w4", (64, 32, 3, 3)), ("w5", (128, 3136))
)}
weights = {name: values.astype(np.float32) for name, values in weights.items()}
layers, before = [], "x"
for place in "1234":
    layers += [node("Conv", before, f"w{place}", output=f"c{place}", **upper), node("Relu", f"c{place}", output=f"r{place}")]
    before = f"r{place}"
layers += [node("Flatten", before, output="f"), node("Gemm", "f", "w5", transB=1)]
given = outputs(layers, weights, drawn(1, 3, 112, 112), (1, 128))
right = given["onnxruntime"].ravel()
cosines = {
    name: float(values.ravel() @ right / np.linalg.norm(values) / np.linalg.norm(right)) for name, values in given.items()
}
print(
    f"embeddings of a network of four such layers: cosine to onnxruntime's   "
    f"classic {cosines['classic']:.4f}   new {cosines['new']:.4f}"
)
assert cosines["classic"] > 0.9999 and cosines["new"] < 0.9
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
