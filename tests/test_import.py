"""Importing pix2gan is quick, quiet and offline."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pix2gan

ROOT = Path(__file__).parents[1]
# triton comes with CUDA builds of torch, and with the dev extra elsewhere; the others with extras.
OPTIONAL = {
    "av",
    "c2pa",
    "cryptography",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyvips",
    "ray",
}
HEAVY = ["torch", "numpy", "PIL", "cv2", "albumentations", "torchmetrics", "triton", "rich"]


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("module", ["pix2gan", "pix2gan.cli", "pix2gan.training.config"])
def test_import_loads_nothing_heavy(module: str) -> None:
    code = (
        f"import json, sys, {module}; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    result = run_python(code)
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout))
    assert loaded - ({"rich"} if module == "pix2gan.cli" else set()) == set()


def test_every_public_name_leads_somewhere() -> None:
    for name in pix2gan.__all__:
        assert getattr(pix2gan, name) is not None
    assert set(pix2gan.__all__) <= set(dir(pix2gan))
    with pytest.raises(AttributeError, match="Translatr"):
        _ = pix2gan.Translatr


def test_import_of_everything_is_offline_and_without_warnings() -> None:
    code = """
import socket, warnings

def refuse(*args, **kwargs):
    raise SystemExit(f"the network was asked: {args}")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse

# Only what pix2gan itself warns about counts: other packages' imports are not ours to mend.
warnings.filterwarnings("error", module=r"pix2gan(\\..*)?$")
warnings.filterwarnings("error", category=SyntaxWarning)

import importlib, pkgutil
import pix2gan

for module in pkgutil.walk_packages(pix2gan.__path__, "pix2gan."):
    if module.name == "pix2gan.__main__" or module.name.split(".")[-1].startswith("_native_"):
        continue
    importlib.import_module(module.name)
for name in pix2gan.__all__:
    getattr(pix2gan, name)
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout == ""
    assert "Warning" not in result.stderr, result.stderr


def test_bare_import_survives_warnings_as_errors() -> None:
    result = run_python("import pix2gan, pix2gan.cli, pix2gan.errors", "-W", "error")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_every_imported_library_is_declared() -> None:
    """What the package imports is in pyproject.toml; a machine's own packages would hide a lack."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    core = text[text.index("\ndependencies = [") : text.index("[project.optional-dependencies]")]
    declared = {name.lower().replace("-", "_") for name in re.findall(r'^ +"([\w-]+)', core, re.M)}
    modules = {"cv2": "opencv_python_headless", "PIL": "pillow", "yaml": "pyyaml"}
    undeclared = set()
    for path in (ROOT / "pix2gan").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in (name.partition(".")[0] for name in names):
                if name in sys.stdlib_module_names or name == "pix2gan":
                    continue
                if modules.get(name, name) not in declared | OPTIONAL:
                    undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert undeclared == set()


def test_version_is_the_installed_one() -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("pix2gan")
    except PackageNotFoundError:
        pytest.skip("pix2gan runs from its source folder, not installed")
    assert installed == pix2gan.__version__
