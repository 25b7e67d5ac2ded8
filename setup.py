"""Builds the native CPU kernels in csrc/ where that is possible, and never fails because it is not.

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


class BuildNative(build_ext):
    """build_ext that reports a failed build in one line and lets the install go on."""

    def run(self) -> None:
        NOTE.unlink(missing_ok=True)
        (extension,) = self.extensions
        library = Path(self.get_ext_fullpath(extension.name))
        try:
            if library.is_file() and native.built_from(library) == native.source_hash(CSRC):
                return
            library.unlink(missing_ok=True)  # built from other sources, which it may not fit
            native.compile_library(CSRC, library, time.monotonic() + SECONDS)
        except (Exception, SystemExit) as error:
            message = failure_message(error)
            print(message, file=sys.stderr)
            NOTE.parent.mkdir(exist_ok=True)
            NOTE.write_text(message + "\n", encoding="utf-8")
            self.extensions = []  # nothing was built: later steps must not look for it


def failure_message(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(".") if lines else type(error).__name__
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


setup(
    ext_modules=[
        Extension(
            f"pix2gan.ops.backends.{native.PREBUILT}",
            sources=[os.path.relpath(source, ROOT) for source in native.source_files(CSRC)],
            py_limited_api=True,  # it has no Python symbol at all: one file fits every version
        )
    ],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPackage},
)
