"""The trainer: devices, precision, optimizers, logging and saving, for any method.

Top-down: :func:`train` is what users call; :class:`Trainer` builds everything in ``__init__``
without writing a byte, then ``run`` prepares the run's folder and loops over steps.
"""

from __future__ import annotations

import contextlib
import math
import random
import signal
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import default_collate

from pix2gan.errors import CheckpointError, ConfigError, Pix2ganError
from pix2gan.file_io import atomic_write
from pix2gan.freed_memory import FreedMemory
from pix2gan.training.checkpointing import CheckpointFolder, random_state, restore_random_state
from pix2gan.training.config import TrainConfig
from pix2gan.training.curves import draw_curves
from pix2gan.training.dataset import load_batches
from pix2gan.training.device import autocast, choose_device
from pix2gan.training.distributed import World, synchronise_batch_norms
from pix2gan.training.ema import MovingAverage
from pix2gan.training.export import export_model
from pix2gan.training.health import Diverged, OutputWatch, Recovery, check_finite
from pix2gan.training.held_out import score_held_out
from pix2gan.training.memory import memory_told
from pix2gan.training.methods import Translation, find_method
from pix2gan.training.metrics import Averages, MetricsLog, read_metrics
from pix2gan.training.player import Player
from pix2gan.training.progress import TrainingProgress
from pix2gan.training.run_folder import (
    alone_in_folder,
    check_resumable,
    check_run_folder,
    prepare_folder,
    told,
)
from pix2gan.training.samples import draw_sheet
from pix2gan.training.schedules import Plateau, learning_rate_factor
from pix2gan.training.stopping import StopSignals

_SHOWN = 6  # items on a sample sheet


def train(config: TrainConfig) -> Path:
    """Train as ``config`` says and return the run's folder, with the finished model in ``model/``.

    Under ``torchrun`` all of its processes train together, and the first one writes.

    Raises:
        ConfigError: If an option makes no sense here; nothing is written.
        DataError: If the data are broken or unmatched; nothing is written.
        CheckpointError: If there are checkpoints to resume from but none can be read.
        Pix2ganError: If the training keeps diverging, or the memory does not suffice.
        SystemExit: With code 143 after SIGTERM and 130 after Ctrl-C, once a checkpoint is saved;
            with 2 in a process of several when another one tells the reason.
    """
    with World.of_this_process().joined() as world:
        return Trainer(config, world).run()


class Trainer:
    """Trains one method on one device, or on one for each process of a ``World``."""

    @memory_told()
    def __init__(self, config: TrainConfig, world: World | None = None) -> None:
        self.config = config
        self.world = world or World()
        self.checkpoints = CheckpointFolder(config.out / "checkpoints", config.keep_checkpoints)
        with self.world.failing_together():
            self.device = choose_device(config.device, self.world)
            if self.world.is_main:
                check_run_folder(config)
            self.method_class = find_method(config.method)
            if not isinstance(config, self.method_class.options):
                raise ConfigError(
                    f"The method {config.method} takes a {self.method_class.options.__name__}, not "
                    f"a {type(config).__name__}."
                )
            self.data = self.method_class.open_data(config)
            self.total = config.total_steps(len(self.data.train), self.world.size)
            self.shown = self._load_shown()
            self._create_networks()
        self._create_players()
        self.recovery = Recovery()
        self.watch = OutputWatch()

    def _create_networks(self) -> None:
        config = self.config
        _seed_everything(config.seed)
        self.method = self.method_class(config)
        self.method.networks.to(self.device).train()
        self.method.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        synchronise_batch_norms(self.method.networks, self.world)
        self.averaged = {
            name: MovingAverage(self.method.networks[name], config.ema)
            for name in self.method.models.values()
        }
        if config.compile:
            for network in self.method.networks.values():
                compile_network(network)

    def _create_players(self) -> None:
        """All that a run begins with besides its networks."""
        self.players = {name: self._create_player(name) for name in self.method.players}
        if self.world.rank > 0:  # dropout and image pools differ from process to process
            _seed_everything(self.config.seed + self.world.rank * 1_000_003)
        self.step = 0
        self.seconds = 0.0  # spent training, over all sessions of this run
        self.metrics = Averages()
        self.losses: dict[str, float] = {}  # the newest averages
        self.plateau = Plateau(self.config.decay_factor, self.config.patience)
        self.best_score = math.inf

    def _create_player(self, name: str) -> Player:
        config = self.config
        lr = config.lr
        if name.startswith("discriminator") and config.lr_discriminator is not None:
            lr = config.lr_discriminator
        networks = {owned: self.method.networks[owned] for owned in self.method.players[name]}
        averages = [
            (network, self.averaged[owned])
            for owned, network in networks.items()
            if owned in self.averaged
        ]
        return Player(list(networks.values()), lr, config, self.world, self.device, averages)

    # --- the run ---

    @memory_told()
    def run(self) -> Path:
        """Train to the end, from the newest checkpoint if the options say so.

        Nobody else trains in the run's folder meanwhile: two would delete each other's files.
        """
        with contextlib.ExitStack() as stack:
            with self.world.failing_together():
                if self.world.is_main:
                    stack.enter_context(alone_in_folder(self.config))
            return self._run()

    def _run(self) -> Path:
        config = self.config
        notices: list[str] = []
        if config.resume:
            self._resume(notices.append)
        with self.world.failing_together():
            if self.world.is_main:
                prepare_folder(config, self.data.held_out)
                self.checkpoints.remove_temporary_files()
        progress = TrainingProgress(
            self.step, self.total, self.images_per_step, quiet=not self.world.is_main
        )
        if self.data.summary:
            notices.append(f"Data: {self.data.summary}")
        for notice in [*notices, self.describe()]:
            progress.say(notice)
        with StopSignals() as stop, progress, contextlib.ExitStack() as stack:
            log = None
            with self.world.failing_together():
                if self.world.is_main:
                    log = self._open_log(progress)
                    stack.enter_context(contextlib.closing(log))
            while True:
                try:
                    stopped_by = self._train(progress, log, stop)
                    break
                except Diverged as trouble:
                    self._roll_back(trouble, progress)
                    if log is not None:
                        log.go_back(self.step)
        with self.world.failing_together():
            if self.world.is_main:
                self._export_finished()
        if stopped_by:
            name = signal.Signals(stopped_by).name
            progress.say(f"Stopped by {name} after step {self.step}; --resume continues.")
            raise SystemExit(128 + stopped_by)
        progress.say(f"Done: {' and '.join(str(config.out / name) for name in self.method.models)}")
        return config.out

    def _open_log(self, progress: TrainingProgress) -> MetricsLog:
        out = self.config.out
        try:
            return MetricsLog(out, self.step, progress.say)
        except OSError as error:
            raise ConfigError(f"Cannot write to --out {out}: {told(error)}.") from error

    def _train(self, progress: TrainingProgress, log: MetricsLog | None, stop: StopSignals) -> int:
        """Train until all steps are done or a signal comes; returns its number, or 0."""
        batches = load_batches(self.data, self.config, self.device, self.step, self.world)
        with contextlib.closing(batches):
            return self._loop(batches, progress, log, stop)

    def _loop(
        self,
        batches: Generator[dict[str, Any], None, None],
        progress: TrainingProgress,
        log: MetricsLog | None,
        stop: StopSignals,
    ) -> int:
        config = self.config
        saved = self.step if self.step else None
        started = time.monotonic() - self.seconds
        stopped_by = 0
        memory = FreedMemory()
        while self.step < self.total:
            taken, failure = self.take(batches) if stop.received is None else ([], None)
            stopped_by, failed = self.world.largest(stop.received or 0, int(failure is not None))
            if failed:
                self._save_checkpoint(progress)
                self.world.raise_together(failure)
            if stopped_by:
                break
            self.train_step(taken)
            memory.give_back()
            self.step += 1
            self.seconds = time.monotonic() - started
            progress.advance(self.step, self.epoch)
            last = self.step == self.total
            if last or self.step % config.log_every == 0:
                self._log(progress, log)
            if self.data.held_out and (last or self.step % config.evaluate_every == 0):
                self._evaluate(progress, log)
            if last or self.step % config.sample_every == 0:
                self._save_pictures(progress)
            if last or self.step % config.checkpoint_every == 0:
                self._save_checkpoint(progress)
                saved = self.step
        if saved != self.step:
            self._save_checkpoint(progress)
        return stopped_by

    def take(
        self, batches: Generator[dict[str, Any], None, None]
    ) -> tuple[list[dict[str, Any]], Pix2ganError | None]:
        """The batches of a step, or why there are none."""
        try:
            return [next(batches) for _ in range(self.config.accumulate)], None
        except Pix2ganError as error:
            return [], error

    @property
    def epoch(self) -> int:
        """The pass over the data that the last step belonged to, from 1."""
        return max(0, self.step * self.images_per_step - 1) // len(self.data.train) + 1

    @property
    def images_per_step(self) -> int:
        """Of all processes together."""
        return self.config.batch * self.config.accumulate * self.world.size

    # --- one step ---

    def train_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Each player's update from the mean gradient of ``batches``, with the last of them."""
        factor = self._learning_rate_factor(self.step)
        for position, batch in enumerate(batches, start=1):
            last = position == len(batches)
            updates = self.method.step(self._to_device(batch))
            while True:
                with self._autocast():
                    update = next(updates, None)
                if update is None:
                    break
                self.players[update.player].learn(update.loss, factor, last=last)
                self.metrics.add(update.log)

    def _learning_rate_factor(self, done: int) -> float:
        scheduled = learning_rate_factor(self.config, done, self.total)
        return scheduled * self.plateau.factor * self.recovery.factor

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.config.precision)

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

    def _log(self, progress: TrainingProgress, log: MetricsLog | None) -> None:
        self.losses = self._mean_over_processes(self.metrics.take())
        check_finite(self.losses)
        rate = progress.report(self.step, self.epoch, self.losses)
        if log is not None:
            log.add(
                {
                    "step": self.step,
                    "epoch": self.epoch,
                    **self.losses,
                    "lr": self.config.lr * self._learning_rate_factor(self.step - 1),
                    "images_per_second": round(rate, 3),
                    "seconds": round(self.seconds, 1),
                }
            )

    def _mean_over_processes(self, losses: Mapping[str, float]) -> dict[str, float]:
        return dict(zip(losses, self.world.mean(list(losses.values())), strict=True))

    def _save_pictures(self, progress: TrainingProgress) -> None:
        if not self.world.is_main:
            return
        with torch.no_grad(), self._autocast():
            columns = self.method.sample(self._to_device(self.shown), self._averages)
        sheet = self.config.out / "samples" / f"step_{self.step:06d}.png"
        entries = read_metrics(self.config.out / "metrics.jsonl")
        try:
            _save_png(draw_sheet(columns), sheet)
            if entries:
                _save_png(draw_curves(entries), self.config.out / "curves.png")
        except OSError as error:  # pictures are not worth the run
            progress.say(f"{sheet.name} or curves.png cannot be written ({told(error)}).")
        for name, made in self._translate(self.shown).items():
            warning = self.watch.look(name, made, self.losses)
            if warning:
                progress.say(f"Warning at step {self.step}: {warning}")

    def _evaluate(self, progress: TrainingProgress, log: MetricsLog | None) -> None:
        """Score the held-out data; the best models so far are kept beside the newest."""
        score, found = math.nan, dict[str, float]()
        if self.world.is_main:
            score, found = score_held_out(
                self._translate, self.data.show, self.config.batch, self.method.paired
            )
        score = self.world.from_main(score)
        if not math.isfinite(score):
            return  # a method that says nothing about it, or a divergence that is noticed elsewhere
        self.plateau.update(score)
        better = score < self.best_score
        if log is not None:
            values = "  ".join(f"{name} {value:.4g}" for name, value in found.items())
            progress.say(f"step {self.step}/{self.total}  {values}{'  (best)' * better}")
            log.add({"step": self.step, "epoch": self.epoch, **found})
        if better and self._export_best(progress):
            self.best_score = score

    @torch.no_grad()
    def _translate(self, batch: Mapping[str, Any]) -> Mapping[str, Translation]:
        with self._autocast():
            return self.method.translate(self._to_device(batch), self._averages)

    @property
    def _averages(self) -> dict[str, nn.Module]:
        return {name: average.network for name, average in self.averaged.items()}

    def _export(self, suffix: str = "") -> None:
        for folder, name in self.method.models.items():
            path = self.config.out / f"{folder}{suffix}"
            generator, domains = self.averaged[name].network, self.method.domains(folder)
            export_model(path, generator, self.config, self.step, self.data, domains)

    def _export_finished(self) -> None:
        try:
            self._export()
        except OSError as error:
            raise CheckpointError(
                f"The model cannot be written to {self.config.out} ({told(error)}): make room, "
                "then continue with --resume."
            ) from error

    def _export_best(self, progress: TrainingProgress) -> bool:
        """False if it cannot be written: what is to be beaten is still the one that is there."""
        failure: OSError | None = None
        if self.world.is_main:
            try:
                self._export(suffix="_best")
            except OSError as error:
                failure = error
                progress.say(
                    f"The best model, that of step {self.step}, cannot be written "
                    f"({told(error)}); the training goes on without it."
                )
        written: bool = self.world.from_main(failure is None)
        return written

    def _save_checkpoint(self, progress: TrainingProgress) -> None:
        check_finite(self._mean_over_processes(self.metrics.peek()), self.method.networks)
        state = self.state()
        failure: Pix2ganError | None = None
        try:
            if self.world.is_main:
                self.checkpoints.save(self.step, state)
        except OSError as error:
            if self.step == self.total:
                failure = CheckpointError(
                    f"The last checkpoint cannot be written to {self.checkpoints.path} "
                    f"({told(error)}): make room, then continue with --resume."
                )
            else:
                progress.say(
                    f"The checkpoint of step {self.step} cannot be written ({told(error)}); the "
                    "one before it is kept."
                )
        self.world.raise_together(failure)

    # --- the complete state ---

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, in the first process; ``processes`` is what differs in each."""
        own = {
            "random": random_state(self.device),
            "method": self.method.state_dict(),
            "metrics": self.metrics.state_dict(),
        }
        return {
            "format": 2,
            "step": self.step,
            "total": self.total,
            "seconds": self.seconds,
            "config": self.config.to_dict(),
            "data": self.data.fingerprint(),
            "networks": self.method.networks.state_dict(),
            "averaged": {name: ema.state_dict() for name, ema in self.averaged.items()},
            "players": {name: player.state_dict() for name, player in self.players.items()},
            "plateau": self.plateau.state_dict(),
            "best_score": self.best_score,
            "rollbacks": self.recovery.rollbacks,
            "watch": self.watch.state_dict(),
            "processes": self.world.gather(own),
        }

    def _resume(self, say: Callable[[str], None]) -> None:
        config = self.config
        with self.world.failing_together():
            state = self.checkpoints.load_newest(say) if self.world.is_main else None
        state = self.world.from_main(state)
        if state is None:
            say(f"No checkpoint in {self.checkpoints.path} yet: starting from the first step.")
            return
        with self.world.failing_together():
            check_resumable(state, config, self.data, self.total, self.world)
            self._load_state(state)
        say(f"Continuing after step {self.step} of {self.total}.")

    def _load_state(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        try:
            own = state["processes"][self.world.rank]
            self.seconds = state["seconds"]
            self.method.networks.load_state_dict(state["networks"])
            self.method.load_state_dict(own["method"])
            for name, average in self.averaged.items():
                average.load_state_dict(state["averaged"][name])
            for name, player in self.players.items():
                player.load_state_dict(state["players"][name])
            self.plateau.load_state_dict(state["plateau"])
            self.best_score = state["best_score"]
            self.recovery.rollbacks = state["rollbacks"]
            self.watch.load_state_dict(state["watch"])
            self.metrics.load_state_dict(own["metrics"], self.device)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint of step {self.step} in {self.checkpoints.path} does not fit these "
                "networks: it was made by another version of pix2gan."
            ) from error
        restore_random_state(own["random"], self.device)

    def _roll_back(self, trouble: Diverged, progress: TrainingProgress) -> None:
        """Return to the last checkpoint, or the start, and learn more slowly from there."""
        with self.world.failing_together():
            self.recovery.count(trouble.what, self.step, self.checkpoints.path)
        rollbacks, diverged_by = self.recovery.rollbacks, self.step
        with self.world.failing_together():
            state = None
            if self.world.is_main:
                state = self.checkpoints.load_newest(progress.say)
        state = self.world.from_main(state)
        if state is None:
            self._create_networks()
            self._create_players()
        else:
            self._load_state(state)
        self.recovery.rollbacks = rollbacks
        progress.say(
            f"Training diverged by step {diverged_by} ({trouble.what} not finite): going on after "
            f"step {self.step} at {self.recovery.factor:g} of the learning rate."
        )
        if state is not None:  # or a kill would forget that it happened
            self._save_checkpoint(progress)

    # --- preparation ---

    def _load_shown(self) -> dict[str, Any]:
        show = self.data.show
        count = min(_SHOWN, len(show))
        # Spread over the data: neighbours tend to look alike.
        items = [show[(0, i * len(show) // count)] for i in range(count)]
        batch: dict[str, Any] = default_collate(items)
        return batch

    def describe(self) -> str:
        """The run in a line."""
        config = self.config
        sizes = {
            name: sum(p.numel() for p in network.parameters())
            for name, network in self.method.networks.items()
        }
        networks = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in sizes.items())
        held_out = f" ({len(self.data.held_out)} held out)" if self.data.held_out else ""
        processes = f" in {self.world.size} processes" if self.world.size > 1 else ""
        return (
            f"{config.method} on {self.device} in {config.precision}{processes}: "
            f"{len(self.data.train)} items{held_out}, {self.total} steps of "
            f"{self.images_per_step}; parameters: {networks}"
        )


def compile_network(network: nn.Module) -> None:
    """Let ``torch.compile`` run what methods call: ``forward``, and ``features`` where it is."""
    for name in ("forward", "features"):
        if hasattr(network, name):
            setattr(network, name, torch.compile(getattr(network, name)))


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed % 2**64)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _save_png(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as file:
        image.save(file, "PNG")
