"""Benchmarks of the ops: the right work is timed, rightly counted, and what is wrong left out."""

from __future__ import annotations

import json

import pytest
import torch

from pix2gan.ops import bench, dispatch, use_backend
from pix2gan.ops.bench import DeviceRates, measure
from pix2gan.ops.workloads import LAYOUTS, OPS, workloads
from tests.ops.conftest import imitation

REFERENCE = dispatch.load_backend("reference")
RATES = DeviceRates(1e-9, {torch.float32: 2.0, torch.bfloat16: 4.0})


def small(op, dtype=torch.float32, layout="contiguous"):
    return list(workloads([op], dtype, layout, shrink=16))


def quick(workload, backends, direction="forward", **options):
    options = {"compiled": False, "seconds": 0, **options}
    return measure(workload, direction, backends, RATES, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("op", OPS)
def test_the_stock_formulation_computes_the_same(op, layout):
    for workload in small(op, torch.float64, layout):
        leaves = {name: t.requires_grad_() for name, t in workload.inputs.items()}
        with use_backend("reference"):
            ours = workload.ours(**leaves)
        stock = workload.stock(**leaves)
        # filters and PyTorch's own constants are float32
        torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-6)
        dy = torch.randn_like(ours)
        gradients = [torch.autograd.grad(y, list(leaves.values()), dy) for y in (ours, stock)]
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        if workload.vendor is not None:
            assert workload.vendor(**leaves).shape == ours.shape


def test_the_vendors_resampling_is_the_same_filter():
    for workload in small("upfirdn2d", torch.float64):
        if workload.vendor is not None:
            with use_backend("reference"):
                ours = workload.ours(**workload.inputs)
            torch.testing.assert_close(workload.vendor(**workload.inputs), ours)


def test_bytes_and_operations_are_counted():
    lrelu = small("bias_act", torch.bfloat16)[0]
    x = lrelu.inputs["x"]
    assert lrelu.traffic(x, "forward") == 2 * 2 * x.numel()  # x, y
    assert lrelu.traffic(x, "backward") == 3 * 2 * x.numel()  # dy, y, dx
    up = small("upfirdn2d")[0]
    x = up.inputs["x"]
    y = up.ours(**up.inputs)
    assert up.traffic(y, "forward") == up.traffic(y, "backward") == 4 * 5 * x.numel()
    residual = small("instance_norm_act")[2]
    y = residual.ours(**residual.inputs)
    x = residual.inputs["x"]
    assert residual.traffic(y, "forward") == 4 * (2 * x.numel() + y.numel())
    conv, pointwise, transposed = small("modulated_conv2d")
    n, c, h, w = conv.shape
    assert conv.operations("forward") == 2 * n * c * c * 9 * h * w
    assert conv.operations("backward") == 2 * conv.operations("forward")
    assert pointwise.operations("forward") == conv.operations("forward") // 9
    n, c, h, w = transposed.shape
    assert transposed.operations("forward") == 2 * n * c * (c // 2) * 9 * h * w
    assert lrelu.operations("forward") == 0


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
@pytest.mark.parametrize("op", OPS)
def test_every_op_is_timed_beside_its_opponents(register, op, direction):
    register("theirs", imitation())
    workload = small(op)[0]
    found = quick(workload, ["theirs"], direction)
    vendor = {"vendor"} if workload.vendor is not None else set()
    assert set(found.timings) == {"reference", "theirs", "stock", "copy"} | vendor
    assert found.left_out == {}
    assert all(timing.ms > 0 for timing in found.timings.values())
    data = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert data["results"]["theirs"]["share"] > 0
    if op == "modulated_conv2d":
        assert found.unit == "TFLOP/s"
        speed = workload.operations(direction) / found.timings["stock"].ms / 1e9
        assert found.speed("stock") == pytest.approx(speed)
        assert found.share("stock") == pytest.approx(speed / 2.0)
    else:
        assert found.unit == "GB/s"
        assert found.share("copy") == 1  # a copy beyond the caches is slower here
        assert found.share("stock") == pytest.approx(
            found.timings["copy"].ms / found.timings["stock"].ms
        )


def test_the_backend_that_is_named_is_what_runs(register):
    called = []

    def bias_act(*args):
        called.append("forward")
        REFERENCE.bias_act(*args)

    def bias_act_grad(*args):
        called.append("backward")
        REFERENCE.bias_act_grad(*args)

    register("theirs", imitation(bias_act=bias_act, bias_act_grad=bias_act_grad))
    quick(small("bias_act")[0], ["theirs"], "forward")
    assert set(called) == {"forward"}
    called.clear()
    quick(small("bias_act")[0], ["theirs"], "backward")
    assert called.count("forward") == 1  # to make the graph, which is kept
    assert called.count("backward") > 3


def test_what_is_wrong_or_fails_is_left_out(register):
    def wrong(*args):
        REFERENCE.bias_act(*args)
        args[-1].mul_(1.5)

    def broken(*args):
        raise MemoryError("out of memory\nand more")

    register("wrong", imitation(bias_act=wrong))
    register("broken", imitation(bias_act=broken))
    register("narrow", imitation(supports=lambda primitive, *args: False))
    found = quick(small("bias_act")[0], ["wrong", "broken", "narrow"])
    assert "wrong" not in found.timings
    assert "differs from the reference's by 0.5" in found.left_out["wrong"]
    assert found.left_out["broken"] == "MemoryError: out of memory"
    assert found.left_out["narrow"] == "it does not compute bias_act of this"


def test_what_falls_through_is_named(register):
    register("theirs", imitation(scaled_conv2d=None))
    transposed = small("modulated_conv2d")[2]  # scaled_conv2d, upfirdn2d, bias_act
    found = quick(transposed, ["theirs"])
    assert "theirs" in found.timings
    assert found.fallen_through == {"theirs": ["scaled_conv2d"]}


def test_a_backend_without_the_op_is_not_asked(register):
    convolution = "upfirdn2d", "scaled_conv2d", "scaled_conv2d_wgrad"
    # The statistics of planes: a bias's gradient is their sum.
    lacks = dict.fromkeys((*convolution, "bias_act_grad", "instance_norm_stats"))
    register("partial", imitation(**lacks))
    measured = list(
        bench.bench(
            ["partial"],
            "cpu",
            RATES,
            dtypes=[torch.float32],
            compiled=False,
            seconds=0,
            shrink=16,
        )
    )
    assert {(m.op, m.direction) for m in measured} == {
        (op, direction) for op in OPS for direction in bench.DIRECTIONS
    }
    asked = {(m.op, m.case) for m in measured if "partial" in m.timings}
    assert {op for op, _ in asked} == {"bias_act", "instance_norm_act", "modulated_conv2d"}
    assert ("modulated_conv2d", "1x1") not in asked
    text = json.dumps(bench.report(measured, "cpu", RATES), allow_nan=False)
    assert json.loads(text)["device"]
    assert len(json.loads(text)["measurements"]) == len(measured)


@pytest.mark.parametrize("direction", bench.DIRECTIONS)
def test_the_compiled_formulation_takes_part(direction: str):
    workload = small("bias_act")[0]
    found = quick(workload, [], direction, compiled=True)
    if "compiled" not in found.timings:  # torch.compile needs a compiler, and says so
        assert "compiler" in found.left_out["compiled"].lower()
    else:
        assert found.left_out == {}


def test_rates_of_a_device():
    rates = bench.device_rates("cpu", [torch.float32], seconds=0)
    assert 0.1 < rates.copy_gb_s < 1e4
    assert 1e-4 < rates.matrix_tflop_s[torch.float32] < 1e3


def test_unknown_ops_are_refused():
    with pytest.raises(ValueError, match="no op 'upfird' to time"):
        list(workloads(["upfird"]))
