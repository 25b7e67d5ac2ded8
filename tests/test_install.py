"""The install succeeds whatever happens to the native build, and says what happened.

Each case runs the real setup.py on a small project of the same shape, so that nothing here waits
for the real kernels to compile; tests/ops/test_native.py is about those.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
needs_compiler = pytest.mark.skipif(
    shutil.which((os.environ.get("CXX") or "c++").split()[0]) is None, reason="no C++ compiler"
)
BACKENDS = Path("pix2gan/ops/backends")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """setup.py and pyproject.toml as they are, beside a package and a csrc/ of one function."""
    folder = tmp_path / "project"
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        folder.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / BACKENDS).mkdir(parents=True)
    for package in ("pix2gan", "pix2gan/ops", "pix2gan/ops/backends"):
        (folder / package / "__init__.py").write_text('__version__ = "1.2"\n')
    (folder / "pix2gan/py.typed").touch()
    (folder / "pix2gan/pretrained/some-model").mkdir(parents=True)
    (folder / "pix2gan/pretrained/some-model/config.json").write_text("{}")
    (folder / "csrc/cpu").mkdir(parents=True)
    (folder / "csrc/kernels.h").write_text("#pragma once\nint answer();\n")
    (folder / "csrc/binding.cpp").write_text(
        '#include "kernels.h"\nextern "C" __attribute__((visibility("default"))) '
        "int pix2gan_answer() { return answer(); }\n"
    )
    (folder / "csrc/cpu/answer.cpp").write_text(
        '#include "../kernels.h"\nint answer() { return 42; }\n'
    )
    return folder


def fake_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def build(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py (build_ext --inplace if nothing else is said); it must never fail."""
    result = subprocess.run(
        [sys.executable, "setup.py", *(command or ("build_ext", "--inplace"))],
        cwd=project,
        env={**os.environ, "MAX_JOBS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def libraries(project: Path) -> list[Path]:
    return sorted((project / BACKENDS).glob("_native_cpu*.so"))


def failure_note(project: Path, result: subprocess.CompletedProcess[str]) -> str:
    """The one line about the failed build, which must be printed and left in the package."""
    assert libraries(project) == []
    lines = [line for line in result.stderr.splitlines() if line.startswith("pix2gan:")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert (project / BACKENDS / "native_build.txt").read_text() == lines[0] + "\n"
    assert "slow" in lines[0]
    assert "pip install --no-build-isolation" in lines[0]
    return lines[0]


@needs_compiler
def test_builds_optimised_and_clears_an_older_failure(project: Path) -> None:
    note = project / BACKENDS / "native_build.txt"
    note.write_text("pix2gan: an older failure\n")
    result = build(project)
    assert len(libraries(project)) == 1, result.stdout + result.stderr
    assert not note.exists()
    commands = [line for line in result.stdout.splitlines() if "-c " in line]
    assert commands
    assert all(line.rindex("-O3") > line.rfind("-O2") for line in commands)
    assert (project / "build/native").is_dir(), "the next build could not reuse this one's objects"


@needs_compiler
def test_builds_without_ninja(project: Path, tmp_path: Path) -> None:
    fake_program(tmp_path / "bin", "ninja", "exit 1")
    result = build(project, PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert len(libraries(project)) == 1, result.stdout + result.stderr
    commands = [line for line in result.stdout.splitlines() if "answer.cpp" in line]
    assert commands
    assert all(line.rindex("-O3") > line.rfind("-O2") for line in commands)


def test_without_a_compiler(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environment = {k: v for k, v in os.environ.items() if k not in ("CC", "CXX")}
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=project,
        env={**environment, "PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stderr
    assert "there is no C++ compiler" in failure_note(project, result)


def test_with_a_compiler_that_fails(project: Path) -> None:
    stale = project / BACKENDS / "_native_cpu.abi3.so"
    stale.write_bytes(b"what an older version built")
    result = build(project, CXX="/bin/false", CC="/bin/false")
    assert "/bin/false" in failure_note(project, result)


def test_with_a_ninja_that_fails(project: Path, tmp_path: Path) -> None:
    fake_program(tmp_path / "bin", "ninja", 'test "$1" = --version && echo 1.11 || exit 3')
    result = build(project, PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    failure_note(project, result)


@needs_compiler
def test_with_code_that_does_not_compile(project: Path) -> None:
    (project / "csrc/cpu/answer.cpp").write_text("this is not C++\n")
    failure_note(project, build(project))


def test_without_torch(project: Path, tmp_path: Path) -> None:
    (tmp_path / "site/torch").mkdir(parents=True)
    (tmp_path / "site/torch/__init__.py").write_text("raise ImportError('no torch here')\n")
    result = build(project, PYTHONPATH=str(tmp_path / "site"))
    assert "no torch here" in failure_note(project, result)


def test_wheel_of_a_failed_build_holds_everything_else(project: Path) -> None:
    result = build(project, "bdist_wheel", CXX="/bin/false", CC="/bin/false")
    (wheel,) = (project / "dist").glob("pix2gan-1.2-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "pix2gan/__init__.py",
        "pix2gan/py.typed",
        "pix2gan/pretrained/some-model/config.json",
        "pix2gan/csrc/kernels.h",
        "pix2gan/csrc/binding.cpp",
        "pix2gan/csrc/cpu/answer.cpp",
        "pix2gan/ops/backends/native_build.txt",
    } <= names
    assert not [name for name in names if name.endswith(".so")]
    assert "pix2gan: the native CPU kernels were not built" in result.stderr


def test_editable_install_succeeds_when_the_build_fails(project: Path, tmp_path: Path) -> None:
    """What pip runs for `pip install --no-build-isolation -e .`, without pip and its index."""
    code = (
        "import sys, setuptools.build_meta as backend; "
        f"print(backend.build_editable({str(tmp_path)!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "CXX": "/bin/false", "CC": "/bin/false"},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("pix2gan-1.2-*.whl"))
    assert (project / BACKENDS / "native_build.txt").exists()
