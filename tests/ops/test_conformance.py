"""Conformance: the reference passes it, and backends that are wrong in one way each do not."""

from __future__ import annotations

import re

import pytest
import torch

from pix2gan.errors import BackendError
from pix2gan.ops import conformance, dispatch
from pix2gan.ops.cases import DATA_ARGUMENTS, cases
from tests.ops.conftest import imitation
from tests.ops.mutants import MUTANTS, anywhere

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
