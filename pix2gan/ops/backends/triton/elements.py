# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call, misc"
"""What kernels share: rounding, activations and their derivatives, padding, quick division.

The interpreter computes garbage in bfloat16 and truncates where it stores it. So everything is
float32 from the load on, and ``to_element`` rounds by bits where interpreted.
"""

from __future__ import annotations

import triton.language as tl

from pix2gan.ops.backends.triton.launch import INTERPRETED as _INTERPRETED
from pix2gan.ops.backends.triton.launch import inlined

INTERPRETED = tl.constexpr(_INTERPRETED)
SELU_ALPHA = tl.constexpr(1.6732632423543772848)
SELU_SCALE = tl.constexpr(1.0507009873554804934)


@inlined
def to_element(v, dtype: tl.constexpr):
    """float32 rounded to ``dtype``, to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = v.to(tl.int32, bitcast=True)
        bits = (bits + (((bits >> 16) & 1) + 0x7FFF)) & -65536
        v = tl.where(v == v, bits.to(tl.float32, bitcast=True), v)
    return v.to(dtype)


@inlined
def operand(v):
    """v as tl.dot takes it: interpreted, in float32."""
    if INTERPRETED:
        v = v.to(tl.float32)
    return v


@inlined
def total(v, AXIS: tl.constexpr):
    """Sums of float32. A GPU adds in a tree; the interpreter, one by one, would lose digits."""
    if INTERPRETED:
        return tl.sum(v.to(tl.float64), AXIS).to(tl.float32)
    return tl.sum(v, AXIS)


# ------------------------------------------------------------------------------------- activations
# Exponentials are taken of -|v| only, so that nothing overflows, and differences such as
# 1 - tanh(v)^2 are rewritten as products, so that nothing cancels.


@inlined
def _expm1_negative(v):
    """exp(v) - 1 for v <= 0: near 0 by its series, whose next term is below 1e-8 of the sum."""
    series = 1 + v * (1.0 / 8)
    series = 1 + v * (1.0 / 7) * series
    series = 1 + v * (1.0 / 6) * series
    series = 1 + v * (1.0 / 5) * series
    series = 1 + v * (1.0 / 4) * series
    series = 1 + v * (1.0 / 3) * series
    series = 1 + v * (1.0 / 2) * series
    return tl.where(v > -0.5, v * series, tl.exp(v) - 1)


@inlined
def _log1p(e):
    """log(1 + e) for e in [0, 1], as 2 artanh(e / (2 + e))."""
    r = e / (2 + e)
    q = r * r
    series = 1.0 / 13 + q * (1.0 / 15)
    series = 1.0 / 11 + q * series
    series = 1.0 / 9 + q * series
    series = 1.0 / 7 + q * series
    series = 1.0 / 5 + q * series
    series = 1.0 / 3 + q * series
    return 2 * (r + r * q * series)


@inlined
def _sigmoid(v):
    """(sigmoid(v), sigmoid(-v))"""
    e = tl.exp(-tl.abs(v))
    large = 1 / (1 + e)
    small = e * large
    return tl.where(v > 0, large, small), tl.where(v > 0, small, large)


@inlined
def _tanh(v):
    e = _expm1_negative(-2 * tl.abs(v))
    t = -e / (2 + e)
    return tl.where(v < 0, -t, t)


@inlined
def _tanh_slope(v):
    e = tl.exp(-2 * tl.abs(v))
    r = 1 / (1 + e)
    return 4 * e * r * r


@inlined
def activate(v, alpha, ACT: tl.constexpr):
    """act(v); NaN stays NaN."""
    if ACT == "relu":
        v = tl.where(v < 0, 0.0, v)
    elif ACT == "lrelu":
        v = tl.where(v < 0, v * alpha, v)
    elif ACT == "tanh":
        v = _tanh(v)
    elif ACT == "sigmoid":
        s, _ = _sigmoid(v)
        v = s
    elif ACT == "elu":
        v = tl.where(v > 0, v, alpha * _expm1_negative(tl.where(v > 0, 0.0, v)))
    elif ACT == "selu":
        below = SELU_ALPHA * _expm1_negative(tl.where(v > 0, 0.0, v))
        v = SELU_SCALE * tl.where(v > 0, v, below)
    elif ACT == "softplus":
        v = tl.where(v < 0, 0.0, v) + _log1p(tl.exp(-tl.abs(v)))
    elif ACT == "swish":
        s, _ = _sigmoid(v)
        v = v * s
    return v


@inlined
def times_slope(g, v, alpha, ACT: tl.constexpr):
    """g * d act / dv; at a kink the slope of the negative side. ``v`` may be the output where
    that has its sign (relu, lrelu)."""
    if ACT == "relu":
        g = tl.where(v > 0, g, 0.0)
    elif ACT == "lrelu":
        g = tl.where(v > 0, g, g * alpha)
    elif ACT == "tanh":
        g = g * _tanh_slope(v)
    elif ACT == "sigmoid":
        s, c = _sigmoid(v)
        g = g * (s * c)
    elif ACT == "elu":
        g = g * tl.where(v > 0, 1.0, alpha * tl.exp(tl.where(v > 0, 0.0, v)))
    elif ACT == "selu":
        below = (SELU_SCALE * SELU_ALPHA) * tl.exp(tl.where(v > 0, 0.0, v))
        g = g * tl.where(v > 0, SELU_SCALE, below)
    elif ACT == "softplus":
        s, _ = _sigmoid(v)
        g = g * s
    elif ACT == "swish":
        s, c = _sigmoid(v)
        g = g * (s * (1 + v * c))
    return g


@inlined
def curvature(v, alpha, ACT: tl.constexpr):
    """d2 act / dv2."""
    if ACT == "tanh":
        v = -2 * _tanh(v) * _tanh_slope(v)
    elif ACT == "sigmoid":
        s, c = _sigmoid(v)
        v = s * c * (c - s)
    elif ACT == "elu":
        v = tl.where(v > 0, 0.0, alpha * tl.exp(tl.where(v > 0, 0.0, v)))
    elif ACT == "selu":
        below = (SELU_SCALE * SELU_ALPHA) * tl.exp(tl.where(v > 0, 0.0, v))
        v = tl.where(v > 0, 0.0, below)
    elif ACT == "softplus":
        s, c = _sigmoid(v)
        v = s * c
    elif ACT == "swish":
        s, c = _sigmoid(v)
        v = s * c * (2 + v * (c - s))
    else:
        v = v * 0
    return v


@inlined
def clip(v, clamp):
    """v limited to +-clamp; NaN stays NaN."""
    return tl.where(v > clamp, clamp, tl.where(v < -clamp, -clamp, v))


# ----------------------------------------------------------------------------------------- indices


@inlined
def quick_divide(i, multiplier, shift, UNIT: tl.constexpr):
    """i // d for 0 <= i < 2^31, with what ``divisor`` made of d; UNIT: d is 1.

    A multiplication and a shift instead of the twenty instructions of a division.
    """
    if UNIT:
        q = i
    else:
        high = tl.umulhi(i.to(tl.uint32), multiplier)  # which counts as unsigned as well
        q = (high >> shift).to(tl.int32)
    return q


@inlined
def within(i, size):
    """0 <= i < size in one comparison: as unsigned numbers the negative ones are large."""
    return i.to(tl.uint32) < size


@inlined
def padding_source(i, size, MODE: tl.constexpr):
    """The pixel of [0, size) that position i (counted from the first pixel; may be negative) is
    copied from. For zeros it is outside."""
    if MODE == "reflect":
        i = tl.abs(i)
        i = tl.where(i < size, i, 2 * (size - 1) - i)
    elif MODE == "replicate":
        i = tl.minimum(tl.maximum(i, 0), size - 1)
    return i


def divisor(d: int) -> tuple[int, int, bool]:
    """(multiplier, shift, is it 1) by which ``quick_divide`` divides by d.

    With l = ceil(log2 d) and m = ceil(2^(31 + l) / d) < 2^32, m exceeds 2^(31 + l) / d by less
    than 1, hence i m / 2^(31 + l) exceeds i / d by less than 2^-l <= 1 / d for i < 2^31: too
    little to reach the next integer. The multiplier is handed over as a signed 32-bit integer.
    """
    if d == 1:
        return 0, 0, True
    log = (d - 1).bit_length()
    multiplier = -(-(1 << (31 + log)) // d)
    return multiplier - (1 << 32) if multiplier >= 1 << 31 else multiplier, log - 1, False
