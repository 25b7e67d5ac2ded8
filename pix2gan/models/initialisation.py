"""How weights start: as in the papers of Pix2Pix and CycleGAN."""

from __future__ import annotations

from torch import nn

STANDARD_DEVIATION = 0.02


def initialise(network: nn.Module) -> None:
    """Draw convolutions from N(0, 0.02), batch-norm scales from N(1, 0.02); zero all biases."""
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, STANDARD_DEVIATION)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, STANDARD_DEVIATION)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
