"""Where a training computes, and in which number format."""

from __future__ import annotations

import torch

from pix2gan.errors import ConfigError
from pix2gan.training.distributed import World

_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(name: str, world: World) -> torch.device:
    """The device that ``--device`` names: each process of a machine gets a GPU of its own.

    Raises:
        ConfigError: If it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda, got {name!r}.")
    if device.type == "cuda" and world.size > 1:
        if ":" in name:
            raise ConfigError(f"With torchrun, say --device cuda instead of {name}.")
        device = torch.device("cuda", world.local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {device} is not there; this machine has {_cuda_devices()}.")
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which the networks run."""
    return torch.autocast(device.type, dtype=_FORMATS[precision], enabled=precision != "fp32")


def _cuda_devices() -> str:
    count = torch.cuda.device_count()
    return f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"
