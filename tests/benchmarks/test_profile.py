"""The profile's shares add up, name the ops that run, and are written as rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import profile
from pix2gan import ops


def test_a_tiny_run_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    options = (
        "--models modulated_unet --backends reference --width 2 --size 64 --seconds 0 --device cpu"
    )
    profile.main([*options.split(), "--out", str(path)])
    rows = {row["name"]: row for row in json.loads(path.read_text())}
    forward = rows["modulated_unet forward 64x64 on reference"]
    step = rows["modulated_unet training step 64x64 on reference"]
    ops_, weights, resampling, activation, norm = profile.PARTS
    assert set(forward["shares"]) == {ops_, resampling, activation, profile.REST}
    assert set(step["shares"]) >= {ops_, weights, resampling, activation, norm, profile.ADAM}
    for row in rows.values():
        assert sum(row["shares"].values()) == pytest.approx(1, abs=0.01)
        assert row["ms"] > 0
    printed = capsys.readouterr().out
    assert f"| {resampling} | {100 * forward['shares'][resampling]:.1f} % |" in printed


def test_every_backend_that_runs_here_is_profiled() -> None:
    backends = profile.usable_backends(torch.device("cpu"))
    assert backends[-1] == "reference"
    available = {b.name: b.available for b in ops.list_backends()}
    assert ("cpu" in backends) == available["cpu"]


def test_time_counts_for_the_op_that_it_is_spent_in() -> None:
    x = torch.randn(1, 8, 256, 256)

    def call() -> None:
        with ops.use_backend("reference"):
            ops.bias_act(x, act="swish")

    shares = profile.shares(call, torch.device("cpu"))
    # Everything that the reference calls on the way counts for the op.
    assert shares["`bias_act` and its gradients"] > 0.8
    assert set(shares) <= {"`bias_act` and its gradients", profile.REST}
