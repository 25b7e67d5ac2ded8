"""The CUDA kernels on a CPU: csrc/cuda/*.cu, compiled by the host compiler with an emulation of
CUDA's runtime, as a backend of the name ``cuda_emulated``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pix2gan.ops.backends import _native, cuda
from pix2gan.ops.cases import DATA_ARGUMENTS

EMULATION = Path(__file__).parent / "cuda_emulation"


class EmulatedLibrary(_native.Library):
    """The CUDA library with threads of the CPU in the place of those of a GPU."""

    name = "cuda"
    title = "the emulated CUDA kernels"
    namespace = "pix2gan_cuda_emulated"
    flags = (
        "-O1",
        # a kernel may tell infinities and NaN apart
        "-ffp-contract=off",
        "-fvisibility=hidden",
        "-Wno-unknown-pragmas",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
        "-DUSE_CUDA",
        "-DPIX2GAN_CUDA",
        "-DPIX2GAN_LIBRARY=pix2gan_cuda_emulated",
        "-DPIX2GAN_KEY=CPU",
        f"-I{EMULATION}",
    )

    def source_files(self, csrc: Path) -> list[Path]:
        return [*super().source_files(csrc), EMULATION / "emulation.cpp"]

    def hardware(self) -> str:
        texts = [file.read_bytes() for file in sorted(EMULATION.iterdir())]
        return f"emulated-{_native.hashlib.sha256(b'|'.join(texts)).hexdigest()[:8]}"

    def compile_command(self, csrc: Path, source: Path, target: Path) -> list[str]:
        compiler, *rest = super().compile_command(csrc, source, target)
        return [compiler, "-x", "c++", *rest]


LIBRARY = EmulatedLibrary()


def is_available() -> tuple[bool, str]:
    return _native.load(LIBRARY)


def backend() -> SimpleNamespace:
    """The backend module ``cuda`` with the emulated ops behind it."""
    functions: dict[str, Callable[..., None]] = {
        name: function_of(name) for name in DATA_ARGUMENTS if hasattr(cuda, name)
    }
    return SimpleNamespace(
        DEVICES=("cpu",), is_available=is_available, supports=cuda.supports, **functions
    )


def function_of(primitive: str) -> Callable[..., None]:
    def function(*args: Any) -> None:
        getattr(getattr(torch.ops, LIBRARY.namespace), primitive).default(*args)

    return function
