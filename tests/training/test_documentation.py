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

from pix2gan.cli import TRAIN_OPTIONS
from pix2gan.training import TrainConfig, train
from pix2gan.training.config import FREE_ON_RESUME
from pix2gan.training.metrics import read_metrics

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def texts(kind: type[TrainConfig]) -> dict[str, str]:
    """What the class and those above it say behind each option."""
    found: dict[str, str] = {}
    for above in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(above):
            continue
        source = Path(sys.modules[above.__module__].__file__ or "").read_text(encoding="utf-8")
        classes = ast.parse(source).body
        body = next(n.body for n in classes if getattr(n, "name", "") == above.__name__)
        found |= {
            field.target.id: " ".join(text.value.value.split())
            for field, text in itertools.pairwise(body)
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
        }
    return found


def table(kind: type[TrainConfig]) -> dict[str, str]:
    """A row for each option."""
    rows, text = {}, texts(kind)
    for option in dataclasses.fields(kind):
        default = "" if option.default is None else f"`{option.default}`"
        if option.default is dataclasses.MISSING:
            default = "required"
        rows[option.name] = f"| `{option.name}` | {default} | {text[option.name]} |"
    return rows


def test_options_of_all_methods_are_documented_with_their_defaults() -> None:
    assert "\n".join(table(TrainConfig).values()) in PAGE


def test_what_may_change_on_resume_is_documented() -> None:
    start = PAGE.index("- Options that change the result must be the same as before")
    said = PAGE[start : PAGE.index("\n- ", start)]
    others = {"data", "data_b", "out", "steps", "epochs", "resume"}  # what they amount to counts
    others |= {"name", "licence", "attribution"}  # "names and licences"
    for name in FREE_ON_RESUME - others:
        assert f"`{'*_every' if name.endswith('_every') else name}`" in said, name


@pytest.mark.parametrize("method", sorted(TRAIN_OPTIONS))
def test_options_of_a_method_are_documented_with_their_defaults(method: str) -> None:
    shared = set(table(TrainConfig).values())
    kind = TRAIN_OPTIONS[method]
    own = [row for name, row in table(kind).items() if name != "method" and row not in shared]
    heading = f"`{method}` (`{kind.__name__}`) takes besides, or sets otherwise:"
    assert f"{heading}\n\n| option | default | |\n|---|---|---|\n" + "\n".join(own) in PAGE


def test_the_method_in_the_documentation_runs(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "class" in block
    )
    (tmp_path / "regression.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("pix2gan.training.method_registry._METHODS", {})
    regression = importlib.import_module("regression")
    options = tiny().to_dict() | {"method": "regression", "l1": 2.0}
    known = {f.name for f in dataclasses.fields(regression.RegressionConfig)}
    config = regression.RegressionConfig(**{k: v for k, v in options.items() if k in known})
    run = train(config)
    assert TrainConfig.from_yaml(run / "config.yaml") == config
    assert set(read_metrics(run / "metrics.jsonl")[0]) >= {"l1", "step"}
    assert (run / "model" / "config.json").exists()
    del sys.modules["regression"]
