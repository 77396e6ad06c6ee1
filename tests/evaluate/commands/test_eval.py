"""``facepack eval``: table and JSON on stdout, notices on stderr, exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from facepack.cli import root
from facepack.convert.formats.pairs.pickles import write_bin
from facepack.evaluate.compare import REPLACED, read_comparison
from facepack.evaluate.models import load_model
from facepack.evaluate.protocols.verification import evaluate_pairs, measure_pairs
from facepack.evaluate.registry import PROTOCOLS
from facepack.evaluate.results.results_file import read_results
from facepack.evaluate.results.table import table_header, table_rows
from facepack.evaluate.sets.pairs import load_pair_set
from facepack.store.digests import file_digest
from facepack.train.backbones import build
from facepack.train.config import TrainConfig, dump_config

Images = tuple[list[bytes], np.ndarray]


@pytest.fixture
def data(
    tmp_path: Path,
    pair_images: Images,
    write_tree: Callable[[Path, list[bytes], np.ndarray], Path],
) -> Path:
    """``lfw.bin`` of 20 pairs, and a tree ``few`` of its first 7 pairs."""
    images, issame = pair_images
    write_bin(tmp_path / "lfw.bin", images, issame)
    write_tree(tmp_path / "few", images[:14], issame[:7])
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(build("tiny", features=16).state_dict(), folder / "model.pt")
    config = TrainConfig(shards="faces", backbone="tiny", features=16)
    (folder / "config.toml").write_text(dump_config(config))
    return folder


def facepack_eval(*arguments: object) -> Result:
    return CliRunner().invoke(root, ["eval", *map(str, arguments)])


def test_json_holds_the_figures_of_each_target(data: Path, run: Path) -> None:
    result = facepack_eval("lfw", data / "few", "--model", run, "--data", data, "--json")
    assert result.exit_code == 0, result.output
    lfw, few = json.loads(result.stdout)
    wanted = evaluate_pairs(load_model(run), load_pair_set("lfw", data)).as_dict()
    assert lfw == wanted
    assert list(lfw) == [
        "target",
        "pairs",
        "accuracy",
        "std",
        "tar",
        "val_at_far_1e-3",
        "auc",
        "eer",
        "norm",
        "intervals",
        "notices",
    ]
    assert list(lfw["intervals"]) == ["TAR@1e-4", "TAR@1e-3", "TAR@1e-2", "AUC", "EER"]
    assert list(lfw["tar"]) == ["1e-4", "1e-3", "1e-2"]
    assert (few["target"], few["pairs"], few["accuracy"]) == (str(data / "few"), 7, None)
    assert any("make no 10 folds" in notice for notice in few["notices"])
    for notice in few["notices"]:
        assert f"{data / 'few'}: {notice}" in result.stderr


def test_the_table_is_in_percent(data: Path, run: Path) -> None:
    result = facepack_eval("lfw", "few", "--model", run / "model.pt", "--data", data)
    assert result.exit_code == 0, result.output
    header, lfw, ends, few, _ = result.stdout.splitlines()
    names = ["target", "pairs", "accuracy", "TAR@1e-4", "TAR@1e-3", "TAR@1e-2", "AUC", "EER"]
    assert header.split() == [*names, "norm"]
    assert len(header) == len(lfw) == len(few)
    wanted = evaluate_pairs(load_model(run), load_pair_set("lfw", data))
    assert wanted.accuracy is not None and wanted.std is not None and wanted.eer is not None
    assert f"{100 * wanted.accuracy:.2f} ± {100 * wanted.std:.2f}" in lfw
    assert f"{100 * wanted.eer:.2f}" in lfw and lfw.endswith(f"{wanted.norm:.2f}")
    low, high = wanted.intervals["EER"]
    assert ends.endswith(f"[{100 * low:.2f}, {100 * high:.2f}]") and len(ends) == len(lfw) - 8
    assert few.split()[:3] == ["few", "7", "–"]
    assert "few: 7 pairs make no 10 folds" in result.stderr


@pytest.mark.parametrize(("norm", "written"), [(9999.5, "9999.50"), (4_278_279_653.4, "4.3e+09")])
def test_columns_stay_apart_however_long_embeddings_are(norm: float, written: str) -> None:
    result = measure_pairs("set", np.linspace(0, 1, 20), np.arange(20) % 2 == 0, norm=norm)
    header, row = table_header(["set"]), *table_rows(result, ["set"])
    assert len(header) == len(row) and row.split()[-1] == written


def test_a_target_that_is_not_there_stops_before_the_others_run(data: Path, run: Path) -> None:
    result = facepack_eval("lfw", "agedb_30", "--model", run, "--data", data)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "facepack eval: no verification set 'agedb_30': looked for" in result.stderr


@pytest.mark.parametrize(
    ("called", "protocol"), [("ijbc", "ijb"), ("IJB-B", "ijb"), ("IFRT", "mfr"), ("YTF", "ytf")]
)
def test_what_the_field_calls_a_protocol_leads_to_it(
    data: Path, run: Path, called: str, protocol: str
) -> None:
    result = facepack_eval(called, "packs/set", "--model", run, "--data", data)
    assert result.exit_code == 1
    assert f"see facepack eval {protocol} --help" in result.stderr


def test_a_folder_that_is_no_set_of_pairs_is_told_the_protocols(tmp_path: Path, run: Path) -> None:
    result = facepack_eval(tmp_path, "--model", run)
    assert result.exit_code == 1
    assert all(name in result.stderr for name in PROTOCOLS)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that takes no files")
@pytest.mark.parametrize("option", ["--report", "--results"])
def test_where_nothing_can_be_written_is_said_before_anything_is_measured(
    data: Path, run: Path, option: str
) -> None:
    result = facepack_eval("lfw", "--model", run, "--data", data, option, "/proc/out.csv")
    assert result.exit_code != 0
    assert result.stdout == ""
    assert "cannot write /proc/out.csv" in result.stderr


def test_a_broken_image_names_set_index_and_key(data: Path, run: Path) -> None:
    image = data / "few/imgs/5.jpg"
    image.write_bytes(image.read_bytes()[:900])
    result = facepack_eval("few", "--model", run, "--data", data, "--on-bad-image", "raise")
    assert result.exit_code == 1
    assert "facepack eval: few: image 5 (imgs/5.jpg): " in result.stderr
    skipped = facepack_eval("few", "--model", run, "--data", data, "--json")
    assert skipped.exit_code == 0 and json.loads(skipped.stdout)[0]["pairs"] == 6
    assert "images cannot be decoded" in skipped.stderr and "imgs/5.jpg" in skipped.stderr


def test_wrong_use_exits_with_2(data: Path, run: Path) -> None:
    assert facepack_eval("--model", run).exit_code == 2
    assert facepack_eval("lfw").exit_code == 2
    assert facepack_eval("lfw", "--model", run, "--batch-size", 0).exit_code == 2
    result = facepack_eval("lfw", "--model", run, "--data", data, "--backbone", "r18")
    assert result.exit_code == 2 and "'r18' was asked for" in result.stderr
    result = facepack_eval("lfw", "--model", run, "--data", data, "--device", "toaster")
    assert result.exit_code == 2 and "device 'toaster' is not one of" in result.stderr


def test_the_model_must_exist(data: Path) -> None:
    result = facepack_eval("lfw", "--model", data / "nothing", "--data", data)
    assert result.exit_code == 1 and "there is no model at" in result.stderr


def test_help_names_the_known_sets() -> None:
    from facepack.evaluate.sets.pairs import KNOWN_SETS

    text = facepack_eval("--help").stdout
    assert all(name in text for name in KNOWN_SETS)


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from facepack.evaluate.commands.eval import eval_; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_report_of_several_models_shows_the_hardest_pairs(
    data: Path, run: Path, tmp_path: Path, read_page: Callable[[str], Any]
) -> None:
    model = run / "model.pt"
    out, figures = tmp_path / "new/out.html", tmp_path / "new/below/out.csv"
    options = ("--data", data, "--report", out, "--report", figures)
    result = facepack_eval("lfw", "--model", run, "--model", model, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("accuracy") == 2 and "run/model.pt:" in result.stdout
    reader = read_page(out.read_text(encoding="utf-8"))
    (kept,) = read_results(run / "results.json")
    hardest = kept.hardest
    assert len(hardest) == 20 and all(pair.first in reader.words for pair in hardest)
    assert len([tag for tag, _ in reader.tags if tag == "img"]) == 2 * 2 * 20
    assert len([tag for tag, _ in reader.tags if tag == "path"]) == 2 * 2 + 2 * 2
    models = {line.partition(",")[0] for line in figures.read_text().splitlines()[1:]}
    assert models == {"run", "run/model.pt"}
    # Others are shown a page: it must not tell where its maker works.
    assert str(tmp_path) not in out.read_text(encoding="utf-8")


def test_results_are_kept_target_by_target(data: Path, run: Path) -> None:
    (data / "bad.bin").write_bytes(b"no pickle")
    result = facepack_eval("lfw", "bad", "--model", run, "--data", data)
    assert result.exit_code != 0
    assert [kept.target for kept in read_results(run / "results.json")] == ["lfw"]


def test_results_of_weights_that_a_run_has_replaced_are_told(data: Path, run: Path) -> None:
    assert facepack_eval("lfw", "--model", run, "--data", data).exit_code == 0
    (kept,) = read_results(run / "results.json")
    assert kept.weights == file_digest(run / "model.pt")[0]
    assert REPLACED not in CliRunner().invoke(root, ["compare", str(run)]).stdout
    torch.save(build("tiny", features=16).state_dict(), run / "model.pt")  # as --resume does
    (data / "again.bin").write_bytes((data / "lfw.bin").read_bytes())
    assert facepack_eval("again", "--model", run, "--data", data).exit_code == 0
    old, new = read_comparison([run]).results
    assert (old.target, new.target) == ("lfw", "again")
    assert old.notices == (REPLACED, *kept.notices) and REPLACED not in new.notices
    assert CliRunner().invoke(root, ["compare", str(run)]).stdout.count(REPLACED) == 1
    # A result of before, which does not say of which weights it is.
    stated = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps([{**stated[0], "weights": ""}, stated[1]]))
    assert REPLACED not in CliRunner().invoke(root, ["compare", str(run)]).stdout


def test_a_file_that_holds_no_results_is_refused_before_a_model_runs(data: Path, run: Path) -> None:
    (run / "results.json").write_text("{}")
    result = facepack_eval("lfw", "--model", run, "--data", data)
    assert result.exit_code != 0 and "accuracy" not in result.stdout
    assert "cannot be read as results" in f"{result.output}{result.exception}"
    assert (run / "results.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--report", "out.doc"), "a report ends in .html"),
        (("--report", f"{__file__}/out.html"), "cannot write"),
        (("--report", "out.png"), "plot"),
        (("--model", "other", "--results", "all.json"), "--results keeps those of one model"),
    ],
)
def test_options_of_output_are_looked_at_before_any_model(
    data: Path, options: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = facepack_eval("lfw", "--model", "absent", "--data", data, *options)
    assert result.exit_code != 0 and words in f"{result.output}{result.exception}"


def test_results_are_kept_in_a_run_that_may_be_written(
    data: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *mode: path != run and access(path, *mode))
    result = facepack_eval("lfw", "--model", run, "--data", data)
    assert result.exit_code == 0 and "results.json is not kept" in result.stderr
    assert not (run / "results.json").exists()
    monkeypatch.undo()
    assert facepack_eval("lfw", "--model", run, "--data", data).exit_code == 0
    assert (run / "results.json").exists()


def test_a_protocol_is_a_command_and_a_target_in_quotes(data: Path, run: Path) -> None:
    shared = ("--model", run, "--data", data, "--json")
    plain, named, quoted = (
        facepack_eval(*words, *shared) for words in (["lfw"], ["pairs", "lfw"], ["pairs lfw"])
    )
    assert plain.exit_code == 0 and plain.stdout == named.stdout == quoted.stdout
    wrong = facepack_eval("pairs lfw --grupp x", *shared)
    assert wrong.exit_code == 2 and "facepack eval pairs --help" in wrong.stderr


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_no_protocols_help_waits_for_torch(name: str) -> None:
    code = (
        "import sys; from facepack.evaluate.registry import PROTOCOLS; "
        f"PROTOCOLS[{name!r}].command(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    text = " ".join(facepack_eval(name, "--help").stdout.split())
    assert PROTOCOLS[name].title.rstrip(".") in text
