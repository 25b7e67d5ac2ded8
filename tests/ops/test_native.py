"""The native CPU kernels: right by the conformance suite, whatever the number of threads."""

from __future__ import annotations

import pytest
import torch

from pix2gan.ops import conformance, use_backend
from pix2gan.ops.backends import cpu
from pix2gan.ops.bias_act import bias_act


@pytest.fixture(scope="module", autouse=True)
def _available() -> None:
    available, reason = cpu.is_available()
    if not available:
        pytest.skip(reason)


def test_conforms() -> None:
    results = conformance.check("cpu")
    assert results
    assert not conformance.failures(results), conformance.table(conformance.failures(results))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_a_bit(threads: int) -> None:
    from pix2gan.ops.instance_norm import instance_norm_act

    x = torch.randn(2, 24, 65, 33).to(torch.bfloat16).to(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    with use_backend("cpu"):
        expected = instance_norm_act(x, act="relu", pad=1), bias_act(x, act="lrelu")
        try:
            torch.set_num_threads(threads)
            got = instance_norm_act(x, act="relu", pad=1), bias_act(x, act="lrelu")
        finally:
            torch.set_num_threads(before)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)
