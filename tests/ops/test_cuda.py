"""The CUDA kernels: emulated on a CPU, compiled for GPUs that are not there, and on one that is."""

from __future__ import annotations

import importlib.util
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F

from benchmarks import check_kernels
from pix2gan import ops
from pix2gan.errors import BackendError
from pix2gan.ops import cases as samples
from pix2gan.ops import conformance
from pix2gan.ops.backends import _native, cuda
from pix2gan.ops.cases import DATA_ARGUMENTS

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
PRIMITIVES = tuple(name for name in DATA_ARGUMENTS if hasattr(cuda, name))
OPS = tuple(s for s in conformance.SUBJECTS if s not in DATA_ARGUMENTS)
FORMATS = (torch.contiguous_format, torch.channels_last)
ARCHITECTURES = (80, 90, 100)


def load(name: str) -> ModuleType:
    """A module beside this one."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ----------------------------------------------------------------------------------------- emulated


@pytest.fixture(scope="module")
def library() -> ModuleType:
    """The emulated kernels; skips where they cannot be built."""
    module = load("cuda_emulated")
    available, reason = module.is_available()
    if not available:
        # A compiler that fails on them is a failure, one that is missing is not.
        assert shutil.which("c++") is None, reason
        pytest.skip(reason)
    return module


@pytest.fixture
def emulated(library: ModuleType, register: Callable[..., object]) -> Iterator[None]:
    register("emulated", library.backend())
    with ops.use_backend("emulated,reference"):
        yield


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes that fit on chip elsewhere are split among blocks."""
    monkeypatch.setenv("PIX2GAN_EMULATED_SHARED_MEMORY", "256")


def check(monkeypatch: pytest.MonkeyPatch, subject: str, step: int) -> None:
    """Conformance in every ``step``-th case, others for each dtype."""
    results = []
    for k, dtype in enumerate(conformance.DTYPES):
        start = k * step // len(conformance.DTYPES)
        for module, name in ((samples.cases, "cases"), (samples.op_cases, "op_cases")):
            chosen = lambda what, f=module, i=start: f(what)[i::step]  # noqa: E731
            monkeypatch.setattr(conformance, name, chosen)
        results += conformance.check("emulated", dtypes=(dtype,), subjects=[subject])
    assert results
    assert conformance.failures(results) == []
    assert {r.status for r in results} == {"passed"}


@pytest.mark.parametrize("subject", PRIMITIVES)
def test_primitives_conform(emulated, monkeypatch, subject):
    check(monkeypatch, subject, 7)


@pytest.mark.stress
@pytest.mark.parametrize("subject", PRIMITIVES)
def test_primitives_conform_in_every_case(emulated, monkeypatch, subject):
    check(monkeypatch, subject, 1)


@pytest.mark.stress
@pytest.mark.parametrize("subject", [p for p in PRIMITIVES if p.startswith("instance_norm")])
def test_split_planes_conform_in_every_case(emulated, little_memory, monkeypatch, subject):
    check(monkeypatch, subject, 1)


@pytest.mark.stress
@pytest.mark.parametrize("subject", OPS)
def test_ops_conform(emulated, monkeypatch, subject):
    check(monkeypatch, subject, 3)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(1, 2, 130, 127), (2, 24, 16, 18)])
def test_statistics_far_from_zero(emulated, little_memory, memory_format, shape):
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


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradient_of_split_planes(emulated, little_memory, memory_format):
    x = (torch.randn(1, 9, 40, 31) + 3).contiguous(memory_format=memory_format)
    results = []
    for backend in ("emulated", "reference"):
        leaf = x.clone().requires_grad_()
        weight = torch.full([9], 1.5, requires_grad=True)
        with ops.use_backend(backend):
            y = ops.instance_norm_act(leaf, weight, act="swish", pad=3)
            y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)))
        results.append((leaf.grad, weight.grad))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("taps", [[1.0, 2.0], [1.0, 2.0, 1.0], [[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]]])
def test_upfirdn2d_with_every_phase(emulated, memory_format, taps):
    x = torch.randn(1, 16, 19, 44).contiguous(memory_format=memory_format)
    f = ops.setup_filter(taps)
    for up, down, padding in ((1, 1, (1, 2, 2, 1)), (2, 1, (1, 2, 2, 1)), (1, 2, (0, 1, 3, 2))):
        options = {"up": up, "down": down, "padding": padding, "gain": float(up**2)}
        got = ops.upfirdn2d(x, f, **options)
        with ops.use_backend("reference"):
            exact = ops.upfirdn2d(x.double(), f.double(), **options)
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", conformance.DTYPES)
def test_scaled_conv2d_keeps_to_layouts(emulated, memory_format, dtype):
    # half precision is convolved channels-last whatever x is: turned on the way in and out
    x = torch.randn(2, 40, 9, 7).to(dtype).contiguous(memory_format=memory_format)
    w = (torch.randn(33, 40, 3, 3) / 19).to(dtype)
    s, d, b = torch.rand(2, 40) + 0.5, torch.rand(2, 33) + 0.5, torch.randn(33)
    noise = torch.randn(2, 1, 9, 7).to(dtype)
    args = (s, d, 1, 1, False, 9, 7, noise, b, "lrelu", 0.2, 1.5, 3.0)
    got = torch.ops.pix2gan.scaled_conv2d(x, w, *args)
    with ops.use_backend("reference"):
        expected = torch.ops.pix2gan.scaled_conv2d(x, w, *args)
    assert got.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_pixel_that_is_not_a_number_reaches_its_neighbours_only(emulated, memory_format):
    x = torch.zeros(1, 8, 9, 12).contiguous(memory_format=memory_format)
    x[0, 3, 4, 4] = float("nan")
    f = ops.setup_filter([1.0, 2.0, 1.0])
    for up, down in ((1, 1), (2, 1), (1, 2)):
        y = ops.upfirdn2d(x, f, up=up, down=down, padding=1)
        with ops.use_backend("reference"):
            expected = ops.upfirdn2d(x[:, 3:4], f, up=up, down=down, padding=1)
        assert torch.equal(y[:, 3:4].isnan(), expected.isnan())
        assert not y[:, :3].isnan().any()
        assert not y[:, 4:].isnan().any()


# What is wrong with a kernel, and what shows it: (file, text, replacement, subject, message)
MUTANTS = {
    "a barrier is missing": (
        "device.cuh",
        "memory[own * count + i] = v[i];\n    __syncthreads();",
        "memory[own * count + i] = v[i];",
        "instance_norm_act",
        "elements are off|differs",
    ),
    "not all reach a barrier": (
        "instance_norm.cu",
        "    memory[threadIdx.x] = own;\n    __syncthreads();",
        "    memory[threadIdx.x] = own;\n    if (lane == 0) __syncthreads();",
        "instance_norm_stats",
        "not all reach a barrier",
    ),
    "a vector is not aligned": (
        "bias_act.cu",
        "bool aligned = is_aligned(k.out);",
        "bool aligned = true;",
        "bias_act",
        "a vector is not aligned",
    ),
    "a write beside shared memory": (
        "upfirdn2d.cu",
        "c < g.pitch; c += warp)",
        "c < g.pitch + 24; c += warp)",
        "upfirdn2d",
        "beside its shared memory|elements are off",
    ),
}


@pytest.mark.stress
@pytest.mark.parametrize("name", MUTANTS)
def test_what_is_wrong_with_a_kernel_shows(library, tmp_path, monkeypatch, register, name):
    file, text, replacement, subject, message = MUTANTS[name]
    source = tmp_path / "csrc"
    shutil.copytree(CSRC, source)
    kernel = source / "cuda" / file
    assert text in kernel.read_text()
    kernel.write_text(kernel.read_text().replace(text, replacement))
    mutant = load("cuda_emulated")
    mutant.LIBRARY.flags = tuple(
        f.replace("pix2gan_cuda_emulated", f"pix2gan_mutant_{file.split('.')[0]}_{len(text)}")
        for f in mutant.LIBRARY.flags
    )
    mutant.LIBRARY.namespace = f"pix2gan_mutant_{file.split('.')[0]}_{len(text)}"
    monkeypatch.setenv("PIX2GAN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_native, "find_sources", lambda: source)
    assert mutant.is_available() == (True, "")
    register("mutant", mutant.backend())
    results = conformance.check("mutant", dtypes=(torch.float32,), subjects=[subject])
    failed = conformance.failures(results)
    assert failed
    assert any(re.search(message, r.message) for r in failed), failed[0].message


# ----------------------------------------------------------------------------------------- compiled


def test_the_binding_compiles_with_the_headers_at_hand():
    compiler = _native.find_compiler("the CUDA kernels")
    include = Path(torch.__file__).parent / "include"
    flags = [f for f in _native.CUDA.flags if not f.startswith("-O")]
    command = [*compiler, _native.STANDARD, *flags, "-fsyntax-only", f"-I{include}"]
    done = subprocess.run([*command, str(CSRC / "binding.cpp")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def compile_for(file: str, architecture: int) -> None:
    try:
        nvcc = _native.find_nvcc()
    except _native.BuildError as error:
        pytest.skip(str(error))
    command = [nvcc, _native.STANDARD, *_native.NVCC_FLAGS, "-cubin", "-o", "/dev/null"]
    command += [f"-arch=sm_{architecture}", "-Xptxas=-v", str(CSRC / "cuda" / file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    usage, _ = check_kernels.parse_ptxas(done.stderr)
    assert usage.spilled == 0
    assert usage.shared <= 48 * 1024


def test_the_smallest_file_compiles_without_spills():
    compile_for("scale_act.cu", 90)


def test_what_the_assembler_says_is_read():
    # a kernel of the report, and one that spills
    text = (
        "ptxas info    : Compiling entry function 'a' for 'sm_90'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_90'\n"
        "    16 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 64 registers, used 0 barriers\n"
    )
    usage, count = check_kernels.parse_ptxas(text)
    assert count == 2
    assert (usage.registers, usage.shared, usage.spilled) == (64, 1024, 28)
    with pytest.raises(RuntimeError, match="reports no kernel"):
        check_kernels.parse_ptxas("")


@pytest.mark.stress
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", sorted(f.name for f in (CSRC / "cuda").glob("*.cu")))
def test_every_file_compiles_without_spills(file, architecture):
    compile_for(file, architecture)


# ------------------------------------------------------------------------------------- availability


def test_without_a_gpu_it_says_why(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert cuda.is_available() == (False, f"torch {torch.__version__} was built for the CPU only")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.is_available() == (False, "torch finds no NVIDIA GPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_forced_it_raises_the_reason():
    with pytest.raises(BackendError, match="'cuda' is not available: torch"):
        ops.use_backend("cuda")


def test_without_nvcc_the_reason_names_it(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(_native.CUDA, "_outcome", None)
    monkeypatch.setattr(_native, "prebuilt_library", lambda library: None)
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    monkeypatch.setenv("PIX2GAN_CACHE_DIR", str(tmp_path))
    available, reason = cuda.is_available()
    assert not available
    assert "no nvcc was found (NVCC=no-such-nvcc); install the CUDA toolkit" in reason
    assert "\n" not in reason


# -------------------------------------------------------------------------------------------- build


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    folder = tmp_path / "csrc"
    for part in ("cpu", "cuda"):
        (folder / part).mkdir(parents=True)
    (folder / "kernels.h").write_text("int a;\n")
    for name in ("binding.cpp", "cpu/one.cpp", "cuda/two.cu", "cuda/three.cu", "cuda/device.cuh"):
        (folder / name).write_text("not C++\n")
    return folder


@pytest.fixture
def toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """toolchain(script): c++ and nvcc that log each call and run a line of shell."""
    log = tmp_path / "calls"
    monkeypatch.setenv("PIX2GAN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    monkeypatch.delenv("PIX2GAN_BUILD", raising=False)

    def make(line: str) -> Path:
        for variable, name in (("CXX", "fake++"), ("NVCC", "fakecc")):
            program = tmp_path / name
            program.write_text(
                f'#!/bin/sh\necho {name} "$@" >> {log}\n'
                'while [ "$1" != -o ]; do shift; done; out="$2"\n' + line + "\n"
            )
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
            monkeypatch.setenv(variable, str(program))
        return log

    return make


WORKS = 'echo library > "$out"'


def test_kernels_go_through_nvcc_and_the_binding_does_not(csrc, toolchain):
    log = toolchain(WORKS)
    library = _native.build_cached(_native.CUDA, csrc)
    assert library.name.startswith("cuda-")
    assert library.name.endswith("-sm80-90.so")
    calls = log.read_text().splitlines()
    compiled = [c for c in calls if " -c " in c]
    assert len(compiled) == 3
    assert len(calls) == 4
    for call in compiled:
        if ".cu " in call:
            assert call.startswith("fakecc")
            assert "arch=compute_80,code=sm_80" in call
            assert "arch=compute_90,code=sm_90" in call
        else:
            assert call.startswith("fake++")
            assert "-DPIX2GAN_CUDA" in call
    (link,) = (c for c in calls if " -c " not in c)
    assert link.startswith("fakecc")
    assert "-ltorch_cuda" in link
    assert _native.build_cached(_native.CUDA, csrc) == library
    assert len(log.read_text().splitlines()) == 4


def test_each_architecture_is_a_build_of_its_own(csrc, toolchain, monkeypatch):
    toolchain(WORKS)
    first = _native.build_cached(_native.CUDA, csrc)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "10.0a")
    second = _native.build_cached(_native.CUDA, csrc)
    assert second.name.endswith("-sm100a.so")
    assert first != second


def test_the_gpus_of_this_machine_are_built_for(csrc, monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: ((9, 0), (8, 0), (9, 0))[device]
    )
    assert _native.cuda_architectures() == ("80", "90")


def test_sources_of_the_cpu_leave_the_cuda_build_alone(csrc):
    before = _native.CUDA.source_hash(csrc), _native.CPU.source_hash(csrc)
    (csrc / "cpu/one.cpp").write_text("other\n")
    assert _native.CUDA.source_hash(csrc) == before[0]
    assert _native.CPU.source_hash(csrc) != before[1]
    (csrc / "cuda/device.cuh").write_text("other\n")
    assert _native.CUDA.source_hash(csrc) != before[0]


def test_a_failure_of_nvcc_is_one_line_and_remembered(csrc, toolchain):
    log = toolchain("echo 'two.cu(3): error: no such thing' >&2; exit 1")
    with pytest.raises(_native.BuildError, match=r"could not compile .*two\.cu\(3\): error"):
        _native.build_cached(_native.CUDA, csrc)
    calls = len(log.read_text().splitlines())
    with pytest.raises(_native.BuildError, match="to try again"):
        _native.build_cached(_native.CUDA, csrc)
    assert len(log.read_text().splitlines()) == calls


def test_a_list_of_architectures_that_has_none(csrc, toolchain, monkeypatch):
    toolchain(WORKS)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Hopper")
    with pytest.raises(_native.BuildError, match="TORCH_CUDA_ARCH_LIST has no architecture"):
        _native.build_cached(_native.CUDA, csrc)


# ----------------------------------------------------------------------------------------- on a GPU

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@on_a_gpu
@pytest.mark.stress
@pytest.mark.parametrize("subject", conformance.SUBJECTS)
def test_conforms_on_a_gpu(subject):
    results = conformance.check("cuda", "cuda", subjects=[subject])
    assert conformance.failures(results) == []


@on_a_gpu
@pytest.mark.stress
def test_a_thousand_runs_give_the_same_bits():
    x = torch.randn(2, 64, 130, 130, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    f = ops.setup_filter([1, 3, 3, 1], device="cuda")
    with ops.use_backend("cuda,reference"):
        for memory_format in FORMATS:
            first = None
            for _ in range(1000):
                leaf = x.detach().contiguous(memory_format=memory_format).requires_grad_()
                y = ops.downsample2d(ops.instance_norm_act(leaf, act="swish", pad=1), f)
                (dx,) = torch.autograd.grad(y.float().square().sum(), leaf)
                first = (y, dx) if first is None else first
                assert torch.equal(y, first[0])
                assert torch.equal(dx, first[1])


@on_a_gpu
@pytest.mark.stress
def test_tensors_past_two_to_the_31():
    free, _ = torch.cuda.mem_get_info()
    if free < 20 * 2**30:
        pytest.skip("less than 20 GiB are free")
    x = torch.randn(1, 1, 2**16, 2**15 + 8, device="cuda", dtype=torch.bfloat16)
    with ops.use_backend("cuda"):
        y = ops.bias_act(x, act="relu", gain=1)
        assert torch.equal(y[:, :, -8:], x[:, :, -8:].relu())
        mean = ops.instance_norm_stats(x).mean
    assert abs(float(mean)) < 1e-3
