"""A model from its files, whoever wrote them: pix2gan or one of the original repositories."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from torch import nn

from pix2gan.checkpoints.exported import SUFFIXES as EXPORTED
from pix2gan.checkpoints.exported import load_exported
from pix2gan.checkpoints.legacy import SUFFIXES, load_legacy
from pix2gan.checkpoints.model_config import ModelConfig
from pix2gan.checkpoints.native import load_native, locate, set_statistics
from pix2gan.errors import CheckpointError

_LEGACY_NAME = re.compile(r"(?P<epoch>latest|\d+)_net_(?P<network>G(_[AB])?)\.(pth|pt)")


def load_model(
    path: str | Path,
    *,
    direction: str | None = None,
    statistics: str | None = None,
    dropout: bool | None = None,
    trust_code: bool = False,
) -> tuple[nn.Module, ModelConfig]:
    """Load a generator and its config.

    Args:
        path: A model's folder or `.safetensors` file; a `.pth` file of the original pix2pix,
            CycleGAN, CUT or pix2pixHD, or the folder that holds it (of several epochs the latest);
            a `.onnx` or `.pt2` file of `pix2gan.export`.
        direction: "AtoB" or "BtoA": which one to take where there are two, as CycleGAN's `G_A` and
            `G_B`. By default "AtoB".
        statistics: What batch norms use, "running" statistics or each "image"'s own; by default as
            the config says, and for original files as those repositories test ("image").
        dropout: Whether dropout goes on in translation; by default as the config says, and for
            original files as those repositories test, see `load_legacy`.
        trust_code: Open a `.pt2` file, which can execute code, because its maker is trusted.

    Returns:
        The generator, on the CPU, in float32, in evaluation mode and without gradients; its config.

    Raises:
        CheckpointError: If a file is missing, damaged or of another kind, needs trust that is not
            given, or if the weights are not exactly those of the architecture; names the file and
            the tensors.
    """
    path = Path(path)
    legacy = find_legacy(path, direction or "AtoB")
    if legacy is not None:
        return load_legacy(legacy, direction=direction, statistics=statistics, dropout=dropout)
    exported = path.suffix in EXPORTED and not path.is_dir()
    generator, config = (
        load_exported(path, trust_code=trust_code) if exported else load_native(path)
    )
    if direction not in (None, config.direction):
        raise CheckpointError(
            f"{path} translates {config.direction}, not {direction}: give the model of the other "
            "direction"
        )
    if exported and statistics not in (None, config.statistics):
        raise CheckpointError(
            f"{path} is an exported model whose batch norms are fixed: export it with the "
            f"statistics {statistics!r}"
        )
    if dropout is not None:
        config = dataclasses.replace(config, keeps_dropout=dropout)
    if statistics is not None:
        config = dataclasses.replace(config, statistics=statistics)
        set_statistics(generator, statistics)
    return generator, config


def find_weights(path: Path, direction: str | None = None) -> Path:
    """The file whose weights `load_model` would load; the file itself is not looked into.

    Raises:
        CheckpointError: If there is no model at `path`; says what lies there instead.
    """
    legacy = find_legacy(path, direction or "AtoB")
    if legacy is not None:
        return legacy
    return path if path.suffix in EXPORTED and path.is_file() else locate(path)[0]


def find_legacy(path: Path, direction: str) -> Path | None:
    """The original repository's file that `path` means, or None where it means something else."""
    if not path.is_dir():
        return path if path.suffix in SUFFIXES and path.exists() else None
    if any(path.glob("*.safetensors")):
        return None
    files = {
        (match["epoch"], match["network"]): file
        for file in path.iterdir()
        if (match := _LEGACY_NAME.fullmatch(file.name))
    }
    if not files:
        return None
    latest = max((epoch for epoch, _ in files), key=lambda e: (e == "latest", e.zfill(12)))
    wanted = ("G", "G_A" if direction == "AtoB" else "G_B")
    for network in wanted:
        if (latest, network) in files:
            return files[latest, network]
    raise CheckpointError(
        f"{path} holds no generator for {direction}, only "
        f"{', '.join(sorted(file.name for file in files.values()))}"
    )
