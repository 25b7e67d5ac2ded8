"""Sample inputs of every primitive and op, and calls that must be refused.

One list feeds all that looks at the ops: conformance, gradient checks, opcheck, benchmarks. Tensors
are float64 on the CPU; ``Case.cast`` brings them to the dtypes that a backend is handed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from pix2gan.ops.activations import ACTIVATIONS, activation
from pix2gan.ops.layout import accumulation_dtype

# The positions of the tensors that have the dtype of the data; all others have the accumulation
# dtype, as parameters, filters and statistics do.
DATA_ARGUMENTS = {
    "bias_act": (0,),
    "bias_act_grad": (0, 1, 3),
    "bias_act_grad2": (0, 1, 2),
    "upfirdn2d": (0,),
    "instance_norm_stats": (0,),
    "instance_norm_act": (0, 5),
    "instance_norm_act_grad": (0, 1),
    "scaled_conv2d": (0, 1, 9),
    "scaled_conv2d_wgrad": (0, 1),
}


@dataclass(frozen=True)
class Case:
    """One call of a primitive: ``args`` are its inputs in order, without the outputs."""

    primitive: str
    label: str
    args: tuple[Any, ...]

    def cast(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> tuple[Any, ...]:
        """The arguments for data of ``dtype``, parameters in the accumulation dtype."""
        data = DATA_ARGUMENTS[self.primitive]
        return tuple(
            # first the dtype: a device need not know float64
            a.to(dtype if i in data else accumulation_dtype(dtype)).to(device)
            if isinstance(a, Tensor)
            else a
            for i, a in enumerate(self.args)
        )


class _Random:
    """Tensors that depend on a label only."""

    def __init__(self, label: str) -> None:
        self.generator = torch.Generator().manual_seed(zlib.crc32(label.encode()))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def positive(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) + 0.5


def cases(primitive: str) -> list[Case]:
    """At least thirty calls of a primitive; ``KeyError`` for an unknown one."""
    return list(_CASES[primitive]())


# ----------------------------------------------------------------------------------------- bias_act

# (shape, axis of the bias or None, gain, clamp); clamps are exact in every dtype
_BIAS_ACT = (
    ((2, 3, 5, 7), 1, 1.0, -1.0),
    ((1, 1, 1, 1), 1, 1.5, -1.0),
    ((2, 8, 4, 4), None, 0.75, 0.5),
    ((3, 130, 3, 1), 1, 1.0, 1.5),
    ((2, 5, 17, 33), 1, 2.0, 1.0),
    ((4, 3, 6, 6), 0, 1.25, -1.0),
    ((2, 3, 4, 5), 3, 1.0, 0.75),
    ((2, 3, 4, 5), 2, 1.0, -1.0),
    ((7, 9), 1, 1.0, -1.0),
    ((7, 9), 0, 3.0, 2.0),
    ((11,), 0, 1.0, 1.0),
    ((2, 3, 70), 1, 1.0, -1.0),
    ((2, 3, 2, 3, 5), 1, 0.5, 0.25),
    ((0, 3, 4, 4), 1, 1.0, -1.0),
    ((2, 3, 0, 4), 1, 1.0, 1.0),
    ((1, 4, 32, 32), 1, 1.0, -1.0),
    ((), None, 1.0, -1.0),
    ((2, 64, 3, 3), 1, 1.0, 0.0),
)


def _bias_act_settings() -> Iterator[tuple[str, Tensor, Tensor | None, tuple[Any, ...]]]:
    """(label, x, b, (dim, act, alpha, gain, clamp)): each activation with four settings."""
    settings = cycle(_BIAS_ACT)
    for act, known in ACTIVATIONS.items():
        for _ in range(4):
            shape, dim, gain, clamp = next(settings)
            label = f"{act} {list(shape)} dim={dim} gain={gain} clamp={clamp}"
            random = _Random(label)
            b = None if dim is None else random.normal(shape[dim])
            alpha = 0.3 if act == "elu" else known.default_alpha
            yield label, 2 * random.normal(*shape), b, (dim or 0, act, alpha, gain, clamp)
    large = _Random("far from zero")
    for act in ("tanh", "sigmoid", "softplus", "swish", "elu", "selu"):
        # saturated on both sides, where a careless exp overflows
        x = torch.linspace(-90, 90, 61, dtype=torch.float64).view(1, 1, 61, 1)
        alpha = activation(act).default_alpha
        yield f"{act} far from zero", x, large.normal(1), (1, act, alpha, 1.0, -1.0)


def _clipped(v: Tensor, clamp: float) -> Tensor:
    return v.clamp(-clamp, clamp) if clamp >= 0 else v


def _bias_act_cases() -> Iterator[Case]:
    for label, x, b, options in _bias_act_settings():
        yield Case("bias_act", label, (x, b, *options))


def _bias_act_grad_cases() -> Iterator[Case]:
    for label, x, b, options in _bias_act_settings():
        dim, act, alpha, gain, clamp = options
        dy = _Random("dy " + label).normal(*x.shape)
        if activation(act).piecewise_linear:
            v = x if b is None else x + b.view([-1 if i == dim else 1 for i in range(x.dim())])
            y = _clipped(activation(act).value(v, alpha) * gain, clamp)
            yield Case("bias_act_grad", label, (dy, None, None, y, *options))
        else:
            yield Case("bias_act_grad", label, (dy, x, b, None, *options))


def _bias_act_grad2_cases() -> Iterator[Case]:
    for label, x, b, options in _bias_act_settings():
        if not activation(options[1]).piecewise_linear:
            random = _Random("ddx dy " + label)
            ddx, dy = random.normal(*x.shape), random.normal(*x.shape)
            yield Case("bias_act_grad2", label, (ddx, dy, x, b, *options))


# ---------------------------------------------------------------------------------------- upfirdn2d

# (shape, taps of f, (upx, upy), (downx, downy), (padx0, padx1, pady0, pady1), flip, gain)
_UPFIRDN2D: tuple[tuple[Any, ...], ...] = (
    ((2, 3, 5, 7), (4, 4), (1, 1), (1, 1), (2, 1, 2, 1), False, 1.0),
    ((2, 3, 5, 7), (4, 4), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
    ((2, 3, 6, 8), (4, 4), (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0),
    ((2, 3, 5, 7), (4,), (1, 1), (1, 1), (2, 1, 2, 1), False, 1.0),
    ((2, 3, 5, 7), (4,), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
    ((2, 3, 6, 8), (4,), (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0),
    ((1, 8, 16, 16), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), True, 1.0),
    ((1, 8, 16, 16), (3,), (1, 1), (2, 2), (1, 1, 1, 1), True, 1.0),
    ((1, 8, 9, 9), (3, 3), (1, 1), (2, 2), (1, 0, 1, 0), False, 1.0),
    ((1, 8, 9, 9), (3,), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
    ((1, 1, 1, 1), (4, 4), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
    ((1, 1, 1, 1), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), False, 3.0),
    ((1, 1, 1, 1), (1,), (4, 4), (1, 1), (0, 0, 0, 0), False, 1.0),
    ((0, 3, 4, 4), (4, 4), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
    ((0, 3, 4, 4), (4,), (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0),
    ((2, 3, 8, 9), (4, 4), (1, 1), (1, 1), (-1, -2, -2, -1), False, 1.0),
    ((2, 3, 8, 9), (4,), (1, 1), (1, 1), (-2, 3, 3, -2), True, 1.0),
    ((2, 3, 8, 9), (3, 3), (2, 2), (1, 1), (-3, -2, 0, -1), False, 1.0),
    ((2, 3, 8, 9), (4,), (2, 2), (1, 1), (0, -1, 0, -1), False, 4.0),
    ((1, 2, 6, 5), (4, 4), (1, 1), (2, 2), (-1, 2, 2, -1), False, 1.0),
    ((1, 2, 6, 5), (2, 3), (2, 3), (3, 2), (2, 3, 1, 4), False, 1.5),
    ((1, 2, 6, 5), (5,), (3, 1), (1, 3), (2, 2, 4, 0), True, 1.5),
    ((1, 2, 6, 5), (5, 1), (1, 2), (1, 1), (0, 0, 2, 3), False, 2.0),
    ((1, 2, 6, 5), (1, 6), (2, 1), (1, 1), (3, 3, 0, 0), False, 2.0),
    ((2, 2, 7, 7), (8, 8), (1, 1), (1, 1), (4, 3, 4, 3), False, 1.0),
    ((2, 2, 7, 7), (12,), (2, 2), (1, 1), (6, 5, 6, 5), False, 4.0),
    ((2, 2, 12, 14), (12,), (1, 1), (2, 2), (5, 5, 5, 5), False, 1.0),
    ((2, 2, 7, 7), (12,), (2, 2), (2, 2), (6, 5, 6, 5), False, 4.0),
    ((2, 2, 7, 7), (2, 2), (1, 1), (4, 4), (0, 0, 0, 0), False, 1.0),
    ((2, 2, 3, 3), (2, 2), (4, 4), (1, 1), (9, 9, 9, 9), False, 1.0),
    ((1, 3, 33, 17), (4, 4), (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0),
    ((1, 3, 33, 17), (4,), (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0),
    ((1, 130, 3, 4), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), False, 1.0),
    ((1, 3, 40, 36), (4,), (2, 2), (1, 1), (2, 1, 2, 1), False, -4.0),
    ((2, 4, 4, 4), (4, 4), (1, 1), (1, 1), (0, 0, 0, 0), False, 1.0),
    ((1, 3, 1, 19), (4,), (2, 2), (1, 1), (2, 1, 2, 1), True, 4.0),
)


def _upfirdn2d_cases() -> Iterator[Case]:
    for shape, taps, up, down, pad, flip, gain in _UPFIRDN2D:
        label = (
            f"{list(shape)} f={list(taps)} up={up} down={down} pad={pad} flip={flip} gain={gain}"
        )
        random = _Random(label)
        f = random.normal(*taps)
        yield Case(
            "upfirdn2d", label, (random.normal(*shape), f, *up, *down, *pad, flip, float(gain))
        )


# ------------------------------------------------------------------------------------ instance norm

_PLANES = (
    (2, 3, 5, 7),
    (1, 1, 1, 1),
    (0, 3, 4, 4),
    (2, 4, 8, 8),
    (1, 3, 33, 17),
    (3, 2, 1, 9),
    (1, 130, 4, 3),
    (2, 3, 4, 1),
    (1, 16, 16, 16),
    (2, 5, 6, 6),
    (1, 2, 40, 40),
)


def _planes(random: _Random, shape: tuple[int, ...], kind: str) -> Tensor:
    x = random.normal(*shape)
    if kind == "shifted":  # the mean a hundred times the deviation
        return x + 100
    if kind == "ramp":  # likewise, and the parts of a plane have different means
        height, width = shape[2:]
        ramp = torch.linspace(-1.7, 1.7, height * width, dtype=x.dtype).view(height, width)
        return x / 10 + ramp + 100
    if kind == "large":
        return 50 * x + 20
    if kind == "constant":
        return torch.full_like(x, 0.5)
    return x


def _stats_cases() -> Iterator[Case]:
    for shape in _PLANES:
        for kind in ("normal", "shifted", "ramp", "large", "constant"):
            label = f"{list(shape)} {kind}"
            yield Case("instance_norm_stats", label, (_planes(_Random(label), shape, kind),))


# (act, weight and bias, residual, pad, pad_mode, given statistics, kind of data)
_NORM_ACT: tuple[tuple[Any, ...], ...] = (
    ("linear", "none", False, 0, "reflect", False, "normal"),
    ("relu", "none", False, 0, "reflect", False, "normal"),
    ("relu", "none", False, 1, "reflect", False, "normal"),
    ("linear", "none", True, 1, "reflect", False, "normal"),
    ("linear", "none", True, 0, "reflect", False, "normal"),
    ("lrelu", "none", False, 0, "zeros", False, "normal"),
    ("relu", "channel", False, 3, "reflect", False, "normal"),
    ("relu", "sample", False, 2, "replicate", False, "normal"),
    ("lrelu", "channel", True, 1, "zeros", False, "normal"),
    ("tanh", "channel", False, 0, "zeros", False, "normal"),
    ("sigmoid", "sample", True, 1, "replicate", False, "normal"),
    ("elu", "channel", False, 1, "reflect", False, "normal"),
    ("selu", "none", False, 2, "zeros", False, "normal"),
    ("softplus", "sample", False, 0, "zeros", False, "normal"),
    ("swish", "channel", True, 2, "reflect", False, "normal"),
    ("linear", "channel", False, 0, "reflect", True, "normal"),
    ("relu", "sample", True, 1, "reflect", True, "normal"),
    ("swish", "none", False, 1, "replicate", True, "normal"),
    ("linear", "none", False, 0, "reflect", False, "shifted"),
    ("tanh", "channel", True, 1, "reflect", False, "shifted"),
    ("linear", "sample", False, 0, "reflect", True, "shifted"),
    ("linear", "channel", False, 1, "zeros", False, "large"),
    ("swish", "none", False, 0, "zeros", False, "constant"),
    ("linear", "weight", False, 0, "zeros", False, "normal"),
    ("relu", "bias", False, 0, "zeros", False, "normal"),
)


def _norm_settings() -> Iterator[tuple[str, dict[str, Any]]]:
    shapes = cycle(_PLANES)
    for repeat in range(2):
        for act, affine, with_residual, pad, mode, given, kind in _NORM_ACT:
            shape = next(shapes)
            fits = mode != "reflect" or pad < min(shape[2:])
            mode = mode if fits else "replicate"
            label = (
                f"{act} {list(shape)} affine={affine} residual={with_residual} pad={pad} {mode} "
                f"given={given} {kind} {repeat}"
            )
            random = _Random(label)
            n, c = shape[:2]
            x = _planes(random, shape, kind)
            per = (n, c) if affine == "sample" else (c,)
            weight = random.normal(*per) + 1 if affine not in ("none", "bias") else None
            bias = random.normal(*per) if affine not in ("none", "weight") else None
            mean = x.mean((2, 3))
            var = (x - mean[:, :, None, None]).square().mean((2, 3))
            eps = 1e-5 if shape[2] * shape[3] > 1 else 0.1  # of one pixel nothing but eps is left
            rstd = torch.rsqrt(var + eps)
            if given:
                mean, rstd = mean + 0.1 * random.normal(n, c), rstd * random.positive(n, c)
            yield (
                label,
                {
                    "x": x,
                    "weight": weight,
                    "bias": bias,
                    "act": act,
                    "alpha": 0.2,
                    "residual": random.normal(*shape) if with_residual else None,
                    "pad": pad,
                    "pad_mode": mode,
                    "eps": eps,
                    "given": given,
                    "mean": mean,
                    "rstd": rstd,
                    "dy": random.normal(n, c, shape[2] + 2 * pad, shape[3] + 2 * pad),
                },
            )


def _norm_act_cases() -> Iterator[Case]:
    for label, v in _norm_settings():
        given = (v["mean"], v["rstd"]) if v["given"] else (None, None)
        head = (v["x"], v["weight"], v["bias"], v["act"], v["alpha"], v["residual"])
        yield Case("instance_norm_act", label, (*head, v["pad"], v["pad_mode"], v["eps"], *given))


def _norm_act_grad_cases() -> Iterator[Case]:
    for label, v in _norm_settings():
        head = (v["dy"], v["x"], v["weight"], v["bias"], v["mean"], v["rstd"])
        tail = (v["act"], v["alpha"], v["pad"], v["pad_mode"], v["eps"], v["given"])
        yield Case("instance_norm_act_grad", label, (*head, *tail))


# ------------------------------------------------------------------------------------ scaled_conv2d

# (shape of x, out channels, (kh, kw), stride, padding, transposed, pixels left over, s, d)
_CONV: tuple[tuple[Any, ...], ...] = (
    ((2, 3, 5, 7), 4, (3, 3), 1, 1, False, 0, True, True),
    ((2, 3, 5, 7), 4, (1, 1), 1, 0, False, 0, True, True),
    ((2, 3, 5, 7), 4, (3, 3), 1, 1, False, 0, False, False),
    ((2, 3, 5, 7), 4, (3, 3), 1, 1, False, 0, True, False),
    ((2, 3, 5, 7), 4, (3, 3), 1, 1, False, 0, False, True),
    ((2, 3, 5, 7), 4, (3, 3), 1, 0, False, 0, True, True),
    ((2, 3, 5, 7), 4, (3, 3), 1, 2, False, 0, True, True),
    ((2, 4, 8, 6), 5, (3, 3), 2, 1, False, 0, True, True),
    ((2, 4, 9, 7), 5, (3, 3), 2, 0, False, 0, True, True),
    ((2, 4, 9, 6), 5, (1, 1), 2, 0, False, 0, True, True),
    ((2, 4, 5, 3), 5, (3, 3), 2, 0, True, 0, True, True),
    ((2, 4, 5, 3), 5, (3, 3), 2, 1, True, 1, True, True),
    ((2, 4, 5, 3), 5, (3, 3), 2, 1, True, 0, True, False),
    ((2, 4, 5, 3), 5, (1, 1), 2, 0, True, 1, True, True),
    ((2, 4, 5, 3), 5, (3, 3), 1, 1, True, 0, True, True),
    ((2, 4, 5, 3), 5, (1, 1), 1, 0, True, 0, True, True),
    ((1, 1, 1, 1), 1, (1, 1), 1, 0, False, 0, True, True),
    ((1, 1, 1, 1), 1, (3, 3), 1, 1, False, 0, True, True),
    ((1, 2, 1, 1), 3, (3, 3), 2, 0, True, 0, True, True),
    ((0, 3, 4, 4), 2, (3, 3), 1, 1, False, 0, True, True),
    ((0, 3, 4, 4), 2, (3, 3), 2, 0, True, 0, True, True),
    ((1, 33, 6, 6), 17, (3, 3), 1, 1, False, 0, True, True),
    ((1, 16, 8, 8), 32, (1, 1), 1, 0, False, 0, True, True),
    ((3, 16, 7, 9), 16, (3, 3), 1, 1, False, 0, True, True),
    ((3, 16, 4, 5), 16, (3, 3), 2, 0, True, 0, True, True),
    ((2, 3, 9, 9), 2, (5, 5), 1, 2, False, 0, True, True),
    ((2, 3, 9, 9), 2, (4, 4), 2, 1, False, 0, True, True),
    ((2, 3, 5, 5), 2, (4, 4), 2, 1, True, 0, True, True),
    ((2, 3, 6, 9), 2, (3, 1), 1, 0, False, 0, True, True),
    ((2, 3, 6, 9), 2, (1, 5), 1, 0, False, 0, True, True),
    ((2, 3, 10, 10), 2, (3, 3), 3, 1, False, 0, True, True),
    ((1, 70, 5, 5), 3, (3, 3), 1, 1, False, 0, True, True),
    ((1, 3, 5, 5), 70, (3, 3), 1, 1, False, 0, True, True),
    ((2, 2, 3, 17), 2, (3, 3), 1, 1, False, 0, True, True),
)

# (act, alpha, gain, clamp, noise, bias)
_EPILOGUES: tuple[tuple[Any, ...], ...] = (
    ("linear", 0.0, 1.0, -1.0, None, False),
    ("lrelu", 0.2, 1.25, -1.0, None, True),
    ("relu", 0.0, 1.0, 4.0, "sample", True),
    ("linear", 0.0, 1.0, -1.0, "shared", False),
    ("lrelu", 0.1, 1.5, 2.0, "shared", True),
    ("swish", 0.0, 1.0, -1.0, "sample", True),
    ("tanh", 0.0, 1.0, -1.0, None, True),
)


def _conv_settings() -> Iterator[tuple[str, dict[str, Any]]]:
    for shape, channels, taps, stride, padding, transposed, left, with_s, with_d in _CONV:
        label = (
            f"{list(shape)} to {channels} k={taps} stride={stride} padding={padding} "
            f"transposed={transposed}+{left} s={with_s} d={with_d}"
        )
        random = _Random(label)
        n, inner = shape[:2]
        if transposed:
            out = tuple(
                (size - 1) * stride - 2 * padding + k + left
                for size, k in zip(shape[2:], taps, strict=True)
            )
            w = random.normal(inner, channels, *taps)
        else:
            out = tuple(
                (size + 2 * padding - k) // stride + 1
                for size, k in zip(shape[2:], taps, strict=True)
            )
            w = random.normal(channels, inner, *taps)
        terms = inner * taps[0] * taps[1]
        yield (
            label,
            {
                "x": random.normal(*shape),
                "w": w / terms**0.5,
                "s": random.normal(n, inner) if with_s else None,
                "d": random.positive(n, channels) if with_d else None,
                "geometry": (stride, padding, transposed),
                "out": out,
                "taps": taps,
                "dy": random.normal(n, channels, *out),
                "b": random.normal(channels),
                "noise": {
                    "sample": random.normal(n, 1, *out),
                    "shared": random.normal(1, 1, *out),
                    None: None,
                },
            },
        )


def _conv_cases() -> Iterator[Case]:
    epilogues = cycle(_EPILOGUES)
    for label, v in _conv_settings():
        act, alpha, gain, clamp, noise, bias = next(epilogues)
        head = (v["x"], v["w"], v["s"], v["d"], *v["geometry"], *v["out"])
        tail = (v["noise"][noise], v["b"] if bias else None, act, alpha, gain, clamp)
        label = f"{label} {act} gain={gain} clamp={clamp} noise={noise} b={bias}"
        yield Case("scaled_conv2d", label, (*head, *tail))


def _wgrad_cases() -> Iterator[Case]:
    for label, v in _conv_settings():
        args = (v["x"], v["dy"], v["s"], v["d"], *v["geometry"], *v["taps"])
        yield Case("scaled_conv2d_wgrad", label, args)


_CASES: dict[str, Callable[[], Iterator[Case]]] = {
    "bias_act": _bias_act_cases,
    "bias_act_grad": _bias_act_grad_cases,
    "bias_act_grad2": _bias_act_grad2_cases,
    "upfirdn2d": _upfirdn2d_cases,
    "instance_norm_stats": _stats_cases,
    "instance_norm_act": _norm_act_cases,
    "instance_norm_act_grad": _norm_act_grad_cases,
    "scaled_conv2d": _conv_cases,
    "scaled_conv2d_wgrad": _wgrad_cases,
}


# ---------------------------------------------------------------------------------------------- ops


@dataclass(frozen=True)
class OpCase:
    """One call of a public op: its tensors (float64) and its other arguments by name."""

    op: str
    label: str
    tensors: dict[str, Tensor]
    options: dict[str, Any]

    @property
    def differentiable(self) -> list[str]:
        """The names of the tensors that gradients reach."""
        constants = ("f", "resample_filter", "mean", "rstd")
        return [name for name in self.tensors if name not in constants]

    def cast(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The tensors: x, residual and noise in ``dtype``, parameters in the accumulation dtype."""
        data = ("x", "residual", "noise")
        return {
            name: t.to(dtype if name in data else accumulation_dtype(dtype)).to(device)
            for name, t in self.tensors.items()
        }


def op_cases(op: str) -> list[OpCase]:
    """At least thirty small calls of a public op; ``KeyError`` for an unknown one."""
    return list(_OP_CASES[op]())


def _op_case(op: str, label: str, values: dict[str, Any]) -> OpCase:
    values = {k: v for k, v in values.items() if v is not None}
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
    return OpCase(op, label, tensors, {k: v for k, v in values.items() if k not in tensors})


def _bias_act_op_cases() -> Iterator[OpCase]:
    for label, x, b, (dim, act, alpha, gain, clamp) in _bias_act_settings():
        values = {"x": x, "b": b, "dim": dim, "act": act, "alpha": alpha, "gain": gain}
        yield _op_case("bias_act", label, {**values, "clamp": None if clamp < 0 else clamp})


def _upfirdn2d_op_cases() -> Iterator[OpCase]:
    for case in _upfirdn2d_cases():
        x, f, upx, upy, downx, downy, *pads, flip, gain = case.args
        yield _op_case(
            "upfirdn2d",
            case.label,
            {
                "x": x,
                "f": f,
                "up": (upx, upy),
                "down": (downx, downy),
                "padding": tuple(pads),
                "flip_filter": flip,
                "gain": gain,
            },
        )


def _norm_op_cases() -> Iterator[OpCase]:
    for label, values in _norm_settings():
        values = dict(values)
        values.pop("dy")
        if not values.pop("given"):
            del values["mean"], values["rstd"]
        yield _op_case("instance_norm_act", label, values)


# (shape of x, out channels, k, up, down, padding, taps of the filter)
_MODULATED: tuple[tuple[Any, ...], ...] = (
    ((2, 3, 4, 5), 2, 3, 1, 1, 1, None),
    ((2, 3, 4, 5), 2, 1, 1, 1, 0, None),
    ((2, 3, 4, 5), 2, 3, 1, 1, 0, None),
    ((2, 3, 4, 5), 2, 3, 1, 1, 1, (4,)),
    ((2, 2, 4, 3), 3, 3, 2, 1, 1, (4,)),
    ((2, 2, 4, 3), 3, 3, 2, 1, 1, (4, 4)),
    ((2, 2, 4, 3), 3, 1, 2, 1, 0, (4,)),
    ((2, 2, 4, 3), 3, 3, 2, 1, 1, None),
    ((2, 2, 4, 3), 3, 3, 2, 1, 0, None),
    ((2, 2, 4, 6), 3, 3, 1, 2, 1, (4,)),
    ((2, 2, 4, 6), 3, 3, 1, 2, 1, None),
    ((2, 2, 4, 6), 3, 1, 1, 2, 0, (4,)),
    ((2, 2, 5, 7), 3, 3, 1, 2, 1, (3,)),
    ((2, 2, 5, 3), 3, 3, 2, 1, 1, (3,)),
    ((1, 2, 4, 4), 2, 3, 2, 2, 1, (4,)),
    ((1, 2, 4, 4), 2, 3, 3, 1, 1, (6,)),
    ((1, 2, 6, 6), 2, 3, 1, 3, 1, (6,)),
    ((1, 2, 5, 5), 2, 5, 1, 1, 2, None),
    ((1, 2, 5, 5), 2, 4, 2, 1, 2, (4,)),
    ((1, 2, 5, 5), 2, 3, 1, 1, -1, None),
    ((1, 2, 5, 5), 2, 3, 2, 1, -1, (4,)),
    ((1, 2, 5, 5), 2, 3, 2, 1, 3, None),
    ((1, 1, 1, 1), 1, 3, 2, 1, 1, (4,)),
    ((1, 1, 1, 1), 1, 1, 1, 1, 0, None),
    ((0, 2, 4, 4), 2, 3, 1, 1, 1, None),
    ((0, 2, 4, 4), 2, 3, 2, 1, 1, (4,)),
    ((3, 4, 3, 3), 5, 3, 1, 1, 1, None),
    ((3, 4, 3, 3), 5, 3, 2, 1, 1, (4,)),
    ((3, 4, 6, 6), 5, 3, 1, 2, 1, (4,)),
    ((2, 9, 3, 3), 2, 3, 1, 1, 1, None),
    ((1, 2, 4, 4), 2, 3, 1, 1, 2, (2,)),
    ((2, 2, 6, 5), 2, 1, 2, 2, 0, (4,)),
)


def _modulated_op_cases() -> Iterator[OpCase]:
    epilogues = cycle(_EPILOGUES)
    for i, (shape, channels, k, up, down, padding, taps) in enumerate(_MODULATED):
        act, alpha, gain, clamp, noise, bias = next(epilogues)
        label = (
            f"{list(shape)} to {channels} k={k} up={up} down={down} padding={padding} f={taps} "
            f"{act} noise={noise} b={bias}"
        )
        random = _Random(label)
        n, inner, height, width = shape
        filtered = taps is not None
        sizes = [
            (size * up + 2 * padding - k + 1 - (0 if filtered else 1)) // down + (not filtered)
            for size in (height, width)
        ]
        noises = {
            "sample": random.normal(n, 1, *sizes),
            "shared": random.normal(1) if i % 2 else random.normal(*sizes),
            None: None,
        }
        values = {
            "x": random.normal(*shape),
            "weight": random.normal(channels, inner, k, k),
            "styles": random.normal(n, inner),
            "noise": noises[noise],
            "up": up,
            "down": down,
            "padding": padding,
            "resample_filter": random.normal(*taps) if filtered else None,
            "demodulate": i % 5 != 3,
            "flip_weight": i % 4 != 1,
            "b": random.normal(channels) if bias else None,
            "act": act,
            "alpha": alpha,
            "gain": gain,
            "clamp": None if clamp < 0 else clamp,
        }
        yield _op_case("modulated_conv2d", label, values)


_OP_CASES: dict[str, Callable[[], Iterator[OpCase]]] = {
    "bias_act": _bias_act_op_cases,
    "upfirdn2d": _upfirdn2d_op_cases,
    "instance_norm_act": _norm_op_cases,
    "modulated_conv2d": _modulated_op_cases,
}


# ----------------------------------------------------------------------------------------- refusals


@dataclass(frozen=True)
class BadCall:
    """A call of a public op that must raise ``error`` with a message that matches ``message``."""

    op: str
    label: str
    arguments: dict[str, Any]
    error: type[Exception]
    message: str


def bad_calls(op: str) -> list[BadCall]:
    """At least eight calls of a public op that must be refused; ``KeyError`` for an unknown op."""
    good, changes = _BAD_CALLS[op]
    calls = []
    for label, change, error, message in changes:
        calls.append(BadCall(op, label, {**good, **change}, error, message))
    return calls


def _zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


_INTEGERS = _zeros(2, 3, 4, 4, dtype=torch.int64)
_META = torch.zeros(3, device="meta")

_BAD_CALLS: dict[
    str, tuple[dict[str, Any], list[tuple[str, dict[str, Any], type[Exception], str]]]
] = {
    "bias_act": (
        {"x": _zeros(2, 3, 4, 4), "b": _zeros(3)},
        [
            ("no tensor", {"x": [1.0], "b": None}, TypeError, "x must be a tensor"),
            ("integers", {"x": _INTEGERS}, TypeError, "x must be float64"),
            ("integer bias", {"b": _zeros(3, dtype=torch.int32)}, TypeError, "b must be float64"),
            ("length of b", {"b": _zeros(4)}, ValueError, r"b must have the shape \[3\]"),
            ("2-D b", {"b": _zeros(1, 3)}, ValueError, r"b must have the shape \[3\]"),
            ("axis", {"dim": 4}, ValueError, "dim=4 is not an axis"),
            ("axis of b", {"dim": 2}, ValueError, r"b must have the shape \[4\]"),
            ("activation", {"act": "gelu"}, ValueError, "act must be one of linear, relu"),
            ("negative slope", {"act": "lrelu", "alpha": -0.2}, ValueError, "alpha of lrelu"),
            ("gain of zero", {"gain": 0.0}, ValueError, "gain must be positive"),
            ("infinite gain", {"gain": float("inf")}, ValueError, "gain must be positive"),
            ("negative clamp", {"clamp": -1.0}, ValueError, "clamp must not be negative"),
            ("other device", {"b": _META}, ValueError, "b is on meta, x on cpu"),
        ],
    ),
    "upfirdn2d": (
        {"x": _zeros(2, 3, 4, 4), "f": _zeros(4)},
        [
            ("integers", {"x": _INTEGERS}, TypeError, "x must be float64"),
            ("3-D x", {"x": _zeros(3, 4, 4)}, ValueError, r"x must be \[N, C, H, W\]"),
            ("3-D f", {"f": _zeros(1, 2, 2)}, ValueError, "f must be 1-D or 2-D"),
            ("empty f", {"f": _zeros(0)}, ValueError, "f must be 1-D or 2-D and not empty"),
            ("integer f", {"f": _zeros(3, dtype=torch.int64)}, TypeError, "f must be float64"),
            ("up of zero", {"up": 0}, ValueError, "up must be a positive int"),
            ("fraction", {"up": 1.5}, ValueError, "up must be a positive int"),
            ("negative down", {"down": (2, -1)}, ValueError, "down must be a positive int"),
            ("three paddings", {"padding": (1, 1, 1)}, ValueError, "padding must be an int"),
            ("filter too long", {"padding": (-1, 0)}, ValueError, "no output pixel is left"),
            ("infinite gain", {"gain": float("nan")}, ValueError, "gain must be finite"),
            ("other device", {"f": _META}, ValueError, "f is on meta, x on cpu"),
        ],
    ),
    "instance_norm_act": (
        {"x": _zeros(2, 3, 4, 4)},
        [
            ("integers", {"x": _INTEGERS}, TypeError, "x must be float64"),
            ("3-D x", {"x": _zeros(3, 4, 4)}, ValueError, r"x must be \[N, C, H, W\]"),
            ("no pixels", {"x": _zeros(2, 3, 0, 4)}, ValueError, "x has no pixels"),
            ("weight", {"weight": _zeros(4)}, ValueError, r"weight must be \[3\] or \[2, 3\]"),
            ("bias", {"bias": _zeros(3, 2)}, ValueError, r"bias must be \[3\] or \[2, 3\]"),
            ("activation", {"act": "gelu"}, ValueError, "act must be one of linear, relu"),
            ("negative slope", {"act": "lrelu", "alpha": -1.0}, ValueError, "alpha of lrelu"),
            ("residual", {"residual": _zeros(2, 3, 4, 5)}, ValueError, "residual must have the"),
            ("reflection", {"pad": 4}, ValueError, "reflection padding must be smaller"),
            ("negative padding", {"pad": -1}, ValueError, "pad must not be negative"),
            ("mode", {"pad_mode": "circular"}, ValueError, "pad_mode must be one of reflect"),
            ("negative eps", {"eps": -1e-5}, ValueError, "eps must not be negative"),
            ("mean alone", {"mean": _zeros(2, 3)}, ValueError, "must be given together"),
            (
                "statistics",
                {"mean": _zeros(2, 4), "rstd": _zeros(2, 4)},
                ValueError,
                r"mean must be \[2, 3\]",
            ),
            ("other device", {"weight": _META}, ValueError, "weight is on meta, x on cpu"),
        ],
    ),
    "modulated_conv2d": (
        {"x": _zeros(2, 3, 4, 4), "weight": _zeros(5, 3, 3, 3), "styles": _zeros(2, 3)},
        [
            ("integers", {"x": _INTEGERS}, TypeError, "x must be float64"),
            ("3-D x", {"x": _zeros(3, 4, 4)}, ValueError, r"x must be \[N, C, H, W\]"),
            ("3-D weight", {"weight": _zeros(5, 3, 3)}, ValueError, r"weight must be \[O, I"),
            ("channels", {"weight": _zeros(5, 4, 3, 3)}, ValueError, "weight takes 4 channels"),
            ("styles", {"styles": _zeros(2, 4)}, ValueError, r"styles must be \[2, 3\]"),
            ("shared styles", {"styles": _zeros(1, 3)}, ValueError, r"styles must be \[2, 3\]"),
            ("up of zero", {"up": 0}, ValueError, "up must be a positive int"),
            ("fraction", {"down": 0.5}, ValueError, "down must be a positive int"),
            ("pair of paddings", {"padding": (1, 1)}, ValueError, "padding must be an int"),
            ("nothing left", {"padding": -2}, ValueError, "no output pixel is left"),
            ("noise", {"noise": _zeros(2, 1, 4, 4)}, ValueError, "noise must broadcast to the"),
            ("bias", {"b": _zeros(3)}, ValueError, r"b must have the shape \[5\]"),
            ("activation", {"act": "gelu"}, ValueError, "act must be one of linear, relu"),
            ("filter", {"resample_filter": _zeros(1, 1, 1)}, ValueError, "f must be 1-D or 2-D"),
            ("other device", {"b": _META}, ValueError, "b is on meta, x on cpu"),
        ],
    ),
}
