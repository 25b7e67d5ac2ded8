"""From a model of pix2gan to a file that other runtimes take."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch.export import ExportedProgram

from pix2gan.checkpoints.exported import Description, load_exported, require_weights
from pix2gan.checkpoints.load import load_model
from pix2gan.checkpoints.resolve import resolve_model
from pix2gan.errors import ConfigError
from pix2gan.export.parity import Parity, check_parity
from pix2gan.export.tracing import trace
from pix2gan.export.writers import check_compiler, check_onnx, write_aoti, write_onnx, write_torch
from pix2gan.file_io import atomic_write, check_writable
from pix2gan.models.generator import Generator


@dataclass(frozen=True)
class _Format:
    suffix: str
    check: Callable[[], None]
    """ConfigError where something is missing that it needs."""
    write: Callable[[ExportedProgram, Description, Path], None]


FORMATS = {
    "onnx": _Format(".onnx", check_onnx, write_onnx),
    "torch": _Format(".pt2", lambda: None, write_torch),
    "aoti": _Format(".pt2", check_compiler, write_aoti),
}


@dataclass(frozen=True)
class Exported:
    """An exported file, and how well it matches the original."""

    path: Path
    format: str
    parity: Parity

    def __str__(self) -> str:
        megabytes = self.path.stat().st_size / 1e6
        return (
            f"{self.path}: {self.format}, {megabytes:.1f} MB, any batch and size; equal to the "
            f"original on {len(self.parity.shapes)} shapes (largest difference "
            f"{self.parity.difference:.1e})"
        )


def export_model(
    model: str | os.PathLike[str],
    to: str = "onnx",
    out: str | os.PathLike[str] | None = None,
    *,
    direction: str | None = None,
    statistics: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model for another runtime; compared with the original before it is in place.

    The file takes batches of any number and images of any size that the architecture takes, in
    float32, and carries all that `Translator.from_pretrained` needs to use it.

    Args:
        model: As for `Translator.from_pretrained`.
        to: "onnx": operators of the ONNX standard, for ONNX Runtime, OpenVINO and others. "torch":
            an archive of `torch.export`. "aoti": code that AOTInductor compiles for this machine's
            processor, which takes a C++ compiler and a minute or more.
        out: The file, ending in .onnx or .pt2; by default the model's name in the current folder.
        direction: See `Translator.from_pretrained`.
        statistics: See `Translator.from_pretrained`; fixed in the file.
        overwrite: Replace a file that is there.

    Raises:
        ConfigError: If the format is unknown, its packages or compiler are missing, or the file
            cannot be written there.
        CheckpointError: If the model cannot be loaded, or its export does not match it. Nothing is
            written then.
    """
    if to not in FORMATS:
        raise ConfigError(f"to must be one of {', '.join(FORMATS)}, not {to!r}")
    form = FORMATS[to]
    form.check()
    path = resolve_model(model, direction)
    loaded, config = load_model(path, direction=direction, statistics=statistics)
    config = replace(config, keeps_dropout=False)  # a graph draws no masks
    require_weights(loaded, config)
    generator = cast(Generator, loaded)
    name = re.sub(r"[^\w.-]+", "_", config.name) or "model"
    target = Path(out) if out is not None else Path(name + form.suffix)
    _check_target(target, form.suffix, overwrite)
    description = Description(
        config, generator.multiple, generator.minimum_size, generator.style_channels
    )
    with tempfile.TemporaryDirectory(prefix="pix2gan-export-") as folder:
        draft = Path(folder) / f"model{form.suffix}"
        form.write(trace(generator), description, draft)
        parity = check_parity(generator, load_exported(draft, trust_code=True)[0])
        with draft.open("rb") as file, atomic_write(target) as placed:
            shutil.copyfileobj(file, placed)
    return Exported(target, to, parity)


def _check_target(target: Path, suffix: str, overwrite: bool) -> None:
    if target.suffix != suffix:
        raise ConfigError(f"The output {target} must end in {suffix}: rename it")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} is there already: give another path, or --overwrite")
    try:
        check_writable(target.parent)
    except OSError as error:
        raise ConfigError(
            f"The output {target} cannot be written ({error.strerror}): choose another path"
        ) from None
