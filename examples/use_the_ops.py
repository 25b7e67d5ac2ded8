"""The ops in a model of your own: an antialiased block, twice differentiable, on any backend.

python examples/use_the_ops.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pix2gan import ops


class BlurDown(nn.Module):
    """Convolution, instance norm and leaky ReLU in one op, then an antialiased halving."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.register_buffer("blur", ops.setup_filter([1, 3, 3, 1]))

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, O, H/2, W/2]
        x = ops.instance_norm_act(self.conv(x), act="lrelu")
        return ops.downsample2d(x, self.blur)


def main() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(BlurDown(3, 8), BlurDown(8, 1))
    image = torch.randn(2, 3, 32, 32, requires_grad=True)
    score = net(image).mean(dim=(1, 2, 3))
    print(f"scores {[round(v, 4) for v in score.tolist()]}")

    # A gradient penalty needs the gradient of a gradient; every op has it.
    (gradient,) = torch.autograd.grad(score.sum(), image, create_graph=True)
    penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
    penalty.backward()
    print(f"gradient penalty {penalty.item():.3e}")

    # The same on a backend of your choice; "reference" runs everywhere.
    with ops.use_backend("reference"), torch.no_grad():
        same = torch.allclose(net(image).mean(dim=(1, 2, 3)), score, atol=1e-5)
    print(f"the reference backend agrees: {same}")


if __name__ == "__main__":
    main()
