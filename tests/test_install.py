"""The install succeeds whatever happens to the native build, and says what happened.

Each case runs the real setup.py and the real _native.py on a small project of the same shape, so
that nothing here waits for the real kernels to compile; tests/ops/test_native.py is about those.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BACKENDS = Path("pix2gan/ops/backends")
BINDING = """
#include "kernels.h"
#define STRING_OF(text) #text
#define STRING(text) STRING_OF(text)
extern "C" __attribute__((visibility("default"))) const char* pix2gan_built_from() {
    return answer() ? "PIX2GAN_SOURCE_HASH=" STRING(PIX2GAN_SOURCE_HASH) : "";
}
#ifndef __OPTIMIZE__
#error "compiled without optimisation"
#endif
"""
needs_compiler = pytest.mark.skipif(
    shutil.which((os.environ.get("CXX") or "c++").split()[0]) is None, reason="no C++ compiler"
)


@pytest.fixture
def torch_folder(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with torch's headers and libraries, whose import takes no time."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path / "site/torch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    for part in ("include", "lib"):
        (folder / part).symlink_to(Path(spec.origin).parent / part)
    return folder


@pytest.fixture
def project(tmp_path: Path, torch_folder: Path) -> Path:
    """setup.py and pyproject.toml as they are, beside a package and a csrc/ of one function."""
    folder = tmp_path / "project"
    (folder / BACKENDS).mkdir(parents=True)
    kept = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
    for name in (*kept, BACKENDS / "_native.py"):
        shutil.copy(ROOT / name, folder / name)
    for package in ("pix2gan", "pix2gan/ops", BACKENDS):
        (folder / package / "__init__.py").write_text('__version__ = "1.2"\n')
    (folder / "pix2gan/py.typed").touch()
    (folder / "pix2gan/pretrained/some-model").mkdir(parents=True)
    (folder / "pix2gan/pretrained/some-model/config.json").write_text("{}")
    (folder / "csrc/cpu").mkdir(parents=True)
    (folder / "csrc/kernels.h").write_text("#pragma once\nint answer();\n")
    (folder / "csrc/binding.cpp").write_text(BINDING)
    (folder / "csrc/cpu/answer.cpp").write_text(
        '#include "../kernels.h"\nint answer() { return 42; }\n'
    )
    return folder


def build(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python on setup.py (build_ext --inplace if nothing is said); it must never fail."""
    result = subprocess.run(
        [sys.executable, *(command or ("setup.py", "build_ext", "--inplace"))],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project.parent / "site"), **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def libraries(project: Path) -> list[Path]:
    return sorted((project / BACKENDS).glob("_native_cpu*.so"))


def failure_line(project: Path, result: subprocess.CompletedProcess[str]) -> str:
    """The one line about the failed build, which must be printed and left for the Makefile."""
    assert libraries(project) == []
    assert sorted((project / BACKENDS).glob("build-*")) == []
    lines = [line for line in result.stderr.splitlines() if line.startswith("pix2gan:")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert (project / "build/native_build.txt").read_text() == lines[0] + "\n"
    assert "more slowly" in lines[0]
    return lines[0]


@needs_compiler
def test_builds_once_and_clears_an_older_failure(project: Path) -> None:
    note = project / "build/native_build.txt"
    note.parent.mkdir()
    note.write_text("pix2gan: an older failure\n")
    build(project)
    (library,) = libraries(project)
    assert not note.exists()

    built = library.stat().st_mtime_ns
    build(project)
    assert library.stat().st_mtime_ns == built, "compiled again without need"

    (project / "csrc/cpu/answer.cpp").write_text("int answer() { return 43; }\n")
    build(project)
    assert libraries(project) == [library]
    assert library.stat().st_mtime_ns > built, "not compiled again from new sources"


@needs_compiler
def test_the_ninja_in_the_path_does_not_matter(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    ninja = tmp_path / "bin/ninja"
    ninja.write_text("#!/bin/sh\nexit 1\n")
    ninja.chmod(0o755)
    build(project, PATH=f"{ninja.parent}{os.pathsep}{os.environ['PATH']}")
    assert len(libraries(project)) == 1


@needs_compiler
def test_without_ninja(project: Path) -> None:
    (project.parent / "site/ninja.py").write_text("raise ImportError\n")
    assert "pip install ninja" in failure_line(project, build(project))


def test_without_a_compiler(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    result = build(project, PATH=str(tmp_path))
    assert "no C++ compiler was found" in failure_line(project, result)


def test_with_a_compiler_that_fails(project: Path) -> None:
    (project / BACKENDS / "_native_cpu.abi3.so").write_bytes(b"what an older version built")
    result = build(project, CXX="/bin/false", CC="/bin/false")
    assert "/bin/false" in failure_line(project, result)


@needs_compiler
def test_with_code_that_does_not_compile(project: Path) -> None:
    (project / "csrc/cpu/answer.cpp").write_text("this is not C++\n")
    assert "answer.cpp" in failure_line(project, build(project))


def test_without_torch(project: Path, torch_folder: Path) -> None:
    """As in pip's isolated builds."""
    (torch_folder / "__init__.py").write_text("raise ImportError('no torch here')\n")
    assert "no torch here" in failure_line(project, build(project))


def test_wheel_of_a_failed_build_holds_everything_else(project: Path) -> None:
    result = build(project, "setup.py", "bdist_wheel", CXX="/bin/false", CC="/bin/false")
    failure_line(project, result)
    (wheel,) = (project / "dist").glob("pix2gan-1.2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        "pix2gan/__init__.py",
        "pix2gan/py.typed",
        "pix2gan/pretrained/some-model/config.json",
        "pix2gan/csrc/kernels.h",
        "pix2gan/csrc/binding.cpp",
        "pix2gan/csrc/cpu/answer.cpp",
    } <= names
    assert not [name for name in names if name.endswith((".so", ".txt")) and "info" not in name]


# What pip runs for `pip install --no-build-isolation -e .`, without pip and its index.
EDITABLE = "import setuptools.build_meta as backend; print(backend.build_editable('.'))"


@needs_compiler
def test_editable_install_builds_into_the_source_folder(project: Path) -> None:
    build(project, "-c", EDITABLE)
    assert len(libraries(project)) == 1
    assert len(list(project.glob("pix2gan-1.2-*.whl"))) == 1


def test_editable_install_survives_a_failed_build(project: Path) -> None:
    result = build(project, "-c", EDITABLE, CXX="/bin/false", CC="/bin/false")
    failure_line(project, result)
    assert len(list(project.glob("pix2gan-1.2-*.whl"))) == 1


@needs_compiler
def test_builds_the_cuda_kernels_where_torch_and_nvcc_are_cudas(project: Path) -> None:
    torch_init = project.parent / "site/torch/__init__.py"
    torch_init.write_text(
        "class version:\n    cuda = '13.0'\nclass cuda:\n    is_available = lambda: False\n"
    )
    nvcc = project.parent / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {project.parent}/calls\n'
        'while [ "$1" != -o ]; do shift; done; echo built > "$2"\n'
    )
    nvcc.chmod(0o755)
    (project / "csrc/cuda").mkdir()
    (project / "csrc/cuda/kernel.cu").write_text("not even C++\n")
    build(project, NVCC=str(nvcc), TORCH_CUDA_ARCH_LIST="9.0")
    assert len(libraries(project)) == 1
    assert len(list((project / BACKENDS).glob("_native_cuda*.so"))) == 1
    compiled, linked = (project.parent / "calls").read_text().splitlines()
    assert "arch=compute_90,code=sm_90" in compiled
    assert "-ltorch_cuda" in linked

    # Without nvcc, or with a torch that has nothing to link to, there is nothing to say.
    for library in (project / BACKENDS).glob("_native_*.so"):
        library.unlink()
    torch_init.write_text("class version:\n    cuda = None\n")
    result = build(project, NVCC=str(nvcc))
    assert "CUDA" not in result.stderr
    assert len(list((project / BACKENDS).glob("_native_cuda*.so"))) == 0


@needs_compiler
def test_cuda_kernels_that_fail_do_not_keep_those_of_the_cpu(project: Path) -> None:
    (project.parent / "site/torch/__init__.py").write_text(
        "class version:\n    cuda = '13.0'\nclass cuda:\n    is_available = lambda: False\n"
    )
    (project / "csrc/cuda").mkdir()
    (project / "csrc/cuda/kernel.cu").write_text("")
    nvcc = project.parent / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'kernel.cu(1): error: no such thing' >&2; exit 1\n")
    nvcc.chmod(0o755)
    result = build(project, NVCC=str(nvcc))
    assert len(libraries(project)) == 1
    assert len(list((project / BACKENDS).glob("_native_cuda*.so"))) == 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("pix2gan:")]
    assert len(lines) == 1
    assert "without its CUDA kernels" in lines[0]
    assert "no such thing" in lines[0]
