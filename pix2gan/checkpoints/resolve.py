"""From what a user types to the model it means.

In this order: a bundled model's name; a file or folder (a run of `pix2gan train` included); a model
on the Hugging Face hub, `org/name`. The network is asked for the last kind only.
"""

from __future__ import annotations

import difflib
import importlib.resources
import os
import re
from pathlib import Path

from pix2gan.errors import CheckpointError

_CONFIG_NAME = "config.json"
_FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".onnx", ".pt2")
_HUB_ID = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(@(?P<revision>[\w./-]+))?"
)


def pretrained_folder() -> Path:
    """Where the bundled models lie, one folder each."""
    return Path(str(importlib.resources.files("pix2gan"))) / "pretrained"


def list_pretrained() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(path.parent.name for path in pretrained_folder().glob(f"*/{_CONFIG_NAME}"))


def resolve_model(model: str | os.PathLike[str], direction: str | None = None) -> Path:
    """The folder or file that `model` means, ready for `load_model`.

    Args:
        model: A bundled name ("sketch2motorbike"), the folder of a model or of a training run, a
            `.safetensors`, `.pth`, `.onnx` or `.pt2` file, or a hub id "org/name" or
            "org/name@revision". A `Path` is only ever a path; write "./name" for a folder that is
            called like a bundled model.
        direction: "AtoB" or "BtoA": which model of a run that has several.

    Raises:
        CheckpointError: If nothing is found; lists the bundled names and what comes closest.
    """
    if not os.fspath(model):
        raise CheckpointError(
            "The name of the model is empty: give that of a bundled model "
            f"({', '.join(list_pretrained()) or 'none is bundled'}), a folder, or a hub id org/name"
        )
    if isinstance(model, str) and model in list_pretrained():
        return pretrained_folder() / model
    path = Path(model).expanduser()
    if path.exists():
        return _model_of_run(path, direction)
    hub = _HUB_ID.fullmatch(model) if isinstance(model, str) else None
    # "runs/modl" beside a folder "runs" is a slip of the fingers, not a reason to ask the network.
    if hub is not None and not path.parent.is_dir() and path.suffix not in _FILES:
        return _download(hub["repository"], hub["revision"])
    raise CheckpointError(_not_found(model, path))


def _model_of_run(path: Path, direction: str | None) -> Path:
    """`path` itself, or the model in it where `path` is a run of `pix2gan train`: `model/`, or of
    several, as CycleGAN leaves them, the one that is called like the direction."""
    folder = path if path.is_dir() else path.parent
    if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file():
        raise CheckpointError(
            f"{path} is for resuming a training run, and not a model: give the run's folder, "
            f"{folder.parent}"
        )
    if not path.is_dir() or (path / _CONFIG_NAME).exists() or any(path.glob("*.safetensors")):
        return path
    if (path / "model").is_dir():
        return path / "model"
    models = sorted(p for p in path.glob("model_*") if (p / _CONFIG_NAME).exists())
    if len(models) == 1:
        return models[0]
    if direction is not None and path / f"model_{direction}" in models:
        return path / f"model_{direction}"
    if models:
        raise CheckpointError(
            f"{path} is a training run with {len(models)} models: give a direction, or name one of "
            f"them, {' or '.join(map(str, models))}"
        )
    if (path / "checkpoints").is_dir():
        raise CheckpointError(
            f"{path} is a training run that has not written its model yet: let it end, or continue "
            "it with --resume"
        )
    return path


def _download(repository: str, revision: str | None) -> Path:
    shown = repository if revision is None else f"{repository}@{revision}"
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{shown} is no file here, and to look for it on the Hugging Face hub "
            "huggingface_hub is needed: pip install huggingface_hub"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=["*.safetensors", _CONFIG_NAME]
        )
    except Exception as error:  # many kinds of it: no network, no such repository, no access
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"{shown} is neither a file or folder here nor could it be fetched from the Hugging "
            f"Face hub ({reason}): check the name and the network, or give the folder of a model"
        ) from error
    return Path(folder)


def _not_found(model: str | os.PathLike[str], path: Path) -> str:
    bundled = list_pretrained()
    candidates = {} if path.suffix in _FILES else {name: name for name in bundled}
    if path.parent.is_dir():
        candidates |= {
            p.name: str(p)
            for p in path.parent.iterdir()
            if (p.suffix == path.suffix if path.suffix in _FILES else p.is_dir())
        }
    close = difflib.get_close_matches(path.name, candidates, n=1)
    meant = f" Did you mean {candidates[close[0]]}?" if close else ""
    if path.suffix in _FILES:
        return f"There is no file {path}: check the path.{meant}"
    known = f"bundled: {', '.join(bundled)}" if bundled else "none is bundled"
    return (
        f"There is no model {os.fspath(model)!r}: give the name of a bundled model ({known}), a "
        "folder with model.safetensors and config.json, a .pth file of an original repository, or "
        f"a hub id org/name.{meant}"
    )
