"""The generators' benchmark: the stock networks are the same networks, and it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import generators
from benchmarks.stock_networks import copy_weights, stock_generator
from pix2gan.models import create_generator

OPTIONS = [
    {"name": "resnet6", "num_blocks": 2},
    {"name": "resnet9", "num_blocks": 1, "norm": "batch", "padding": "zeros", "dropout": True},
    {"name": "resnet6", "num_blocks": 1, "norm": "none", "padding": "replicate"},
    {"name": "resnet6", "num_blocks": 1, "downsampling": "blur", "upsampling": "blur"},
    {"name": "resnet6", "num_blocks": 1, "upsampling": "nearest", "in_channels": 1},
    {"name": "unet128", "num_downs": 4},
    {"name": "unet128", "num_downs": 6, "norm": "batch", "dropout": True, "out_channels": 1},
    {"name": "unet128", "num_downs": 4, "norm": "none", "max_width_factor": 2},
    {"name": "unet128", "num_downs": 4, "downsampling": "blur", "upsampling": "blur"},
    {"name": "unet256", "num_downs": 4, "upsampling": "nearest"},
    {"name": "unet256", "num_downs": 4, "upsampling": "nearest", "padding": "replicate"},
    {"name": "unet256", "num_downs": 4, "upsampling": "nearest", "padding": "zeros"},
]


def randomised(options: dict[str, Any]) -> nn.Module:
    """A generator whose every weight, bias and statistic differs from its start."""
    torch.manual_seed(0)
    generator = create_generator(**({"width": 4} | options)).eval()
    for name, tensor in generator.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point() and "filter" not in name:
            tensor.normal_(0, 0.2)
    return generator


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_stock_networks_are_the_same_networks(options: dict[str, Any]):
    ours = randomised(options)
    stock = stock_generator(ours.config).eval()
    x = torch.randn(2, ours.in_channels, 64, 64)
    copy_weights(ours, stock, x)
    with torch.no_grad():
        found, expected = ours(x), stock(x)
    assert expected.std() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_stock_networks_consist_of_torch_modules_only():
    network = stock_generator(create_generator("unet128", width=4, num_downs=4).config)
    others = {type(m) for m in network.modules() if not type(m).__module__.startswith("torch.nn")}
    assert {kind.__name__ for kind in others} == {"UNetLevel"}


def test_weights_of_another_network_are_refused():
    ours = create_generator("resnet6", width=4, num_blocks=1).eval()
    x = torch.randn(1, 3, 32, 32)
    for other in ({"num_blocks": 2}, {"num_blocks": 1, "width": 8}):
        stock = stock_generator(create_generator("resnet6", **({"width": 4} | other)).config)
        with pytest.raises(ValueError, match="layer"):
            copy_weights(ours, stock.eval(), x)


def test_what_has_no_stock_network_is_left_out():
    names = {case.name for case in generators.list_cases()}
    assert {"unet256", "resnet9", "sketch2motorbike"} <= names
    assert not any(name.startswith(("modulated", "pix2pixhd")) for name in names)


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="transformer"):
        stock_generator({"name": "transformer"})
    with pytest.raises(SystemExit, match="no model transformer"):
        generators.list_cases(["transformer"])


def test_a_tiny_run_writes_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "results.json"
    options = "--models resnet6 --width 4 --size 16 --seconds 0 --device cpu --out"
    generators.main([*options.split(), str(path)])
    rows = json.loads(path.read_text())
    assert [(row["name"], row["dtype"]) for row in rows] == [
        ("resnet6 width 4 16x16", "bfloat16"),
        ("resnet6 width 4 16x16", "float32"),
    ]
    for row in rows:
        assert row["benchmark"] == "generators"
        assert row["shape"] == [1, 3, 16, 16]
        assert row["memory_format"] in generators.FORMATS
        assert row["opponent"].startswith("torch.nn modules, eager, ")
        assert row["ratio"] == pytest.approx(row["opponent_ms"] / row["ms"], rel=2e-3)
    assert "| resnet6 width 4 16x16 | float32 | 1x3x16x16 |" in capsys.readouterr().out


def test_a_network_that_differs_is_not_timed():
    ours = create_generator("resnet6", width=4, num_blocks=1).eval()
    stock = stock_generator(ours.config).eval()
    x = torch.randn(1, 3, 16, 16)
    with pytest.raises(SystemExit, match="differs"):
        generators.check_same_outputs("resnet6", ours, stock, x)
    copy_weights(ours, stock, x)
    exact = generators.check_same_outputs("resnet6", ours, stock, x)
    generators.check_rounding("resnet6", ours, stock, x, exact, torch.bfloat16)
    with torch.no_grad():
        ours.head.conv.bias.add_(0.1)
    with pytest.raises(SystemExit, match="twice"):
        generators.check_rounding("resnet6", ours, stock, x, exact, torch.bfloat16)
