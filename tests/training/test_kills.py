"""Killed with SIGKILL at random moments, and resumed each time: nothing is lost, nothing differs.

The process that kills imports once and forks, so that a kill costs a fraction of a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pix2gan.training import TrainConfig, train
from pix2gan.training.methods import list_methods
from tests.training.run_state import assert_same, curve, final_state

ROOT = Path(__file__).parents[2]
METHODS = list_methods()

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killer forks")

KILLED_RUN = """
    import dataclasses, os, random, select, signal, sys, time
    import torch.utils.tensorboard
    from pix2gan.training import TrainConfig, train
    from pix2gan.training.dry_run import dry_run
    from pix2gan.training.trainer import Trainer

    config = TrainConfig.from_yaml(sys.argv[1], resume="auto")
    dry_run(dataclasses.replace(config, workers=0))  # loads what the forked ones would each load
    kills, chance = int(sys.argv[2]), random.Random(int(sys.argv[3]))
    steps, done = os.pipe()
    original = Trainer.train_step

    def train_step(self, batches):
        global taken
        if taken == MOST:
            signal.pause()  # or a fast machine would come to the end before the kill
        original(self, batches)
        taken += 1
        os.write(done, b"x")

    taken, MOST = 0, int(sys.argv[4])
    Trainer.train_step = train_step
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            os.setsid()
            try:
                train(config)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        # Some steps, and then a moment within the next one, or while it logs, samples and saves.
        for _ in range(chance.randint(0, 4)):
            os.read(steps, 1)
        time.sleep(chance.uniform(0.0, 0.08))
        os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, 9)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            sys.exit(f"ended with {os.WEXITSTATUS(status)} before it was killed")
        while select.select([steps], [], [], 0)[0]:
            os.read(steps, 1)
    taken, MOST = 0, -1
    train(config)
"""

KILLED_SAVES = """
    import os, random, signal, sys, time
    from pathlib import Path
    import torch
    from pix2gan.training.checkpointing import CheckpointFolder

    folder, kills = CheckpointFolder(Path(sys.argv[1]), 2), int(sys.argv[2])
    chance = random.Random(0)
    state = {"weights": [torch.randn(64, 64) for _ in range(12)]}
    saved, say = os.pipe()
    step = newest = amid = 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                step += 1
                os.write(say, b"<")
                folder.save(step, {"step": step, **state})
                os.write(say, b">")
        said = b""
        for _ in range(chance.randint(0, 2)):
            said += os.read(saved, 1)
        time.sleep(chance.uniform(0.0, 0.004))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.write(say, b".")
        while not said.endswith(b"."):
            said += os.read(saved, 4096)
        amid += said.endswith(b"<.")
        found = folder.load_newest(lambda text: sys.exit(text))
        reached = 0 if found is None else found["step"]
        if reached < newest + said.count(b">"):
            sys.exit(f"step {newest} and more were saved, and {reached} is the newest")
        newest = step = reached
        folder.remove_temporary_files()
    folder.save(step + 1, {"step": step + 1, **state})  # each kill may have left an old one more
    assert len(list(folder.path.iterdir())) == 2
    print(amid, newest)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=3000,
    )


def check_killed_run(config: TrainConfig, whole: TrainConfig, kills: int, seed: int) -> None:
    train(whole)
    options = config.out.with_suffix(".yaml")
    options.write_text(config.to_yaml(), encoding="utf-8")
    most = config.steps // (kills + 1)  # in one go: the last has some left
    ended = run(KILLED_RUN, options, kills, seed, most)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stderr.count("Continuing after step") >= kills // 3
    assert_same(final_state(config.out), final_state(whole.out))
    assert curve(config.out) == curve(whole.out)
    for folder in [path.name for path in whole.out.glob("model*")]:
        ours, theirs = (
            (c.out / folder / "model.safetensors").read_bytes() for c in (config, whole)
        )
        assert ours == theirs, folder


@pytest.mark.parametrize("method", [m for m in METHODS if m != "fastcut"])  # a sort of cut
def test_killed_a_few_times(tiny, method: str) -> None:
    options = {"method": method, "steps": 20, "checkpoint_every": 2, "log_every": 3, "batch": 1}
    check_killed_run(tiny(**options), tiny("whole", **options), kills=4, seed=1)


@pytest.mark.stress
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_20_moments(tiny, method: str, workers: int) -> None:
    options = {
        "method": method,
        "steps": 100,
        "checkpoint_every": 2,
        "log_every": 3,
        "batch": 1,
        "holdout": 0.3,
        "evaluate_every": 7,
        "precision": "bf16",
    }
    ours = tiny(workers=workers, **options)
    check_killed_run(ours, tiny("whole", workers=2 - workers, **options), kills=20, seed=workers)


def check_killed_saves(tmp_path: Path, kills: int) -> None:
    ended = run(KILLED_SAVES, tmp_path / "checkpoints", kills)
    assert ended.returncode == 0, ended.stderr[-2000:]
    amid, newest = map(int, ended.stdout.split())
    assert amid > kills / 4  # killed while a checkpoint was being written
    assert newest > kills / 4


def test_killed_while_saving(tmp_path: Path) -> None:
    check_killed_saves(tmp_path, kills=50)


@pytest.mark.stress
def test_killed_1000_times_while_saving(tmp_path: Path) -> None:
    check_killed_saves(tmp_path, kills=1000)
