"""The Triton backend, without a GPU: interpreted, and compiled for GPUs that are not there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pix2gan.errors import BackendError
from pix2gan.ops import conformance, dispatch, use_backend
from pix2gan.ops.cases import DATA_ARGUMENTS

pytest.importorskip("triton")

REPOSITORY = Path(__file__).resolve().parent.parent.parent
OPS = tuple(s for s in conformance.SUBJECTS if s not in DATA_ARGUMENTS)


def run(*arguments: str, interpret: bool = True) -> str:
    """Runs Python in a process of its own and returns what it prints."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
    environment.pop("PIX2GAN_BACKEND", None)
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(*arguments: str) -> str:
    return run("tests/ops/triton_interpreted.py", *arguments)


# -------------------------------------------------------------------------------------- interpreted


@pytest.mark.timeout(600)
def test_conforms():
    """Some cases of each primitive, in each dtype and every memory format."""
    table = check(*DATA_ARGUMENTS, "--step", "19")
    for subject in DATA_ARGUMENTS:
        assert table.count(subject + " ") == 3, "each dtype"
    assert " failed" in table


@pytest.mark.stress
def test_ops_conform_with_their_gradients():
    check(*OPS, "--step", "7")


@pytest.mark.stress
def test_conforms_with_64_bit_offsets():
    subjects = ("bias_act", "upfirdn2d", "instance_norm_act", "scaled_conv2d")
    check(*subjects, "--step", "40", "--int64")


@pytest.mark.stress
@pytest.mark.parametrize("subject", conformance.SUBJECTS)
def test_conforms_in_every_case(subject):
    check(subject)


@pytest.mark.stress
@pytest.mark.parametrize("subject", DATA_ARGUMENTS)
def test_conforms_in_the_configurations_of_a_gpu(subject):
    check(subject, "--step", "5", "--capability", "90")


PLANES = """
import torch
from pix2gan.ops import use_backend
import pix2gan.ops as ops

torch.manual_seed(0)
for memory_format in (torch.contiguous_format, torch.channels_last):
    # larger than a block and cut into chunks; a border of its own
    x = (torch.randn(1, 2, 75, 61) + 30).contiguous(memory_format=memory_format)
    results = []
    for backend in ("reference", "triton"):
        with use_backend(backend):
            leaf = x.clone().requires_grad_()
            y = ops.instance_norm_act(leaf, act="swish", pad=3)
            g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            y.backward(g)
            stats = ops.instance_norm_stats(x)
        results.append((y.detach(), leaf.grad, stats.mean, stats.m2))
    for want, got in zip(*results):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)

# more images than the partial sums of the weights' gradient, and more than one piece of each
for shape, memory_format in (((9, 5, 6, 7), torch.channels_last), ((1, 4, 40, 40), None)):
    x = torch.randn(shape)
    x = x if memory_format is None else x.contiguous(memory_format=memory_format)
    dy = torch.randn(shape[0], 6, *shape[2:])
    s, d = torch.rand(shape[:2]) + 0.5, torch.rand(shape[0], 6) + 0.5
    results = []
    for backend in ("reference", "triton"):
        with use_backend(backend):
            results.append(
                torch.ops.pix2gan.scaled_conv2d_wgrad(x, dy, s, d, 1, 1, False, 3, 3)
            )
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-3)
"""


@pytest.mark.stress
def test_split_reductions():
    run("-c", PLANES)


STATISTICS = """
import dataclasses
import torch
from pix2gan.ops.backends.triton import instance_norm

plan = instance_norm._layout
torch.manual_seed(0)
for memory_format in (torch.contiguous_format, torch.channels_last):
    x = (torch.randn(2, 4, 8, 8) + 100).contiguous(memory_format=memory_format)
    variance, mean = torch.var_mean(x.double(), (2, 3), correction=0)
    for pixels in (1, 4, 16, 64):  # 64 to 1 steps
        instance_norm._layout = lambda *a: dataclasses.replace(plan(*a), pixels=pixels)
        found = torch.empty(2, 4), torch.empty(2, 4)
        instance_norm.instance_norm_stats(x, *found)
        torch.testing.assert_close(found[0].double(), mean, rtol=1e-7, atol=0)
        torch.testing.assert_close(found[1].double(), 64 * variance, rtol=8e-7, atol=0)
"""


def test_statistics_far_from_zero_in_many_steps():
    run("-c", STATISTICS)


FAR = """
import torch
import pix2gan.ops as ops

P = torch.ops.pix2gan
ops.use_backend("triton")
STEP = 2**28
random = torch.Generator().manual_seed(0)

def new(*shape):
    return torch.randn(shape, generator=random).bfloat16()

def far(x, memory_format):
    # on memory of which nothing but the elements is touched, and so exists
    n, c, h, w = x.shape
    strides = (c * STEP, STEP, w, 1)
    if memory_format == torch.channels_last:
        strides = (h * w * STEP, 1, w * STEP, STEP)
    reach = 1 + sum((m - 1) * t for m, t in zip(x.shape, strides))
    assert reach > 2**31
    try:
        memory = torch.empty(reach, dtype=x.dtype)
    except RuntimeError:
        raise SystemExit(print("not enough memory"))
    return memory.as_strided(x.shape, strides).copy_(x)

for shape, memory_format in (
    ((3, 3, 3, 4), torch.contiguous_format), ((1, 3, 3, 4), torch.channels_last)
):
    x = new(*shape).contiguous(memory_format=memory_format)
    n, c, height, width = shape
    w, dy = new(5, c, 3, 3), new(n, 5, height, width)
    s, mean, rstd = new(n, c).float(), new(n, c).float(), new(n, c).float().exp()
    f = ops.setup_filter([1, 3, 3, 1])
    plain = (None, None, "linear", 0.0, 1.0, -1.0)
    calls = {
        "bias_act": lambda x: P.bias_act(x, None, 1, "swish", 0.0, 1.0, -1.0),
        "bias_act_grad": lambda x: P.bias_act_grad(x, x, None, None, 1, "swish", 0.0, 1.0, -1.0),
        "filter": lambda x: ops.filter2d(x, f),
        "filter, any factors": lambda x: ops.upfirdn2d(x, f, up=3, padding=3),
        "statistics": lambda x: P.instance_norm_stats(x),
        "norm": lambda x: P.instance_norm_act(
            x, None, None, "relu", 0.0, x, 1, "reflect", 1e-5, None, None
        ),
        "norm, given": lambda x: P.instance_norm_act(
            x, None, None, "relu", 0.0, x, 1, "zeros", 1e-5, mean, rstd
        ),
        "gradient": lambda x: P.instance_norm_act_grad(
            x, x, None, None, mean, rstd, "relu", 0.0, 0, "zeros", 1e-5, False
        ),
        "3x3": lambda x: P.scaled_conv2d(x, w, s, None, 1, 1, False, height, width, *plain),
        "1x1": lambda x: P.scaled_conv2d(
            x, w[:, :, :1, :1], s, None, 1, 0, False, height, width, *plain
        ),
        "transposed": lambda x: P.scaled_conv2d(
            x, w.transpose(0, 1), s, None, 2, 0, True, 2 * height + 1, 2 * width + 1, *plain
        ),
        "gradient of the weight": lambda x: P.scaled_conv2d_wgrad(
            x, dy, s, None, 1, 1, False, 3, 3
        ),
    }
    distant = far(x, memory_format)
    for name, call in calls.items():
        print(name, flush=True)  # the last one, should it crash
        want, got = ((t,) if torch.is_tensor(t) else t for t in (call(x), call(distant)))
        for a, b in zip(want, got):
            torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-7)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory counts when it is touched")
def test_inputs_that_reach_past_2_31_elements():
    if "not enough memory" in run("-c", FAR):
        pytest.skip("this machine does not lend memory that it does not have")


# ----------------------------------------------------------------------------------------- compiled


@pytest.mark.stress
def test_compiles(tmp_path, monkeypatch):
    """A kernel of each family for each vendor; ``make check-kernels`` compiles all of them."""
    from benchmarks.check_kernels import check, samples

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    wanted = {
        "plan_bias_act": "swish 64x64",
        "plan_upfirdn2d": "up 2, 4, 64x64",
        "plan_instance_norm_act": "64x64 pad 1 channels-last",
        "plan_instance_norm_act_grad": "64x64 pad 1",
        "plan_scaled_conv2d": "3x3 transposed 2 channels-last",
        "plan_scaled_conv2d_wgrad": "3x3 8x8",
    }
    chosen = {}
    for sample in samples():
        name = sample.plan.__name__
        if sample.name == wanted.get(name) and sample.arguments[0].dtype == torch.bfloat16:
            chosen[name] = sample
    assert set(chosen) == set(wanted)
    rows = []
    for target in ("sm_90", "gfx942"):
        seen: set[object] = set()
        for sample in chosen.values():
            rows += check(target, sample, seen)
    assert [row.line() for row in rows if row.problem] == []
    assert all(row.usage is not None and row.usage.registers > 0 for row in rows)
    assert {"scaled_conv2d_kernel", "upfirdn2d_kernel"} <= {row.kernel for row in rows}


@pytest.mark.stress
def test_a_spill_is_seen(tmp_path, monkeypatch):
    """More sums than registers: the report must not call that fine."""
    import dataclasses

    from benchmarks.check_kernels import Sample, check, samples

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sample = next(s for s in samples("scaled_conv2d_wgrad") if s.name == "3x3 64x64 channels-last")

    def plan(*arguments):
        launch = next(sample.plan(*arguments))
        larger = dict(launch.arguments, ROWS=256, COLUMNS=256)
        yield dataclasses.replace(launch, arguments=larger, num_warps=4)

    plan.__name__ = "plan_too_much"
    for target in ("sm_90", "gfx942"):
        rows = list(check(target, Sample("spill", plan, sample.arguments), set()))
        assert rows
        assert all(row.problem for row in rows)


# ------------------------------------------------------------------------------------- availability


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_says_why_it_cannot_run():
    if os.environ.get("TRITON_INTERPRET"):
        pytest.skip("interpreted, it can")
    with pytest.raises(BackendError, match="TRITON_INTERPRET=1"):
        use_backend("triton")
    status = {s.name: s for s in dispatch.list_backends()}["triton"]
    assert not status.available
    assert status.devices == ("cuda",)


def test_without_triton_it_is_unavailable_and_nothing_breaks():
    out = run(
        "-c",
        "import sys; sys.modules['triton'] = None\n"
        "from pix2gan.ops import dispatch, list_backends\n"
        "print({s.name: s for s in list_backends()}['triton'].reason)",
        interpret=False,
    )
    assert "pip install triton" in out


def test_is_not_imported_for_cpu_tensors():
    run(
        "-c",
        "import sys, torch, pix2gan.ops as ops\n"
        "ops.bias_act(torch.ones(2, 3), torch.ones(3), act='relu')\n"
        "assert 'triton' not in sys.modules",
        interpret=False,
    )


def test_refuses_float64():
    out = run(
        "-c",
        "import torch, pix2gan.ops as ops\n"
        "from pix2gan.errors import BackendError\n"
        "ops.use_backend('triton')\n"
        "try:\n"
        "    ops.bias_act(torch.ones(2, 3).double(), act='relu')\n"
        "except BackendError as error:\n"
        "    print(error)\n",
    )
    assert "float64" in out


# ----------------------------------------------------------------------------------- sizes, offsets


def test_quick_division():
    from pix2gan.ops.backends.triton.elements import divisor

    numbers = random.Random(0)
    divisors = [
        *range(1, 200),
        2**16,
        2**30,
        2**31 - 1,
        *(numbers.randrange(1, 2**31) for _ in range(200)),
    ]
    for d in divisors:
        multiplier, shift, unit = divisor(d)
        assert -(2**31) <= multiplier < 2**31
        for i in {
            0,
            1,
            d - 1,
            d,
            d + 1,
            2 * d - 1,
            2**31 - 1,
            *(numbers.randrange(2**31) for _ in range(20)),
        }:
            if 0 <= i < 2**31:
                quotient = i if unit else ((i * (multiplier % 2**32)) >> 32) >> shift
                assert quotient == i // d, (i, d)


def test_grids_stay_within_bounds():
    from pix2gan.ops.backends.triton.launch import planes_grid

    for planes in (0, 1, 32767, 32768, 32769, 10**6):
        _, y, z = planes_grid(3, planes)
        assert y * z >= planes
        assert y <= 65535
        assert z <= 65535
        assert (y * z == 0) == (planes == 0)


def test_blocks_leave_few_lanes_idle():
    from pix2gan.ops.backends.triton.launch import block_for, ceil_div

    for size in range(1, 3000, 7):
        block = block_for(size, 1024)
        assert block & (block - 1) == 0
        assert 16 <= block <= 1024
        if size >= 256:
            assert ceil_div(size, block) * block <= size * 1.2
