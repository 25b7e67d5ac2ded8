"""Builds the native kernels in csrc/ where that is possible, and never fails because it is not.

Everything else about the package is declared in pyproject.toml. The building itself is that of
pix2gan/ops/backends/_native.py, which does the same at the kernels' first use where nothing was
built here. A build that cannot be done (no compiler, no torch, a compile error) prints one line
that says what is slower and how to get it, and leaves that line in build/native_build.txt too: pip
hides what a successful install prints, and the Makefile shows it.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
NOTE = ROOT / "build" / "native_build.txt"
SECONDS = 600


def load_native() -> ModuleType:
    """pix2gan/ops/backends/_native.py, without the package: that would import torch."""
    path = ROOT / "pix2gan" / "ops" / "backends" / "_native.py"
    spec = importlib.util.spec_from_file_location("_native", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


native = load_native()


def libraries() -> list[Any]:
    """What to build: the CUDA kernels only where nvcc is found and torch is a CUDA build, as there
    is nothing to link them to elsewhere."""
    try:
        import torch

        native.find_nvcc()
        with_cuda = torch.version.cuda is not None
    except (ImportError, AttributeError, native.BuildError):
        with_cuda = False
    return [native.CPU, native.CUDA] if with_cuda else [native.CPU]


class BuildNative(build_ext):
    """build_ext that reports a failed build in one line and lets the install go on."""

    def run(self) -> None:
        NOTE.unlink(missing_ok=True)
        self.extensions = [e for e in self.extensions if self.build(e.name)]

    def build(self, name: str) -> bool:
        """Whether the library of an extension has been built: later steps look for the file."""
        (library,) = (one for one in LIBRARIES if name.endswith(one.prebuilt))
        target = Path(self.get_ext_fullpath(name))
        try:
            if target.is_file() and native.built_from(target) == library.source_hash(CSRC):
                return True
            target.unlink(missing_ok=True)  # built from other sources, which it may not fit
            native.compile_library(library, CSRC, target, time.monotonic() + SECONDS)
        except (Exception, SystemExit) as error:
            message = failure_message(library, error)
            print(message, file=sys.stderr)
            NOTE.parent.mkdir(exist_ok=True)
            with NOTE.open("a", encoding="utf-8") as note:
                note.write(message + "\n")
            return False
        return True


def failure_message(library: Any, error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    if library is native.CUDA:
        return (
            "pix2gan: everything works, but without its CUDA kernels, which are built at their "
            f"first use once what is missing is there; the build failed now: {reason}."
        )
    return (
        "pix2gan: everything works, but images are translated more slowly on the CPU until its "
        "native kernels are built, which happens at their first use once torch and a C++ compiler "
        f"are there; the build failed now: {reason}."
    )


class BuildPackage(build_py):
    """build_py that also ships csrc/, from which the kernels can be compiled at their first use."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return  # csrc/ is found beside the package
        for source in sorted(CSRC.rglob("*")):
            if source.suffix in {".cpp", ".cu", ".cuh", ".h"}:
                target = Path(self.build_lib) / "pix2gan" / source.relative_to(ROOT)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


LIBRARIES = libraries()

setup(
    ext_modules=[
        Extension(
            f"pix2gan.ops.backends.{library.prebuilt}",
            sources=[os.path.relpath(source, ROOT) for source in library.source_files(CSRC)],
            py_limited_api=True,  # it has no Python symbol at all: one file fits every version
        )
        for library in LIBRARIES
    ],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPackage},
)
