"""What a training would take: parameters, memory and time, from a few steps; nothing is written."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from pix2gan.errors import Pix2ganError
from pix2gan.training.config import TrainConfig
from pix2gan.training.dataset import load_batches
from pix2gan.training.distributed import World
from pix2gan.training.memory import memory_told
from pix2gan.training.progress import duration
from pix2gan.training.trainer import Trainer

_STEPS = 3  # after the first, which is slower than all others


@dataclass(frozen=True)
class Estimate:
    """What :func:`dry_run` found out."""

    description: str
    parameters: dict[str, int]
    """Of each network."""
    checkpoint_bytes: int
    memory_bytes: int | None
    """The most that the steps took: of the GPU, or of this process where there is none."""
    seconds_per_step: float
    steps: int
    images_per_step: int

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        memory = "unknown" if self.memory_bytes is None else _gigabytes(self.memory_bytes)
        rate = self.images_per_step / self.seconds_per_step
        return "\n".join(
            (
                self.description,
                f"parameters   {counts}",
                f"memory       {memory} at the peak",
                f"checkpoint   {_gigabytes(self.checkpoint_bytes)} each",
                f"time         {self.seconds_per_step:.3g} s a step, {rate:.3g} images/s; "
                f"{duration(self.seconds_per_step * self.steps)} for {self.steps:,} steps "
                "without samples and evaluations",
                "Nothing was written.",
            )
        )


@memory_told()
def dry_run(config: TrainConfig) -> Estimate:
    """Take a few steps of the training that ``config`` describes, and forget them.

    Raises:
        Pix2ganError: As ``train`` does before it writes anything.
    """
    with World.of_this_process().joined() as world:
        return _measure(Trainer(config, world), world)


def _measure(trainer: Trainer, world: World) -> Estimate:
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    batches = load_batches(trainer.data, trainer.config, trainer.device, 0, world)
    with contextlib.closing(batches):
        for step in range(1 + _STEPS):
            if step == 1:
                started = _now(trainer.device)
            taken, failure = trainer.take(batches)
            world.raise_together(failure)
            trainer.train_step(taken)
        seconds = (_now(trainer.device) - started) / _STEPS
    losses = trainer.metrics.take()
    if not losses:
        raise Pix2ganError(f"The method {trainer.config.method} trains nothing in a step.")
    return Estimate(
        trainer.describe(),
        {
            name: sum(p.numel() for p in network.parameters())
            for name, network in trainer.method.networks.items()
        },
        _tensor_bytes(trainer.state()),
        _peak_memory(trainer.device),
        seconds,
        trainer.total,
        trainer.images_per_step,
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _tensor_bytes(state: Any) -> int:
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(_tensor_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(_tensor_bytes(value) for value in state)
    return 0


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"
