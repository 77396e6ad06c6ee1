#!/bin/bash
# opencv-python-headless 5.0.0.93 (beside onnxruntime 1.32.0, onnx 1.23.2; Python 3.11): cv2.dnn moves a BatchNormalization past the activation before it.
#
# One would guess: Conv, activation, BatchNormalization are computed in this order, as by onnxruntime, or a network is refused.
# What happens:    the new engine, which readNetFromONNX takes first since 5.0, multiplies the normalisation into the weights of
#                  the convolution as if nothing stood between: SiLU (Sigmoid and Mul), GELU, HardSwish, Mish, ELU, Sigmoid,
#                  HardSigmoid and Tanh then act on normalised values. ReLU, LeakyReLU, PReLU and Clip are left in place.
#                  ENGINE_CLASSIC is right with all, but only for a path: readNetFromONNX of bytes takes the new engine whichever
#                  is asked for.
# Why it matters:  Conv, GELU, BatchNormalization is the block of ConvMixer; and exporters melt the first BatchNormalization of an
#                  IResNet into its convolution, so that this, SiLU or Mish, and the normalisation at the head of the first block
#                  are what a file holds. Values are of the usual size, and nothing is said; four such layers leave an embedding at
#                  cosine 0.71 to what it should be.
#
# Seen when written (greatest difference from onnxruntime's values, of 2 × 8 × 14 × 14):
#   Conv, activation, BatchNormalization      new    classic
#   SiLU                                   7.5144     0.0000
#   Gelu                                   7.6683     0.0000
#   HardSwish                              7.6689     0.0000
#   Mish                                   7.6583     0.0000
#   Elu                                    6.6694     0.0000
#   Sigmoid                                3.5475     0.0000
#   HardSigmoid                            3.5806     0.0000
#   Tanh                                   2.5778     0.0000
#   Relu, LeakyRelu, PRelu, Clip           0.0000     0.0000
#   four such layers with GELU, cosine of embeddings to onnxruntime's: new 0.7065 classic 1.0000
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
engines = {"new": cv2.dnn.ENGINE_AUTO, "classic": cv2.dnn.ENGINE_CLASSIC}


def node(kind, *inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


def drawn(*shape):
    return random.normal(size=shape).astype(np.float32)


def statistics(channels):
    """Weight, bias, mean and variance of a BatchNormalization."""
    return drawn(channels), drawn(channels), drawn(channels), 0.5 + random.random(channels).astype(np.float32)


def outputs(nodes, weights, image, shape):
    """What onnxruntime and both engines of OpenCV give for the network of these nodes."""
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    with open(path, "wb") as out:
        out.write(data)
    given = {"onnxruntime": onnxruntime.InferenceSession(data).run(None, {"x": image})[0]}
    for name, engine in engines.items():
        network = cv2.dnn.readNetFromONNX(path, engine)
        network.setInput(image, "x")
        given[name] = np.array(network.forward())
    network = cv2.dnn.readNetFromONNX(np.frombuffer(data, np.uint8), cv2.dnn.ENGINE_CLASSIC)
    network.setInput(image, "x")
    assert np.array_equal(network.forward(), given["new"])  # asked for in memory, the classic engine is not taken
    return given


def activation(kind):
    if kind == "SiLU":
        return [node("Sigmoid", "c", output="gate"), node("Mul", "c", "gate", output="a")]
    parameters = {"PRelu": ["slope"], "Clip": ["lowest", "highest"]}.get(kind, [])
    return [node(kind, "c", *parameters, output="a")]


convolution = node("Conv", "x", "w", output="c", pads=[1, 1, 1, 1])
normal = node("BatchNormalization", "a", "weight", "bias", "mean", "variance", output="y")
weights = {"w": drawn(8, 8, 3, 3) / 8, "slope": drawn(8, 1, 1)}
weights |= {"lowest": np.float32(0).reshape(()), "highest": np.float32(6).reshape(())}
weights |= dict(zip(("weight", "bias", "mean", "variance"), statistics(8)))
weights = {name: np.asarray(values, np.float32) for name, values in weights.items()}
image = drawn(2, 8, 14, 14)
print("Conv, activation, BatchNormalization      new    classic")
moved = ("SiLU", "Gelu", "HardSwish", "Mish", "Elu", "Sigmoid", "HardSigmoid", "Tanh")
kept = ("Relu", "LeakyRelu", "PRelu", "Clip")
for kind in moved + kept:
    nodes = [convolution, *activation(kind), normal]
    used = {name for one in nodes for name in one.input}
    held = {name: values for name, values in weights.items() if name in used}
    given = outputs(nodes, held, image, image.shape)
    right = given.pop("onnxruntime")
    away = {engine: float(np.abs(values - right).max()) for engine, values in given.items()}
    print(f"{kind:<36}{away['new']:9.4f}  {away['classic']:9.4f}")
    assert away["classic"] < 1e-3
    assert away["new"] > 0.5 if kind in moved else away["new"] < 1e-3
    if kind in moved:
        # the values are those of the normalisation before the activation
        swapped = [convolution, node("BatchNormalization", "c", *normal.input[1:], output="n"), *activation(kind)]
        for one in swapped[2:]:
            one.input[:] = ["n" if name == "c" else name for name in one.input]
            one.output[:] = ["y" if name == "a" else name for name in one.output]
        other = outputs(swapped, held, image, image.shape)["onnxruntime"]
        assert np.allclose(given["new"], other, atol=1e-3)

nodes, weights, before = [], {}, "x"
for place, (inside, outside) in enumerate(((3, 16), (16, 32), (32, 64), (64, 128))):
    names = [f"{name}{place}" for name in ("weight", "bias", "mean", "variance")]
    weights |= dict(zip(names, statistics(outside)))
    weights[f"w{place}"] = (drawn(outside, inside, 3, 3) / np.sqrt(9 * inside)).astype(np.float32)
    nodes += [
        node("Conv", before, f"w{place}", output=f"c{place}", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Gelu", f"c{place}", output=f"a{place}"),
        node("BatchNormalization", f"a{place}", *names, output=f"n{place}"),
    ]
    before = f"n{place}"
weights["embed"] = (drawn(128, 7 * 7 * 128) / np.sqrt(7 * 7 * 128)).astype(np.float32)
nodes += [node("Flatten", before, output="f"), node("Gemm", "f", "embed", output="y", transB=1)]
given = {name: values.ravel() for name, values in outputs(nodes, weights, drawn(1, 3, 112, 112), (1, 128)).items()}
unit = {name: values / np.linalg.norm(values) for name, values in given.items()}
cosines = {engine: float(unit[engine] @ unit["onnxruntime"]) for engine in engines}
print("four such layers with GELU, cosine of embeddings to onnxruntime's:", *(f"{k} {v:.4f}" for k, v in cosines.items()))
assert cosines["classic"] > 0.999 and cosines["new"] < 0.8
PY
"$tmp/venv/bin/python" "$tmp/see.py" "$tmp" 2> "$tmp/log" || { cat "$tmp/log"; exit 1; }
