"""The ops' benchmark: opponents do the same work, and a bar that is missed shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks import ops as benchmark
from benchmarks.rows import read_rows
from pix2gan import ops


@pytest.mark.parametrize(
    ("resample", "opponents"),
    [
        (
            ops.upsample2d,
            (benchmark.zero_insertion, benchmark.transposed, benchmark.up_slices),
        ),
        (
            ops.downsample2d,
            (benchmark.strided, benchmark.separable, benchmark.down_slices),
        ),
    ],
)
def test_opponents_resample_alike(resample, opponents):
    x = torch.randn(2, 3, 8, 10, dtype=torch.float64)
    taps = torch.tensor(benchmark.TAPS, dtype=torch.float64) / sum(benchmark.TAPS)
    expected = resample(x, ops.setup_filter(benchmark.TAPS))
    for opponent in opponents:
        torch.testing.assert_close(opponent(x, taps), expected, rtol=1e-6, atol=1e-6)


def contest(**changes) -> benchmark.Contest:
    x, b = torch.randn(1, 4, 8, 8), torch.randn(4)
    plain = benchmark.Contest(
        "bias_act",
        "relu",
        (x, b),
        lambda x, b: ops.bias_act(x, b, act="relu", gain=1),
        {"stock operators": lambda x, b: torch.relu(x + b[:, None, None])},
        at_least=0.0,
        compiled=False,
    )
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("gradient", [False, True])
def test_bars(gradient):
    row, missed = benchmark.run(contest(gradient=gradient), seconds=0.01)
    assert row["opponent"] == "stock operators"
    assert missed == []
    _, missed = benchmark.run(contest(at_least=1e6, gradient=gradient), seconds=0.01)
    assert "the bar is 1e+06x" in missed[0]
    _, missed = benchmark.run(contest(copied=torch.ones(1), at_most=1e-6), seconds=0.01)
    assert "copies, the bar is 1e-06" in missed[0]


def test_a_wrong_result_is_not_timed():
    wrong = contest(ours=lambda x, b: torch.relu(x + b[:, None, None]) + 0.01)
    with pytest.raises(SystemExit, match="results differ"):
        benchmark.run(wrong, seconds=0.01)


def test_check_fails_where_a_bar_is_missed(tmp_path: Path, monkeypatch, capsys):
    for at_least, code in ((0.0, 0), (1e6, 1)):
        monkeypatch.setattr(
            benchmark, "GROUPS", {"bias_act": lambda a=at_least: iter([contest(at_least=a)])}
        )
        arguments = [
            "--only",
            "bias_act",
            "--seconds",
            "0.01",
            "--out",
            str(tmp_path / "rows.json"),
        ]
        assert benchmark.main([*arguments, "--check"]) == code
        assert benchmark.main(arguments) == 0
    assert "Bars missed" in capsys.readouterr().out
    assert len(read_rows(tmp_path / "rows.json")) == 1
