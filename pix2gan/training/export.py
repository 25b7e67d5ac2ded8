"""From a training run to a model folder that a translator loads."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from torch import nn

from pix2gan.checkpoints.model_config import ModelConfig, Preprocessing
from pix2gan.checkpoints.native import save_model
from pix2gan.data.value_range import parse_range
from pix2gan.training.config import TrainConfig
from pix2gan.training.dataset import TrainingData
from pix2gan.training.methods import Domains


def export_model(
    folder: Path,
    generator: nn.Module,
    config: TrainConfig,
    step: int,
    data: TrainingData,
    domains: Domains,
) -> Path:
    """Save ``generator`` as trained for ``step`` steps, in float32, with where it comes from.

    Paths are recorded by their last part only: a model is passed on, its machine is not.

    Raises:
        CheckpointError: If a weight is not finite.
        OSError: If it cannot be written.
    """
    training: dict[str, Any] = {
        "dataset": config.data.resolve().name,
        "images": len(data.train),
        "held_out": len(data.held_out),
        "steps": step,
        "batch": config.batch,
        "seed": config.seed,
        "command": command_line(config),
    }
    if config.licence:
        training["licence"] = config.licence
    if config.attribution:
        training["attribution"] = config.attribution
    input_range = parse_range(config.input_range, "--input-range")
    output_range = parse_range(config.output_range, "--output-range")
    if domains.direction != getattr(config, "direction", "AtoB"):  # of two generators the second
        input_range, output_range = output_range, input_range
    architecture: dict[str, Any] = dict(generator.config)  # type: ignore[arg-type]
    model = ModelConfig(
        architecture=architecture,
        in_channels=int(generator.in_channels),  # type: ignore[arg-type]
        out_channels=int(generator.out_channels),  # type: ignore[arg-type]
        preprocessing=Preprocessing(
            size=config.size,
            fit=config.fit,
            resize_mode="fit" if config.fit == "pad" else "none",
            # What the generator reads and makes, not what the folders are called.
            domain_a=domains.reads,
            domain_b=domains.makes,
            input_range=input_range,
            output_range=output_range,
        ),
        direction=domains.direction,
        method=config.method,
        name=config.name or config.out.resolve().name,
        training=training,
    )
    return save_model(folder, generator, model, dtype="float32")


def command_line(config: TrainConfig) -> str:
    """The shell command that trains as ``config`` does: what differs from the defaults."""
    defaults = type(config)(data=config.data, out=config.out, method=config.method).to_dict()
    words = ["pix2gan", "train", config.method, config.data.resolve().name]
    words += ["--out", config.out.resolve().name]
    for name, value in config.to_dict().items():
        if name in ("method", "resume", "device", "workers") or value == defaults[name]:
            continue
        if isinstance(getattr(config, name), Path):
            value = getattr(config, name).resolve().name
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif name == "augment":  # names of presets, or a file
            words += [f"--{flag}", Path(value).name]
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)
