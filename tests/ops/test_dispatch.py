"""Which backend computes: forced, automatic, missing, third parties', and while compiled."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pix2gan import ops
from pix2gan.errors import BackendError
from pix2gan.ops import dispatch
from tests.ops.conftest import imitation

X = torch.randn(1, 2, 4, 4)


@pytest.fixture(autouse=True)
def _reference_alone(monkeypatch):
    """Whatever this machine has besides, and nothing is compiled for these tests."""
    alone = {"reference": dispatch._registered["reference"]}
    monkeypatch.setattr(dispatch, "_registered", alone)
    monkeypatch.setattr(dispatch, "_candidates", {})
    monkeypatch.setitem(dispatch.PREFERENCE, ("cpu", "*"), ("reference",))


def filling(value, **changes):
    """A backend whose bias_act writes one number, so that one sees who was at work."""
    members = {"bias_act": lambda *args: args[-1].fill_(value), **changes}
    return imitation(**members)


def who():
    return float(ops.bias_act(X, act="relu").flatten()[0])


def test_every_primitive_of_the_design_is_defined():
    assert set(dispatch.primitives()) == {
        "bias_act",
        "bias_act_grad",
        "bias_act_grad2",
        "upfirdn2d",
        "instance_norm_stats",
        "instance_norm_act",
        "instance_norm_act_grad",
        "scaled_conv2d",
        "scaled_conv2d_wgrad",
    }


def test_forcing_and_going_back(register):
    register("seven", filling(7))
    register("eight", filling(8))
    with ops.use_backend("seven"):
        assert who() == 7
        with ops.use_backend("eight"):
            assert who() == 8
        assert who() == 7
        with ops.use_backend(None):
            assert who() not in (7, 8)
    assert who() not in (7, 8)


def test_forcing_is_undone_by_an_exception(register):
    register("seven", filling(7))
    with pytest.raises(KeyError), ops.use_backend("seven"):
        raise KeyError
    assert who() != 7


def test_forcing_by_the_environment(register, monkeypatch):
    register("seven", filling(7))
    register("eight", filling(8))
    monkeypatch.setenv("PIX2GAN_BACKEND", "seven")
    assert who() == 7
    with ops.use_backend("eight"):  # nearer than the environment
        assert who() == 8
    monkeypatch.setenv("PIX2GAN_BACKEND", "sevn")
    with pytest.raises(BackendError, match=r"no backend named 'sevn': did you mean 'seven'\?"):
        who()


def test_forced_and_unavailable_raises_with_the_reason(register):
    register("broken", imitation(is_available=lambda: (False, "no driver of that name")))
    with pytest.raises(BackendError, match="'broken' is not available: no driver of that name"):
        ops.use_backend("broken")
    assert who() is not None  # and nothing has been forced


def test_forced_and_impossible_to_import_raises_with_the_reason(register):
    register("absent", "pix2gan_no_such_module.backend")
    with pytest.raises(BackendError, match="ModuleNotFoundError: No module named"):
        ops.use_backend("absent")


def test_forced_by_the_environment_and_unavailable(register, monkeypatch):
    register("broken", imitation(is_available=lambda: (False, "no driver of that name")))
    monkeypatch.setenv("PIX2GAN_BACKEND", "broken")
    with pytest.raises(BackendError, match="no driver of that name"):
        who()


def test_forced_without_the_primitive_raises(register):
    register("partial", imitation(bias_act=None))
    with ops.use_backend("partial"), pytest.raises(BackendError, match="not implement bias_act"):
        who()


def test_forced_without_the_dtype_raises(register):
    def supports(primitive, *args):
        return args[0].dtype == torch.float32

    register("narrow", imitation(supports=supports))
    with ops.use_backend("narrow"):
        who()
        with pytest.raises(BackendError, match="'narrow' does not support bias_act of bfloat16"):
            ops.bias_act(X.bfloat16(), act="relu")


def test_forced_on_another_device_raises(register):
    register("elsewhere", imitation(DEVICES=("cuda",)))
    with (
        ops.use_backend("elsewhere"),
        pytest.raises(BackendError, match="runs on cuda, the tensors are on cpu"),
    ):
        who()


def test_a_list_is_tried_in_order(register):
    register("partial", filling(7, upfirdn2d=None))
    with ops.use_backend("partial,reference"):
        assert who() == 7
        assert torch.equal(ops.upfirdn2d(X, None), X)


@pytest.fixture
def first(monkeypatch, register):
    """``first(name, target)``: registered and preferred to all others on the CPU."""

    def first(name, target):
        monkeypatch.setitem(dispatch.PREFERENCE, ("cpu", "*"), (name,))
        return register(name, target)

    return first


def test_automatic_takes_the_preferred(first):
    first("seven", filling(7))
    assert who() == 7


def test_preference_for_a_single_primitive(first, register, monkeypatch):
    first("seven", filling(7))
    monkeypatch.setitem(dispatch.PREFERENCE, ("cpu", "bias_act"), ("eight", "seven"))
    register("eight", filling(8))
    assert who() == 8


def test_automatic_falls_back_and_says_so_once(first, caplog):
    first("broken", imitation(is_available=lambda: (False, "the compiler is missing")))
    with caplog.at_level(logging.INFO, "pix2gan.ops"):
        values = {who() for _ in range(3)}
        ops.bias_act(X.double(), act="relu")
        ops.upfirdn2d(X, None)
    assert len(values) == 1
    said = [r for r in caplog.records if "'broken'" in r.getMessage()]
    assert [r.levelno for r in said] == [logging.WARNING]
    assert "the compiler is missing" in said[0].getMessage()


def test_automatic_falls_through_a_missing_function(first, caplog):
    first("partial", filling(7, upfirdn2d=None))
    with caplog.at_level(logging.INFO, "pix2gan.ops"):
        assert who() == 7
        assert torch.equal(ops.upfirdn2d(X, None), X)
    assert "does not implement upfirdn2d" in caplog.text


def test_automatic_falls_through_an_unsupported_dtype(first, caplog):
    first("narrow", filling(7, supports=lambda primitive, *args: args[0].dtype == torch.float32))
    with caplog.at_level(logging.INFO, "pix2gan.ops"):
        assert who() == 7
        for _ in range(3):
            assert float(ops.bias_act(X.double(), act="relu").flatten()[0]) != 7
    assert sum("'narrow' does not take this" in r.getMessage() for r in caplog.records) == 1


def test_third_parties_come_before_the_reference_and_behind_the_preferred(register, monkeypatch):
    monkeypatch.setitem(dispatch.PREFERENCE, ("cpu", "*"), ())
    register("theirs", filling(9))
    assert who() == 9
    monkeypatch.setitem(dispatch.PREFERENCE, ("cpu", "*"), ("ours",))
    register("ours", filling(1))
    assert who() == 1


def test_a_hint_spares_the_import(register):
    register("gpu", "pix2gan_no_such_module.gpu", devices=("cuda",))
    assert who() is not None
    assert dispatch._registered["gpu"].loaded is False


def test_names(register):
    register("mine", filling(1))
    with pytest.raises(ValueError, match="registered already"):
        ops.register_backend("mine", filling(2))
    with pytest.raises(ValueError, match="no comma"):
        ops.register_backend("a,b", filling(2))
    ops.register_backend("mine", filling(3), replace=True)
    with ops.use_backend("mine"):
        assert who() == 3


def test_list_backends(register):
    register("broken", imitation(is_available=lambda: (False, "no driver")))
    register("partial", filling(1, upfirdn2d=None))
    found = {status.name: status for status in ops.list_backends()}
    assert found["reference"].available
    assert found["reference"].primitives == dispatch.primitives()
    assert (found["broken"].available, found["broken"].reason) == (False, "no driver")
    assert "upfirdn2d" not in found["partial"].primitives


def test_entry_points(monkeypatch, tmp_path):
    """A package that declares a backend is found without being named anywhere."""
    package = tmp_path / "pretended.py"
    package.write_text(
        "DEVICES = ('cpu',)\n"
        "def is_available(): return True, ''\n"
        "def bias_act(*args): args[-1].fill_(5)\n"
    )
    info = tmp_path / "pretended-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pix2gan.backends]\npretended = pretended\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setattr(dispatch, "_entry_points_read", False)
    try:
        assert "pretended" not in dispatch._registered
        assert "pretended" in {status.name for status in ops.list_backends()}
        with ops.use_backend("pretended"):
            assert who() == 5
    finally:
        ops.unregister_backend("pretended")
        sys.modules.pop("pretended", None)


def test_a_broken_entry_point_harms_nobody(monkeypatch, caplog):
    entry = SimpleNamespace(name="rotten", value="pix2gan_no_such_module:backend")
    taken = SimpleNamespace(name="reference", value="somewhere.else")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry, taken])
    monkeypatch.setattr(dispatch, "_entry_points_read", False)
    dispatch._candidates.clear()
    try:
        with caplog.at_level(logging.WARNING, "pix2gan.ops"):
            assert who() is not None
        assert "reference = somewhere.else is ignored" in caplog.text
    finally:
        ops.unregister_backend("rotten")


def test_backward_threads_see_the_override(register):
    seen = []

    def spy(*args):
        seen.append(threading.current_thread())
        args[-1].zero_()

    register("spy", imitation(bias_act_grad=spy))
    x = X.clone().requires_grad_()

    def work():
        ops.bias_act(x, act="relu").sum().backward()

    with ops.use_backend("spy"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(seen) == 1
    assert not x.grad.any()


def test_switching_takes_effect_in_compiled_code(register):
    register("seven", filling(7))

    @torch.compile(backend="aot_eager", fullgraph=True)
    def compiled(x):
        return ops.bias_act(x, act="relu") + 1

    want = compiled(X)
    with ops.use_backend("seven"):
        assert (compiled(X) == 8).all()
    assert torch.equal(compiled(X), want)


def test_nothing_heavy_is_imported():
    """Importing the ops loads no backend; using them on a CPU does not load Triton."""
    code = (
        "import sys, pix2gan.ops as ops, torch\n"
        "assert 'pix2gan.ops.backends.reference' not in sys.modules\n"
        "from pix2gan.ops import dispatch\n"
        "dispatch.PREFERENCE[('cpu', '*')] = ()\n"
        "ops.bias_act(torch.zeros(1, 1), act='relu')\n"
        "assert 'pix2gan.ops.backends.reference' in sys.modules\n"
        "assert 'pix2gan.ops.backends.triton' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class _Watching(TorchDispatchMode):
    """Sees the ops that PyTorch's dispatcher calls."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.name())
        return func(*args, **(kwargs or {}))


def test_the_way_around_the_dispatcher_leads_to_the_same():
    def derivatives():
        x = torch.linspace(-2, 3, 96).view(2, 3, 4, 4).requires_grad_()
        b = torch.linspace(-1, 1, 3).requires_grad_()
        y = ops.bias_act(ops.instance_norm_act(x, b, b, act="swish"), b, act="swish")
        first = torch.autograd.grad((y * y.detach()).sum(), (x, b), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, b))
        return y.detach(), *(g.detach() for g in (*first, *second))

    around = derivatives()
    with _Watching() as mode:  # whoever watches is shown the ops
        through = derivatives()
    assert {"pix2gan::bias_act", "pix2gan::instance_norm_act_grad"} <= mode.seen
    for ours, theirs in zip(around, through, strict=True):
        assert torch.equal(ours, theirs)
