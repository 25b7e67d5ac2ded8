"""The ops of pix2gan: fused, twice differentiable, traced by ``torch.compile``, with backends to
choose from.

docs/ops.md has the mathematics, docs/backends.md tells how to bring the ops to new hardware.
"""

from pix2gan.ops.bias_act import bias_act
from pix2gan.ops.dispatch import (
    BackendStatus,
    list_backends,
    register_backend,
    unregister_backend,
    use_backend,
)
from pix2gan.ops.instance_norm import (
    InstanceNormStats,
    instance_norm_act,
    instance_norm_stats,
    merge_instance_norm_stats,
)
from pix2gan.ops.modulated_conv2d import modulated_conv2d
from pix2gan.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

__all__ = [
    "bias_act",
    "upfirdn2d",
    "setup_filter",
    "filter2d",
    "upsample2d",
    "downsample2d",
    "modulated_conv2d",
    "instance_norm_act",
    "instance_norm_stats",
    "merge_instance_norm_stats",
    "InstanceNormStats",
    "use_backend",
    "register_backend",
    "unregister_backend",
    "list_backends",
    "BackendStatus",
]
