"""Who may import whom: the house of DESIGN section 2, read from the imports themselves.

cli, app, demo -> training, translation, evaluation, export -> models, data, checkpoints -> ops
-> ops.backends, with errors, file_io, folder_lock, freed_memory and image_metrics below all
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pix2gan

PACKAGE = Path(pix2gan.__file__).parent
GROUND = {"errors", "file_io", "folder_lock", "freed_memory", "image_metrics"}
NETWORKS = {"ops", "models", "data", "checkpoints"} | GROUND

# What each part may import besides itself. A part that is new is placed here on purpose.
ALLOWED = {
    "errors": set(),
    "file_io": {"errors"},
    "folder_lock": {"errors"},
    "freed_memory": set(),
    "image_metrics": set(),
    "ops": GROUND,
    "models": {"ops"} | GROUND,
    "data": GROUND,
    "checkpoints": {"models", "ops"} | GROUND,
    "training": NETWORKS,
    "translation": NETWORKS,
    "evaluation": NETWORKS,
    "export": NETWORKS,
    "demo": NETWORKS | {"translation"},
    "app": NETWORKS | {"translation", "evaluation", "export"},
    "doctor": NETWORKS | {"translation"},
    "ops_commands": {"ops"} | GROUND,
    "data_commands": NETWORKS | {"translation"},
    "cli": NETWORKS
    | {"training", "translation", "evaluation", "export", "demo", "app", "doctor"}
    | {"ops_commands", "data_commands"},
    "__main__": {"cli"},
}

# Below the op modules: what both they and the backends are made of.
OPS_GROUND = {"activations", "compositions", "layout", "padding"}
VAGUE = {"utils", "base", "common", "helpers", "util", "helper", "misc"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without the leading ``pix2gan.``."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str, source: str, is_package: bool) -> Iterator[str]:
    """The pix2gan modules that a module imports, anywhere in it, for typing as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = ("pix2gan." + name).rstrip(".").split(".")
                above = own[: len(own) - node.level + is_package]
                base = ".".join([*above, base]).rstrip(".")
            # "from package import module" imports the module
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] != "pix2gan":
                continue
            inner = parts[1:]
            while inner and ".".join(inner) not in MODULES:
                inner.pop()  # a name in a module
            yield ".".join(inner)


def imported_by(name: str) -> set[str]:
    path = MODULES[name]
    return set(imports(name, path.read_text(), path.name == "__init__.py")) - {""}


def part(name: str) -> str:
    return name.split(".")[0]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_imports_go_downwards(name):
    own = part(name)
    assert own in ALLOWED, f"{own} is new: say in this test what it may import"
    for target in imported_by(name):
        allowed = ALLOWED[own] | {own}
        assert part(target) in allowed, f"{name} must not import {target}"


@pytest.mark.parametrize("name", sorted(n for n in MODULES if part(n) == "ops"))
def test_ops_and_backends_do_not_know_each_other(name):
    is_backend = name.startswith("ops.backends.")
    for target in imported_by(name):
        if is_backend:
            ground = {f"ops.{module}" for module in OPS_GROUND}
            known = target in ground | GROUND or target.startswith("ops.backends")
            assert known, f"the backend {name} must not import {target}"
        else:
            assert not target.startswith("ops.backends"), f"{name} must not import {target}"


@pytest.mark.parametrize("name", sorted(f"ops.{module}" for module in OPS_GROUND))
def test_the_ground_of_the_ops_imports_nothing_above_it(name):
    assert imported_by(name) <= {f"ops.{module}" for module in OPS_GROUND} | GROUND


def test_things_are_named_after_what_they_are():
    vague = [name for name in MODULES if name.split(".")[-1] in VAGUE]
    assert vague == []


def test_the_reader_of_imports_reads_them_all():
    source = (
        "import os, pix2gan.data.sampler\n"
        "from pix2gan import ops\n"
        "from pix2gan.ops.bias_act import bias_act as b\n"
        "from . import generator\n"
        "from .registry import Model\n"
        "from ..errors import DataError\n"
        "def f():\n    from pix2gan.translation import Translator\n"
    )
    assert set(imports("models.unet", source, is_package=False)) == {
        "data.sampler",
        "ops",
        "ops.bias_act",
        "models.generator",
        "models.registry",
        "errors",
        "translation",
    }
    assert set(imports("models", "from .registry import Model", is_package=True)) == {
        "models.registry"
    }
