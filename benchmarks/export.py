"""Milliseconds an image: exported models against the original, on the CPU.

    OMP_NUM_THREADS=2 python -m benchmarks.export
    python -m benchmarks.export --models resnet9 --sizes 256

The bundled model, ResNet-9 and U-Net-256 at batch 1 in float32, exported to ONNX (run by ONNX
Runtime) and to ``torch.export``, with random weights where none are bundled. The opponent is the
generator in pix2gan, on whatever backend that chooses, in channels-last as ``Translator`` has it.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.rows import Row, format_rows, make_row, merge_rows, results_path
from pix2gan.checkpoints import ModelConfig, load_model, save_model
from pix2gan.checkpoints.resolve import list_pretrained, pretrained_folder
from pix2gan.export import export_model
from pix2gan.export.model import FORMATS
from pix2gan.models import create_generator
from pix2gan.ops.timing import time_interleaved

MODELS = ("resnet9", "unet256", *list_pretrained())
RUNTIMES = {"onnx": "ONNX Runtime", "torch": "torch.export"}


def model_folder(name: str, folder: Path) -> Path:
    """A bundled model, or one of random weights."""
    if name in list_pretrained():
        return pretrained_folder() / name
    generator = create_generator(name)
    return save_model(folder / name, generator, ModelConfig(architecture=dict(generator.config)))


def run_model(name: str, sizes: list[int], seconds: float, folder: Path) -> list[Row]:
    model = model_folder(name, folder)
    original: nn.Module = load_model(model)[0].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks = {"original": original}
    for to in RUNTIMES:
        made = export_model(model, to, folder / f"{name}-{to}{FORMATS[to].suffix}")
        networks[to] = load_model(made.path, trust_code=True)[0]
    rows = []
    for size in sizes:
        x = torch.rand(1, original.in_channels, size, size) * 2 - 1
        x = x.contiguous(memory_format=torch.channels_last)
        calls = {key: partial(network, x) for key, network in networks.items()}
        with torch.inference_mode():
            timings = time_interleaved(calls, device="cpu", seconds=seconds)
        for to, runtime in RUNTIMES.items():
            rows.append(
                make_row(
                    "export",
                    f"{name} {size} {to}",
                    torch.float32,
                    "cpu",
                    shape=x.shape,
                    timing=timings[to],
                    opponent=timings["original"],
                    opponent_name="pix2gan",
                    runtime=runtime,
                )
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each network and size")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for name in arguments.models
            for row in run_model(name, arguments.sizes, arguments.seconds, Path(folder))
        ]
    print(format_rows(rows))
    merge_rows(results_path("cpu"), rows)


if __name__ == "__main__":
    main()
