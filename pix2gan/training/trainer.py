"""The trainer: devices, precision, optimizers, logging and saving, for any method.

Top-down: :func:`train` is what users call; :class:`Trainer` builds everything in ``__init__``
without writing a byte, then ``run`` prepares the run's folder and loops over steps.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from pix2gan.errors import CheckpointError, ConfigError, DataError, Pix2ganError
from pix2gan.file_io import atomic_write
from pix2gan.folder_lock import only_run_in
from pix2gan.training.checkpointing import CheckpointFolder, random_state, restore_random_state
from pix2gan.training.config import TrainConfig
from pix2gan.training.curves import draw_curves
from pix2gan.training.dataset import load_batches
from pix2gan.training.ema import MovingAverage
from pix2gan.training.export import export_model
from pix2gan.training.memory import memory_told
from pix2gan.training.methods import find_method
from pix2gan.training.metrics import Averages, MetricsLog, read_metrics
from pix2gan.training.progress import TrainingProgress
from pix2gan.training.samples import draw_sheet
from pix2gan.training.schedules import constant_then_linear
from pix2gan.training.stopping import StopSignals

_SHOWN = 6  # items on a sample sheet


def train(config: TrainConfig) -> Path:
    """Train as ``config`` says and return the run's folder, with the finished model in ``model/``.

    Raises:
        ConfigError: If an option makes no sense here; nothing is written.
        DataError: If the data are broken or unmatched; nothing is written.
        CheckpointError: If there are checkpoints to resume from but none can be read.
        Pix2ganError: If the training diverges, or the memory does not suffice.
        SystemExit: With code 143 after SIGTERM and 130 after Ctrl-C, once a checkpoint is saved.
    """
    return Trainer(config).run()


@dataclass
class Player:
    """An optimizer and the parameters that it updates."""

    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]
    lr: float


class Trainer:
    """Trains one method on one device."""

    @memory_told()
    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = _choose_device(config.device)
        _check_run_folder(config)
        method_class = find_method(config.method)
        if not isinstance(config, method_class.options):
            raise ConfigError(
                f"The method {config.method} takes a {method_class.options.__name__}, not a "
                f"{type(config).__name__}."
            )
        self.data = method_class.open_data(config)
        self.total = config.total_steps(len(self.data.train))
        self.step = 0
        self.seconds = 0.0  # spent training, over all sessions of this run

        _seed_everything(config.seed)
        self.method = method_class(config)
        self.method.networks.to(self.device).train()
        self.method.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.players = {name: self._create_player(name) for name in self.method.players}
        self.averaged = {
            name: MovingAverage(self.method.networks[name], config.ema)
            for name in self.method.models.values()
        }
        self.metrics = Averages()
        self.checkpoints = CheckpointFolder(config.out / "checkpoints", config.keep_checkpoints)
        self.shown = self._load_shown()

    @memory_told()
    def run(self) -> Path:
        """Train to the end, from the newest checkpoint if the options say so.

        Nobody else trains in the run's folder meanwhile: two would delete each other's files.
        """
        out = self.config.out
        with _told_if_not_writable(out):
            out.mkdir(parents=True, exist_ok=True)
        with only_run_in(out) as alone:
            if alone is False:
                raise ConfigError(
                    f"Another training is running in {out}: wait until it ends, or give another "
                    "--out."
                )
            _check_run_folder(self.config)  # again: another may have ended here meanwhile
            return self._run()

    def _run(self) -> Path:
        config = self.config
        notices: list[str] = []
        if config.resume:
            self._resume(notices.append)
        self._prepare_folder()
        progress = TrainingProgress(self.step, self.total, config.batch)
        for notice in notices:
            progress.say(notice)
        if self.data.summary:
            progress.say(f"Data: {self.data.summary}")
        progress.say(self._describe())
        log = MetricsLog(config.out, self.step, progress.say)
        batches = load_batches(self.data, config, self.device, self.step)
        with contextlib.closing(batches), contextlib.closing(log), StopSignals() as stop, progress:
            self._loop(batches, progress, log, stop)
        self._export()
        if stop.received is not None and self.step < self.total:
            name = signal.Signals(stop.received).name
            progress.say(f"Stopped by {name} after step {self.step}; --resume continues.")
            raise SystemExit(128 + stop.received)
        progress.say(f"Done: {' and '.join(str(config.out / name) for name in self.method.models)}")
        return config.out

    def _loop(
        self,
        batches: Generator[dict[str, Any], None, None],
        progress: TrainingProgress,
        log: MetricsLog,
        stop: StopSignals,
    ) -> None:
        config = self.config
        saved = self.step if self.step else None
        started = time.monotonic() - self.seconds
        while self.step < self.total and stop.received is None:
            try:
                batch = next(batches)
            except Pix2ganError:
                self._save_checkpoint(progress)
                raise
            self._train_step(batch)
            self.step += 1
            self.seconds = time.monotonic() - started
            progress.advance(self.step, self.epoch)
            last = self.step == self.total
            if last or self.step % config.log_every == 0:
                self._log(progress, log)
            if last or self.step % config.sample_every == 0:
                self._save_pictures(progress)
            if last or self.step % config.checkpoint_every == 0:
                self._save_checkpoint(progress)
                saved = self.step
        if saved != self.step:
            self._save_checkpoint(progress)

    @property
    def epoch(self) -> int:
        """The pass over the data that the last step belonged to, from 1."""
        return max(0, self.step * self.config.batch - 1) // len(self.data.train) + 1

    # --- one step ---

    def _train_step(self, batch: Mapping[str, Any]) -> None:
        factor = constant_then_linear(self.step, self.total, self.config.decay_start)
        updates = self.method.step(self._to_device(batch))
        while True:
            with self._autocast():
                update = next(updates, None)
            if update is None:
                break
            player = self.players[update.player]
            player.optimizer.zero_grad(set_to_none=True)
            # `inputs` keeps the gradient, and the work for it, out of the other players' networks.
            update.loss.backward(inputs=player.parameters)
            for group in player.optimizer.param_groups:
                group["lr"] = player.lr * factor
            player.optimizer.step()
            self.metrics.add(update.log)
        for name, average in self.averaged.items():
            average.update(self.method.networks[name])

    def _create_player(self, name: str) -> Player:
        config = self.config
        networks = [self.method.networks[network] for network in self.method.players[name]]
        parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        lr = config.lr
        if name.startswith("discriminator") and config.lr_discriminator is not None:
            lr = config.lr_discriminator
        optimizer = torch.optim.Adam(
            parameters, lr=lr, betas=(config.beta1, config.beta2), fused=True
        )
        return Player(optimizer, parameters, lr)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _to_device(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        moved = {}
        for name, value in batch.items():
            if isinstance(value, Tensor):
                value = value.to(self.device, non_blocking=True)
                if value.dim() == 4:
                    value = value.contiguous(memory_format=torch.channels_last)
                moved[name] = value
        return moved

    # --- what a run leaves behind ---

    def _log(self, progress: TrainingProgress, log: MetricsLog) -> None:
        losses = self.metrics.take()
        self._check_finite(losses)
        rate = progress.report(self.step, self.epoch, losses)
        factor = constant_then_linear(self.step - 1, self.total, self.config.decay_start)
        log.add(
            {
                "step": self.step,
                "epoch": self.epoch,
                **losses,
                "lr": self.config.lr * factor,
                "images_per_second": round(rate, 3),
                "seconds": round(self.seconds, 1),
            }
        )

    def _save_pictures(self, progress: TrainingProgress) -> None:
        generators = {name: average.network for name, average in self.averaged.items()}
        with torch.no_grad(), self._autocast():
            columns = self.method.sample(self._to_device(self.shown), generators)
        sheet = self.config.out / "samples" / f"step_{self.step:06d}.png"
        entries = read_metrics(self.config.out / "metrics.jsonl")
        try:
            _save_png(draw_sheet(columns), sheet)
            if entries:
                _save_png(draw_curves(entries), self.config.out / "curves.png")
        except OSError as error:  # pictures are not worth the run
            progress.say(f"{sheet.name} or curves.png cannot be written ({_reason(error)}).")

    def _export(self) -> None:
        for folder, name in self.method.models.items():
            generator = self.averaged[name].network
            path = self.config.out / folder
            try:
                domains = self.method.domains(folder)
                export_model(path, generator, self.config, self.step, self.data, domains)
            except OSError as error:
                raise CheckpointError(
                    f"The model cannot be written to {path} ({_reason(error)}): make room, then "
                    "continue with --resume."
                ) from error

    def _save_checkpoint(self, progress: TrainingProgress) -> None:
        self._check_finite(self.metrics.peek())
        try:
            self.checkpoints.save(self.step, self._state())
        except OSError as error:
            if self.step == self.total:
                raise CheckpointError(
                    f"The last checkpoint cannot be written to {self.checkpoints.path} "
                    f"({_reason(error)}): make room, then continue with --resume."
                ) from error
            progress.say(
                f"The checkpoint of step {self.step} cannot be written ({_reason(error)}); the one "
                "before it is kept."
            )

    def _check_finite(self, losses: Mapping[str, float]) -> None:
        bad = [name for name, value in losses.items() if not np.isfinite(value)]
        if bad:
            raise Pix2ganError(
                f"Training diverged by step {self.step} ({', '.join(bad)} not finite); the "
                f"checkpoints in {self.checkpoints.path} are from before: train again with a "
                "lower --lr or with --precision fp32."
            )

    # --- the complete state ---

    def _state(self) -> dict[str, Any]:
        return {
            "format": 1,
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
            "config": self.config.to_dict(),
            "data": self.data.fingerprint(),
            "networks": self.method.networks.state_dict(),
            "method": self.method.state_dict(),
            "averaged": {name: ema.state_dict() for name, ema in self.averaged.items()},
            "optimizers": {name: p.optimizer.state_dict() for name, p in self.players.items()},
            "metrics": self.metrics.state_dict(),
            "random": random_state(self.device),
        }

    def _resume(self, say: Any) -> None:
        state = self.checkpoints.load_newest(say)
        if state is None:
            say(f"No checkpoint in {self.checkpoints.path} yet: starting from the first step.")
            return
        self._check_resumable(state)
        self.step = state["step"]
        self.seconds = state["seconds"]
        try:
            self.method.networks.load_state_dict(state["networks"])
            self.method.load_state_dict(state["method"])
            for name, average in self.averaged.items():
                average.load_state_dict(state["averaged"][name])
            for name, player in self.players.items():
                player.optimizer.load_state_dict(state["optimizers"][name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint of step {self.step} in {self.checkpoints.path} does not fit these "
                "networks: it was made by another version of pix2gan."
            ) from error
        self.metrics.load_state_dict(state["metrics"], self.device)
        restore_random_state(state["random"], self.device)
        say(f"Continuing after step {self.step} of {self.total}.")

    def _check_resumable(self, state: Mapping[str, Any]) -> None:
        config = self.config
        started_with = type(config).from_dict(state["config"], "the checkpoint")
        differences = config.differences(started_with)
        if differences:
            raise ConfigError(
                f"The run in {config.out} was started with other options than "
                f"{', '.join(differences)}: resume it with those in {config.out / 'config.yaml'}."
            )
        if state["data"] != self.data.fingerprint():
            raise DataError(
                f"{config.data} does not hold the images that the run in {config.out} was trained "
                "on: resume with the same data, or start a new run."
            )
        if state["total"] != self.total:
            raise ConfigError(
                f"The run in {config.out} is {state['total']} steps long and its learning rates "
                f"follow from that: resume with --steps {state['total']}, not {self.total}."
            )

    # --- preparation ---

    def _load_shown(self) -> dict[str, Any]:
        show = self.data.show
        count = min(_SHOWN, len(show))
        # Spread over the data: neighbours tend to look alike.
        items = [show[(0, i * len(show) // count)] for i in range(count)]
        batch: dict[str, Any] = default_collate(items)
        return batch

    def _prepare_folder(self) -> None:
        out = self.config.out
        with _told_if_not_writable(out):
            for folder in (out / "samples", out / "checkpoints"):
                folder.mkdir(exist_ok=True)
            with atomic_write(out / "config.yaml", "w") as file:
                file.write(self.config.to_yaml())
            if self.data.held_out:
                with atomic_write(out / "split.json", "w") as file:
                    json.dump({"held_out": list(self.data.held_out)}, file, indent=1)
        self.checkpoints.remove_temporary_files()

    def _describe(self) -> str:
        sizes = {
            name: sum(p.numel() for p in network.parameters())
            for name, network in self.method.networks.items()
        }
        networks = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in sizes.items())
        held_out = f" ({len(self.data.held_out)} held out)" if self.data.held_out else ""
        return (
            f"{self.config.method} on {self.device} in {self.config.precision}: "
            f"{len(self.data.train)} items{held_out}, {self.total} steps of {self.config.batch}; "
            f"parameters: {networks}"
        )


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device must be auto, cpu or cuda, got {name!r}.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name} is not there; this machine has {_cuda_devices()}.")
    return device


def _cuda_devices() -> str:
    count = torch.cuda.device_count()
    return f"{count} CUDA device{'s' if count > 1 else ''}" if count else "no CUDA device"


def _check_run_folder(config: TrainConfig) -> None:
    out = config.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder.")
    if not out.exists() or not any(out.iterdir()):
        return
    if not config.resume:
        raise ConfigError(f"{out} is not empty: give another --out, or --resume to continue.")
    if not (out / "config.yaml").exists():
        raise ConfigError(f"{out} holds other things than a training run: give another --out.")


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def _told_if_not_writable(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"Cannot write to --out {out}: {_reason(error)}.") from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _save_png(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as file:
        image.save(file, "PNG")
