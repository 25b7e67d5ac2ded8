"""Builds the native CPU kernels in csrc/ where that is possible, and never fails because it is not.

Everything else about the package is declared in pyproject.toml. A build that cannot be done (no
compiler, no ninja, no torch, a compile error) prints one line that says what is slower and how to
get it later, and leaves the same line in pix2gan/ops/backends/native_build.txt, where
``pix2gan doctor`` and the Makefile find it: pip hides what a successful build prints.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

try:
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

    TORCH_PROBLEM = ""
except Exception as error:  # an isolated build has no torch; a broken one fails in its own ways
    BuildExtension = build_ext
    TORCH_PROBLEM = f"torch cannot be imported while building: {error}"

ROOT = Path(__file__).parent.resolve()
LIBRARY = "pix2gan.ops.backends._native_cpu"
# BuildExtension looks for ninja on PATH, but pip in a virtual environment that is not activated
# leaves that environment's own ninja off it.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])


def native_library() -> Extension:
    """A plain shared library over LibTorch's stable ABI: one file fits every Python version."""
    sources = [*(ROOT / "csrc").glob("*.cpp"), *(ROOT / "csrc" / "cpu").glob("*.cpp")]
    # gcc at Debian Python's default -O2 leaves the loops unvectorised, 14 to 17 times slower.
    # BuildExtension adds the language standard that its torch asks for.
    target = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10, the oldest supported
    flags = ["-O3", "-g0", "-fvisibility=hidden", target]
    return Extension(
        LIBRARY,
        sources=sorted(os.path.relpath(source, ROOT) for source in sources),
        include_dirs=[] if TORCH_PROBLEM else include_paths("cpu"),
        library_dirs=[] if TORCH_PROBLEM else library_paths("cpu"),
        libraries=["c10", "torch", "torch_cpu"],
        extra_compile_args=flags,
        py_limited_api=True,
        language="c++",
    )


class BuildNative(BuildExtension):  # type: ignore[misc, valid-type]
    """build_ext that reports a failed build in one line and lets the install go on."""

    def finalize_options(self) -> None:
        # pip builds in a new temporary folder each time; here ninja finds what is up to date.
        self.build_temp = self.build_temp or str(ROOT / "build" / "native")
        super().finalize_options()

    def run(self) -> None:
        note = self.note_path()
        note.unlink(missing_ok=True)
        try:
            check_tools()
            super().run()
        except (Exception, SystemExit) as error:
            message = failure_message(error)
            print(message, file=sys.stderr)
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(message + "\n", encoding="utf-8")
            for library in note.parent.glob("_native_cpu.*"):
                library.unlink()  # of an older build: it may not fit the sources of today
            self.extensions = []  # nothing was built: later steps must not look for it

    def note_path(self) -> Path:
        """native_build.txt, in the folder that the library would have gone to."""
        return Path(self.get_ext_fullpath(LIBRARY)).with_name("native_build.txt")


def check_tools() -> None:
    """Fail early, in words, where BuildExtension would print pages."""
    if TORCH_PROBLEM:
        raise RuntimeError(TORCH_PROBLEM)
    compiler = (os.environ.get("CXX") or "c++").split()[0]
    if shutil.which(compiler) is None:
        raise RuntimeError(f"there is no C++ compiler: {compiler} is not on PATH")


def failure_message(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return (
        f"pix2gan: the native CPU kernels were not built ({reason}); everything works, but images "
        "are translated more slowly on the CPU. To build them, see to it that torch, ninja and a "
        "C++ compiler work, then run `make clean install` in a clone, or else `pip install "
        "--no-build-isolation --force-reinstall --no-deps` as before (-v shows the compiler's "
        "messages)."
    )


class BuildPackage(build_py):
    """build_py that also ships csrc/, from which the kernels can be compiled at their first use."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return  # csrc/ is found beside the package
        for source in sorted((ROOT / "csrc").rglob("*")):
            if source.suffix in {".cpp", ".cu", ".cuh", ".h"}:
                target = Path(self.build_lib) / "pix2gan" / source.relative_to(ROOT)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


setup(
    ext_modules=[native_library()],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPackage},
)
