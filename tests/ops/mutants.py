"""Backends that are wrong in one way each: the reference with one of its primitives spoiled.

``MUTANTS`` holds them all. Each takes the primitive's arguments and outputs and says where the
conformance suite is to notice it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pix2gan.ops import dispatch
from pix2gan.ops.cases import DATA_ARGUMENTS
from pix2gan.ops.conformance import Result

REFERENCE = dispatch.load_backend("reference")
HALF = (torch.float16, torch.bfloat16)
OUTPUTS = {"instance_norm_act": 3, "instance_norm_act_grad": 3, "instance_norm_stats": 2}


def anywhere(result: Result) -> bool:
    return True


@dataclass(frozen=True)
class Mutant:
    """One wrong backend. Failures lie only ``where`` they should, and say ``message``."""

    name: str
    subject: str
    function: Callable[..., None]
    where: Callable[[Result], bool]
    message: str
    dtypes: tuple[torch.dtype, ...]


MUTANTS: list[Mutant] = []


def mutant(
    *subjects: str,
    where: Callable[[Result], bool] = anywhere,
    message: str = "",
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a function ``(reference, *args)`` as a mutant of each of some primitives."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        for subject in subjects:
            reference = getattr(REFERENCE, subject)

            def wrong(*args: Any, reference: Callable[..., None] = reference) -> None:
                function(reference, *args)

            name = f"{subject} {function.__name__.replace('_', ' ')}"
            MUTANTS.append(Mutant(name, subject, wrong, where, message, dtypes))
        return function

    return add


def outputs_of(subject: str) -> int:
    """How many of a primitive's arguments are outputs."""
    return OUTPUTS.get(subject, 1)


def is_channels_last(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )


# ------------------------------------------------------------------------------- everywhere


@mutant(*DATA_ARGUMENTS, dtypes=(torch.float32, torch.bfloat16), message="1 of")
def is_wrong_in_one_element(reference, *args):
    reference(*args)
    out = args[-outputs_of(reference.__name__)]
    if out.numel():
        out[tuple(n - 1 for n in out.shape)] += 0.5 + out.abs().max()


@mutant(
    *DATA_ARGUMENTS,
    dtypes=(torch.float32, torch.bfloat16),
    where=lambda r: r.dtype == torch.bfloat16,
)
def is_wrong_in_one_dtype(reference, *args):
    reference(*args)
    if args[0].dtype == torch.bfloat16:
        args[-outputs_of(reference.__name__)].mul_(1.1)


@mutant(
    "bias_act",
    "upfirdn2d",
    "instance_norm_act",
    "scaled_conv2d",
    where=lambda r: r.layout in ("channels_last", "mixed"),
)
def ignores_the_strides_of_the_output(reference, *args):
    k = outputs_of(reference.__name__)
    dense = [torch.empty_like(o, memory_format=torch.contiguous_format) for o in args[-k:]]
    reference(*args[:-k], *dense)
    for out, values in zip(args[-k:], dense, strict=True):
        out.as_strided((out.numel(),), (1,)).copy_(values.flatten())


@mutant("bias_act", "scaled_conv2d_wgrad", where=lambda r: r.layout != "contiguous")
def takes_strided_inputs_for_dense_ones(reference, *args):
    x = args[0]
    if x.dim():
        x = x.as_strided(x.shape, torch.empty(x.shape).stride(), x.storage_offset())
    reference(x, *args[1:])


@mutant("upfirdn2d", message="out of threads")
def crashes(reference, *args):
    raise MemoryError("out of threads")


# ------------------------------------------------------------------------------- where it writes


@mutant("bias_act", "upfirdn2d", "instance_norm_stats", message="1 elements outside of it")
def writes_one_element_before(reference, *args):
    reference(*args)
    out = args[-1]
    out.as_strided((1,), (1,), out.storage_offset() - 1).fill_(0)


@mutant("bias_act_grad", "upfirdn2d", "scaled_conv2d", message="1 elements outside of it")
def writes_one_element_behind(reference, *args):
    reference(*args)
    out = args[-1]
    out.as_strided((1,), (1,), out.storage_offset() + out.numel()).fill_(0)


@mutant("bias_act", "upfirdn2d", "scaled_conv2d_wgrad", message="is nan for|second run")
def leaves_one_element_unwritten(reference, *args):
    out = args[-1]
    last = tuple(n - 1 for n in out.shape)
    there = out[last].clone() if out.numel() else None
    reference(*args)
    if there is not None:
        out[last] = there


@mutant("bias_act", message="a second run differs")
def adds_to_what_is_there(reference, *args):
    there = args[-1].nan_to_num(0)
    reference(*args)
    args[-1].add_(there)


@mutant("instance_norm_stats", message="is nan for|second run|off; the worst")
def reads_its_output_before_writing_it(reference, x, mean, m2):
    before = m2.clone()
    reference(x, mean, m2)
    m2.add_(before * 0.0)  # NaN, if that is what was there


@mutant("bias_act", message="argument 0 has been changed|second run")
def changes_its_input(reference, *args):
    reference(*args)
    args[0].mul_(0.5)


@mutant("upfirdn2d", message="argument 1 has been changed|second run")
def changes_the_filter(reference, *args):
    reference(*args)
    args[1].mul_(0.5)


@mutant("bias_act", message="strides or memory have been changed")
def replaces_the_output(reference, *args):
    reference(*args)
    args[-1].set_(args[-1].clone())


@mutant("bias_act", message="a second run differs")
def is_not_deterministic(reference, *args):
    reference(*args)
    args[-1].mul_(1 + 1e-7 * torch.rand(()))


# ------------------------------------------------------------------------------- memory formats


def spoil(out: Tensor) -> None:
    if out.numel():
        out[(0,) * out.dim()] += 0.5 + out.abs().max()


@mutant(
    "bias_act",
    "upfirdn2d",
    "instance_norm_act",
    where=lambda r: r.layout in ("channels_last", "mixed"),
)
def is_wrong_for_channels_last_only(reference, *args):
    reference(*args)
    if is_channels_last(args[0]):
        spoil(args[-outputs_of(reference.__name__)])


@mutant(
    "bias_act",
    "upfirdn2d",
    "instance_norm_stats",
    where=lambda r: r.layout == "strided",
)
def is_wrong_for_strided_inputs_only(reference, *args):
    reference(*args)
    x = args[0]
    if not x.is_contiguous() and not is_channels_last(x):
        spoil(args[-1])


@mutant("bias_act_grad", where=lambda r: r.layout == "expanded")
def is_wrong_for_a_gradient_with_strides_of_zero(reference, *args):
    reference(*args)
    if args[0].numel() > 1 and not any(args[0].stride()):
        spoil(args[-1])


@mutant("instance_norm_act", where=lambda r: r.layout in ("mixed", "strided"))
def takes_the_residual_to_have_the_strides_of_x(reference, *args):
    x, residual = args[0], args[5]
    if residual is not None and residual.stride() != x.stride() and residual.numel():
        args = (*args[:5], residual.flatten().flip(0).view(residual.shape), *args[6:])
    reference(*args)


# ------------------------------------------------------------------------------- sizes


@mutant("bias_act", "instance_norm_act", where=lambda r: "[0, " in r.case or ", 0, " in r.case)
def crashes_on_an_empty_batch(reference, *args):
    if args[0].numel() == 0:
        raise RuntimeError("invalid configuration argument")
    reference(*args)


@mutant("upfirdn2d", where=lambda r: "[1, 1, 1, 1]" in r.case)
def is_wrong_for_one_pixel(reference, *args):
    reference(*args)
    if args[0].numel() == 1:
        spoil(args[-1])


@mutant("bias_act", where=lambda r: "130" in r.case)
def forgets_the_channels_past_128(reference, *args):
    reference(*args)
    if args[0].dim() == 4 and args[0].shape[1] > 128:
        args[-1][:, 128:] = 0


@mutant("bias_act")
def forgets_the_rest_of_a_vector_of_8(reference, *args):
    reference(*args)
    out = args[-1]
    if out.is_contiguous() and out.numel() % 8:
        out.view(-1)[out.numel() // 8 * 8 :] = 0


@mutant("upfirdn2d", where=lambda r: "-" in r.case.split("pad=")[1].split(")")[0])
def is_wrong_for_negative_padding_only(reference, *args):
    reference(*args)
    if min(args[6:10]) < 0:
        spoil(args[-1])


@mutant("upfirdn2d", where=lambda r: "-" in r.case.split("pad=")[1].split(")")[0])
def takes_negative_padding_for_none(reference, *args):
    if min(args[6:10]) < 0:
        x, f, out = args[0], args[1], args[-1]
        larger = [max(p, 0) for p in args[6:10]]
        height = out.shape[2] + (sum(larger[2:]) - sum(args[8:10])) // args[5]
        width = out.shape[3] + (sum(larger[:2]) - sum(args[6:8])) // args[4]
        full = out.new_empty(*out.shape[:2], height, width)
        reference(x, f, *args[2:6], *larger, *args[10:-1], full)
        out.copy_(full[:, :, : out.shape[2], : out.shape[3]])
    else:
        reference(*args)


# ------------------------------------------------------------------------------- parameters


@mutant("bias_act", where=lambda r: "clamp=-1" not in r.case and "far from" not in r.case)
def ignores_the_clamp(reference, *args):
    reference(*args[:6], -1.0, args[-1])


@mutant("bias_act_grad", where=lambda r: "clamp=-1" not in r.case and "far from" not in r.case)
def lets_gradients_through_the_clamp(reference, *args):
    reference(*args[:8], -1.0, args[-1])


@mutant("bias_act", where=lambda r: "gain=1.0" not in r.case)
def ignores_the_gain(reference, *args):
    reference(*args[:5], 1.0, *args[6:])


@mutant("bias_act", where=lambda r: "elu" in r.case)
def ignores_alpha(reference, *args):
    reference(*args[:4], 1.0, *args[5:])


@mutant("bias_act", where=lambda r: "dim=1" not in r.case and "far from" not in r.case)
def adds_the_bias_to_axis_1_always(reference, *args):
    x, b, dim, *rest = args
    if b is not None and dim != 1 and x.dim() > 1:
        b, dim = b[:1].expand(x.shape[1]).contiguous(), 1
    reference(x, b, dim, *rest)


@mutant("bias_act", where=lambda r: "softplus" in r.case)
def overflows_far_from_zero(reference, *args):
    x, b, dim, act, _, gain, _, out = args
    if act == "softplus" and x.numel() and x.abs().max() > 80:
        v = x if b is None else x + b.view([-1 if i == dim else 1 for i in range(x.dim())])
        out.copy_(torch.log1p(torch.exp(v)) * gain)  # infinite from 89 on
    else:
        reference(*args)


@mutant("upfirdn2d")
def correlates_always(reference, *args):
    reference(*args[:10], True, *args[11:])


@mutant("upfirdn2d")
def swaps_the_axes_of_the_padding(reference, *args):
    pads = args[6:10]
    if pads[0] + pads[1] == pads[2] + pads[3]:  # so that the size stays
        pads = (*pads[2:], *pads[:2])
    reference(*args[:6], *pads[:2][::-1], *pads[2:], *args[10:])


@mutant("upfirdn2d")
def applies_the_gain_to_each_axis_of_a_separable_filter(reference, *args):
    if args[1].dim() == 1:
        args = (*args[:11], args[11] ** 2, args[12])
    reference(*args)


# ------------------------------------------------------------------------------- norms


@mutant(
    "instance_norm_stats", where=lambda r: any(k in r.case for k in ("shifted", "ramp", "large"))
)
def computes_the_variance_in_one_pass(reference, x, mean, m2):
    """E[x^2] - E[x]^2 is what the cases with a mean far above the deviation are for."""
    v = x.to(mean.dtype)
    mean.copy_(v.mean((2, 3)))
    count = x.shape[2] * x.shape[3]
    m2.copy_(count * (v.square().mean((2, 3)) - mean.square()))


@mutant("instance_norm_act", where=lambda r: "shifted" in r.case or "large" in r.case)
def normalises_with_a_variance_of_one_pass(reference, *args):
    x, eps, mean_out = args[0], args[8], args[-2]
    if args[9] is None:
        v = x.to(mean_out.dtype)
        mean = v.mean((2, 3))
        variance = (v.square().mean((2, 3)) - mean.square()).clamp(min=0)
        args = (*args[:9], mean, torch.rsqrt(variance + eps), *args[11:])
    reference(*args)


@mutant("instance_norm_act")
def adds_eps_to_the_deviation(reference, *args):
    if args[9] is None and args[0].numel():
        v = args[0].to(args[-1].dtype)
        deviation = v.var((2, 3), correction=0).sqrt()
        args = (*args[:9], v.mean((2, 3)), 1 / (deviation + args[8]), *args[11:])
    reference(*args)


@mutant("instance_norm_act")
def takes_the_unbiased_variance(reference, *args):
    if args[9] is None and args[0][0:1, 0:1].numel() > 1:
        v = args[0].to(args[-1].dtype)
        args = (*args[:9], v.mean((2, 3)), torch.rsqrt(v.var((2, 3)) + args[8]), *args[11:])
    reference(*args)


@mutant("instance_norm_act", where=lambda r: "reflect" in r.case and "pad=0" not in r.case)
def repeats_the_border_where_it_should_reflect(reference, *args):
    mode = "replicate" if args[7] == "reflect" else args[7]
    reference(*args[:7], mode, *args[8:])


@mutant("instance_norm_act", where=lambda r: "reflect" in r.case and "pad=0" not in r.case)
def reflects_with_the_border_repeated(reference, *args):
    """As numpy's "symmetric" does: off by one."""
    reference(*args)
    pad, mode, out = args[6], args[7], args[-3]
    if pad and mode == "reflect":
        inner = out[:, :, pad:-pad, pad:-pad].clone()
        rows = [*range(pad - 1, -1, -1), *range(inner.shape[2])]
        rows += [inner.shape[2] - 1 - i for i in range(pad)]
        columns = [*range(pad - 1, -1, -1), *range(inner.shape[3])]
        columns += [inner.shape[3] - 1 - i for i in range(pad)]
        out.copy_(inner[:, :, rows][:, :, :, columns])


@mutant("instance_norm_act", where=lambda r: "zeros" in r.case and "pad=0" not in r.case)
def leaves_a_border_that_should_be_zero(reference, *args):
    reference(*args)
    if args[6] and args[7] == "zeros" and args[0].numel():
        args[-3][:, :, 0, 0] = 1e-3


@mutant("instance_norm_act", where=lambda r: "given=True" in r.case)
def does_not_return_given_statistics(reference, *args):
    reference(*args)
    if args[9] is not None:
        args[-2].zero_()


@mutant("instance_norm_act", where=lambda r: "residual=True" in r.case)
def activates_the_residual_too(reference, *args):
    reference(*args)
    if args[5] is not None and args[0].numel():
        args[-3].relu_()


@mutant("instance_norm_act", where=lambda r: "affine=sample" in r.case)
def takes_the_first_image_s_parameters_for_all(reference, *args):
    x, weight, bias, *rest = args
    if weight is not None and weight.dim() == 2 and weight.shape[0]:
        weight = weight[:1].expand_as(weight)
    reference(x, weight, bias, *rest)


@mutant("instance_norm_act_grad", where=lambda r: "=none" in r.case or "=bias" in r.case)
def gives_no_gradient_for_a_weight_that_is_one(reference, *args):
    reference(*args)
    if args[2] is None:
        args[-2].zero_()


@mutant("instance_norm_act_grad", where=lambda r: "given=True" in r.case)
def differentiates_frozen_statistics(reference, *args):
    reference(*args[:11], False, *args[12:])


@mutant("instance_norm_act_grad", where=lambda r: "pad=0" not in r.case)
def drops_the_gradient_of_the_border(reference, *args):
    pad, mode = args[8], args[9]
    reference(*args[:9], "zeros" if pad else mode, *args[10:])


# ------------------------------------------------------------------------------- convolutions


@mutant("scaled_conv2d", where=lambda r: "s=True" in r.case)
def ignores_the_styles(reference, *args):
    reference(*args[:2], None, *args[3:])


@mutant("scaled_conv2d", where=lambda r: "noise=shared" in r.case)
def gives_noise_to_the_first_image_only(reference, *args):
    noise = args[9]
    if noise is not None and noise.shape[0] == 1 and args[0].shape[0] > 1:
        noise = torch.cat([noise, *[torch.zeros_like(noise)] * (args[0].shape[0] - 1)])
    reference(*args[:9], noise, *args[10:])


@mutant("scaled_conv2d", where=lambda r: "transposed=True+1" in r.case)
def forgets_what_a_stride_leaves_over(reference, *args):
    reference(*args)
    x, w, stride, padding, transposed = args[0], args[1], *args[4:7]
    if transposed and x.numel():
        reached = (x.shape[2] - 1) * stride - 2 * padding + w.shape[2]
        args[-1][:, :, reached:] = 0


@mutant("scaled_conv2d_wgrad", where=lambda r: "[2, " in r.case or "[3, " in r.case)
def takes_the_gradient_of_the_last_image_only(reference, *args):
    reference(*args)
    x, dy, s, d = args[:4]
    if x.shape[0] > 1:
        s, d = (None if t is None else t[-1:] for t in (s, d))
        reference(x[-1:], dy[-1:], s, d, *args[4:])


# ------------------------------------------------------------------------------- precision


@mutant("upfirdn2d", dtypes=HALF)
def accumulates_in_half_precision(reference, *args):
    x, f, out = args[0], args[1], args[-1]
    taps = f if f.dim() == 2 else f.outer(f)
    total = torch.zeros_like(out)
    rounded = taps.to(x.dtype)
    for i in range(taps.shape[0]):
        for j in range(taps.shape[1]):
            one = torch.zeros_like(taps)
            one[i, j] = rounded[i, j]
            part = torch.empty_like(out)
            reference(x, one, *args[2:-1], part)
            total.add_(part)
    out.copy_(total)


@mutant("instance_norm_stats", dtypes=HALF)
def sums_in_half_precision(reference, x, mean, m2):
    reference(x, mean, m2)
    if x.numel():
        total = torch.zeros_like(x[:, :, 0, 0])
        for plane in x.flatten(2).unbind(2):
            total.add_(plane)
        mean.copy_(total / (x.shape[2] * x.shape[3]))


@mutant("bias_act", dtypes=(torch.bfloat16,))
def cuts_digits_off_instead_of_rounding(reference, *args):
    exact = torch.empty_like(args[-1], dtype=torch.float32)
    reference(args[0].float(), *args[1:-1], exact)
    bits = exact.view(torch.int32) & -65536
    args[-1].copy_(bits.view(torch.float32))


@mutant("bias_act", dtypes=HALF)
def rounds_before_the_activation(reference, *args):
    x, b, dim = args[:3]
    if b is not None:
        x = (x + b.view([-1 if i == dim else 1 for i in range(x.dim())])).to(x.dtype)
    reference(x, None, *args[2:])


@mutant("scaled_conv2d", dtypes=(torch.float32,))
def multiplies_in_tf32(reference, *args):
    """Ten bits of significand, where torch's flag has not allowed it."""

    def cut(t: Tensor) -> Tensor:
        return (t.contiguous().view(torch.int32) & -8192).view(torch.float32)

    reference(cut(args[0]), cut(args[1]), *args[2:])


@mutant("upfirdn2d", dtypes=(torch.float64,))
def computes_float64_in_float32(reference, *args):
    out = torch.empty_like(args[-1], dtype=torch.float32)
    reference(args[0].float(), args[1].float(), *args[2:-1], out)
    args[-1].copy_(out)


@mutant("bias_act_grad2", where=lambda r: "tanh" in r.case)
def has_a_wrong_second_derivative(reference, *args):
    reference(*args)
    if args[5] == "tanh":
        args[-1].neg_()
