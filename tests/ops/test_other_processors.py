"""The native kernels on arm64, in an emulator: NEON, and its bfloat16 and float16."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pix2gan.ops.backends import _native

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
DRIVER = Path(__file__).with_name("kernels_without_torch.cpp")


@pytest.mark.stress
def test_kernels_on_arm64(tmp_path: Path):
    for program in (COMPILER, EMULATOR):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} (apt install g++-aarch64-linux-gnu qemu-user)")
    csrc = _native.find_sources()
    sources = sorted((csrc / "cpu").glob("*.cpp"))
    program = tmp_path / "kernels"
    flags = [f for f in _native.COMPILE_FLAGS if not f.startswith("-D")]
    command = [COMPILER, "-std=c++17", *flags, "-Wall", "-Wextra", "-Werror", "-static", "-pthread"]
    subprocess.run([*command, "-o", program, DRIVER, *sources], check=True)
    ran = subprocess.run([EMULATOR, program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[0] == "instruction set: baseline"
    assert ran.stdout.count("right") == 6
