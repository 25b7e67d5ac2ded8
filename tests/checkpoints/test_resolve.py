"""What a name means: bundled, path, run, hub."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pix2gan.checkpoints import list_pretrained, load_model, resolve, resolve_model
from pix2gan.errors import CheckpointError


@pytest.fixture
def bundled(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pretrained"
    shutil.copytree(model, folder / "sketch2teapot")
    (folder / "no_model").mkdir()
    monkeypatch.setattr(resolve, "pretrained_folder", lambda: folder)
    return folder


def test_bundled_names(bundled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_pretrained() == ["sketch2teapot"]
    assert resolve_model("sketch2teapot") == bundled / "sketch2teapot"
    assert load_model(resolve_model("sketch2teapot"))[1].name == "tiny"
    # A folder of that name is meant only where the user writes a path.
    monkeypatch.chdir(tmp_path)
    Path("sketch2teapot").mkdir()
    assert resolve_model("sketch2teapot") == bundled / "sketch2teapot"
    assert resolve_model("./sketch2teapot") == Path("sketch2teapot")
    assert resolve_model(Path("sketch2teapot")) == Path("sketch2teapot")


def test_what_the_package_bundles_can_be_listed() -> None:
    for name in list_pretrained():
        assert load_model(resolve_model(name))[1].name == name


def test_unknown_names_list_the_known(bundled: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_model("sketch2teapots")
    assert "(bundled: sketch2teapot)" in str(caught.value)
    assert "Did you mean sketch2teapot?" in str(caught.value)


def test_a_run_means_the_model_in_it(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="has not written its model yet"):
        resolve_model(run)
    shutil.copytree(model, run / "model")
    assert resolve_model(str(run)) == run / "model"
    assert resolve_model(run / "model") == run / "model"
    weights = run / "model" / "model.safetensors"
    assert resolve_model(str(weights)) == weights


def test_a_mistyped_path_asks_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "motorbikes").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it would fail
    with pytest.raises(CheckpointError, match=r"Did you mean runs.motorbikes\?"):
        resolve_model("runs/motorbike")
    with pytest.raises(CheckpointError, match="There is no model 'a/b/c'"):
        resolve_model("a/b/c")
    with pytest.raises(CheckpointError, match=r"There is no file a/model\.safetensors: "):
        resolve_model("a/model.safetensors")


def test_hub_ids(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, allow_patterns))
        return str(model)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_model(resolve_model("some-org/some.model"))[1].name == "tiny"
    assert resolve_model("some-org/some.model@v1.0") == model
    only = ["*.safetensors", "config.json"]
    assert asked == [
        ("some-org/some.model", None, only),
        ("some-org/some.model", "v1.0", only),
    ]


def test_an_unreachable_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CheckpointError, match=r"org/name is neither .*\(no route\)"):
        resolve_model("org/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        resolve_model("org/name")


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(CheckpointError, match="The name of the model is empty"):
        resolve_model("")


def test_a_run_with_several_models_asks_for_one(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(model, run / "model_AtoB")
    assert resolve_model(run) == run / "model_AtoB"
    shutil.copytree(model, run / "model_BtoA")
    message = (
        r"2 models: give a direction, or name one of them, .*run/model_AtoB or .*run/model_BtoA$"
    )
    with pytest.raises(CheckpointError, match=message):
        resolve_model(run)
    assert resolve_model(run / "model_BtoA") == run / "model_BtoA"
    assert resolve_model(run, "BtoA") == run / "model_BtoA"


def test_a_file_that_is_not_there_is_asked_for_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest_net_G.pth").write_bytes(b"")
    message = (
        r"There is no file lates_net_G\.pth: check the path\. Did you mean latest_net_G\.pth\?"
    )
    with pytest.raises(CheckpointError, match=message):
        resolve_model("lates_net_G.pth")
    with pytest.raises(CheckpointError, match=r"There is no file model\.onnx: check the path\.$"):
        resolve_model("model.onnx")


def test_a_training_state_is_no_model(tmp_path: Path) -> None:
    state = tmp_path / "run" / "checkpoints" / "step_000004.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"x")
    (tmp_path / "run" / "config.yaml").write_text("method: cut")
    for path in (state, state.parent):
        with pytest.raises(CheckpointError, match=r"not a model: give the run's folder, .*/run$"):
            resolve_model(path)
