"""docs/training.md says what is so: every option, and a method that runs as printed."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import itertools
import re
import sys
from pathlib import Path

import pytest

from pix2gan.training import TrainConfig, train
from pix2gan.training import config as config_module
from pix2gan.training.metrics import read_metrics

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_every_option_is_documented_with_its_default() -> None:
    tree = ast.parse(Path(config_module.__file__).read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if getattr(n, "name", "") == "TrainConfig")
    docs = {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    rows = []
    for option in dataclasses.fields(TrainConfig):
        default = "" if option.default is None else f"`{option.default}`"
        if option.default is dataclasses.MISSING:
            default = "required"
        rows.append(f"| `{option.name}` | {default} | {docs[option.name]} |")
    assert "\n".join(rows) in PAGE


def test_the_method_in_the_documentation_runs(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "class" in block
    )
    (tmp_path / "regression.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pix2gan.training.methods._METHODS", {})
    importlib.import_module("regression")
    run = train(tiny(method="regression"))
    assert set(read_metrics(run / "metrics.jsonl")[0]) >= {"l1", "step"}
    assert (run / "model" / "config.json").exists()
    del sys.modules["regression"]
