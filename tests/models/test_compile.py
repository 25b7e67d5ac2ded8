"""torch.compile(fullgraph=True) over every generator: one graph, any backend behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from pix2gan import ops
from pix2gan.models import create_generator, list_models

TINY = {
    "unet128": {"num_downs": 3},
    "unet256": {"num_downs": 4, "upsampling": "nearest"},
    "unet512": {"num_downs": 3, "downsampling": "blur", "upsampling": "blur"},
    "resnet6": {"num_blocks": 1},
    "resnet9": {"num_blocks": 2, "downsampling": "blur", "upsampling": "blur"},
    "pix2pixhd": {"num_blocks": 1, "num_downs": 2},
    "pix2pixhd_enhancer": {"num_blocks": 1, "num_downs": 1, "enhancer_blocks": 1},
    "modulated_unet": {"num_downs": 2},
    "modulated_resnet": {"num_blocks": 1},
}
NATIVE = next(b.available for b in ops.list_backends() if b.name == "cpu")
BACKENDS = ("reference", *(["cpu,reference"] if NATIVE else []))


def tiny(name: str) -> torch.nn.Module:
    return create_generator(name, width=2, **TINY[name])


def gradients(network: torch.nn.Module, call, x: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    torch.manual_seed(4)
    call(x).square().mean().backward()
    return {k: p.grad.clone() for k, p in network.named_parameters() if p.grad is not None}


def assert_compiles(name: str, backend: str) -> None:
    """Values and gradients equal those of eager; dispatch happens behind the graph."""
    torch._dynamo.reset()
    network = tiny(name)
    # The modulated generators draw a style code; inductor would draw another one than eager.
    options = {"fallback_random": True} if backend == "inductor" else None
    compiled = torch.compile(network, fullgraph=True, backend=backend, options=options)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    for kernels in BACKENDS:
        with ops.use_backend(kernels):
            network.eval()
            with torch.no_grad():
                torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
            network.train()
            found, expected = gradients(network, compiled, x), gradients(network, network, x)
            assert found.keys() == expected.keys()
            for key, gradient in expected.items():
                torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-5)


def test_every_generator_is_here():
    assert sorted(TINY) == list_models()


@pytest.mark.parametrize("name", TINY)
def test_one_graph(name):
    assert_compiles(name, "aot_eager")


@pytest.mark.stress
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", TINY)
def test_one_graph_through_inductor(name):
    assert_compiles(name, "inductor")


@pytest.mark.parametrize("name", ["unet256", "resnet9", "modulated_unet", "modulated_resnet"])
def test_one_graph_serves_several_sizes(name):
    torch._dynamo.reset()
    network = tiny(name).eval()
    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(network, fullgraph=True, backend=counting, dynamic=True)
    with torch.no_grad():
        for n, height, width in ((2, 32, 48), (3, 48, 16 * 5), (4, 64, 32)):
            x = torch.rand(n, 3, height, width)
            torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", ["unet256", "modulated_unet", "modulated_resnet"])
def test_autocast(name):
    torch._dynamo.reset()
    network = tiny(name).eval()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = compiled(x)
        torch.testing.assert_close(y, network(x), rtol=0.02, atol=0.02)
    assert y.dtype == torch.bfloat16


INTERPRETED = """
    import ast, sys, torch
    from pix2gan import ops
    from pix2gan.models import create_generator

    name, options = sys.argv[1], ast.literal_eval(sys.argv[2])
    torch.manual_seed(0)
    network = create_generator(name, width=2, **options).eval()
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        with ops.use_backend("reference"):
            expected = compiled(x)
        with ops.use_backend("triton"):
            found = compiled(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.equal(found, expected), "these are other kernels"
"""


@pytest.mark.stress
@pytest.mark.parametrize("name", TINY)
def test_compiled_code_runs_on_interpreted_triton(name):
    pytest.importorskip("triton")
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INTERPRETED), name, repr(TINY[name])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
