"""Conformance: the reference passes it, and backends that are wrong in one way each do not."""

from __future__ import annotations

import re
from itertools import cycle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pix2gan.errors import BackendError
from pix2gan.ops import conformance, dispatch
from pix2gan.ops.cases import DATA_ARGUMENTS, bad_calls, cases, op_cases
from tests.ops.conftest import imitation
from tests.ops.mutants import MUTANTS, anywhere, outputs_of

REFERENCE = dispatch.load_backend("reference")


def test_every_primitive_has_its_cases():
    assert set(DATA_ARGUMENTS) == set(dispatch.primitives())
    for primitive in dispatch.primitives():
        found = cases(primitive)
        assert len(found) >= 30
        assert len({c.label for c in found}) == len(found)
        shapes = [c.args[0].shape for c in found]
        assert any(0 in s for s in shapes), "an empty batch"
        assert any(s[-2:] == (1, 1) for s in shapes), "1 x 1"


def test_every_op_has_its_cases_and_its_refusals():
    for subject in conformance.SUBJECTS:
        if subject not in DATA_ARGUMENTS:
            op = subject.removeprefix("op ")
            assert len({c.label for c in op_cases(op)}) == len(op_cases(op)) >= 30
            assert len({c.label for c in bad_calls(op)}) == len(bad_calls(op)) >= 8


@pytest.mark.parametrize("subject", conformance.SUBJECTS)
def test_the_reference_passes(subject):
    dtypes = (torch.float64, *conformance.DTYPES)
    results = conformance.check("reference", dtypes=dtypes, subjects=[subject])
    assert conformance.failures(results) == []
    assert {r.status for r in results} == {"passed"}
    assert {r.dtype for r in results} == set(dtypes)
    assert {"contiguous", "channels_last"} <= {r.layout for r in results}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_wrong_backend_fails(register, mutant):
    register("mutant", imitation(**{mutant.subject: mutant.function}))
    results = conformance.check("mutant", dtypes=mutant.dtypes, subjects=[mutant.subject])
    found = conformance.failures(results)
    assert found
    assert {r.subject for r in found} == {mutant.subject}
    assert [conformance.line(r) for r in found if not mutant.where(r)] == []
    assert all(re.search(mutant.message, r.message) for r in found)
    if mutant.where is not anywhere:
        assert any(not mutant.where(r) for r in results), "where it is right it passes"


def test_every_primitive_has_its_mutants():
    assert {mutant.subject for mutant in MUTANTS} == set(DATA_ARGUMENTS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 50


# Every primitive that an op comes to, also by its derivatives.
PARTS = {
    "op bias_act": ("bias_act", "bias_act_grad", "bias_act_grad2"),
    "op upfirdn2d": ("upfirdn2d",),
    "op instance_norm_act": ("instance_norm_act", "instance_norm_act_grad"),
    "op modulated_conv2d": ("scaled_conv2d", "scaled_conv2d_wgrad", "upfirdn2d", "bias_act_grad"),
}


@pytest.fixture
def few(monkeypatch):
    """Every fifth case of an op."""
    monkeypatch.setattr(conformance, "op_cases", lambda op: op_cases(op)[4::5])


@pytest.mark.parametrize(
    ("dtype", "factor"), [(torch.float32, 1.0001), (torch.float16, 1.01), (torch.bfloat16, 1.05)]
)
@pytest.mark.parametrize(
    ("subject", "primitive"), [(op, part) for op, parts in PARTS.items() for part in parts]
)
def test_a_wrong_part_of_an_op_fails(register, few, subject, primitive, dtype, factor):
    """Each factor is a few roundings of its dtype: the bars of an op are no wider than that."""

    def mutant(*args):
        getattr(REFERENCE, primitive)(*args)
        args[-outputs_of(primitive)].mul_(factor)

    register("mutant", imitation(**{primitive: mutant}))
    results = conformance.check("mutant", dtypes=(dtype,), subjects=[subject])
    found = conformance.failures(results)
    assert {r.subject for r in found} == {subject}
    assert all(re.search("elements are off", r.message) for r in found)


@pytest.mark.parametrize(("error", "message"), [(0, None), (1, "y without gradients: 1 of")])
def test_a_wrong_shortcut_fails(register, few, error, message):
    def shortcut(x, *args):
        outs = dispatch.allocate("instance_norm_act", x, *args)
        REFERENCE.instance_norm_act(x, *args, *outs)
        outs[0][-1:, -1:, -1:, -1:] += error
        return outs[0]

    register("short", imitation(new_instance_norm_act=shortcut))
    results = conformance.check("short", dtypes=[torch.float32], subjects=["op instance_norm_act"])
    found = conformance.failures(results)
    assert bool(found) == bool(message)
    assert all(r.message.startswith(message) for r in found)


@pytest.mark.parametrize("subject", PARTS)
def test_a_right_backend_that_rounds_otherwise_conforms(register, few, subject):
    """One that takes the neighbour of the reference's result here and there."""

    def rounded_anew(primitive):
        def function(*args):
            getattr(REFERENCE, primitive)(*args)
            for out in args[-outputs_of(primitive) :]:
                if out.dtype in (torch.float16, torch.bfloat16):
                    up = torch.rand(out.shape, generator=generator) < 0.25
                    out.copy_(torch.where(up, torch.nextafter(out, 2 * out), out))

        return function

    generator = torch.Generator().manual_seed(0)
    register("rounding", imitation(**{p: rounded_anew(p) for p in PARTS[subject]}))
    results = conformance.check("rounding", dtypes=(torch.bfloat16,), subjects=[subject])
    assert conformance.failures(results) == []


def test_float32_is_checked_without_tf32(register):
    seen = set()

    def function(*args):
        seen.add(torch.backends.cudnn.conv.fp32_precision)
        REFERENCE.scaled_conv2d(*args)

    register("watching", imitation(scaled_conv2d=function))
    before = torch.backends.cudnn.conv.fp32_precision
    conformance.check("watching", dtypes=(torch.float32,), subjects=["scaled_conv2d"])
    assert seen == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_unsupported_is_not_passed(register):
    register("narrow", imitation(supports=lambda p, *args: args[0].dtype == torch.float32))
    results = conformance.check("narrow", subjects=["bias_act_grad"])
    assert {r.status for r in results if r.dtype == torch.float32} == {"passed"}
    assert {r.status for r in results if r.dtype != torch.float32} == {"unsupported"}
    register("partial", imitation(upfirdn2d=None))
    results = conformance.check("partial", dtypes=(torch.float32,), subjects=["upfirdn2d"])
    assert {r.status for r in results} == {"unsupported"}
    rows = conformance.table(results).splitlines()
    assert any("upfirdn2d" in row and "float32" in row for row in rows)


def test_computing_what_is_not_supported_fails(register):
    """A backend that declines, and is found at work when it is forced."""
    answers = cycle([False, True])
    register("fickle", imitation(supports=lambda primitive, *args: next(answers)))
    results = conformance.check("fickle", dtypes=(torch.float32,), subjects=["bias_act"])
    assert {r.status for r in results} == {"failed"}
    assert all("forcing the backend raised no BackendError" in r.message for r in results)


def test_an_op_that_a_backend_has_no_part_in_is_unsupported(register):
    register("partial", imitation(upfirdn2d=None))
    options = {"dtypes": (torch.float32,), "subjects": ["op upfirdn2d"]}
    assert {r.status for r in conformance.check("partial", **options)} == {"unsupported"}


class NoFloat64(TorchDispatchMode):
    """Refuses float64 on the device meta, which stands for one that does not have it."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor) and t.is_meta:
                assert t.dtype != torch.float64, func
        return out


@pytest.mark.parametrize("dtype", conformance.DTYPES)
def test_no_float64_reaches_the_device(dtype):
    with NoFloat64():
        for case in (c for p in DATA_ARGUMENTS for c in cases(p)[:9]):
            for arrange in conformance._LAYOUTS.values():
                args = arrange(case, case.cast(dtype, "meta"))
                for out in dispatch.allocate(case.primitive, *args) if args else ():
                    conformance._Guarded(out, 61, -7.0)
        for case in op_cases("upfirdn2d")[:3] + op_cases("modulated_conv2d")[:3]:
            tensors = {name: t.to("meta") for name, t in case.cast(dtype).items()}
            conformance._derivatives(case, tensors)


def test_unknown_names(register):
    with pytest.raises(BackendError, match="no backend named"):
        conformance.check("nobody")
    with pytest.raises(ValueError, match="no 'upfird' to check"):
        conformance.check("reference", subjects=["upfird"])
