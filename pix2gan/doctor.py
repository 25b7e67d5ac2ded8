"""What ``pix2gan doctor`` says: versions, devices, compiler, and which backends run here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pix2gan

_LIBRARIES = (
    "torch",
    "triton",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "albumentations",
    "imagecodecs",
    "safetensors",
    "torchmetrics",
    "cyclopts",
)


def report() -> str:
    """Everything about this machine that a bug report needs, one fact a line."""
    facts = [
        ("pix2gan", f"{pix2gan.__version__} in {Path(pix2gan.__file__).parent}"),
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *((name, _version(name)) for name in _LIBRARIES),
        *_devices(),
        ("compiler", _first_line_of_version((os.environ.get("CXX") or "c++").split()[0])),
        *_backends(),
        *_bundled_models(),
    ]
    width = max(len(name) for name, _ in facts)
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    yield "cpu", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        yield f"cuda:{index}", f"{properties.name}, {memory:.0f} GiB"
    if not torch.cuda.is_available():
        yield "cuda", f"none (torch was built for {_built_for(torch.version)})"


def _built_for(torch_version: object) -> str:
    for kind in ("cuda", "hip"):
        number = getattr(torch_version, kind, None)
        if number:
            return f"{kind} {number}"
    return "the CPU only"


def _first_line_of_version(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        return f"{program} not found"
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path}: {error}"
    lines = (result.stdout or result.stderr).splitlines()
    return f"{path}: {lines[0]}" if lines and result.returncode == 0 else f"{path} does not work"


def _backends() -> Iterator[tuple[str, str]]:
    from pix2gan import ops

    for backend in ops.list_backends():
        yield (
            f"backend {backend.name}",
            "available" if backend.available else f"not available: {backend.reason}",
        )


def _bundled_models() -> Iterator[tuple[str, str]]:
    from pix2gan.checkpoints import list_pretrained

    yield "bundled models", ", ".join(list_pretrained()) or "none"
