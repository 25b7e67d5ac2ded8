"""One pass of a network over several batches instead of a pass over each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def run_each(network: Callable[[Tensor], Any], *batches: Tensor, norm: str) -> list[Any]:
    """What ``network`` makes of each of ``batches``, in one pass where that is the same.

    It is wherever an image's result does not depend on its neighbours; with ``norm`` "batch" it
    does, and each batch has a pass of its own.

    Args:
        network: From images [N, C, H, W] to a tensor [N, ...] or a list of such.
        batches: Of one C, H and W.
        norm: The network's normalisation, as ``TrainConfig.norm`` names it.
    """
    if norm == "batch":
        return [network(batch) for batch in batches]
    counts = [len(batch) for batch in batches]
    output = network(torch.cat(batches))
    if isinstance(output, Tensor):
        return list(output.split(counts))
    return [list(parts) for parts in zip(*(each.split(counts) for each in output), strict=True)]
