"""The native CPU kernels: right on every instruction set, whatever the threads; and their build."""

from __future__ import annotations

import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pix2gan import ops
from pix2gan.errors import BackendError
from pix2gan.ops import conformance, dispatch
from pix2gan.ops.activations import ACTIVATIONS
from pix2gan.ops.backends import _native, cpu
from pix2gan.ops.cases import DATA_ARGUMENTS

HALVES = (torch.bfloat16, torch.float16)
FORMATS = (torch.contiguous_format, torch.channels_last)

# ------------------------------------------------------------------------------------------ kernels


def test_it_has_all_primitives(native):
    (status,) = [s for s in ops.list_backends() if s.name == "cpu"]
    assert status.available
    assert status.primitives == dispatch.primitives()


@pytest.mark.parametrize("subject", [s for s in conformance.SUBJECTS if s.startswith("op ")])
def test_ops_conform(native, subject):
    results = conformance.check("cpu", subjects=[subject])
    assert results
    assert conformance.failures(results) == []


def test_primitives_conform(instruction_set):
    subjects = [p for p in DATA_ARGUMENTS if hasattr(cpu, p)]
    results = conformance.check("cpu", subjects=subjects)
    assert conformance.failures(results) == []
    assert {r.status for r in results} == {"passed"}


def test_other_dtypes_are_refused(native):
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    with ops.use_backend("cpu"), pytest.raises(BackendError, match="float64"):
        ops.bias_act(x, act="relu")


def every(dtype: torch.dtype) -> torch.Tensor:
    """All 65,536 values of a 16-bit dtype."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_every_half_is_read_and_written_exactly(instruction_set, dtype):
    x = every(dtype)
    out = torch.empty_like(x)
    torch.ops.pix2gan_native.bias_act(x, None, 0, "linear", 0.0, 1.0, -1.0, out)
    if instruction_set == "avx512_bf16" and dtype == torch.bfloat16:
        # the processor's own conversion takes subnormals, below 1.2e-38, for zero
        x = torch.where(x.abs() < torch.finfo(dtype).tiny, 0, x)
    assert torch.equal(out.isnan(), x.isnan())
    assert torch.equal(out.nan_to_num(7.0), x.nan_to_num(7.0))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("gain", [1.0009765625, 0.3333, 1e-4, 3e4])
def test_halves_are_rounded_as_pytorch_does(instruction_set, dtype, gain):
    x = every(dtype)
    x = x[x.isfinite()]
    out = torch.empty_like(x)
    torch.ops.pix2gan_native.bias_act(x, None, 0, "linear", 0.0, gain, -1.0, out)
    expected = (x.float() * torch.tensor(gain)).to(dtype)
    if instruction_set == "avx512_bf16" and dtype == torch.bfloat16:
        tiny = torch.finfo(dtype).tiny
        out = torch.where(expected.abs() <= tiny, 0, out)
        expected = torch.where(expected.abs() <= tiny, 0, expected)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_over_the_whole_range(instruction_set, act):
    x = torch.cat([torch.linspace(-100, 100, 40001), torch.linspace(-1e-3, 1e-3, 2001)])
    known = ACTIVATIONS[act]
    alpha = known.default_alpha
    out = torch.empty_like(x)
    torch.ops.pix2gan_native.bias_act(x, None, 0, act, alpha, 1.0, -1.0, out)
    exact = known.value(x.double(), alpha)
    error = (out.double() - exact).abs() / exact.abs().clamp(min=1e-25)
    assert float(error.max()) < 1e-6


def test_not_a_number_stays_one(instruction_set):
    x = torch.tensor([float("nan"), 1.0, float("inf"), -float("inf")] * 9)
    for act in ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus"):
        out = torch.empty_like(x)
        torch.ops.pix2gan_native.bias_act(x, None, 0, act, 0.2, 1.0, 5.0, out)
        assert torch.equal(out.isnan(), x.isnan()), act


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 2, 300, 300), (1, 20, 90, 70), (2, 130, 33, 17)])
def test_statistics_of_large_planes_far_from_zero(instruction_set, memory_format, shape):
    x = (1000 + 10 * torch.randn(shape)).contiguous(memory_format=memory_format)
    x[:, :, 0, 0] = -5000  # an outlier where a naive shift would be taken from
    y = ops.instance_norm_act(x, act="relu", pad=1)
    exact = F.pad(torch.relu(F.instance_norm(x.double())), (1,) * 4, mode="reflect")
    # The float that an input is has an error of 3e-5 at 1000, divided by the deviation.
    assert float((y - exact).abs().max()) < 5e-5
    stats = ops.instance_norm_stats(x)
    variance, mean = torch.var_mean(x.double(), (2, 3), correction=0)
    torch.testing.assert_close(stats.mean.double(), mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(stats.m2.double(), variance * shape[2] * shape[3], rtol=2e-6, atol=0)


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
def test_norms_of_bfloat16_far_from_zero_and_not_finite(instruction_set, act):
    x = torch.randn(2, 160, 21, 13, generator=torch.Generator().manual_seed(3))
    x[:, 1] += 60
    x[:, 2:4] = torch.tensor([1e4, 0.375])[:, None, None]
    x[:, 4] *= 1e-3
    x[0, 5, 0, 0] = float("nan")
    x[1, 6, 3, 3] = float("inf")
    x[:, 100] += 60  # in a block of channels without anything unusual
    x[:, 101] = 0.375
    x = x.bfloat16().contiguous(memory_format=torch.channels_last)
    y = ops.instance_norm_act(x, act=act).double()
    exact = ACTIVATIONS[act].value(F.instance_norm(x.double()), 0.2)
    assert torch.equal(y.isnan(), exact.isnan())
    error = ((y - exact).abs() - exact.abs() / 256).nan_to_num(0)
    assert float(error.max()) < 2e-4
    assert not y[:, [2, 3, 101]].any()


@pytest.mark.parametrize("pixels", [(1, 33), (40, 50), (64, 64)])
def test_statistics_of_bfloat16_with_next_to_no_deviation(instruction_set, pixels):
    # Means of 256 to 16,000 deviations: x has 8 bits, so that a channel has no smaller deviation
    # than one pixel that differs by a unit in the last place.
    x = torch.full((1, 96, *pixels), 1.0)
    x[0, :32] += (
        torch.randint(0, 2, (32, *pixels), generator=torch.Generator().manual_seed(5)) / 128
    )
    x[0, 32:64, 0, 0] += 1 / 128
    x[0, 64:, -1, -1] = 0.99609375
    x *= (2.0 ** torch.arange(-48, 48))[:, None, None]
    x[:, ::2] *= -1
    x = x.bfloat16().contiguous(memory_format=torch.channels_last)
    stats = ops.instance_norm_stats(x)
    variance, mean = torch.var_mean(x.double(), (2, 3), correction=0)
    torch.testing.assert_close(stats.mean.double(), mean, rtol=1e-7, atol=0)
    torch.testing.assert_close(
        stats.m2.double(), variance * pixels[0] * pixels[1], rtol=1e-6, atol=0
    )


def test_statistics_of_bfloat16_of_any_sign_and_size(instruction_set):
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(1, 64, 40, 50, generator=generator)
    x *= torch.exp(4 * torch.randn(x.shape, generator=generator))
    x = x.bfloat16().contiguous(memory_format=torch.channels_last)
    stats = ops.instance_norm_stats(x)
    variance, mean = torch.var_mean(x.double(), (2, 3), correction=0)
    # What docs/ops.md derives; far less is found.
    assert float(((stats.mean - mean).abs() / variance.sqrt()).max()) < 2**-13
    torch.testing.assert_close(stats.m2.double(), variance * 2000, rtol=2**-12, atol=0)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 256, 64, 64), (1, 80, 32, 48), (3, 128, 33, 40)])
def test_norms_without_a_gradient_are_those_with_one(native, memory_format, shape):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(shape, generator=generator).bfloat16().contiguous(memory_format=memory_format)
    arguments = {
        "weight": torch.rand(shape[1], generator=generator),
        "residual": x.flip(1),
        "act": "lrelu",
        "pad": 2,
        "pad_mode": "replicate",
    }
    expected = ops.instance_norm_act(x.requires_grad_(), **arguments).detach()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = ops.instance_norm_act(x, **arguments)
            assert torch.equal(y, expected)
            assert y.stride() == expected.stride()
            with pytest.raises(ValueError, match="bias must be"):
                ops.instance_norm_act(x, bias=torch.ones(3))
            with pytest.raises(TypeError, match="weight must be float64"):
                ops.instance_norm_act(x, torch.ones(shape[1], dtype=torch.int64))
            with pytest.raises(ValueError, match="whole number"):
                ops.instance_norm_act(x, pad=1.5)
            with pytest.raises(ValueError, match="alpha of lrelu"):
                ops.instance_norm_act(x, act="lrelu", alpha=float("inf"))
            converted = ops.instance_norm_act(x, residual=x.float(), eps=1)
            assert torch.equal(converted, ops.instance_norm_act(x, residual=x, eps=1))


def test_norms_without_a_gradient_obey_a_forced_backend(native):
    x = torch.randn(1, 16, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert ops.instance_norm_act(x).dtype == torch.float64  # the reference's
        with ops.use_backend("cpu"), pytest.raises(BackendError):
            ops.instance_norm_act(x)


def test_norms_in_many_threads_at_once(native):
    # Within the kernel threads wait for each other.
    x = torch.randn(2, 64, 64, 64).bfloat16().contiguous(memory_format=torch.channels_last)
    expected = ops.instance_norm_act(x)

    @torch.inference_mode()
    def is_right(_: int) -> bool:
        return torch.equal(ops.instance_norm_act(x), expected)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(is_right, range(60)))


FILTERS = {
    "three": [1.0, 2.0, 1.0],
    "four": [1.0, 3.0, 3.0, 1.0],
    "eight": [1.0, 2.0, 3.0, 4.0, 4.0, 2.0, 1.0, 0.5],
    "uneven": [[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [2.0, 0.5, 1.0]],  # of full rank
}


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("channels", [1, 5, 20, 32, 70])
@pytest.mark.parametrize("taps", FILTERS)
def test_upfirdn2d_on_many_channels(instruction_set, memory_format, channels, taps):
    x = torch.randn(1, channels, 19, 23).contiguous(memory_format=memory_format)
    # by default an outer product, which the kernels take apart again
    f = ops.setup_filter(FILTERS[taps])
    for up, down, padding in (
        (1, 1, (1, 2, 2, 1)),
        (2, 1, (2, 1, 1, 2)),
        (1, 2, (1, 1, 2, -1)),
        (3, 2, 4),
    ):
        got = ops.upfirdn2d(x, f, up=up, down=down, padding=padding, gain=up**2)
        with ops.use_backend("reference"):
            exact = ops.upfirdn2d(
                x.double(), f.double(), up=up, down=down, padding=padding, gain=up**2
            )
        assert got.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("width", [1, 2, 15, 31, 32, 33, 64, 70, 130])
@pytest.mark.parametrize("taps", [(1.0, 2.0, 1.0), (1.0, 3.0, 2.0, 0.5)])
def test_halving_planes_of_any_width(instruction_set, dtype, width, taps):
    x = torch.randn(2, 2, 9, width).to(dtype)
    f = ops.setup_filter(taps)
    for padding in ((1, 2, 1, 1), (1, 3, 3, 0), (1, 7, 1, 2)):
        y = ops.upfirdn2d(x, f, down=2, padding=padding)
        with ops.use_backend("reference"):
            exact = ops.upfirdn2d(x.double(), f, down=2, padding=padding)
        tolerance = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=1e-6)
    x[0, 0, 4, width // 2] = float("inf")
    y, others = ops.upfirdn2d(x, f, down=2, padding=(1, 2, 1, 1)), [(0, 1), (1, 0), (1, 1)]
    assert not y.isnan().any()
    assert all(y[at].isfinite().all() for at in others)


def test_a_pixel_that_is_not_a_number_reaches_its_neighbours_only(instruction_set):
    x = torch.zeros(1, 32, 9, 9).contiguous(memory_format=torch.channels_last)
    x[0, 3, 4, 4] = float("nan")
    for up, down in ((1, 1), (2, 1), (1, 2)):
        y = ops.upfirdn2d(x, ops.setup_filter([1.0, 2.0, 1.0]), up=up, down=down, padding=1)
        with ops.use_backend("reference"):
            expected = ops.upfirdn2d(
                x[:, 3:4], ops.setup_filter([1.0, 2.0, 1.0]), up=up, down=down, padding=1
            )
        assert torch.equal(y[:, 3:4].isnan(), expected.isnan())
        assert not y[:, :3].isnan().any()
        assert not y[:, 4:].isnan().any()


# (shape of x, out channels, taps, stride, padding, transposed, pixels left over)
CONVOLUTIONS = {
    "3x3": ((2, 20, 37, 41), 24, 3, 1, 1, False, 0),
    "one sample": ((1, 33, 40, 33), 18, 3, 1, 1, False, 0),
    "1x1 to three channels": ((2, 34, 41, 32), 3, 1, 1, 0, False, 0),
    "stride 2": ((2, 20, 65, 34), 36, 3, 2, 1, False, 0),
    "transposed 2": ((2, 20, 33, 32), 19, 3, 2, 0, True, 0),
    "transposed 2 and a row": ((1, 40, 33, 32), 17, 3, 2, 1, True, 1),
    "transposed to three channels": ((2, 20, 34, 37), 3, 3, 1, 2, True, 0),
    "more weight than pixels": ((2, 48, 9, 7), 40, 3, 1, 1, False, 0),
}


def convolution(name: str) -> tuple[dict[str, torch.Tensor], tuple, torch.Tensor]:
    """(tensors by argument, geometry, a gradient of the result), all float64."""
    (n, inner, height, width), outer, taps, stride, padding, transposed, left = CONVOLUTIONS[name]
    size = [height, width]
    if transposed:
        size = [(s - 1) * stride - 2 * padding + taps + left for s in size]
    else:
        size = [(s + 2 * padding - taps) // stride + 1 for s in size]
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64)

    channels = (inner, outer) if transposed else (outer, inner)
    tensors = {
        "x": normal(n, inner, height, width),
        "w": normal(*channels, taps, taps) / (inner * taps * taps) ** 0.5,
        "s": normal(n, inner),
        "d": normal(n, outer).exp(),
        "noise": normal(n, 1, *size),
        "b": normal(outer),
    }
    return tensors, (stride, padding, transposed, *size), normal(n, outer, *size)


def convolve(
    t: dict[str, torch.Tensor], geometry: tuple, dy: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """scaled_conv2d with everything behind it, and its weight's gradient."""
    y = torch.ops.pix2gan.scaled_conv2d(
        t["x"], t["w"], t["s"], t["d"], *geometry, t["noise"], t["b"], "lrelu", 0.2, 1.5, 4.0
    )
    dw = torch.ops.pix2gan.scaled_conv2d_wgrad(
        t["x"], dy, t["s"], t["d"], *geometry[:3], *t["w"].shape[2:]
    )
    return y, dw


def cast(
    t: dict[str, torch.Tensor], dtype: torch.dtype, memory_format: torch.memory_format
) -> dict[str, torch.Tensor]:
    """The data in a dtype and a memory format, the parameters in float32."""
    data = {k: t[k].to(dtype) for k in ("x", "w", "noise")}
    data["x"] = data["x"].contiguous(memory_format=memory_format)
    return {**{k: t[k].float() for k in ("s", "d", "b")}, **data}


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_images(instruction_set, name, dtype, memory_format):
    tensors, geometry, dy = convolution(name)
    t, g = cast(tensors, dtype, memory_format), dy.to(dtype).contiguous(memory_format=memory_format)
    got = convolve(t, geometry, g)
    assert got[0].is_contiguous(memory_format=memory_format)
    with ops.use_backend("reference"):
        exact = convolve({k: v.double() for k, v in t.items()}, geometry, g.double())
        # float16 is emulated there, for seconds: bfloat16 has eight times its error
        if dtype == torch.float16:
            t, g = cast(tensors, torch.bfloat16, memory_format), dy.to(torch.bfloat16)
        same = convolve(t, geometry, g)
        if dtype == torch.float16:
            exact_same = convolve({k: v.double() for k, v in t.items()}, geometry, g.double())
        else:
            exact_same = exact
    for i, (a, b) in enumerate(zip(got, exact, strict=True)):
        twice = 2 * (same[i].double() - exact_same[i]).abs().max()
        twice = twice / 8 if dtype == torch.float16 else twice
        relative = 1.3e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
        assert ((a.double() - b).abs() <= (1e-5 + relative * b.abs()).clamp(min=twice)).all()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 24, 85, 65), (1, 2, 310, 290), (1, 256, 24, 20)])
def test_threads_do_not_change_a_bit(native, memory_format, dtype, shape):
    x = torch.randn(shape).to(dtype).contiguous(memory_format=memory_format)
    f = ops.setup_filter([1, 3, 3, 1])

    def compute() -> list[torch.Tensor]:
        leaf = x.detach().requires_grad_()
        weight = torch.full([shape[1]], 1.5, requires_grad=True)
        normed = ops.instance_norm_act(leaf, weight, act="lrelu", pad=2)
        outs = [normed, ops.bias_act(leaf, weight, act="swish"), ops.upsample2d(leaf, f)]
        outs += [ops.downsample2d(leaf, f), *ops.instance_norm_stats(x)[1:]]
        styles, w = torch.ones(shape[:2]).cumsum(1), torch.ones(5, shape[1], 3, 3).cumsum(3)
        outs += [ops.modulated_conv2d(x, w, styles, padding=1, b=torch.ones(5), act="lrelu")]
        loss = sum((out.float().square().sum() for out in outs[:4]), torch.zeros(()))
        return [*outs, *torch.autograd.grad(loss, (leaf, weight))]

    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(compute())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_a_slice_of_channels_is_not_copied_wrongly(native):
    large = torch.randn(3, 24, 20, 18)
    for x in (large[:, 4:11], large[1:, ::2], large[:, :, 1:-1, 2:], large.transpose(2, 3)):
        got = ops.instance_norm_act(x, act="relu", pad=1)
        expected = ops.instance_norm_act(x.clone(memory_format=torch.contiguous_format), pad=1)
        assert torch.equal(got, expected.relu())


# -------------------------------------------------------------------------------------------- build


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    """Sources that only a compiler which does not look would compile."""
    folder = tmp_path / "csrc"
    (folder / "cpu").mkdir(parents=True)
    (folder / "kernels.h").write_text("int a;\n")
    for name in ("binding.cpp", "cpu/one.cpp", "cpu/isa_two.cpp"):
        (folder / name).write_text("not C++\n")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PIX2GAN_CACHE_DIR", str(folder))
    monkeypatch.delenv("PIX2GAN_BUILD", raising=False)
    return folder / "native"


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """compiler(script): a compiler that logs each call and runs a line of shell."""

    def make(line: str) -> Path:
        program, log = tmp_path / "fake++", tmp_path / "calls"
        program.write_text(
            f'#!/bin/sh\necho $$ "$@" >> {log}\n'
            'while [ "$1" != -o ]; do shift; done; out="$2"\n' + line + "\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(program))
        return log

    return make


WORKS = 'echo library > "$out"'


def test_built_once_and_kept(csrc, cache, compiler):
    log = compiler(WORKS)
    library = _native.build_cached(_native.CPU, csrc)
    assert library.parent == cache
    assert library.read_text() == "library\n"
    calls = log.read_text().splitlines()
    assert len(calls) == 4  # three sources and the link
    assert sum("-O3" in c and "-DPIX2GAN_SOURCE_HASH=" in c for c in calls) == 3
    assert not any("-march=native" in c for c in calls)
    assert _native.build_cached(_native.CPU, csrc) == library
    assert len(log.read_text().splitlines()) == 4
    assert sorted(p.suffix for p in cache.iterdir()) == [".lock", ".so"]


def test_other_sources_are_another_build(csrc, cache, compiler):
    compiler(WORKS)
    first = _native.build_cached(_native.CPU, csrc)
    (csrc / "kernels.h").write_text("int b;\n")
    assert _native.build_cached(_native.CPU, csrc) != first


def test_of_builds_at_the_same_time_one_compiles(csrc, cache, compiler):
    log = compiler("sleep 0.2; " + WORKS)
    libraries: list[Path] = []
    threads = [
        threading.Thread(target=lambda: libraries.append(_native.build_cached(_native.CPU, csrc)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(libraries) == 4
    assert len(set(libraries)) == 1
    assert len(log.read_text().splitlines()) == 4


def test_who_waits_too_long_says_for_what(csrc, cache, compiler, monkeypatch):
    compiler("sleep 0.6; " + WORKS)
    thread = threading.Thread(target=_native.build_cached, args=(_native.CPU, csrc))
    thread.start()
    while not list(cache.glob("build-*")):
        time.sleep(0.01)
    monkeypatch.setenv("PIX2GAN_BUILD_TIMEOUT", "0.2")
    with pytest.raises(_native.BuildError, match=r"another process .* is locked"):
        _native.build_cached(_native.CPU, csrc)
    thread.join()


def test_a_failure_is_one_line_and_remembered(csrc, cache, compiler):
    log = compiler("echo 'In file x:' >&2; echo 'y.cpp:3: error: no such thing' >&2; exit 1")
    with pytest.raises(_native.BuildError, match=r"y\.cpp:3: error: no such thing") as caught:
        _native.build_cached(_native.CPU, csrc)
    assert "\n" not in str(caught.value)
    calls = len(log.read_text().splitlines())
    with pytest.raises(_native.BuildError, match=r"no such thing .*delete .* to try again"):
        _native.build_cached(_native.CPU, csrc)
    assert len(log.read_text().splitlines()) == calls
    compiler(WORKS + "; true")  # another compiler is given another try
    assert _native.build_cached(_native.CPU, csrc).is_file()
    assert not list(cache.glob("*.failed.json"))


def test_a_build_that_takes_too_long_is_ended(csrc, cache, compiler, monkeypatch):
    log = compiler("sleep 60")
    monkeypatch.setenv("PIX2GAN_BUILD_TIMEOUT", "0.3")
    start = time.monotonic()
    with pytest.raises(_native.BuildError, match="took too long"):
        _native.build_cached(_native.CPU, csrc)
    assert time.monotonic() - start < 10
    for line in log.read_text().splitlines():
        while runs(int(line.split()[0])):
            assert time.monotonic() - start < 30
            time.sleep(0.02)
    assert not list(cache.glob("build-*"))


def runs(process: int) -> bool:
    """Whether it is there and is not merely waiting to be collected by its parent."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_without_a_compiler(csrc, cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(_native.BuildError, match=r"no C\+\+ compiler was found .*install one"):
        _native.build_cached(_native.CPU, csrc)


def test_without_ninja(csrc, cache, compiler, monkeypatch):
    compiler(WORKS)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ninja", None)
        with pytest.raises(_native.BuildError, match="pip install ninja"):
            _native.build_cached(_native.CPU, csrc)
    assert _native.build_cached(_native.CPU, csrc).is_file()  # not remembered as a failure


def test_building_can_be_forbidden(csrc, cache, compiler, monkeypatch):
    log = compiler(WORKS)
    monkeypatch.setenv("PIX2GAN_BUILD", "0")
    with pytest.raises(_native.BuildError, match="PIX2GAN_BUILD=0"):
        _native.build_cached(_native.CPU, csrc)
    assert not log.exists()


def test_a_cache_that_cannot_be_written(csrc, tmp_path, compiler, monkeypatch):
    compiler(WORKS)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PIX2GAN_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(_native.BuildError, match="set PIX2GAN_CACHE_DIR"):
        _native.build_cached(_native.CPU, csrc)


def test_a_library_tells_its_sources(native):
    found = {_native.built_from(Path(path)) for path in torch.ops.loaded_libraries}
    assert torch.ops.pix2gan_native.build().removeprefix("PIX2GAN_SOURCE_HASH=") in found


def test_a_prebuilt_library_of_other_sources_is_passed_over(csrc, tmp_path, monkeypatch):
    stale = tmp_path / "_native_cpu.so"
    stale.write_bytes(b"\x7fELF PIX2GAN_SOURCE_HASH=0123456789abcdef\0")
    assert _native.built_from(stale) == "0123456789abcdef"
    monkeypatch.setattr(_native, "find_sources", lambda: csrc)
    monkeypatch.setattr(_native, "prebuilt_library", lambda library: stale)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("PIX2GAN_CACHE_DIR", str(tmp_path / "cache"))
    available, reason = _native._load(_native.CPU)
    assert not available
    assert "was built from other sources" in reason
    assert "no C++ compiler" in reason
    assert "\n" not in reason


def test_the_reference_takes_over(csrc, cache, register, monkeypatch):
    monkeypatch.setattr(_native.CPU, "_outcome", None)
    monkeypatch.setattr(_native, "find_sources", lambda: csrc)
    monkeypatch.setattr(_native, "prebuilt_library", lambda library: None)
    monkeypatch.setenv("CXX", "no-such-compiler")
    register("native again", cpu)
    x = torch.randn(1, 3, 4, 4)
    with pytest.raises(BackendError, match="no C\\+\\+ compiler"):
        ops.use_backend("native again")
    with ops.use_backend("reference"):
        expected = ops.bias_act(x, act="relu")
    with pytest.raises(BackendError), ops.use_backend("native again,reference"):
        pass
    assert torch.equal(ops.bias_act(x, act="relu"), expected)
