"""Which device a text names."""

from __future__ import annotations

import torch

from facepack.errors import ConfigError


def check_device(name: str | torch.device) -> torch.device:
    """The device ``name``, as it was given: ``cuda`` stays without a number.

    Raises:
        ConfigError: it is none that torch can compute on here.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {str(name)!r} is not one of cpu, cuda, cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name}: torch sees no CUDA device here; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {name}: torch sees {torch.cuda.device_count()} here, numbered from 0"
        )
    return device
