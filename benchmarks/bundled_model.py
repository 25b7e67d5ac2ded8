"""Bundles a finished run as ``sketch2motorbike`` and scores it on the photos that it never saw.

    python -m benchmarks.bundled_model RUN [--data PHOTOS] [--no-bundle]

Writes the model in float16 to ``pix2gan/pretrained/``, the scores to
``benchmarks/results/sketch2motorbike.json``, and the curves to ``docs/images/``. Nothing that is
written shows a photo of the data set.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.rows import RESULTS, device_name
from pix2gan.checkpoints.load import load_model
from pix2gan.checkpoints.native import save_model
from pix2gan.data.image_io import open_image, save_image
from pix2gan.data.paired import PairedDataset, open_paired
from pix2gan.evaluation.held_out import evaluate_translator
from pix2gan.file_io import atomic_write
from pix2gan.image_metrics import sliced_wasserstein_distance
from pix2gan.training.config import TrainConfig
from pix2gan.translation import Translator

ROOT = Path(__file__).parent.parent
NAME = "sketch2motorbike"
SKETCHES = ("strokes", "canny", "xdog")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument("--data", type=Path, help="the photos, if not where the run found them")
    parser.add_argument("--no-bundle", action="store_true", help="score the run, change nothing")
    options = parser.parse_args()
    config = TrainConfig.from_yaml(options.run / "config.yaml")
    if options.data is not None:
        config = dataclasses.replace(config, data=options.data)
    run_model = options.run / "model"
    with tempfile.TemporaryDirectory() as folder:
        # Scored as it will be shipped: in half precision.
        model = bundle(run_model, Path(folder))
        scores = score(Translator.from_pretrained(str(model)), config) | run_facts(options.run)
    print(json.dumps(scores, indent=1))
    if options.no_bundle:
        return
    bundle(run_model, ROOT / "pix2gan" / "pretrained")
    RESULTS.mkdir(exist_ok=True)
    with atomic_write(RESULTS / f"{NAME}.json", "w") as file:
        json.dump(scores, file, indent=1)
        file.write("\n")
    images = ROOT / "docs" / "images"
    images.mkdir(parents=True, exist_ok=True)
    save_image(images / f"{NAME}-curves.png", open_image(options.run / "curves.png"))


def bundle(model: Path, pretrained: Path) -> Path:
    """Copy a run's model to ``pretrained / NAME``, in half precision and with its terms."""
    generator, config = load_model(model)
    config = dataclasses.replace(
        config,
        name=NAME,
        licence="CC BY 4.0",
        training={**config.training, "dataset": "Caltech-101, class Motorbikes"},
    )
    return save_model(pretrained / NAME, generator, config, dtype="float16")


def score(translator: Translator, config: TrainConfig) -> dict[str, Any]:
    """The held-back photos drawn in each way, and what the distances would be for photos."""
    scores: dict[str, Any] = {}
    for sketch in SKETCHES:
        pairs = _open(config, sketch, "test")
        result = evaluate_translator(translator, pairs)
        scores[sketch] = {key: result[key] for key in ("psnr", "ssim", "l1", "swd")}
    held_back = _photos(_open(config, SKETCHES[0], "test"))
    others = _open(config, SKETCHES[0], "train")
    # The distance depends on how many images a set has: compare equally many.
    spread = [i * len(others) // len(held_back) for i in range(len(held_back))]
    drawings = _photos(_open(config, SKETCHES[0], "test"), "A").expand(-1, 3, -1, -1)
    controls = {
        "photos of the training set": _photos(others, indices=spread),
        "the sketches themselves": drawings,
    }
    scores["controls"] = {
        name: {"swd": sliced_wasserstein_distance(images, held_back)._asdict()}
        for name, images in controls.items()
    }
    return {"held_back": len(held_back), **scores, "protocol": result["protocol"]}


def run_facts(run: Path) -> dict[str, Any]:
    """How the run was trained, from its own records."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    _, config = load_model(run / "model")
    return {
        "trained": {
            "steps": last["step"],
            "hours": round(last["seconds"] / 3600, 2),
            "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
            "command": config.training["command"],
            "torch": torch.__version__,
        }
    }


def _open(config: TrainConfig, sketch: str, split: str) -> PairedDataset:
    return open_paired(
        config.data,
        size=config.size,
        sketch=sketch,
        augment=False,
        holdout=config.holdout,
        split=split,  # type: ignore[arg-type]
        seed=config.seed,
        fit=config.fit,
        in_channels=config.in_channels,
        only_plain_background=config.plain_background,
    )


def _photos(pairs: PairedDataset, side: str = "B", indices: list[int] | None = None) -> Tensor:
    chosen = range(len(pairs)) if indices is None else indices
    return torch.stack([(pairs[0, index][side] + 1) / 2 for index in chosen])


if __name__ == "__main__":
    main()
