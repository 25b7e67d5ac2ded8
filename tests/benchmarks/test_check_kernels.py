"""What ``make check-kernels`` compiles, and its table; compiling is left to the stress tests."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from benchmarks import check_kernels
from benchmarks.check_kernels import Row, Usage


def test_every_primitive_is_compiled_as_generators_call_it():
    found = check_kernels.samples()
    plans = {sample.plan.__name__ for sample in found}
    assert len(plans) == 9
    of_generators = {s.plan.__name__ for s in found if s.name.startswith("modulated_")}
    assert of_generators == {
        "plan_bias_act",
        "plan_bias_act_grad",
        "plan_upfirdn2d",
        "plan_scaled_conv2d",
        "plan_scaled_conv2d_wgrad",
    }
    for target in ("sm_90", "gfx1100"):
        arch = check_kernels.architecture(target)
        for sample in found[-40:]:
            for launch in sample.plan(*sample.arguments, arch):
                check_kernels.specialize(launch, target in check_kernels.HIP_TARGETS)


def test_the_table_has_the_largest_figures_and_the_failures():
    rows = [
        Row("gfx942", "b", "one", 256, Usage(40, 100, 0), ""),
        Row("sm_80", "a", "one", 128, Usage(60, 0, 8), "it spills registers"),
        Row("sm_80", "a", "two", 128, Usage(30, 512, 0), ""),
        Row("sm_80", "a", "three", 128, None, "no such instruction"),
    ]
    head, first, second = check_kernels.table(rows).splitlines()
    assert head.split()[:4] == ["target", "kernel", "compiled", "failed"]
    assert first.split() == ["sm_80", "a", "3", "2", "60", "512", "8"]
    assert second.split() == ["gfx942", "b", "1", "0", "40", "100", "0"]
