"""Reading .pt2 archives that `pix2gan.export` wrote: of `torch.export` or of AOTInductor."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pix2gan.checkpoints.exported import KEY, Description, Run
from pix2gan.checkpoints.model_config import MAX_CONFIG_BYTES
from pix2gan.checkpoints.native import one_line
from pix2gan.errors import CheckpointError

_ENTRY = f"/extra/{KEY}.json"
_MACHINE_CODE = "/data/aotinductor/"


def open_pt2(path: Path, trust_code: bool) -> tuple[Description, Run]:
    """The description of a .pt2 and a function that runs it; opened only if it is trusted.

    Raises:
        CheckpointError: If it is not to be trusted, is damaged, or was made elsewhere.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            ours = [name for name in names if name.endswith(_ENTRY)]
            if len(ours) != 1:
                raise CheckpointError(
                    f"{path} does not say how its images are prepared: it is no export of pix2gan"
                )
            with archive.open(ours[0]) as file:
                description = Description.from_json(file.read(MAX_CONFIG_BYTES + 1), path)
    except CheckpointError:
        raise
    except Exception as error:  # zipfile raises all sorts of things
        raise _damaged(path, error) from None
    compiled = any(_MACHINE_CODE in name for name in names)
    if not trust_code:
        holds = "is machine code" if compiled else "can execute code when it is read"
        raise CheckpointError(
            f"{path} {holds}: if you trust whoever made it, say so with trust_code "
            "(--trust-code); an .onnx file needs no trust"
        )
    try:
        call = _load_compiled(path) if compiled else _load_program(path)
    except Exception as error:
        raise _damaged(path, error) from None
    style = bool(description.style_channels)

    def run(inputs: Mapping[str, Tensor]) -> Tensor:
        result = call(inputs["image"], inputs["style"]) if style else call(inputs["image"])
        if not isinstance(result, Tensor):
            raise CheckpointError(f"{path} is damaged: its graph does not make one image")
        return result

    return description, run


def _load_program(path: Path) -> Any:
    module = torch.export.load(path).module()
    # A bound method: as a module, eval() and the like would reach it, which it refuses.
    return module.to(memory_format=torch.channels_last).__call__  # type: ignore[call-overload]


def _load_compiled(path: Path) -> Any:
    return torch._inductor.aoti_load_package(str(path))


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged or no archive of PyTorch {torch.__version__} "
        f"({one_line(error)}): export it again"
    )
