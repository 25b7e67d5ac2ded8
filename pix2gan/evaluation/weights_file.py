"""State dicts of networks from a local file: tensors and nothing that could be executed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import safetensors.torch
import torch
from torch import Tensor

from pix2gan.checkpoints.legacy import SUFFIXES as PICKLED
from pix2gan.checkpoints.legacy import read_tensors
from pix2gan.checkpoints.native import one_line
from pix2gan.errors import CheckpointError

SUFFIXES = (".safetensors", *PICKLED)

Tensors: TypeAlias = Mapping[str, Tensor]


def read_weights(path: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a state dict by name, floating-point ones in float32, and the file's SHA-256.

    Nothing in the file is executed. ``num_batches_tracked`` is left out.

    Raises:
        CheckpointError: If it is missing or damaged, could execute code, or is no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            content: Mapping[str, Any] = safetensors.torch.load_file(path)
        except Exception as error:  # safetensors raises all sorts of things
            raise CheckpointError(f"{path} cannot be read ({one_line(error)})") from None
    else:
        _refuse_torchscript(path)
        content = read_tensors(path)
    for name, value in content.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path} is no state dict: {name} is no tensor")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name} holds values that are not finite")
    tensors = {
        str(name): value.float()
        for name, value in content.items()
        if not name.endswith("num_batches_tracked")
    }
    return tensors, hashlib.sha256(path.read_bytes()).hexdigest()


def _refuse_torchscript(path: Path) -> None:
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise CheckpointError(
                    f"{path} is refused: TorchScript is code; give the network's state_dict()"
                )


def check_names(tensors: Tensors, wanted: set[str], path: Path, what: str) -> None:
    missing, more = sorted(wanted - set(tensors)), sorted(set(tensors) - wanted)
    for names, complaint in ((missing, "lacks"), (more, "also holds")):
        if names:
            listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            raise CheckpointError(
                f"{path} is not {what} as PyTorch has it: it {complaint} {listed}"
            )


def check_chain(run: Callable[[Tensor, Tensors], Tensor], tensors: Tensors, path: Path) -> None:
    """CheckpointError unless every layer takes what the one before it makes."""
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    try:
        run(torch.empty(1, 3, 224, 224, device="meta"), shapes)
    except (RuntimeError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"{path} is damaged: its tensors do not fit together ({one_line(error)})"
        ) from None
