"""Scores a run of an unpaired method by how far its translations are from the target domain.

    python -m benchmarks.unpaired RUN --model model_BtoA [--data DATA] [--name NAME]

Translates the images that the run held back (``--holdout``) at the size that it was trained at,
and writes the table of sliced Wasserstein distances to ``benchmarks/results/unpaired-NAME.json``:
inputs, translations, colour-matched controls and real images, each to the target domain.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import RESULTS
from pix2gan.checkpoints import load_model
from pix2gan.data.unpaired import UnpairedDataset, open_unpaired
from pix2gan.errors import ConfigError
from pix2gan.evaluation.unpaired import evaluate_unpaired
from pix2gan.file_io import atomic_write
from pix2gan.ops.device_name import device_name
from pix2gan.training.config import TrainConfig
from pix2gan.training.method_options import UnpairedConfig
from pix2gan.translation import Translator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--model", default="model", help="its model: model_AtoB, model_BtoA, ...")
    parser.add_argument("--data", type=Path, help="the data, if not where the run found them")
    parser.add_argument("--targets", choices=("all", "held-back"), default="all")
    parser.add_argument("--name", help="of the result; the run's if not given")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    options = parser.parse_args()
    config = TrainConfig.from_yaml(options.run / "config.yaml")
    if not isinstance(config, UnpairedConfig) or config.holdout == 0:
        raise ConfigError(f"{options.run} is no run of an unpaired method with --holdout.")
    if options.data is not None:
        config = dataclasses.replace(config, data=options.data)
    result = score(config, options.run / options.model, options.targets)
    print(json.dumps(result, indent=1))
    name = options.name or f"{options.run.resolve().name}-{options.model}"
    with atomic_write(options.out / f"unpaired-{name}.json", "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def score(config: UnpairedConfig, model: Path, targets: str) -> dict[str, Any]:
    """The table of ``evaluate_unpaired`` for a model of a run, and where it comes from."""
    network, description = load_model(model)
    translator = Translator(network, description)
    held_back, trained_on = (
        open_domains(config, description.direction, s) for s in ("test", "train")
    )
    goal = images_of(held_back, "B")
    if targets == "all":
        goal = torch.cat([goal, images_of(trained_on, "B")])

    def translate(images: Tensor) -> Tensor:
        made: Tensor = translator(images, output="tensor", resize="none")
        return made

    return {
        "run": description.training | {"method": description.method},
        "direction": description.direction,
        "inputs": "held back",
        "targets": "held back" if targets == "held-back" else "held back and trained on",
        **evaluate_unpaired(translate, images_of(held_back, "A"), goal),
        "device": device_name("cpu"),
    }


def open_domains(config: UnpairedConfig, direction: str, split: str) -> UnpairedDataset:
    """The split as the run saw it, ``direction`` deciding which domain is item "A"."""
    return open_unpaired(
        config.data,
        config.data_b,
        size=config.size,
        direction=direction,  # type: ignore[arg-type]
        pairing="serial",
        augment=False,
        holdout=config.holdout,
        split=split,  # type: ignore[arg-type]
        seed=config.seed,
        fit=config.fit,
    )


def images_of(data: UnpairedDataset, side: str) -> Tensor:
    """All images of item "A" or "B" once, [N, 3, size, size] in [0, 1]."""
    count = len(data.images_a if side == "A" else data.images_b)
    return torch.stack([(data[0, index][side] + 1) / 2 for index in range(count)])


if __name__ == "__main__":
    main()
