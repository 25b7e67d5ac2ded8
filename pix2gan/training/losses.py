"""The losses of adversarial training, each a pure function of network outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Takes a discriminator's logits and whether they should say "real"; gives a scalar.
GANLoss = Callable[[Tensor, bool], Tensor]


def least_squares_gan_loss(logits: Tensor, real: bool) -> Tensor:
    """Mean of (logits - 1)² for real, logits² for generated images (LSGAN, Mao et al. 2017).

    The paper's factor ½ on the discriminator's losses is the method's business.
    """
    return (logits.float() - float(real)).square().mean()


def vanilla_gan_loss(logits: Tensor, real: bool) -> Tensor:
    """Mean cross entropy of sigmoid(logits) with 1 for real, 0 for generated (Goodfellow 2014).

    Used with ``real=True`` on generated images it is the generator's non-saturating loss.
    """
    logits = logits.float()
    return F.softplus(-logits if real else logits).mean()


GAN_LOSSES: dict[str, GANLoss] = {"lsgan": least_squares_gan_loss, "vanilla": vanilla_gan_loss}


def multiscale_gan_loss(loss: GANLoss, logits: Sequence[Tensor], real: bool) -> Tensor:
    """``loss`` summed over several discriminators (pix2pixHD, Wang et al. 2018, eq. 3)."""
    return torch.stack([loss(each, real) for each in logits]).sum()


def l1_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference, accumulated in float32."""
    return (output.float() - target.float()).abs().mean()


def distance_and_spread(first: Tensor, second: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """L1 of two independent outputs to the target, averaged, and to each other.

    distance - spread / 2 is an unbiased estimate of the energy score E|Y - b| - E|Y - Y'| / 2, a
    proper scoring rule (Gneiting & Raftery 2007; for networks with a noise input: DISCO Nets,
    Bouchacourt et al. 2016, arXiv:1606.02556). It is least where each pixel is distributed as the
    targets are. The distance alone is least where every output is their median, noise ignored.
    """
    distance = 0.5 * (l1_loss(first, target) + l1_loss(second, target))
    return distance, l1_loss(first, second)


def feature_matching_loss(generated: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of a discriminator's activations, summed over its layers.

    pix2pixHD (Wang et al. 2018), eq. 4. ``real`` gets no gradient. Pass activations without the
    logits that follow them.
    """
    pairs = zip(generated, real, strict=True)
    return torch.stack([l1_loss(ours, theirs.detach()) for ours, theirs in pairs]).sum()
