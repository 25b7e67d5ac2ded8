"""Methods that other packages declare: found, offered by the command line, imported when needed."""

from __future__ import annotations

import importlib
import json
import logging
import re
import sys
from pathlib import Path

import pytest

from pix2gan import cli
from pix2gan.errors import ConfigError
from pix2gan.training import TrainConfig, method_registry
from pix2gan.training.methods import find_method, list_methods

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
MODULE = "a_package_of_methods"
ENTRY_POINTS = f"""
[pix2gan.methods]
regression = {MODULE}:Regression
rotten = a_package_that_is_not_there:Method
lacking = {MODULE}:Nothing
foreign = {MODULE}:RegressionConfig
pix2pix = {MODULE}:Regression
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The method of docs/training.md as an installed package that does not register it itself."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    code = next(block for block in blocks if "register_method(" in block)
    code = re.sub(r"\n+register_method\(.*\)\n", "\n", code)
    site = tmp_path / "site"
    information = site / "a_package_of_methods-1.dist-info"
    information.mkdir(parents=True)
    (site / f"{MODULE}.py").write_text(code)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    monkeypatch.setattr(method_registry, "_METHODS", dict(method_registry._METHODS))
    monkeypatch.setattr(method_registry, "_entry_points_read", False)
    yield
    sys.modules.pop(MODULE, None)
    for name in set(cli._offered) - set(cli.TRAIN_OPTIONS):
        del cli._offered[name], cli.train_app[name]


def test_they_are_listed_without_being_imported(
    package: None, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "pix2gan.training"):
        assert cli.main(["train", "--help"]) == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert f"regression From another package: {MODULE}:Regression." in shown
    assert "pix2pix Train on pairs" in shown
    assert MODULE not in sys.modules
    assert "pix2pix = a_package_of_methods:Regression is ignored" in caplog.text
    assert cli.TRAIN_OPTIONS.keys() < set(list_methods())
    assert cli.main(["train", "--help"]) == 0  # again, in the same process


def test_its_command_has_its_options(package: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "regression", "--help"]) == 0
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "A generator that minimises the L1 distance to the target, and nothing else." in shown
    assert "--l1 FLOAT Weight of the L1 distance to the target. [default: 1.0]" in shown
    assert "--sketch" in shown
    assert "--lambda-cycle" not in shown


def test_it_trains_and_resumes_from_the_shell(package: None, tiny, tmp_path: Path) -> None:
    options = tiny(steps=3, sample_every=50, generator="resnet6").to_dict()
    shared = ("data", "out", "size", "generator", "num_blocks", "width", "steps", "workers")
    words = [
        word for name in shared for word in (f"--{name.replace('_', '-')}", str(options[name]))
    ]
    assert cli.main(["train", "regression", *words, "--l1", "2.5", "--dry-run"]) == 0
    assert not (tmp_path / "run").exists()
    assert cli.main(["train", "regression", *words, "--l1", "2.5"]) == 0
    left = TrainConfig.from_yaml(tmp_path / "run" / "config.yaml")
    assert (left.method, left.l1) == ("regression", 2.5)
    made = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert made["method"] == "regression"
    assert cli.main(["train", "regression", "--out", str(tmp_path / "run"), "--resume"]) == 0


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("rotten", "(ModuleNotFoundError: No module named 'a_package_that_is_not_there')"),
        ("lacking", "has no attribute 'Nothing'"),
        ("foreign", f"{MODULE}:RegressionConfig is no subclass of pix2gan.training.methods.Method"),
    ],
)
def test_a_broken_one_is_one_sentence(
    package: None, capsys: pytest.CaptureFixture[str], method: str, reason: str
) -> None:
    assert cli.main(["train", method, "DATA", "--out", "RUN"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"pix2gan: error: The method {method} cannot be ")
    assert reason in error
    assert error.count("\n") == 1
    with pytest.raises(ConfigError, match=f"The method {method} cannot be"):
        find_method(method)
    assert cli.main(["train", "pix2pix", "--help"]) == 0


def test_what_is_misspelt_is_named(package: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "regresion", "DATA"]) == 2
    assert 'Did you mean "regression"' in capsys.readouterr().err


def test_one_may_take_the_options_of_another(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_registry, "_METHODS", dict(method_registry._METHODS))
    method_registry.register_method("variant", "pix2gan.training.methods.pix2pix:Pix2Pix")
    seen = []
    monkeypatch.setattr("pix2gan.training.trainer.train", seen.append)
    words = ["train", "variant", str(tiny().data), "--out", str(tmp_path / "run")]
    try:
        assert cli.main(words) == 0
        assert [(type(c).__name__, c.method) for c in seen] == [("Pix2PixConfig", "variant")]
        assert cli.main([*words, "--method", "cut"]) == 2
    finally:
        del cli._offered["variant"], cli.train_app["variant"]
