"""MFR's rules for a model that is sent in: each alone, and all that a file breaks at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from facepack.cli import root
from facepack.errors import EvaluationError
from facepack.evaluate.models.submission import MOST_BYTES, check_submission

onnx = pytest.importorskip("onnx")
Change = Callable[[Any], None]


def make(
    path: Path, change: Change = lambda model: None, batch: Any = "N", side: int = 112
) -> Path:
    """A model that makes four embeddings of channel means."""
    helper = onnx.helper
    float32 = onnx.TensorProto.FLOAT
    weight = np.ones((3, 4), np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embeddings"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", float32, [batch, 3, side, side])],
        [helper.make_tensor_value_info("embeddings", float32, [batch, 4])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    change(model)
    onnx.save(model, path)
    return path


def broken(path: Path) -> dict[str, str]:
    return {rule.name: rule.found for rule in check_submission(path) if not rule.kept}


def test_a_good_file_keeps_every_rule(tmp_path: Path) -> None:
    path = make(tmp_path / "m.onnx")
    rules = check_submission(path)
    assert all(rule.kept for rule in rules)
    found = {rule.name: rule.found for rule in rules}
    assert found["one input [*,3,112,112]"] == "images [N,3,112,112]"
    assert found["one output"] == "1: embeddings"
    assert found["no float16 or other weights below 32 bits"] == "none"
    result = CliRunner().invoke(root, ["submission", str(path)])
    assert result.exit_code == 0 and "FAIL" not in result.stdout


def test_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert broken(make(path, batch=1))["one input [*,3,112,112]"] == "images [1,3,112,112]"
    assert broken(make(path, side=96))["one input [*,3,112,112]"] == "images [N,3,96,96]"

    def with_two(model: Any) -> None:
        float32 = onnx.TensorProto.FLOAT
        model.graph.input.append(onnx.helper.make_tensor_value_info("mask", float32, ["N"]))

    assert broken(make(path, with_two))["one input [*,3,112,112]"].endswith("mask [N]")
    # Old files list weights among the inputs, which they are not.
    assert not broken(make(path, list_weights))


def list_weights(model: Any) -> None:
    float32 = onnx.TensorProto.FLOAT
    model.graph.input.append(onnx.helper.make_tensor_value_info("weight", float32, [3, 4]))


def test_outputs(tmp_path: Path) -> None:
    def with_two(model: Any) -> None:
        flat = onnx.helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, ["N", 3])
        model.graph.output.append(flat)

    assert broken(make(tmp_path / "m.onnx", with_two)) == {"one output": "2: embeddings, flat"}


@pytest.mark.parametrize(("dtype", "name"), [("float16", "FLOAT16"), ("int8", "INT8")])
def test_weights_below_32_bits_also_in_constants(dtype: str, name: str, tmp_path: Path) -> None:
    rule = "no float16 or other weights below 32 bits"

    def small(model: Any) -> None:
        array = np.ones(3, dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, "small"))

    assert broken(make(tmp_path / "m.onnx", small))[rule] == f"1 of {name}, first small"

    def constant(model: Any) -> None:
        tensor = onnx.numpy_helper.from_array(np.ones(3, dtype), "hidden")
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=tensor))

    assert broken(make(tmp_path / "m.onnx", constant))[rule] == f"1 of {name}, first hidden"


def test_size_and_weights_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "m.onnx")
    monkeypatch.setattr("facepack.evaluate.models.submission.MOST_BYTES", 100)
    assert list(broken(path)) == ["at most 1024 MB"]
    monkeypatch.undo()
    with (tmp_path / "huge.onnx").open("wb") as file:
        file.truncate(2 * MOST_BYTES + 1)  # a hole: it takes no disk
    assert broken(tmp_path / "huge.onnx") == {"at most 1024 MB": "2,048.0 MB"}
    model = onnx.load(path)
    options = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
    onnx.save(model, tmp_path / "outside.onnx", **options)
    found = broken(tmp_path / "outside.onnx")
    assert found == {"weights inside the file": "1 of 1 weights lie in another file, first weight"}


def test_what_does_not_run_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    def nan(model: Any) -> None:
        weight = np.full((3, 4), np.nan, np.float32)
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))

    found = broken(make(tmp_path / "m.onnx", nan))
    assert found == {"a batch of 2 gives 2 embeddings": "2×4 of float32, not all of them finite"}


def test_all_that_is_broken_is_named_at_once_and_in_json(tmp_path: Path) -> None:
    path = make(tmp_path / "m.onnx", batch=1, side=96)
    result = CliRunner().invoke(root, ["submission", str(path), "--json"])
    assert result.exit_code == 1
    content = json.loads(result.stdout)
    assert content["kept"] is False
    failed = [rule["name"] for rule in content["rules"] if not rule["kept"]]
    assert failed[0] == "one input [*,3,112,112]" and all(r["remedy"] for r in content["rules"])


def test_what_is_no_onnx_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\xff\x00no model")
    with pytest.raises(EvaluationError, match="cannot be read as ONNX"):
        check_submission(tmp_path / "m.onnx")
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        check_submission(tmp_path / "absent.onnx")
