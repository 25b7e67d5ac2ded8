"""Two processes (gloo, on the CPU) train as one would with a batch as large."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import TCPStore

from pix2gan.cli import TRAIN_OPTIONS
from pix2gan.errors import ConfigError
from pix2gan.models import create_discriminator, create_generator
from pix2gan.training import train
from pix2gan.training.checkpointing import CheckpointFolder, load_checkpoint
from pix2gan.training.config import TrainConfig
from pix2gan.training.distributed import World, synchronise_batch_norms
from pix2gan.training.metrics import read_metrics
from pix2gan.training.player import Player
from pix2gan.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SAME = {"dropout": False, "precision": "fp32", "log_every": 1, "steps": 6}


@contextlib.contextmanager
def torchrun(*command: object) -> Iterator[subprocess.Popen[str]]:
    """Start the command of the documentation, with two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    process = _start([*launcher, *map(str, command)])
    try:
        yield process
    finally:
        process.terminate()  # and it ends the others, which are no longer in its group
        process.communicate()


def training(config: TrainConfig, tmp_path: Path) -> tuple[str, ...]:
    """What torchrun is to start, with the options in a file."""
    options = tmp_path / "options.yaml"
    options.write_text(config.to_yaml(), encoding="utf-8")
    return ("-m", "pix2gan", "train", config.method, "--config", str(options))


@contextlib.contextmanager
def two_processes(script: str, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """``script`` in two processes with the variables that torchrun sets, and without its wait."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    started = [_start(command, **shared, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def _start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        env={**ENVIRONMENT, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it said on standard error, once it is over."""
    return process.communicate(timeout=120)[1]


def losses(run: Path) -> list[dict[str, float]]:
    varying = ("seconds", "images_per_second")
    entries = read_metrics(run / "metrics.jsonl")
    return [{k: v for k, v in entry.items() if k not in varying} for entry in entries]


def newest(run: Path) -> dict[str, Any]:
    return load_checkpoint(CheckpointFolder(run / "checkpoints", keep=2).files()[-1])


# --- gradients ---


def networks(norm: str) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "generator": create_generator("resnet6", width=4, num_blocks=1, norm=norm),
            "discriminator": create_discriminator(
                "patch", in_channels=3, width=4, n_layers=2, norm=norm
            ),
        }
    )


def images() -> torch.Tensor:
    return torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gradients(norm: str, accumulate: int, batches: list[torch.Tensor], world: World) -> Any:
    """Those of both players, where each network is called twice and one loss goes through both."""
    nets = networks(norm)
    synchronise_batch_norms(nets, world)
    config = TRAIN_OPTIONS["pix2pix"]("data", out="run", accumulate=accumulate, precision="fp32")
    players = {
        name: Player([net], 0.1, config, world, torch.device("cpu")) for name, net in nets.items()
    }
    found = {}
    for position, batch in enumerate(batches, start=1):
        fake = nets["generator"](batch)
        for name in ("discriminator", "generator"):
            judged = fake.detach() if name == "discriminator" else fake
            loss = nets["discriminator"].features(judged)[-1].square().mean()
            if name == "discriminator":
                loss = loss + (nets["discriminator"](batch) - 1).square().mean()
            players[name].add_gradient(loss, last=position == len(batches))
    for name, player in players.items():
        found[name] = {n: p.grad for n, p in nets[name].named_parameters() if p.grad is not None}
        assert len(found[name]) == len(player.parameters)
    buffers = {n: b for n, b in nets.named_buffers() if "running" in n or "tracked" in n}
    return {"gradients": found, "buffers": buffers}


GRADIENTS = """
    import pathlib, sys, torch
    from pix2gan.training.distributed import World
    from tests.training.test_distributed import gradients, images
    with World.of_this_process().joined() as world:
        mine = images().chunk(2)[world.rank]
        found = {
            (norm, accumulate): gradients(norm, accumulate, list(mine.chunk(accumulate)), world)
            for norm in ("instance", "batch") for accumulate in (1, 2)
        }
        torch.save(found, f"{sys.argv[1]}/rank{world.rank}.pt")
    for thread in pathlib.Path("/proc/self/task").glob("*/comm"):
        print(thread.read_text().strip())
"""


def test_gradients_of_two_are_those_of_one_with_the_doubled_batch(tmp_path: Path) -> None:
    with two_processes(GRADIENTS, tmp_path) as processes:
        threads, said = zip(
            *(process.communicate(timeout=150) for process in processes), strict=True
        )
    assert [process.returncode for process in processes] == [0, 0], said
    # Those of a process group that is still there at the end were seen to abort the process.
    assert "gloo" not in "".join(threads)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for (norm, accumulate), ours in first.items():
        # batch norm sees one batch of both processes at a time
        parts = [torch.cat(part) for part in zip(*(
            half.chunk(accumulate) for half in images().chunk(2)
        ), strict=True)]  # fmt: skip
        alone = gradients(norm, accumulate, parts, World())
        for player, expected in alone["gradients"].items():
            assert max(g.abs().max() for g in expected.values()) > 1e-3
            torch.testing.assert_close(ours["gradients"][player], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours["buffers"], alone["buffers"], rtol=1e-5, atol=1e-6)
        assert (len(alone["buffers"]) > 0) == (norm == "batch")
    for key, ours in first.items():
        torch.testing.assert_close(ours, second[key], rtol=0, atol=0)


# --- whole runs ---


def unvarying(method: str) -> dict[str, Any]:
    """Nothing random but what follows from seed, epoch and index."""
    return SAME | ({"pool_size": 0} if method == "cyclegan" else {})


@pytest.mark.stress
def test_torchrun_gives_the_curve_of_one_with_the_doubled_batch(tiny, tmp_path: Path) -> None:
    with torchrun(*training(tiny("two", batch=1, **SAME), tmp_path)) as process:
        train(tiny("one", batch=2, **SAME))
        said = ended(process)
    assert process.returncode == 0, said
    assert "in 2 processes" in said
    assert said.count("step 6/6") == 1  # one of them speaks
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [entry["step"] for entry in two] == [1, 2, 3, 4, 5, 6]
    for mine, theirs in zip(two, one, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert (tmp_path / "two" / "model" / "config.json").exists()
    assert len(newest(tmp_path / "two")["processes"]) == 2


@pytest.mark.stress
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"workers": 2}])
@pytest.mark.parametrize("method", ["pix2pix", "cyclegan"])  # of cut each process draws patches
def test_curves_of_all_methods(tiny, tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    options = {**unvarying(method), "method": method, **options}
    with torchrun(*training(tiny("two", batch=1, **options), tmp_path)) as process:
        train(tiny("one", batch=2, **options))
        said = ended(process)
    assert process.returncode == 0, said
    for mine, theirs in zip(losses(tmp_path / "two"), losses(tmp_path / "one"), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.stress
@pytest.mark.parametrize("method", ["cut", "fastcut", "cyclegan", "pix2pix"])
def test_all_methods_train_in_two_processes_with_batch_norm(tiny, tmp_path, method: str) -> None:
    config = tiny("two", batch=2, steps=6, method=method, norm="batch")
    with torchrun(*training(config, tmp_path)) as process:
        said = ended(process)
    assert process.returncode == 0, said
    for entry in losses(tmp_path / "two"):
        assert all(abs(value) < 1e6 for value in entry.values())


RUN = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from pix2gan.errors import BadImageError
    from pix2gan.cli import main
    from pix2gan.data.paired import PairedDataset
    from pix2gan.training.trainer import Trainer

    what, rank = sys.argv[2], os.environ["RANK"]
    Path(sys.argv[1]).with_name(f"process{rank}").write_text(str(os.getpid()))
    original, calls = Trainer.train_step, iter(range(1, 10**6))

    def train_step(self, batches):
        if next(calls) == 4 and rank == "1":
            if what == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if what == "crash":
                raise RuntimeError("a cosmic ray")
        original(self, batches)

    def vanishing(self, key, getitem=PairedDataset.__getitem__):
        if key[0] >= 1:
            raise BadImageError("photo.png", "it is gone.")
        return getitem(self, key)

    Trainer.train_step = train_step
    if what == "vanish" and rank == "1":
        PairedDataset.__getitem__ = vanishing
    resume = ["--resume"] if what == "resume" else []
    code = main(["train", "pix2pix", "--config", sys.argv[1], *resume])
    assert not torch.distributed.is_initialized()  # its threads would outlive the interpreter
    sys.exit(code)
"""


def run_two(config: TrainConfig, tmp_path: Path, what: str) -> tuple[list[int], list[str]]:
    options = tmp_path / "options.yaml"
    options.write_text(config.to_yaml(), encoding="utf-8")
    with two_processes(RUN, options, what) as processes:
        said = [ended(process) for process in processes]
        return [process.returncode for process in processes], said


@pytest.mark.stress
def test_a_signal_to_one_stops_all_and_resuming_is_exact(tiny, tmp_path: Path) -> None:
    # Dropout differs from process to process, and so do the sums of the losses after step 3.
    config = tiny("stopped", batch=1, steps=9, log_every=3)
    codes, said = run_two(config, tmp_path, "signal")
    assert codes == [143, 143], said
    assert "Stopped by SIGTERM after step 4" in said[0]
    assert said[1] == ""
    state = newest(config.out)
    own = [process["random"]["torch"] for process in state["processes"]]
    assert not torch.equal(*own)
    sums = [process["metrics"]["sums"]["l1"] for process in state["processes"]]
    assert not torch.equal(*sums)
    with pytest.raises(ConfigError, match="is trained by 2 processes, not by 1"):
        train(tiny("stopped", batch=1, steps=9, resume=True))
    codes, said = run_two(config, tmp_path, "resume")
    assert codes == [0, 0], said
    assert "Continuing after step 4 of 9." in said[0]
    whole = tiny("whole", batch=1, steps=9, log_every=3)
    assert run_two(whole, tmp_path, "")[0] == [0, 0]
    assert losses(config.out) == losses(whole.out)
    for name, value in newest(whole.out)["networks"].items():
        assert torch.equal(newest(config.out)["networks"][name], value), name


def test_each_process_goes_on_from_its_own_state(tiny) -> None:
    states = []
    for loss in (1.0, 3.0):
        trainer = Trainer(tiny())
        torch.manual_seed(int(loss))
        trainer.metrics.add({"l1": torch.tensor(loss)})
        states.append(trainer.state())
    processes = [own for state in states for own in state["processes"]]
    for rank, own in enumerate(processes):
        trainer = Trainer(tiny())
        trainer.world = World(rank, 2)
        trainer._load_state({**states[0], "processes": processes})
        assert trainer.metrics.peek() == {"l1": [1.0, 3.0][rank]}
        assert torch.equal(torch.get_rng_state(), own["random"]["torch"])


def test_data_that_one_process_misses_end_all_with_the_reason(tiny, tmp_path: Path) -> None:
    codes, said = run_two(tiny(batch=1), tmp_path, "vanish")
    assert codes == [2, 2], said
    assert "Process 1 of 2: Cannot use image photo.png: it is gone." in said[0]
    assert "Traceback" not in said[0] + said[1]
    assert newest(tmp_path / "run")["step"] == 3  # of 7 images, 2 a step, the fourth needs the next


def test_what_all_of_them_refuse_is_told_by_one(tiny, tmp_path: Path) -> None:
    codes, said = run_two(tiny(batch=1, device="cuda:99"), tmp_path, "")
    assert codes == [2, 2], said
    assert said == ["pix2gan: error: With torchrun, say --device cuda instead of cuda:99.\n", ""]


def test_a_process_that_crashes_ends_all_with_the_reason(tiny, tmp_path: Path) -> None:
    launcher = tmp_path / "crash.py"
    launcher.write_text(textwrap.dedent(RUN))
    options = tmp_path / "options.yaml"
    options.write_text(tiny(batch=1, steps=1000).to_yaml(), encoding="utf-8")
    with torchrun(launcher, options, "crash") as process:
        said = ended(process)
    assert process.returncode != 0
    assert "a cosmic ray" in said
    for rank in range(2):
        with pytest.raises(ProcessLookupError):  # nobody is left
            os.kill(int((tmp_path / f"process{rank}").read_text()), 0)


def test_variables_that_make_no_world_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="start with torchrun"):
        World.of_this_process()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert World.of_this_process().size == 1


def test_gpus_are_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from pix2gan.training.device import choose_device

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto", World(3, 4, local_rank=1)) == torch.device("cuda:1")
    assert choose_device("cpu", World(3, 4, local_rank=1)) == torch.device("cpu")
    with pytest.raises(ConfigError, match="say --device cuda instead of cuda:0"):
        choose_device("cuda:0", World(3, 4, local_rank=1))
    with pytest.raises(ConfigError, match="cuda:2 is not there"):
        choose_device("cuda", World(2, 4, local_rank=2))
