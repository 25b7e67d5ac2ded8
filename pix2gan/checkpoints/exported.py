"""Exported models: a graph of standard operators in one file, with all a translator must know.

    model.onnx    run by ONNX Runtime. ONNX is data, and what could be more than that is refused.
    model.pt2     an archive of `torch.export` or AOTInductor. Reading one can execute code: the
                  first holds expressions that Python evaluates and pickles that PyTorch falls back
                  to, the second machine code. So they are opened only where the caller says that
                  their maker is trusted.

Both carry a `Description` under the name "pix2gan": the model's config, and what the architecture
would otherwise tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pix2gan.checkpoints.model_config import MAX_CONFIG_BYTES, ModelConfig
from pix2gan.errors import CheckpointError
from pix2gan.models.style import draw_codes

SUFFIXES = (".onnx", ".pt2")
FORMAT_VERSION = 1
KEY = "pix2gan"
"""Under which the description lies: in ONNX's metadata, and as `extra/pix2gan.json` of a .pt2."""

_LIMITS = {"multiple": 1 << 14, "minimum_size": 1 << 16, "style_channels": 1 << 12}


@dataclass(frozen=True)
class Description:
    """What an exported file says about its graph.

    Attributes:
        config: The model's config; nothing is built from its architecture.
        multiple: What height and width must be multiples of.
        minimum_size: What they must at least be.
        style_channels: Length of the style code [1, style_channels] that the graph takes besides
            the images, or 0. Zeros stand for the fixed style.
    """

    config: ModelConfig
    multiple: int
    minimum_size: int
    style_channels: int = 0

    def to_json(self) -> str:
        values = {
            "format_version": FORMAT_VERSION,
            "multiple": self.multiple,
            "minimum_size": self.minimum_size,
            "style_channels": self.style_channels,
            "config": json.loads(self.config.to_json()),
        }
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> Description:
        """CheckpointError for anything that `to_json` would not have written."""
        if len(text) > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: its description is larger than 1 MiB")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: its description is not valid JSON ({error})") from None
        known = {"format_version", "config", *_LIMITS}
        if not isinstance(values, dict) or values.keys() != known:
            raise CheckpointError(
                f"{path}: its description must hold {', '.join(sorted(known))}; export it again"
            )
        if values["format_version"] != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} was exported by another version of pix2gan: export it again"
            )
        for name, limit in _LIMITS.items():
            number, least = values[name], int(name != "style_channels")
            if type(number) is not int or not least <= number <= limit:
                raise CheckpointError(f"{path}: {name} must be from {least} to {limit:,}")
        return cls(
            ModelConfig.from_dict(values["config"], path),
            values["multiple"],
            values["minimum_size"],
            values["style_channels"],
        )


Run = Callable[[Mapping[str, Tensor]], Tensor]
"""From the graph's inputs by name, contiguous float32 on the CPU, to its output."""


class ExportedGenerator(nn.Module):
    """A generator whose graph another runtime computes, in float32 on the CPU.

    `multiple`, `minimum_size`, `style_channels` and `style_code` are those of the generator that it
    was made from. Several threads may call it at the same time.
    """

    def __init__(self, path: Path, description: Description, run: Run) -> None:
        super().__init__()
        self.path = path
        self.multiple = description.multiple
        self.minimum_size = description.minimum_size
        self.style_channels = description.style_channels
        self.out_channels = description.config.out_channels
        self._run = run

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """[N, C, H, W] -> [N, out_channels, H, W]; ``z`` as for a `StyledGenerator`."""
        if z is not None and len(z) > 1:  # the graph has one style for all
            return torch.cat([self(x[i : i + 1], z[i : i + 1]) for i in range(len(z))])
        # In the plain layout: AOTInductor's code takes that for granted, and does not look.
        inputs = {"image": x.detach().float().cpu().contiguous()}
        if self.style_channels:
            codes = torch.zeros(1, self.style_channels) if z is None else z.detach().float().cpu()
            inputs["style"] = codes.contiguous()
        result = self._run(inputs)
        expected = (x.shape[0], self.out_channels, *x.shape[2:])
        if tuple(result.shape) != expected:
            raise CheckpointError(
                f"{self.path} is damaged: of an image {list(x.shape)} it makes "
                f"{list(result.shape)} instead of {list(expected)}"
            )
        return result

    def style_code(self, seed: int) -> Tensor:
        """The z [1, style_channels] that a seed stands for."""
        return draw_codes(seed, 1, self.style_channels)


def load_exported(
    path: str | Path, *, trust_code: bool = False
) -> tuple[ExportedGenerator, ModelConfig]:
    """Load a file that `pix2gan.export` wrote.

    Args:
        path: The `.onnx` or `.pt2` file.
        trust_code: Open a `.pt2`, which can execute code, because its maker is trusted.

    Raises:
        CheckpointError: If it is missing, damaged, not ours, or not to be opened without trust.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: give the file of an exported model")
    if path.suffix == ".onnx":
        from pix2gan.checkpoints.onnx_file import open_onnx

        description, run = open_onnx(path)
    else:
        from pix2gan.checkpoints.pt2_file import open_pt2

        description, run = open_pt2(path, trust_code)
    return ExportedGenerator(path, description, run), description.config


def require_weights(generator: nn.Module, config: ModelConfig) -> None:
    """CheckpointError if a generator is an exported one, which has a graph and no architecture."""
    if isinstance(generator, ExportedGenerator):
        raise CheckpointError(
            f"{generator.path} is an exported model, and that way there is no return: give the "
            f"model that it was made from{f' ({config.name})' if config.name else ''}"
        )
