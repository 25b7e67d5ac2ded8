"""A name for weights that says nothing but which they are."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_hash(network: nn.Module) -> str:
    """SHA-256, in hexadecimal digits, over the names, types, shapes and values of a network's
    parameters and buffers.

    It depends on neither device, memory format nor file: a checkpoint of an original repository
    and the model folder that it was converted to have the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        values = tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        digest.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
