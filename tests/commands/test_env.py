from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import facepack
from facepack.commands.env import env
from facepack.view.machine import describe_machine, machine_lines


def test_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path("~").expanduser()
    monkeypatch.setenv("FACEPACK_HOME", str(home / "data"))
    monkeypatch.setenv("OTHER_VARIABLE", "secret")
    shown = json.loads(CliRunner().invoke(env, ["--json"]).stdout)
    assert shown["facepack"]["version"] == facepack.__version__
    assert shown["python"]["version"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert shown["cpu"]["usable"] >= 1 and shown["memory_bytes"] > 1 << 26
    assert shown["torch"]["version"] and isinstance(shown["torch"]["devices"], list)
    assert shown["lmdb_engine"].startswith("0.9.")
    assert all(shown["packages"].values())
    assert shown["optional"]["dask"]["extra"] == "dask"
    assert shown["variables"]["FACEPACK_HOME"] == "~/data"
    assert "secret" not in json.dumps(shown)
    lines = CliRunner().invoke(env).stdout.splitlines()
    assert lines[0].startswith("facepack ") and "FACEPACK_HOME=~/data" in lines
    assert any(line.startswith("torch ") for line in lines)


def test_nothing_fails_where_things_are_absent_or_broken() -> None:
    program = """
import json, sys
from importlib import metadata
for name in ("torch", "PIL", "lmdb"):
    sys.modules[name] = None  # importing it raises
real = metadata.version
def version(name):
    if name in ("numpy", "dask", "matplotlib"):
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
from facepack.view.machine import describe_machine, machine_lines
facts = describe_machine()
print(json.dumps([facts, list(machine_lines(facts))]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts, lines = json.loads(done.stdout)
    for name in ("torch", "pillow", "lmdb_engine"):
        assert facts[name].startswith("cannot be determined: ModuleNotFoundError")
    assert facts["packages"]["numpy"] is None
    assert "dask           absent (pip install 'facepack[dask]')" in lines
    assert any(line.startswith("numpy          missing") for line in lines)


def test_a_machine_with_devices() -> None:
    facts = describe_machine()
    facts["torch"] = {
        "version": "2.9.0",
        "cuda": "13.0",
        "cudnn": 91002,
        "threads": 8,
        "devices": [{"name": "GPU", "memory_bytes": 24 << 30, "capability": "8.9"}],
    }
    facts["cpu"] = "cannot be determined: OSError: no"
    lines = list(machine_lines(facts))
    assert "torch          2.9.0, CUDA 13.0, cuDNN 91002, 8 threads" in lines
    assert "cuda:0         GPU, 24 GiB, sm 8.9" in lines
    assert "cpu            cannot be determined: OSError: no" in lines
