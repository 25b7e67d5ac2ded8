"""Divergence is rolled back, flat and collapsed outputs are noticed, flat inputs are harmless."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pix2gan import ops
from pix2gan.errors import Pix2ganError
from pix2gan.training import metrics, train
from pix2gan.training.checkpointing import CheckpointFolder, load_checkpoint
from pix2gan.training.health import Diverged, OutputWatch, check_finite
from pix2gan.training.methods import Translation
from pix2gan.training.methods.pix2pix import Pix2Pix
from pix2gan.training.metrics import read_metrics


def newest(run: Path) -> dict[str, Any]:
    return load_checkpoint(CheckpointFolder(run / "checkpoints", keep=2).files()[-1])


def diverge(monkeypatch: pytest.MonkeyPatch, calls: set[int], steps: list[int]) -> None:
    """Let the losses of these calls of ``step`` be NaN; ``steps`` counts all calls."""
    original = Pix2Pix.step

    def step(self: Pix2Pix, batch: Any) -> Any:
        steps.append(len(steps) + 1)
        factor = float("nan") if steps[-1] in calls else 1.0
        for update in original(self, batch):
            log = {name: value * factor for name, value in update.log.items()}
            yield update._replace(loss=update.loss * factor, log=log)

    monkeypatch.setattr(Pix2Pix, "step", step)


def test_divergence_goes_back_to_the_last_checkpoint(tiny, monkeypatch, capsys) -> None:
    steps: list[int] = []
    diverge(monkeypatch, {7}, steps)
    run = train(tiny(decay_start=1.0))
    printed = capsys.readouterr().err
    assert "Training diverged by step 8 (d_real, d_fake, g_gan, l1 not finite)" in printed
    assert "going on after step 5 at 0.5 of the learning rate." in printed
    assert len(steps) == 8 + 7  # 8 until it was noticed, then 6 to 12
    entries = read_metrics(run / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [4, 8, 12]
    assert [entry["lr"] for entry in entries] == [2e-4, 1e-4, 1e-4]
    assert all(np.isfinite(list(entry.values())).all() for entry in entries)
    assert newest(run)["rollbacks"] == 1


def test_a_full_disk_after_a_rollback_ends_nothing(tiny, monkeypatch, capsys) -> None:
    diverge(monkeypatch, {7}, [])
    original, room = metrics.atomic_write, iter([True, False, True])

    def limited(*arguments: Any) -> Any:
        if not next(room):
            raise OSError(28, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(metrics, "atomic_write", limited)
    run = train(tiny())
    assert "metrics.jsonl cannot be written (No space left" in "".join(
        capsys.readouterr().err.split("\n")
    )
    assert [entry["step"] for entry in read_metrics(run / "metrics.jsonl")] == [4, 8, 12]


def test_a_kill_after_a_rollback_does_not_forget_it(tiny, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        steps: list[int] = []
        diverge(patch, {7}, steps)
        original = Pix2Pix.step

        def step(self: Pix2Pix, batch: Any) -> Any:
            if len(steps) == 9:
                raise RuntimeError("killed")
            yield from original(self, batch)

        patch.setattr(Pix2Pix, "step", step)
        with pytest.raises(RuntimeError, match="killed"):
            train(tiny())
    assert newest(tiny().out)["step"] == 5
    assert newest(train(tiny(resume=True)))["rollbacks"] == 1


def test_divergence_before_any_checkpoint_starts_over(tiny, monkeypatch, capsys) -> None:
    diverge(monkeypatch, {3}, [])
    train(tiny())
    assert "going on after step 0 at 0.5" in capsys.readouterr().err


def test_divergence_that_comes_back_ends_in_one_sentence(tiny, monkeypatch) -> None:
    steps: list[int] = []
    diverge(monkeypatch, set(range(7, 100)), steps)
    with pytest.raises(Pix2ganError, match=r"diverged by step 8 .* also at 0\.125 of") as caught:
        train(tiny())
    assert "\n" not in str(caught.value)
    assert newest(tiny().out)["step"] == 5
    assert not (tiny().out / "model").exists()


def test_weights_that_are_not_finite_are_never_saved() -> None:
    networks = nn.ModuleDict({"generator": nn.Conv2d(1, 1, 1), "other": nn.Identity()})
    check_finite({"l1": 1.0}, networks)
    with torch.no_grad():
        networks["generator"].bias[0] = float("inf")
    with pytest.raises(Diverged, match="the weights of the generator"):
        check_finite({"l1": 1.0}, networks)
    with pytest.raises(Diverged, match=r"^d_real, l1$"):
        check_finite({"d_real": float("nan"), "g": 0.0, "l1": float("-inf")})


# --- flat and collapsed outputs ---


def noise(seed: int, n: int = 4) -> torch.Tensor:
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_good_outputs_are_left_alone() -> None:
    assert OutputWatch().look("model", Translation(noise(0), noise(1), noise(2)), {}) is None
    one = Translation(noise(0, 1), noise(1, 1), noise(2, 1))
    assert OutputWatch().look("model", one, {}) is None


@pytest.mark.parametrize(
    ("output", "real", "losses", "message"),
    [
        (noise(1).mean((2, 3), keepdim=True).expand(4, 3, 8, 8), noise(2), {}, "flat colour.*--lr"),
        (noise(1)[:1].expand(4, 3, 8, 8), noise(2), {}, "all alike.*collapsed.*--lr"),
        (noise(1) * 0, noise(2) * 0, {}, "flat colour.*look at the data"),
        (
            noise(1)[:1].expand(4, 3, 8, 8),
            noise(2),
            {"d_real": 0.001, "d_fake": 0.01, "l1": 0.1},
            "all alike.*--lr-discriminator",
        ),
    ],
    ids=["flat", "collapsed", "flat data", "the discriminator has won"],
)
def test_bad_outputs_are_named_once(output, real, losses, message: str) -> None:
    watch = OutputWatch()
    bad = Translation(noise(0), output, real)
    warning = watch.look("model", bad, losses)
    assert warning is not None
    assert "\n" not in warning
    assert re.search(message, warning)
    assert watch.look("model", bad, losses) is None
    resumed = OutputWatch()
    resumed.load_state_dict(watch.state_dict())
    assert resumed.look("model", bad, losses) is None
    assert watch.look("model", Translation(noise(0), noise(3), noise(2)), losses) is None
    assert watch.look("model", bad, losses) == warning


def test_a_run_whose_generator_collapsed_says_so(tiny, monkeypatch, capsys) -> None:
    def translate(self: Pix2Pix, batch: Any, generators: Any) -> Any:
        given = batch["A"]
        return {"model": Translation(given, given[:1].expand_as(given), batch["B"])}

    monkeypatch.setattr(Pix2Pix, "translate", translate)
    train(tiny())
    assert capsys.readouterr().err.count("Warning at step 6: model: ") == 1


# --- flat inputs ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
def test_flat_planes_through_instance_norm_are_finite(dtype, memory_format, size, act) -> None:
    x = torch.full((2, 4, size, size), 0.7, dtype=dtype).contiguous(memory_format=memory_format)
    x[1] = 0
    x.requires_grad_()
    y = ops.instance_norm_act(x, act=act)
    y.backward(torch.ones_like(y))
    assert y.abs().max() < 0.1
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_training_on_flat_images_stays_finite(tiny, tmp_path: Path, capsys) -> None:
    for side, colour in (("A", 255), ("B", 128)):
        (tmp_path / "flat" / side).mkdir(parents=True)
        for i in range(3):
            image = Image.fromarray(np.full((16, 16, 3), colour, np.uint8))
            image.save(tmp_path / "flat" / side / f"{i}.png")
    run = train(tiny(data=tmp_path / "flat", augment=False))
    for entry in read_metrics(run / "metrics.jsonl"):
        assert np.isfinite(list(entry.values())).all()
    assert newest(run)["rollbacks"] == 0
    assert "look at the data" in capsys.readouterr().err
