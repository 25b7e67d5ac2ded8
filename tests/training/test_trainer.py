"""The trainer: what a run leaves behind, refuses, survives, and that resuming is exact."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from pix2gan.checkpoints.load import load_model
from pix2gan.errors import CheckpointError, ConfigError, DataError, Pix2ganError
from pix2gan.training import TrainConfig, metrics, train, trainer
from pix2gan.training.checkpointing import CheckpointFolder
from pix2gan.training.dataset import open_paired_data
from pix2gan.training.export import command_line
from pix2gan.training.methods import register_method
from pix2gan.training.methods.pix2pix import Pix2Pix
from pix2gan.training.metrics import read_metrics
from tests.training.run_state import assert_same, curve, final_state

ROOT = Path(__file__).parents[2]
SCORES = ("l1", "psnr", "ssim")


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Do ``action`` in the middle of step ``number`` of this session."""
    original, calls = Pix2Pix.step, iter(range(1, 10**6))

    def step(self: Pix2Pix, batch: Any) -> Any:
        updates = original(self, batch)
        yield next(updates)
        if next(calls) == number:
            action()
        yield from updates

    monkeypatch.setattr(Pix2Pix, "step", step)


def interrupt(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, step: int, code: int) -> None:
    """Run until a signal arrives in the middle of ``step``."""
    number = {143: signal.SIGTERM, 130: signal.SIGINT}[code]
    with monkeypatch.context() as patch:
        at_step(patch, step, lambda: signal.raise_signal(number))
        with pytest.raises(SystemExit) as caught:
            train(config)
    assert caught.value.code == code


# --- what a run leaves behind ---


def test_a_run_folder(tiny, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(holdout=0.3, feature_matching=1.0, licence="CC0", name="squares")
    run = train(config)
    assert run == config.out
    expected = {
        *("checkpoints", "config.yaml", "curves.png", "metrics.jsonl", "model", "model_best"),
        *("samples", "split.json", "tensorboard"),
    }
    assert {path.name for path in run.iterdir()} == expected
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [
        "step_000010.pt",
        "step_000012.pt",
    ]
    assert sorted(p.name for p in (run / "samples").iterdir()) == [
        "step_000006.png",
        "step_000012.png",
    ]
    held_out = json.loads((run / "split.json").read_text())["held_out"]
    assert 0 < len(held_out) < 7
    with Image.open(run / "samples" / "step_000012.png") as sheet:
        assert sheet.size == (3 * 16 + 2 * 4, len(held_out) * (16 + 4) - 4)
    assert TrainConfig.from_yaml(run / "config.yaml") == config

    entries = read_metrics(run / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [4, 8, 12, 12]
    assert set(entries.pop()) == {"step", "epoch", *(f"held_out_{m}" for m in SCORES)}
    losses = {"d_real", "d_fake", "g_gan", "l1", "feature_matching"}
    assert set(entries[0]) == losses | {"step", "epoch", "lr", "images_per_second", "seconds"}
    assert [entry["lr"] for entry in entries] == pytest.approx([2e-4, 1e-4 * 10 / 6, 2e-4 / 6])
    items = 7 - len(held_out)
    assert [entry["epoch"] for entry in entries] == [(2 * s - 1) // items + 1 for s in (4, 8, 12)]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "step 12/12" in printed.err

    generator, model = load_model(run / "model")
    assert model.name == "squares"
    assert model.direction == "AtoB"
    assert model.training["licence"] == "CC0"
    assert model.training["steps"] == 12
    assert str(pairs.parent) not in (run / "model" / "config.json").read_text()
    average = final_state(run)["averaged"]["generator"]["network"]
    assert_same(
        {k: v.contiguous() for k, v in generator.state_dict().items()},
        {k: v.contiguous() for k, v in dict(average).items()},
    )


def test_training_learns(tiny) -> None:
    run = train(tiny(steps=60, log_every=10, l1=100.0, lr=2e-3, augment=False))
    losses = [entry["l1"] for entry in read_metrics(run / "metrics.jsonl")]
    assert losses[-1] < 0.5 * losses[0]


def test_the_average_is_sampled_and_saved(tiny) -> None:
    def differing(run: Path) -> list[bool]:
        state = final_state(run)
        average = state["averaged"]["generator"]["network"]
        weights = [name for name, value in average.items() if value.dim() == 4]
        return [not average[w].equal(state["networks"][f"generator.{w}"]) for w in weights]

    assert set(differing(train(tiny(ema=0.9)))) == {True}
    assert set(differing(train(tiny("without", ema=0.0)))) == {False}


def test_seeds(tiny) -> None:
    one, same, other = (
        final_state(train(tiny(f"run{i}", seed=s))) for i, s in enumerate([1, 1, 2])
    )
    assert_same(one, same)
    weights = "generator." + next(iter(one["averaged"]["generator"]["network"]))
    assert not torch.equal(one["networks"][weights], other["networks"][weights])


def test_precision_changes_arithmetic_not_weights(tiny) -> None:
    half, full = (final_state(train(tiny(p, precision=p)))["networks"] for p in ("bf16", "fp32"))
    assert all(v.dtype == torch.float32 for v in half.values() if v.is_floating_point())
    differences = [(half[k] - full[k]).abs().max().item() for k in half]
    assert max(differences) > 0
    assert max(differences) < 0.02


def test_players_have_their_own_learning_rates(tiny) -> None:
    state = final_state(train(tiny(lr=3e-4, lr_discriminator=1e-4, decay_start=1.0)))
    rates = {n: p["optimizer"]["param_groups"][0]["lr"] for n, p in state["players"].items()}
    assert rates == pytest.approx({"generator": 3e-4, "discriminator": 1e-4})


@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"},
        {"spectral_norm": True},
        {"precision": "fp16", "accumulate": 2, "clip_gradient": 0.1},
        {"schedule": "plateau", "holdout": 0.3, "evaluate_every": 2, "patience": 1},
    ],
    ids=["batch norm", "spectral norm", "loss scales", "plateau"],
)
def test_all_that_a_run_knows_is_part_of_the_state(tiny, monkeypatch, options) -> None:
    whole = train(tiny("whole", **options))
    interrupt(monkeypatch, tiny(**options), 7, 143)
    assert_same(final_state(train(tiny(resume=True, **options))), final_state(whole))


def test_the_best_model_is_kept(tiny) -> None:
    # Learning far too fast, it is not best in the end.
    options = {"holdout": 0.3, "evaluate_every": 2, "steps": 16, "lr": 0.05, "ema": 0.0}
    run = train(tiny(**options, decay_start=1.0))
    entries = read_metrics(run / "metrics.jsonl")
    scores = {e["step"]: e["held_out_l1"] for e in entries if "held_out_l1" in e}
    assert sorted(scores) == list(range(2, 17, 2))
    best = min(scores, key=scores.__getitem__)
    assert load_model(run / "model_best")[1].training["steps"] == best
    assert load_model(run / "model")[1].training["steps"] == 16
    assert final_state(run)["best_score"] == scores[best]


def test_compiled_networks_learn_the_same(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def traced(function: Any, compile: Any = torch.compile) -> Any:
        # Without a C++ compiler: what is traced runs as it is.
        compiled.append(function.__name__)
        return compile(function, backend="aot_eager")

    options = {"steps": 4, "log_every": 2, "dropout": False, "precision": "fp32"}
    eager = train(tiny("eager", **options))
    monkeypatch.setattr(torch, "compile", traced)
    run = train(tiny("compiled", compile=True, **options))
    assert {"forward", "features"} <= set(compiled)
    for ours, theirs in zip(curve(run), curve(eager), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    load_model(run / "model")


# --- resuming ---


@pytest.mark.parametrize(
    ("step", "code"), [(1, 143), (4, 143), (5, 143), (7, 143), (7, 130), (12, 143)]
)
def test_signals_checkpoint_and_resuming_is_exact(
    tiny, monkeypatch: pytest.MonkeyPatch, step: int, code: int
) -> None:
    whole = train(tiny("whole", workers=0))
    run = tiny().out
    if step == 12:  # nothing is left to do: the run ends as if no signal had come
        with monkeypatch.context() as patch:
            at_step(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
            train(tiny())
    else:
        interrupt(monkeypatch, tiny(), step, code)
        assert final_state(run)["step"] == step
        load_model(run / "model")  # usable as far as it got
        # The resumed session may log and save at other times.
        train(tiny(resume=True, workers=0, checkpoint_every=3, sample_every=5))
    assert_same(final_state(run), final_state(whole))
    assert curve(run) == curve(whole)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("name", ["modulated_unet", "modulated_resnet"])
def test_resuming_is_exact_where_style_codes_are_drawn(
    tiny, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    depth = {"num_downs": 2, "num_blocks": None} if name == "modulated_unet" else {}
    options = {"generator": name, "dropout": False, **depth}
    whole = train(tiny("whole", **options))
    interrupt(monkeypatch, tiny(**options), 7, 143)
    run = train(tiny(resume=True, **options))
    assert_same(final_state(run), final_state(whole))
    assert curve(run) == curve(whole)
    assert all(entry["spread"] > 0 for entry in curve(run))


KILLED_RUN = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from pix2gan.training import TrainConfig, train
    from pix2gan.training.methods.pix2pix import Pix2Pix

    original, calls, saves = Pix2Pix.step, iter(range(1, 10**6)), iter(range(1, 10**6))
    die_in_step, die_in_save = int(sys.argv[2]), int(sys.argv[3])

    def step(self, batch):
        updates = original(self, batch)
        yield next(updates)
        if next(calls) == die_in_step:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from updates

    def save(state, file, save=torch.save):
        if next(saves) == die_in_save:
            file.write(b"half of a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    Pix2Pix.step, torch.save = step, save
    train(TrainConfig.from_yaml(sys.argv[1]))
"""


def start(script: str, tmp_path: Path, config: TrainConfig, *arguments: object):
    """Run ``script`` with the options in a YAML file and ``arguments``, in a session of its own."""
    options = tmp_path / "options.yaml"
    options.write_text(config.to_yaml(), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(options), *map(str, arguments)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
        },
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=150,
    )


@pytest.mark.parametrize(
    ("workers", "die_in_step", "die_in_save", "resumed_after"),
    [(0, 8, 0, "Continuing after step 5 of 12."), (2, 0, 2, "Continuing after step 5 of 12.")],
    ids=["no workers, in a step", "2 workers, in a save"],
)
def test_killed_and_resumed_is_exact(
    tiny, tmp_path, capsys, workers: int, die_in_step: int, die_in_save: int, resumed_after: str
) -> None:
    whole = train(tiny("whole", workers=2 - workers))
    config = tiny(workers=workers)
    ended = start(KILLED_RUN, tmp_path, config, die_in_step, die_in_save)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [p.name for p in (config.out / "checkpoints").glob("*.pt")] == ["step_000005.pt"]
    capsys.readouterr()
    train(dataclasses.replace(config, resume=True))
    assert resumed_after in capsys.readouterr().err
    assert_same(final_state(config.out), final_state(whole))
    assert curve(config.out) == curve(whole)
    assert not list((config.out / "checkpoints").glob(".*"))
    weights = [(r / "model" / "model.safetensors").read_bytes() for r in (config.out, whole)]
    assert weights[0] == weights[1]


GROUP_SIGNAL = """
    import os, signal, sys
    from pix2gan.training import TrainConfig, train
    from pix2gan.training.methods.pix2pix import Pix2Pix

    original, calls = Pix2Pix.step, iter(range(1, 10**6))

    def step(self, batch):
        if next(calls) == 6:
            os.killpg(0, signal.SIGTERM)
        yield from original(self, batch)

    Pix2Pix.step = step
    train(TrainConfig.from_yaml(sys.argv[1]))
"""


def test_a_signal_to_the_whole_group_spares_the_workers(tiny, tmp_path: Path) -> None:
    config = tiny(workers=2)
    ended = start(GROUP_SIGNAL, tmp_path, config)
    assert ended.returncode == 143, ended.stderr
    assert "Traceback" not in ended.stderr
    assert final_state(config.out)["step"] == 6


def test_resume_auto_starts_a_run_where_there_is_none(tiny, capsys) -> None:
    with pytest.raises(ConfigError, match=r"There is no run in .* to continue"):
        train(tiny(resume=True))
    assert not tiny().out.exists()
    run = train(tiny(resume="auto"))
    assert "starting from the first step" in capsys.readouterr().err
    assert_same(final_state(run), final_state(train(tiny("plain"))))


def test_resume_before_the_first_checkpoint(tiny) -> None:
    config = tiny()
    config.out.mkdir()
    (config.out / "config.yaml").write_text(config.to_yaml())
    (config.out / "metrics.jsonl").write_text('{"step": 4, "l1": 7.0}\n')
    run = train(tiny(resume=True))
    assert curve(run) == curve(train(tiny("plain")))


def test_resume_of_a_finished_run_makes_its_model_again(tiny) -> None:
    run = train(tiny())
    before = (run / "model" / "model.safetensors").read_bytes()
    (run / "model" / "model.safetensors").unlink()
    train(tiny(resume=True))
    assert (run / "model" / "model.safetensors").read_bytes() == before


def test_resume_falls_back_when_the_newest_is_damaged(tiny, monkeypatch, capsys) -> None:
    whole = train(tiny("whole"))
    interrupt(monkeypatch, tiny(), 11, 143)
    (tiny().out / "checkpoints" / "step_000011.pt").write_bytes(b"gone")
    capsys.readouterr()
    run = train(tiny(resume=True))
    printed = capsys.readouterr().err
    assert "step_000011.pt" in printed
    assert "Continuing after step 10 of 12." in printed
    assert_same(final_state(run), final_state(whole))


def test_resume_from_nothing_but_damage_is_an_error(tiny) -> None:
    run = train(tiny())
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"gone")
    with pytest.raises(CheckpointError, match="No checkpoint in"):
        train(tiny(resume=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 1e-3, "width": 8}, r"--width 8 \(the run has 4\), --lr 0.001"),
        ({"steps": 20}, "resume with --steps 12, not 20"),
        ({"steps": None, "epochs": 50}, "resume with --steps 12, not 175"),
        ({"holdout": 0.3}, "--holdout 0.3"),
    ],
)
def test_resume_with_other_options_is_refused(tiny, options, message: str) -> None:
    run = train(tiny())
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with pytest.raises(ConfigError, match=message):
        train(tiny(resume=True, **options))
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_resume_with_the_same_length_in_epochs(tiny) -> None:
    train(tiny(steps=7))
    train(tiny(steps=None, epochs=2, resume=True))  # 7 pairs, batches of 2


def test_resume_with_data_that_moved_and_with_other_data(tiny, pairs: Path, tmp_path: Path) -> None:
    train(tiny())
    moved = tmp_path / "moved"
    for path in sorted(pairs.rglob("*.png")):
        target = moved / path.relative_to(pairs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    train(tiny(resume=True, data=moved))
    for side in "AB":
        (moved / side / "pair3.png").unlink()
    with pytest.raises(DataError, match="does not hold the images"):
        train(tiny(resume=True, data=moved))


# --- what it refuses, and what it survives ---


def test_a_folder_in_use_is_left_alone(tiny) -> None:
    config = tiny()
    config.out.mkdir()
    (config.out / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty: give another --out, or --resume"):
        train(config)
    with pytest.raises(ConfigError, match="holds other things than a training run"):
        train(tiny(resume=True))
    assert [path.name for path in config.out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "pix3pix"}, ConfigError, "--method"),
        ({"generator": "unet999"}, ConfigError, "unet999"),
        ({"size": 18}, ConfigError, "--size 18"),
        ({"device": "cuda:77"}, ConfigError, "--device cuda:77 is not there"),
        ({"device": "toaster"}, ConfigError, "--device must be"),
        ({"device": "meta"}, ConfigError, "--device must be auto, cpu or cuda, got 'meta'"),
        ({"width": 2**31 - 1}, Pix2ganError, "a smaller --batch, --width or --size"),
        ({"data": "nowhere"}, DataError, "nowhere"),
    ],
)
def test_bad_options_write_nothing(tiny, options, error: type[Exception], message: str) -> None:
    config = tiny(**options)
    with pytest.raises(error, match=message):
        train(config)
    assert not config.out.exists()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_running_out_of_memory_is_one_sentence(tiny, monkeypatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    at_step(monkeypatch, 6, fail)
    with pytest.raises(Pix2ganError, match="a smaller --batch, --width or --size") as caught:
        train(tiny())
    assert "\n" not in str(caught.value)
    assert final_state(tiny().out)["step"] == 5


def test_other_errors_are_not_taken_for_memory(tiny, monkeypatch) -> None:
    def fail() -> None:
        raise RuntimeError("sizes do not match")

    at_step(monkeypatch, 1, fail)
    with pytest.raises(RuntimeError, match="sizes do not match"):
        train(tiny())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")
def test_a_run_in_progress_is_left_alone(tiny, monkeypatch) -> None:
    refused: list[str] = []

    def train_too() -> None:
        temporary = tiny().out / "checkpoints" / ".step_000005.pt.0123abcd.tmp"
        temporary.write_bytes(b"in progress")
        with pytest.raises(ConfigError, match="Another training is running in") as caught:
            train(tiny(resume=True))
        refused.append(str(caught.value))
        assert temporary.exists()

    at_step(monkeypatch, 3, train_too)
    run = train(tiny())
    assert len(refused) == 1
    monkeypatch.undo()
    train(tiny(resume=True))  # the lock ends with the run
    assert not list((run / "checkpoints").glob(".*.tmp"))


def test_the_data_s_own_test_set_is_not_read(tiny, pairs: Path, tmp_path: Path) -> None:
    for path in pairs.rglob("*.png"):
        target = tmp_path / "data" / f"train{path.parent.name}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    for side in "AB":
        (tmp_path / "data" / f"test{side}").mkdir()
        (tmp_path / "data" / f"test{side}" / "last.png").write_bytes(b"not an image")
    for holdout in (0.0, 0.3):
        data = open_paired_data(tiny(data=tmp_path / "data", holdout=holdout))
        assert "last" not in [*data.train.names, *data.show.names]


def test_broken_and_unmatched_files_are_named_before_anything_is_written(
    tiny, pairs: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for path in pairs.rglob("*.png"):
        target = data / path.relative_to(pairs)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (data / "B" / "pair2.png").write_bytes(b"not an image")
    config = tiny(data=data)
    with pytest.raises(DataError, match=r"pair2\.png"):
        train(config)
    (data / "B" / "pair2.png").unlink()
    with pytest.raises(DataError, match=r"pair2\.png"):
        train(config)
    assert not config.out.exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_data_that_vanish_end_the_run_with_a_checkpoint(
    tiny, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    from pix2gan.data.paired import PairedDataset
    from pix2gan.errors import BadImageError

    original = PairedDataset.__getitem__

    def vanishing(self: PairedDataset, key: Any) -> Any:
        if key[0] >= 2:  # from the third epoch on
            raise BadImageError("photo.png", "it is gone.")
        return original(self, key)

    monkeypatch.setattr(PairedDataset, "__getitem__", vanishing)
    config = tiny(workers=workers)
    with pytest.raises(DataError, match=r"Cannot use image photo\.png: it is gone\."):
        train(config)
    assert final_state(config.out)["step"] == 7  # 14 samples are two epochs of 7


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(
    tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, room = CheckpointFolder.save, iter([True, False, True])

    def limited(self: CheckpointFolder, step: int, state: dict[str, Any]) -> Path:
        if not next(room):
            raise OSError(28, "No space left on device")
        return save(self, step, state)

    monkeypatch.setattr(CheckpointFolder, "save", limited)
    run = train(tiny())
    printed = capsys.readouterr().err
    assert "checkpoint of step 10 cannot be written (No space left on device)" in printed
    names = [path.name for path in CheckpointFolder(run / "checkpoints", 2).files()]
    assert names == ["step_000005.pt", "step_000012.pt"]


def full_disk(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_the_best_model_and_says_so(tiny, monkeypatch, capsys) -> None:
    export, room = trainer.export_model, iter([True, False, True])

    def limited(path: Path, *arguments: Any) -> Any:
        if path.name.endswith("_best") and not next(room):
            full_disk()
        return export(path, *arguments)

    scores = iter([3.0, 2.0, 2.5])  # what is to be beaten in the end is the first
    monkeypatch.setattr(trainer, "score_held_out", lambda *_: (next(scores), {}))
    monkeypatch.setattr(trainer, "export_model", limited)
    run = train(tiny(holdout=0.3, evaluate_every=2, steps=6))
    said = "that of step 4, cannot be written (No space left on device); the training goes on"
    assert said in " ".join(capsys.readouterr().err.split())
    assert load_model(run / "model_best")[1].training["steps"] == 6
    assert final_state(run)["best_score"] == 2.5


@pytest.mark.parametrize("what", ["options", "split", "killed"])
def test_a_run_that_could_not_begin_is_no_hindrance(tiny, monkeypatch, what: str) -> None:
    config = tiny(resume="auto", holdout=0.3, steps=1)
    if what == "killed":
        config.out.mkdir()
        (config.out / ".config.yaml.01234567.tmp").write_text("data: ")
    else:
        with monkeypatch.context() as patch:
            patch.setattr(type(config), "to_yaml", full_disk)
            if what == "split":
                patch.undo()
                patch.setattr(json, "dump", full_disk)
            with pytest.raises(ConfigError, match=r"Cannot write to --out .*: No space left"):
                train(config)
    run = train(config)
    assert (run / "model").is_dir()
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")]


def test_metrics_that_cannot_be_begun_are_one_sentence(tiny, monkeypatch) -> None:
    monkeypatch.setattr(metrics, "atomic_write", full_disk)
    with pytest.raises(ConfigError, match=r"Cannot write to --out .*: No space left on device\.$"):
        train(tiny())


def test_a_disk_full_to_the_end_is_one_sentence(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointFolder, "save", full_disk)
    with pytest.raises(CheckpointError, match="make room, then continue with --resume"):
        train(tiny())


# --- other methods ---


class Twins(Pix2Pix):
    """Two generators that are averaged and saved, and state of its own."""

    models = {"model": "generator", "model_twin": "twin"}  # noqa: RUF012
    players = {**Pix2Pix.players, "twin": ("twin",)}  # noqa: RUF012

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        from pix2gan.training.networks import create_configured_generator

        self.networks["twin"] = create_configured_generator(config)
        self.pool: list[torch.Tensor] = []

    def step(self, batch: Any) -> Any:
        from pix2gan.training.methods import Update

        yield from super().step(batch)
        self.pool = [*self.pool, batch["A"].mean()][-3:]
        pulled = (self.networks["twin"](batch["A"]).float() - self.pool[0]).abs().mean()
        yield Update("twin", pulled, {"twin": pulled})

    def sample(self, batch: Any, generators: Any) -> list[torch.Tensor]:
        return [batch["A"], generators["generator"](batch["A"]), generators["twin"](batch["A"])]

    def state_dict(self) -> dict[str, Any]:
        return {"pool": self.pool}

    def load_state_dict(self, state: Any) -> None:
        self.pool = list(state["pool"])


def test_the_trainer_knows_no_method_by_name(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {"pix2pix": "pix2gan.training.methods.pix2pix:Pix2Pix"}
    monkeypatch.setattr("pix2gan.training.method_registry._METHODS", methods)
    monkeypatch.setitem(sys.modules, "twins", sys.modules[__name__])
    register_method("twins", "twins:Twins")
    whole = train(tiny("whole", method="twins"))
    assert {"twin", "l1"} <= set(read_metrics(whole / "metrics.jsonl")[0])
    load_model(whole / "model_twin")
    interrupt(monkeypatch, tiny(method="twins"), 7, 143)
    run = train(tiny(method="twins", resume=True))
    assert_same(final_state(run), final_state(whole))
    assert len(final_state(run)["processes"][0]["method"]["pool"]) == 3


def test_command_line_of_a_run(tiny) -> None:
    options = tiny(augment=False, licence="CC BY 4.0", data="some/where/pairs", out="runs/try")
    words = command_line(options)
    assert words.startswith("pix2gan train pix2pix pairs --out try --size 16 ")
    assert "--no-augment" in words
    assert "--dropout" in words
    assert "--licence 'CC BY 4.0'" in words
    assert "some" not in words


def test_config_yaml_is_plain(tiny) -> None:
    values = yaml.safe_load((train(tiny()) / "config.yaml").read_text())
    assert values["steps"] == 12
    assert "resume" not in values
