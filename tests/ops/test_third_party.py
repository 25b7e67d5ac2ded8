"""examples/backend_numba: a package of its own brings a backend, by its entry point alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "examples" / "backend_numba"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the package into."""
    source = tmp_path_factory.mktemp("source") / "backend_numba"
    target = tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source)  # pip leaves a build folder in it
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def pix2gan(installed: Path, *arguments: str) -> str:
    path = os.pathsep.join([str(REPOSITORY), str(installed)])
    environment = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1")
    environment.pop("PIX2GAN_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-m", "pix2gan", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_whole_package_is_under_200_lines():
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml", ".md")]
    assert len(files) == 3
    assert sum(len(path.read_text().splitlines()) for path in files) < 200


def test_it_is_found(installed):
    verdicts = json.loads(pix2gan(installed, "ops", "list", "--json"))["verdicts"]
    on_cpu = {
        v["primitive"]: v for v in verdicts if v["backend"] == "numba" and v["device"] == "cpu"
    }
    assert {p for p, v in on_cpu.items() if v["available"]} == {
        "bias_act",
        "bias_act_grad",
        "upfirdn2d",
        "instance_norm_stats",
        "instance_norm_act",
    }
    assert on_cpu["scaled_conv2d"]["reason"] == "it does not implement this"


def test_it_is_right_in_what_is_quick_to_compile(installed):
    chosen = ["--subject", "upfirdn2d", "--subject", "op upfirdn2d"]
    dtypes = ["--dtype", "float32", "--dtype", "bfloat16"]
    out = pix2gan(installed, "ops", "check", "--backend", "numba", *chosen, *dtypes)
    rows = {tuple(line[:34].split()): line[34:].split() for line in out.splitlines()}
    assert rows["upfirdn2d", "bfloat16"] == ["108", "0", "0"]
    assert rows["op", "upfirdn2d", "float32"] == ["72", "0", "0"]


@pytest.mark.stress
def test_it_is_right(installed):
    assert ", 0 failed" in pix2gan(installed, "ops", "check", "--backend", "numba")
