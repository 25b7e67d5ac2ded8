"""Conformance: the reference passes it, and backends that are wrong in one way each do not."""

from __future__ import annotations

import pytest
import torch

from pix2gan.errors import BackendError
from pix2gan.ops import conformance, dispatch
from pix2gan.ops.cases import DATA_ARGUMENTS, cases
from tests.ops.conftest import imitation

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


@pytest.mark.parametrize("subject", conformance.SUBJECTS)
def test_the_reference_passes(subject):
    dtypes = (torch.float64, *conformance.DTYPES)
    results = conformance.check("reference", dtypes=dtypes, subjects=[subject])
    assert conformance.failures(results) == []
    assert {r.status for r in results} == {"passed"}
    assert {r.dtype for r in results} == set(dtypes)
    assert {"contiguous", "channels_last"} <= {r.layout for r in results}


def check(register, subject, function, **changes):
    """The failures of an imitation of the reference in which one primitive is another function."""
    register("mutant", imitation(**{subject: function}, **changes))
    # float32 and bfloat16: one exact dtype and one with wide bars
    dtypes = (torch.float32, torch.bfloat16)
    return conformance.failures(conformance.check("mutant", dtypes=dtypes, subjects=[subject]))


def outputs_of(subject):
    """How many of a primitive's arguments are outputs."""
    return {"instance_norm_act": 3, "instance_norm_act_grad": 3, "instance_norm_stats": 2}.get(
        subject, 1
    )


@pytest.mark.parametrize("subject", DATA_ARGUMENTS)
def test_one_wrong_element(register, subject):
    def mutant(*args):
        getattr(REFERENCE, subject)(*args)
        out = args[-outputs_of(subject)]
        if out.numel():
            out[tuple(n - 1 for n in out.shape)] += 0.5 + out.abs().max()

    found = check(register, subject, mutant)
    assert {r.dtype for r in found} == {torch.float32, torch.bfloat16}
    assert "1 of" in found[0].message


@pytest.mark.parametrize("subject", DATA_ARGUMENTS)
def test_wrong_in_one_dtype(register, subject):
    def mutant(*args):
        getattr(REFERENCE, subject)(*args)
        if args[0].dtype == torch.bfloat16:
            args[-outputs_of(subject)].mul_(1.1)

    found = check(register, subject, mutant)
    assert found
    assert {r.dtype for r in found} == {torch.bfloat16}


@pytest.mark.parametrize("subject", ["bias_act", "upfirdn2d", "instance_norm_act", "scaled_conv2d"])
def test_ignores_the_strides_of_the_output(register, subject):
    def mutant(*args):
        k = outputs_of(subject)
        dense = [torch.empty_like(o, memory_format=torch.contiguous_format) for o in args[-k:]]
        getattr(REFERENCE, subject)(*args[:-k], *dense)
        for out, values in zip(args[-k:], dense, strict=True):
            out.as_strided((out.numel(),), (1,)).copy_(values.flatten())

    found = check(register, subject, mutant)
    assert {r.layout for r in found} <= {"channels_last", "mixed"}
    assert "channels_last" in {r.layout for r in found}


def test_changes_the_strides_of_the_output(register):
    def mutant(*args):
        REFERENCE.bias_act(*args)
        args[-1].set_(args[-1].clone())

    found = check(register, "bias_act", mutant)
    assert "strides or memory have been changed" in found[0].message


@pytest.mark.parametrize("where", ["before", "behind"])
def test_writes_one_element_too_many(register, where):
    def mutant(*args):
        REFERENCE.upfirdn2d(*args)
        out = args[-1]
        offset = out.storage_offset() + (out.numel() if where == "behind" else -1)
        out.as_strided((1,), (1,), offset).fill_(0)

    found = check(register, "upfirdn2d", mutant)
    assert "1 elements outside of it have been written" in found[0].message


def test_leaves_an_element_unwritten(register):
    def mutant(*args):
        out = args[-1]
        last = tuple(n - 1 for n in out.shape)
        there = out[last].clone() if out.numel() else None
        REFERENCE.bias_act(*args)
        if there is not None:
            out[last] = there

    found = check(register, "bias_act", mutant)
    assert found
    assert all("is nan for" in r.message or "second run" in r.message for r in found)


def test_adds_to_what_is_there(register):
    def mutant(*args):
        there = args[-1].nan_to_num(0)
        REFERENCE.bias_act(*args)
        args[-1].add_(there)

    found = check(register, "bias_act", mutant)
    assert found
    assert all("a second run differs" in r.message for r in found)


def test_is_not_deterministic(register):
    def mutant(*args):
        REFERENCE.bias_act(*args)
        args[-1].mul_(1 + 1e-7 * torch.rand(()))

    found = check(register, "bias_act", mutant)
    assert any("a second run differs" in r.message for r in found)


def test_changes_its_input(register):
    def mutant(*args):
        REFERENCE.bias_act(*args)
        args[0].mul_(0.5)

    found = check(register, "bias_act", mutant)
    assert any(
        "argument 0 has been changed" in r.message or "second run" in r.message for r in found
    )


def test_takes_strided_inputs_for_dense_ones(register):
    def mutant(*args):
        x = args[0]
        start = x.storage_offset()
        dense = x.as_strided(x.shape, torch.empty(x.shape).stride(), start) if x.dim() else x
        REFERENCE.bias_act(dense, *args[1:])

    found = check(register, "bias_act", mutant)
    assert {"channels_last", "strided"} <= {r.layout for r in found}
    assert "contiguous" not in {r.layout for r in found}


def test_crashes(register):
    def mutant(*args):
        raise MemoryError("out of threads")

    found = check(register, "upfirdn2d", mutant)
    assert "out of threads" in found[0].message


def test_tells_one_sided_variance(register):
    """E[x^2] - E[x]^2 is what the cases with a mean far above the deviation are for."""

    def mutant(x, mean, m2):
        v = x.to(mean.dtype)
        mean.copy_(v.mean((2, 3)))
        count = x.shape[2] * x.shape[3]
        m2.copy_(count * (v.square().mean((2, 3)) - mean.square()))

    found = check(register, "instance_norm_stats", mutant)
    assert found
    assert all("shifted" in r.case or "large" in r.case for r in found)


def test_wrong_gradients_of_whole_ops(register):
    def mutant(*args):
        REFERENCE.instance_norm_act_grad(*args)
        args[-3].mul_(1.01)

    register("mutant", imitation(instance_norm_act_grad=mutant))
    results = conformance.check(
        "mutant", dtypes=(torch.float32,), subjects=["op instance_norm_act"]
    )
    found = conformance.failures(results)
    assert {r.subject for r in found} == {"op instance_norm_act"}
    assert "derivative" in found[0].message


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


def test_unknown_names(register):
    with pytest.raises(BackendError, match="no backend named"):
        conformance.check("nobody")
    with pytest.raises(ValueError, match="no 'upfird' to check"):
        conformance.check("reference", subjects=["upfird"])
