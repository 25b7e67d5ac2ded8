"""``modulated_conv2d``: a convolution whose weights are scaled per sample (StyleGAN2,
arXiv:1912.04958)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pix2gan.ops.bias_act import as_parameter, bias_act, check_bias, settings
from pix2gan.ops.layout import accumulation_dtype, require_floating, require_same_device
from pix2gan.ops.scaled_conv2d import FUSED_ACTIVATIONS, _scaled_conv2d, convolve
from pix2gan.ops.upfirdn2d import centring, filter_size, prepare_filter, require_image, upfirdn2d


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    b: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """bias_act(resample(x * w') + noise, b, ...) with w'[n, o, i] = weight[o, i] styles[n, i].

    The convolution is computed without a weight per sample: x is scaled by the styles on its way
    in, the result by d[n, o] = (sum w'^2 + 1e-8)^-1/2 on its way out.

    Args:
        x: [N, I, H, W], float64, float32, float16 or bfloat16; cast to the autocast dtype where
            that is on.
        weight: [O, I, kh, kw], any floating dtype; the demodulation is computed from it as it is.
        styles: [N, I].
        noise: broadcastable to the output, as [N, 1, H', W'] or a number in a tensor; added behind
            the resampling.
        up, down: y = down(f * (w' * up(x))) up^2: zeros inserted, w' and then f convolved with,
            every down-th pixel kept. x counts as zero outside, and nothing is cut off between the
            two convolutions.
        padding: of the convolution with w', counted at the high resolution; k // 2 gives H up /
            down.
        resample_filter: f, 1-D (separable) or 2-D, centred; a constant. None resamples without a
            filter, which is a strided or a transposed convolution.
        demodulate: divide each w'[n, o] by sqrt(sum w'^2 + 1e-8).
        flip_weight: True correlates, as ``torch.nn.functional.conv2d`` does; False convolves.
        b, act, alpha, gain, clamp: as in ``bias_act``, applied last.

    Returns [N, O, H', W'] in x's (or the autocast) dtype and x's memory format. First and second
    derivatives are available. Raises ``ValueError`` or ``TypeError`` for bad arguments and where no
    pixel is left.
    """
    require_image(x)
    device = x.device.type
    if not x.is_meta and torch.is_autocast_enabled(device):
        if x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(device))
        # From here on the dtypes are decided: the demodulation stays float32.
        with torch.autocast(device, enabled=False):
            return modulated_conv2d(
                x,
                weight,
                styles,
                noise,
                up,
                down,
                padding,
                resample_filter,
                demodulate,
                flip_weight,
                b,
                act,
                alpha,
                gain,
                clamp,
            )
    alpha, gain, clip = settings(act, alpha, gain, clamp)
    _check(x, weight, styles, up, down, padding)
    w, s, d = _modulation(x, weight, styles, demodulate)
    if not flip_weight:
        w = w.flip((2, 3))
    fuse = _may_fuse(act, d, (x, w, s, noise, b))
    epilogue = _Epilogue(noise, b, act, alpha, gain, clip, fuse)
    return _resampled(x, w, s, d, up, down, padding, resample_filter, epilogue)


def _check(x: Tensor, weight: Tensor, styles: Tensor, up: int, down: int, padding: int) -> None:
    for value, name in ((weight, "weight"), (styles, "styles")):
        require_floating(value, name)
        require_same_device(x, value, name)
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(f"weight must be [O, I, kh, kw], it has the shape {list(weight.shape)}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight takes {weight.shape[1]} channels, x has {x.shape[1]}")
    if tuple(styles.shape) != tuple(x.shape[:2]):
        raise ValueError(
            f"styles must be {list(x.shape[:2])}, it has the shape {list(styles.shape)}"
        )
    for number, name in ((up, "up"), (down, "down")):
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive int, it is {number!r}")
    if not isinstance(padding, int):
        raise ValueError(f"padding must be an int, it is {padding!r}")


def _modulation(
    x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(w in x's dtype, s [N, I], d [N, O] or None), s and d in the accumulation dtype."""
    dtype = accumulation_dtype(x.dtype)
    s, w = styles.to(dtype), weight.to(dtype)
    if not demodulate:
        return w.to(x.dtype), s.contiguous(), None
    energy = w.square().sum((2, 3))  # [O, I]
    d = torch.rsqrt(s.square() @ energy.t() + 1e-8)
    if x.dtype != dtype:
        # Half precision: |s| <= 1 and |w| <= (terms of a sum)^-1/2, so that no sum exceeds
        # sqrt(terms) max|x|. d takes the factors back, exactly, epsilon included: the result does
        # not depend on them, hence detach.
        s_scale = _or_one(s.detach().abs().amax(1, keepdim=True))  # [N, 1]
        terms = weight[0].numel()
        w_scale = _or_one(w.detach().abs().amax((1, 2, 3))) * terms**0.5  # [O]
        d = d * s_scale * w_scale
        s = s / s_scale
        w = w / w_scale[:, None, None, None]
    return w.to(x.dtype), s.contiguous(), d.contiguous()


def _or_one(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1.0)


def _may_fuse(act: str, d: Tensor | None, others: Sequence[Tensor | None]) -> bool:
    """Whether the epilogue may go into the convolution.

    Not where gradients of a smooth activation are needed, for which the op keeps too little, nor
    where d needs one: behind the bare convolution it follows from the output, behind an epilogue
    it takes one more convolution.
    """
    if not torch.is_grad_enabled():
        return True
    if act in FUSED_ACTIVATIONS:
        return d is None or not d.requires_grad
    return not any(t is not None and t.requires_grad for t in (*others, d))


class _Epilogue:
    """What follows the convolution: noise, bias, activation, gain, clipping."""

    def __init__(
        self,
        noise: Tensor | None,
        b: Tensor | None,
        act: str,
        alpha: float,
        gain: float,
        clamp: float,
        fuse: bool,
    ) -> None:
        self.noise, self.b, self.fuse = noise, b, fuse
        self.act, self.alpha, self.gain, self.clamp = act, alpha, gain, clamp

    def convolve(
        self,
        x: Tensor,
        w: Tensor,
        s: Tensor,
        d: Tensor | None,
        stride: int,
        padding: int,
        transposed: bool,
        out_h: int,
        out_w: int,
    ) -> Tensor:
        """The convolution with the epilogue, in one op where possible."""
        geometry = (stride, padding, transposed, out_h, out_w)
        shape = (x.shape[0], w.shape[1 if transposed else 0], out_h, out_w)
        noise = self._noise(shape, x)
        planes = noise is None or (noise.dim() == 4 and noise.shape[1:] == (1, out_h, out_w))
        if not self.fuse or not planes:
            return self.apply(convolve(x, w, s, d, *geometry))
        check_bias(self.b, x, shape, 1)
        return _scaled_conv2d(
            x,
            w,
            s,
            d,
            *geometry,
            noise,
            as_parameter(self.b, x),
            self.act,
            self.alpha,
            self.gain,
            self.clamp,
        )

    def apply(self, y: Tensor) -> Tensor:
        """The epilogue behind something else than the convolution."""
        noise = self._noise(tuple(y.shape), y)
        if noise is not None:
            y = y + noise
        clamp = None if self.clamp < 0 else self.clamp
        return bias_act(y, self.b, 1, self.act, self.alpha, self.gain, clamp)

    def _noise(self, shape: tuple[int, ...], x: Tensor) -> Tensor | None:
        if self.noise is None:
            return None
        require_floating(self.noise, "noise")
        require_same_device(x, self.noise, "noise")
        own = tuple(self.noise.shape)
        behind = shape[len(shape) - len(own) :]
        fits = all(n == 1 or n == size for n, size in zip(own, behind, strict=False))
        if len(own) > 4 or not fits:
            raise ValueError(
                f"noise must broadcast to the output {list(shape)}, it has the shape {list(own)}"
            )
        return self.noise.to(x.dtype)


def _resampled(
    x: Tensor,
    w: Tensor,
    s: Tensor,
    d: Tensor | None,
    up: int,
    down: int,
    padding: int,
    f: Tensor | None,
    epilogue: _Epilogue,
) -> Tensor:
    """down(f * (w * up(x))) up^2, on x that is zero outside, in the cheapest order.

    With F for the correlation taps of f and q0, q1 for the padding that centres them, the output is
    y[o] = sum_t F[t] sum_k w[k] up(x)[o down + t + k - padding - q0], of the length
    (H up + 2 padding - (k - 1) + q0 + q1 - len F) // down + 1. Both convolutions are over the
    infinite grid, so they commute, also with the scales per channel.
    """
    height, width = x.shape[2:]
    kh, kw = w.shape[2:]
    gain = float(up * up)
    if f is None:
        fw = fh = 1
        qx = qy = (0, 0)  # no filter, nothing to centre: as a strided or transposed convolution
    else:
        f = prepare_filter(f, x)
        fw, fh = filter_size(f)
        qx, qy = centring(fw, up, down), centring(fh, up, down)
    out_w = (width * up + 2 * padding - (kw - 1) + sum(qx) - fw) // down + 1
    out_h = (height * up + 2 * padding - (kh - 1) + sum(qy) - fh) // down + 1
    if min(out_w, out_h) < 1:
        raise ValueError(
            f"no output pixel is left of x {list(x.shape)} with weight {list(w.shape)}, "
            f"padding={padding}, up={up}, down={down}"
        )

    if up == 1:
        if f is None and padding >= 0:
            return epilogue.convolve(x, w, s, d, down, padding, False, out_h, out_w)
        # Filter first: the strided convolution then computes only what is kept, and takes the
        # epilogue.
        pads = (padding + qx[0], padding + qx[1], padding + qy[0], padding + qy[1])
        if kh == kw == 1:
            low = upfirdn2d(x, f, down=down, padding=pads)
            return epilogue.convolve(low, w, s, d, 1, 0, False, out_h, out_w)
        smooth = upfirdn2d(x, f, padding=pads)
        return epilogue.convolve(smooth, w, s, d, down, 0, False, out_h, out_w)

    if kh == kw == 1:
        low = convolve(x, w, s, d, 1, 0, False, height, width)
        pads = (padding + qx[0], padding + qx[1], padding + qy[0], padding + qy[1])
        return epilogue.apply(upfirdn2d(low, f, up=up, down=down, padding=pads, gain=gain))

    # up(x) correlated with w is a transposed convolution with w flipped.
    wt = w.flip((2, 3)).transpose(0, 1)
    if f is None and down == 1 and kh == kw and padding < kh:
        inner = kh - 1 - padding
        ones = s.new_ones([x.shape[0], w.shape[0]])
        d = (ones if d is None else d) * gain
        return epilogue.convolve(x, wt, s, d, up, inner, True, out_h, out_w)
    # The whole support of up(x) * w, then the filter; the support starts at padding - (k - 1) of
    # the output.
    full_h, full_w = (height - 1) * up + kh, (width - 1) * up + kw
    full = convolve(x, wt, s, d, up, 0, True, full_h, full_w)
    pads = (
        qx[0] + padding - (kw - 1),
        qx[1] + padding - kw + up,
        qy[0] + padding - (kh - 1),
        qy[1] + padding - kh + up,
    )
    return epilogue.apply(upfirdn2d(full, f, down=down, padding=pads, gain=gain))
