"""What facepack runs on: versions of what it uses, processors, memory, devices.

Nothing here fails because something is absent or broken: that is reported instead.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from facepack.processors import usable_processors
from facepack.store.format import FORMAT_VERSION
from facepack.system import physical_memory
from facepack.version import __version__

# Distribution → the extra that installs it; None: facepack only works beside it.
_OPTIONAL: dict[str, str | None] = {
    "nvidia-dali": "dali",
    "pillow-simd": "simd",
    "matplotlib": "plot",
    "tensorboard": "tensorboard",
    "numba": "numba",
    "onnx": "export",
    "onnxruntime": "export",
    "safetensors": "export",
    "dask": "dask",
    "distributed": "dask",
    "mxnet": None,
}
_REQUIRED = ("numpy", "lmdb", "msgpack", "click", "jinja2", "simplejpeg", "xxhash")
_DALI = "nvidia-dali-cuda"  # its distributions are named after the CUDA release


def describe_machine() -> dict[str, Any]:
    """Everything, as JSON has it; what is unknown is a string that begins ``cannot``."""
    return {
        "facepack": {"version": __version__, "pack_format": FORMAT_VERSION},
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
        },
        "platform": platform.platform(),
        "cpu": _or_reason(_cpu),
        "memory_bytes": _or_reason(physical_memory),
        "packages": {
            **{name: _version(name) for name in _REQUIRED},
            "Pillow": _version("Pillow") or _version("pillow-simd"),
        },
        "lmdb_engine": _or_reason(_lmdb_engine),
        "pillow": _or_reason(_pillow),
        "torch": _or_reason(_torch),
        "optional": {name: _optional(name, extra) for name, extra in _OPTIONAL.items()},
        "variables": dict(_variables()),
    }


def _or_reason(describe: Callable[[], Any]) -> Any:
    """What ``describe`` returns; a broken installation may raise anything: that is reported."""
    try:
        return describe()
    except Exception as error:
        return _hide_home(f"cannot be determined: {type(error).__name__}: {error}")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _optional(name: str, extra: str | None) -> dict[str, str | None]:
    if name == "nvidia-dali":
        return {"version": _or_reason(_dali_version), "extra": extra}
    return {"version": _version(name), "extra": extra}


def _dali_version() -> str | None:
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if name.lower().startswith(_DALI):
            return f"{distribution.version} ({name})"
    return None


def _cpu() -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.M)
        model = match[1] if match else model
    return {"model": model, "cores": os.cpu_count(), "usable": usable_processors()}


def _lmdb_engine() -> str:
    import lmdb

    return ".".join(map(str, lmdb.version()))


def _pillow() -> dict[str, Any]:
    import PIL
    from PIL import features

    return {
        "version": PIL.__version__,
        "simd": ".post" in PIL.__version__,  # pillow-simd's versions end so
        "libjpeg": features.version("jpg"),
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "webp": bool(features.check("webp")),
        "freetype": bool(features.check("freetype2")),
    }


def _torch() -> dict[str, Any] | None:
    if _version("torch") is None:
        return None
    import torch

    devices = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                {
                    "name": properties.name,
                    "memory_bytes": properties.total_memory,
                    "capability": f"{properties.major}.{properties.minor}",
                }
            )
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "threads": torch.get_num_threads(),
        "devices": devices,
    }


def _variables() -> Iterator[tuple[str, str]]:
    for name in sorted(os.environ):
        if name.startswith("FACEPACK_"):
            yield name, _hide_home(os.environ[name])


def _hide_home(text: str) -> str:
    """``text`` without the name of the user, for it may be pasted where others read it."""
    home = str(Path("~").expanduser())
    return text.replace(home, "~") if len(home) > 1 else text


def machine_lines(facts: dict[str, Any]) -> Iterator[str]:
    """Yield :func:`describe_machine`'s facts as lines of text."""

    def line(name: str, *parts: object) -> str:
        return f"{name:<14} {', '.join(str(part) for part in parts if part)}"

    own, python = facts["facepack"], facts["python"]
    yield line("facepack", own["version"], f"pack format {own['pack_format']}")
    yield line("python", python["version"], python["implementation"])
    yield line("platform", facts["platform"])
    cpu, memory = facts["cpu"], facts["memory_bytes"]
    if isinstance(cpu, dict):
        cpu = f"{cpu['model']}, {cpu['cores']} cores, {cpu['usable']} usable"
    yield line("cpu", cpu)
    yield line("memory", f"{memory / 2**30:.1f} GiB" if isinstance(memory, int) else memory)
    yield from _torch_lines(facts["torch"], line)
    for name, version in facts["packages"].items():
        more = f"engine {facts['lmdb_engine']}" if name == "lmdb" else ""
        if name == "Pillow":
            more = _pillow_words(facts["pillow"])
        yield line(name, version or "missing", more)
    for name, found in facts["optional"].items():
        remedy = f"pip install 'facepack[{found['extra']}]'" if found["extra"] else "not needed"
        yield line(name, found["version"] or f"absent ({remedy})")
    for name, value in facts["variables"].items():
        yield f"{name}={value}"


def _torch_lines(torch: Any, line: Callable[..., str]) -> Iterator[str]:
    if not isinstance(torch, dict):
        yield line("torch", torch or "missing")
        return
    cuda = f"CUDA {torch['cuda']}" if torch["cuda"] else "without CUDA"
    cudnn = f"cuDNN {torch['cudnn']}" if torch["cudnn"] else ""
    yield line("torch", torch["version"], cuda, cudnn, f"{torch['threads']} threads")
    for number, device in enumerate(torch["devices"]):
        memory = f"{device['memory_bytes'] / 2**30:.0f} GiB"
        yield line(f"cuda:{number}", device["name"], memory, f"sm {device['capability']}")


def _pillow_words(pillow: Any) -> str:
    if not isinstance(pillow, dict):
        return str(pillow)
    jpeg = f"libjpeg {pillow['libjpeg']}" if pillow["libjpeg"] else "no JPEG"
    turbo = pillow["libjpeg_turbo"]
    parts = [
        "SIMD" if pillow["simd"] else "no SIMD",
        f"libjpeg-turbo {turbo}" if turbo else jpeg,
        "" if pillow["webp"] else "no WebP",
        "" if pillow["freetype"] else "no FreeType",
    ]
    return ", ".join(part for part in parts if part)
