"""The folder of a run: whose it is, what it needs, and whether the run in it can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pix2gan.errors import ConfigError, DataError
from pix2gan.file_io import atomic_write, is_temporary
from pix2gan.folder_lock import only_run_in
from pix2gan.training.config import TrainConfig
from pix2gan.training.dataset import TrainingData
from pix2gan.training.distributed import World


def check_run_folder(config: TrainConfig) -> None:
    """Whether a run may start, or go on, in ``config.out``; writes nothing.

    Raises:
        ConfigError: If it holds something else, or not what ``config.resume`` says.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder.")
    if not out.exists() or all(_left_by_a_kill(path) for path in out.iterdir()):
        if config.resume is True:
            raise ConfigError(
                f"There is no run in {out} to continue: leave --resume out, or say --resume auto."
            )
        return
    if not config.resume:
        raise ConfigError(f"{out} is not empty: give another --out, or --resume to continue.")
    if not (out / "config.yaml").exists():
        raise ConfigError(f"{out} holds other things than a training run: give another --out.")


@contextmanager
def alone_in_folder(config: TrainConfig) -> Iterator[None]:
    """Make ``config.out`` and hold it against other runs.

    Raises:
        ConfigError: If another holds it, or it cannot be made.
    """
    out = config.out
    with _told_if_not_writable(config):
        out.mkdir(parents=True, exist_ok=True)
    with only_run_in(out) as alone:
        if alone is False:
            raise ConfigError(
                f"Another training is running in {out}: wait until it ends, or give another --out."
            )
        if any(out.iterdir()):  # again: another may have ended here meanwhile
            check_run_folder(config)
        yield


def prepare_folder(config: TrainConfig, held_out: Sequence[str]) -> None:
    """Write what is there from the first step on.

    Raises:
        ConfigError: If that is not possible.
    """
    out = config.out
    with _told_if_not_writable(config):
        # The options come first: a folder that has them is a run's, however far it came.
        with atomic_write(out / "config.yaml", "w") as file:
            file.write(config.to_yaml())
        for path in filter(_left_by_a_kill, out.iterdir()):
            path.unlink()
        for folder in (out / "samples", out / "checkpoints"):
            folder.mkdir(exist_ok=True)
        if held_out:
            with atomic_write(out / "split.json", "w") as file:
                json.dump({"held_out": list(held_out)}, file, indent=1)


def check_resumable(
    state: Mapping[str, Any], config: TrainConfig, data: TrainingData, total: int, world: World
) -> None:
    """Whether a run whose checkpoint is ``state`` can go on with these options, data and processes.

    Raises:
        ConfigError: If options that change the result differ, or the length, or the processes.
        DataError: If the images are others.
    """
    differences = config.differences(type(config).from_dict(state["config"], "the checkpoint"))
    if differences:
        raise ConfigError(
            f"The run in {config.out} was started with other options than "
            f"{', '.join(differences)}: resume it with those in {config.out / 'config.yaml'}."
        )
    if state["data"] != data.fingerprint():
        raise DataError(
            f"{config.data} does not hold the images that the run in {config.out} was trained "
            "on: resume with the same data, or start a new run."
        )
    if state["total"] != total:
        raise ConfigError(
            f"The run in {config.out} is {state['total']} steps long and its learning rates "
            f"follow from that: resume with --steps {state['total']}, not {total}."
        )
    processes = len(state.get("processes", [0]))
    if processes != world.size:
        raise ConfigError(
            f"The run in {config.out} is trained by {processes} process"
            f"{'es' if processes > 1 else ''}, not by {world.size}: resume it with "
            f"torchrun --nproc-per-node {processes}, or as many on several machines."
        )


def _left_by_a_kill(path: Path) -> bool:
    """Whether it is what a kill in the midst of writing the options leaves behind."""
    return is_temporary(path) and path.name.startswith(".config.yaml.")


def told(error: OSError) -> str:
    """What the system says, without the number."""
    return error.strerror or str(error)


@contextmanager
def _told_if_not_writable(config: TrainConfig) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"Cannot write to --out {config.out}: {told(error)}.") from error
