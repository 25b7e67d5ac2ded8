"""A backend of pix2gan.ops in numba, for a device that is pretended: it takes CPU tensors.

What it lacks (convolutions, some activations, float64) falls through to the next backend. Kernels
see contiguous float32 arrays, run in parallel over planes or rows and sum in float64; float16 and
bfloat16, which numba does not know, are converted by PyTorch and rounded once on the way out.
"""

import math

import numpy as np
import torch
from numba import njit, prange

DEVICES = ("cpu",)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS = {"linear": 0, "relu": 1, "lrelu": 2, "tanh": 3, "sigmoid": 4, "swish": 5}
PAD_MODES = ("reflect", "replicate", "zeros")


def is_available():
    return True, ""


def supports(primitive, *args):
    if primitive == "instance_norm_act" and (args[5] is not None or args[6]):
        return False  # a residual or a border
    names = [a for a in args if isinstance(a, str) and a not in PAD_MODES]
    return args[0].dtype in DTYPES and all(name in ACTIVATIONS for name in names)


def array(x, *shape):
    return x.detach().float().contiguous().view(shape or x.shape).numpy()


def fill(kernel, *args, out, shape):
    """Has a kernel fill ``out``, or what is then converted to its dtype and its strides."""
    if out.numel():
        direct = out.dtype == torch.float32 and out.is_contiguous()
        y = out if direct else torch.empty(out.shape)
        kernel(*args, y.view(shape).numpy())
        if not direct:
            out.copy_(y)


@njit
def activate(v, act, alpha):
    if act == 1 or act == 2:
        return v if v > 0 else v * (alpha if act == 2 else 0.0)
    if act == 3:
        return math.tanh(v)
    if act == 4:
        return 1 / (1 + math.exp(-v))
    return v / (1 + math.exp(-v)) if act == 5 else v


@njit
def slope(v, act, alpha):
    if act == 1 or act == 2:
        return 1.0 if v > 0 else (alpha if act == 2 else 0.0)
    if act == 3:
        return 1 - math.tanh(v) ** 2
    s, c = 1 / (1 + math.exp(-v)), 1 / (1 + math.exp(v))
    if act == 4:
        return s * c
    return s * (1 + v * c) if act == 5 else 1.0


@njit(parallel=True)
def bias_act_kernel(x, b, act, alpha, gain, clamp, y):
    for i in prange(x.shape[0]):
        for j in range(x.shape[1]):
            t = gain * activate(np.float64(x[i, j]) + b[i % len(b)], act, alpha)
            y[i, j] = min(max(t, -clamp), clamp) if clamp >= 0 else t


@njit(parallel=True)
def bias_act_grad_kernel(dy, v, b, from_y, act, alpha, gain, clamp, dx):
    for i in prange(dy.shape[0]):
        for j in range(dy.shape[1]):
            t = np.float64(v[i, j]) + b[i % len(b)]
            y = t if from_y else gain * activate(t, act, alpha)
            clipped = clamp >= 0 and abs(y) >= clamp
            dx[i, j] = 0.0 if clipped else gain * dy[i, j] * slope(t, act, alpha)


def rows(x, b, dim):
    """The shape of x with a row for each number of the bias, which repeat, and the bias."""
    if b is None:
        return (max(1, x.shape[0]) if x.dim() else 1, -1), np.zeros(1, np.float32)
    return (math.prod(x.shape[: dim + 1]), -1), array(b)


def bias_act(x, b, dim, act, alpha, gain, clamp, out):
    if out.numel():
        shape, b = rows(x, b, dim)
        options = (ACTIVATIONS[act], float(alpha), float(gain), float(clamp))
        fill(bias_act_kernel, array(x, *shape), b, *options, out=out, shape=shape)


def bias_act_grad(dy, x, b, y, dim, act, alpha, gain, clamp, out):
    if out.numel():
        shape, b = rows(dy, b, dim)
        v, from_y = (x, False) if y is None else (y, True)  # y of linear, relu and lrelu
        options = (ACTIVATIONS[act], float(alpha), float(gain), float(clamp))
        arrays = (array(dy, *shape), array(v, *shape), b)
        fill(bias_act_grad_kernel, *arrays, from_y, *options, out=out, shape=shape)


@njit(parallel=True)
def upfirdn2d_kernel(x, f, upx, upy, downx, downy, padx, pady, gain, y):
    planes, height, width = y.shape
    for row in prange(planes * height):
        plane, oy = row // height, row % height
        for ox in range(width):
            total = 0.0
            for ky in range(f.shape[0]):
                iy, ry = divmod(oy * downy + ky - pady, upy)
                if ry == 0 and 0 <= iy < x.shape[1]:
                    for kx in range(f.shape[1]):
                        ix, rx = divmod(ox * downx + kx - padx, upx)
                        if rx == 0 and 0 <= ix < x.shape[2]:
                            total += f[ky, kx] * np.float64(x[plane, iy, ix])
            y[plane, oy, ox] = gain * total


def upfirdn2d(x, f, upx, upy, downx, downy, padx0, padx1, pady0, pady1, flip, gain, out):
    f = f.double().outer(f.double()) if f.dim() == 1 else f.double()
    taps = np.ascontiguousarray((f if flip else f.flip((0, 1))).numpy())
    options = (upx, upy, downx, downy, padx0, pady0, float(gain))
    if out.numel():
        planes = array(x, -1, *x.shape[2:])
        fill(upfirdn2d_kernel, planes, taps, *options, out=out, shape=(-1, *out.shape[2:]))


@njit(parallel=True)
def statistics_kernel(x, mean, m2):
    for p in prange(x.shape[0]):
        mean[p] = x[p].sum() / x.shape[1]
        for j in range(x.shape[1]):
            m2[p] += (x[p, j] - mean[p]) ** 2


def statistics(x):
    """mean and M2 of each plane in float64 [N, C]."""
    mean, m2 = (np.zeros(x.shape[:2]) for _ in range(2))
    if x.numel():
        planes = array(x, -1, x[0, 0].numel()).astype(np.float64)
        statistics_kernel(planes, mean.ravel(), m2.ravel())
    return torch.from_numpy(mean), torch.from_numpy(m2)


def instance_norm_stats(x, mean, m2):
    for out, found in zip((mean, m2), statistics(x), strict=True):
        out.copy_(found)


@njit(parallel=True)
def scale_act_kernel(x, scale, shift, act, alpha, y):
    for p in prange(x.shape[0]):
        for j in range(x.shape[1]):
            y[p, j] = activate(x[p, j] * scale[p] + shift[p], act, alpha)


def instance_norm_act(x, weight, bias, act, alpha, *rest):
    eps, mean, rstd, out, mean_out, rstd_out = rest[3:]
    if mean is None and x.numel():
        mean, m2 = statistics(x)
        rstd = torch.rsqrt(m2 / x[0, 0].numel() + eps)
    if x.numel():
        mean_out.copy_(mean)
        rstd_out.copy_(rstd)
        scale = rstd.double() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        planes = (array(x, scale.numel(), -1), scale.numpy().ravel(), shift.numpy().ravel())
        function = (ACTIVATIONS[act], float(alpha))
        fill(scale_act_kernel, *planes, *function, out=out, shape=planes[0].shape)
