"""Scores a run of an unpaired method by how far its translations are from the target domain.

    python -m benchmarks.unpaired RUN --model model_BtoA [--size 256] [--data DATA] [--name NAME]

Translates the images that the run held back (``--holdout``), at the size that it was trained at
if no other is asked for (a run on unscaled pieces, ``--fit none``, is scored on whole images), and
writes the table of sliced Wasserstein distances to ``benchmarks/results/unpaired-NAME.json``:
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
from pix2gan.errors import ConfigError
from pix2gan.evaluation.unpaired import evaluate_unpaired
from pix2gan.file_io import atomic_write
from pix2gan.ops.device_name import device_name
from pix2gan.training.config import TrainConfig
from pix2gan.training.dataset import Items, open_unpaired_data
from pix2gan.training.method_options import UnpairedConfig
from pix2gan.translation import Translator


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--model", default="model", help="its model: model_AtoB, model_BtoA, ...")
    parser.add_argument("--data", type=Path, help="the data, if not where the run found them")
    parser.add_argument("--size", type=int, help="side of the images, if not the run's")
    parser.add_argument("--targets", choices=("all", "held-back"), default="all")
    parser.add_argument("--name", help="of the result; the run's if not given")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the result")
    options = parser.parse_args()
    config = TrainConfig.from_yaml(options.run / "config.yaml")
    if not isinstance(config, UnpairedConfig) or config.holdout == 0:
        raise ConfigError(f"{options.run} is no run of an unpaired method with --holdout.")
    if options.data is not None:
        config = dataclasses.replace(config, data=options.data)
    if options.size is not None:
        config = dataclasses.replace(config, size=options.size)
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
    # As the run saw them, in the direction of this model.
    plain = dataclasses.replace(config, augment=False, pairing="serial")
    data = open_unpaired_data(plain, description.direction)  # type: ignore[arg-type]
    goal = images_of(data.show, "B")
    if targets == "all":
        goal = torch.cat([goal, images_of(data.train, "B")])

    def translate(images: Tensor) -> Tensor:
        made: Tensor = translator(images, output="tensor", resize="none")
        return made

    return {
        "run": description.training | {"method": description.method},
        "direction": description.direction,
        "inputs": "held back",
        "targets": "held back" if targets == "held-back" else "held back and trained on",
        **evaluate_unpaired(translate, images_of(data.show, "A"), goal),
        "device": device_name("cpu"),
    }


def images_of(items: Items, side: str) -> Tensor:
    """All images of item "A" or "B" once, [N, 3, size, size] in [0, 1]."""
    found: dict[str, Tensor] = {}
    for index in range(len(items)):
        item = items[0, index]
        found.setdefault(item[f"name_{side.lower()}"], (item[side] + 1) / 2)
    return torch.stack(list(found.values()))


if __name__ == "__main__":
    main()
