"""pix2gan's own model format: a folder with `model.safetensors` and `config.json`.

Nothing that is loaded can run code: the weights are safetensors, the config is JSON, and the
network they describe is one of `pix2gan.models`. Both files are checked against each other before
memory is taken, so a hostile config cannot ask for more than its weights file is large.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pix2gan.checkpoints.model_config import WEIGHTS_DTYPES, ModelConfig
from pix2gan.errors import CheckpointError
from pix2gan.file_io import atomic_write
from pix2gan.models import create_generator
from pix2gan.models.blocks import ConvNormAct

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"

_ARCHITECTURE = f"the architecture in {CONFIG_NAME}"
# What the header of a weights file may say, for tensors that the network holds as floats.
_FLOAT_TYPES = ("F32", "F16", "BF16", "F64")
_NAMED_AT_MOST = 4


def save_model(
    folder: str | Path, generator: nn.Module, config: ModelConfig, dtype: str = "float32"
) -> Path:
    """Write `generator` and its `config` to `folder`, each file whole or not at all.

    Args:
        folder: Made if it does not exist; a model that lies there already is replaced.
        generator: A network of `pix2gan.models` (not wrapped by DDP or `torch.compile`), on any
            device. It is not changed.
        config: `config.architecture` must rebuild the generator; its `weights_dtype` is set.
        dtype: "float32" or "float16": how floating-point weights are stored.

    Returns:
        The folder.

    Raises:
        CheckpointError: If the architecture does not rebuild this generator, or a weight is not
            finite in `dtype`.
        ValueError: If `dtype` is neither of the two.
        OSError: If the disk is full or the folder cannot be written.
    """
    if dtype not in WEIGHTS_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(WEIGHTS_DTYPES)}, got {dtype!r}")
    folder = Path(folder)
    # What cannot be read back is not written: the reader's checks apply here, too.
    config = ModelConfig.from_dict(
        dataclasses.replace(config, weights_dtype=dtype).to_dict(), folder / CONFIG_NAME
    )
    weights = {name: _storable(name, t, dtype) for name, t in generator.state_dict().items()}
    check_fit(
        {name: tuple(t.shape) for name, t in weights.items()},
        build_generator(config, folder / CONFIG_NAME, allocate=False).state_dict(),
        where=f"{folder}: the given generator",
        what=_ARCHITECTURE,
    )
    folder.mkdir(parents=True, exist_ok=True)
    data, text = safetensors.torch.save(weights, metadata={"format": "pt"}), config.to_json()
    with atomic_write(folder / WEIGHTS_NAME) as file:
        file.write(data)
    # The config comes last: a folder that has one is complete.
    with atomic_write(folder / CONFIG_NAME) as file:
        file.write(text.encode("utf-8"))
    return folder


def load_native(path: str | Path) -> tuple[nn.Module, ModelConfig]:
    """Load a model that `save_model` wrote.

    Args:
        path: The model's folder, or a `.safetensors` file with its `config.json` beside it.

    Returns:
        The generator, on the CPU, in float32, in evaluation mode and without gradients; its config.

    Raises:
        CheckpointError: If a file is missing, damaged or of another kind, or if the weights are not
            exactly those of the architecture; names the file and the tensors.
    """
    weights_path, config_path = locate(path)
    config = ModelConfig.read(config_path)
    shapes = _read_shapes(weights_path)
    check_fit(
        shapes,
        build_generator(config, config_path, allocate=False).state_dict(),
        where=str(weights_path),
        what=_ARCHITECTURE,
    )
    generator = build_generator(config, config_path, allocate=True)
    _fill(generator.state_dict(keep_vars=True), weights_path)
    return generator.eval().requires_grad_(False), config


def locate(path: str | Path) -> tuple[Path, Path]:
    """The weights file and the config file of the model at `path`.

    Raises:
        CheckpointError: If there is no model at `path`; says what lies there instead.
    """
    path = Path(path)
    if path.is_dir():
        weights = path / WEIGHTS_NAME
        if not weights.is_file():
            others = sorted(p.name for p in path.glob("*.safetensors"))
            if len(others) != 1:
                raise CheckpointError(
                    f"{path} holds no {WEIGHTS_NAME}: a model is a folder with {WEIGHTS_NAME} and "
                    f"{CONFIG_NAME}, or with the *_net_G.pth of an original repository"
                )
            weights = path / others[0]
        return weights, path / CONFIG_NAME
    if not path.exists():
        raise CheckpointError(f"{path} does not exist: give the folder of a model")
    if path.suffix == ".safetensors":
        return path, path.with_name(CONFIG_NAME)
    raise CheckpointError(
        f"{path} is not a model: give a folder with {WEIGHTS_NAME} and {CONFIG_NAME}, or the "
        ".safetensors file in it, or the .pth file of an original repository"
    )


def build_generator(config: ModelConfig, where: Path, allocate: bool) -> nn.Module:
    """The network that `config` describes, its weights without values or even without memory."""
    try:
        with _WithoutValues(allocate):
            generator = create_generator(**config.architecture)
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever a constructor thinks of options that come from a file, it is the file's fault.
        raise CheckpointError(
            f"{where}: architecture cannot be built ({one_line(error)}); correct it or take the "
            "file again from where the model came from"
        ) from error
    for name in ("in_channels", "out_channels"):
        built = getattr(generator, name)
        if built != getattr(config, name):
            raise CheckpointError(
                f"{where}: {name} is {getattr(config, name)}, but the architecture has {built}"
            )
    set_statistics(generator, config.statistics)
    return generator


def set_statistics(generator: nn.Module, statistics: str) -> None:
    """What the batch norms of a generator use out of training: "running" or "image"."""
    for module in generator.modules():
        if isinstance(module, ConvNormAct):
            module.image_statistics = statistics == "image"


def set_lasting_dropout(generator: nn.Module, masks: torch.Generator) -> bool:
    """Let dropout go on out of training, with these masks; whether a network has any."""
    layers = [m for m in generator.modules() if isinstance(m, ConvNormAct) and m.dropout]
    for layer in layers:
        layer.lasting_dropout = masks
    return bool(layers)


class _WithoutValues(TorchFunctionMode):
    """Leaves weights as they were allocated and the global random state as it was.

    With `allocate` False the weights are not allocated, either (meta tensors). Whatever a network
    computes when it is built, such as its resampling filters, is computed in both cases, which is
    why `torch.device("meta")` would not do.
    """

    def __init__(self, allocate: bool) -> None:
        super().__init__()
        self.allocate = allocate

    _SKIPPED = frozenset(
        {
            nn.init.kaiming_normal_,
            nn.init.kaiming_uniform_,
            nn.init.normal_,
            nn.init.orthogonal_,
            nn.init.trunc_normal_,
            nn.init.uniform_,
            nn.init.xavier_normal_,
            nn.init.xavier_uniform_,
            Tensor.normal_,
            Tensor.uniform_,
        }
    )

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._SKIPPED:
            return args[0] if args else kwargs["tensor"]
        if func is torch.empty and not self.allocate:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def _storable(name: str, tensor: Tensor, dtype: str) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(getattr(torch, dtype))
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"the generator's {name} holds values that are not finite in {dtype}, so the model "
                "is not saved: training has diverged, or float32 is needed"
            )
    # A copy of its own: tensors that share memory or have another layout cannot be serialised.
    return tensor.clone(memory_format=torch.contiguous_format)


def check_fit(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor], where: str, what: str
) -> None:
    """CheckpointError ("`where` does not fit `what`", and the tensors) unless names and shapes are
    those that are wanted."""
    missing = [name for name in wanted if name not in found]
    unexpected = [name for name in found if name not in wanted]
    misshapen = [
        f"{name} is {list(found[name])} instead of {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name] != tuple(tensor.shape)
    ]
    complaints = [
        f"{kind} {_some(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if complaints:
        raise CheckpointError(f"{where} does not fit {what}: {'; '.join(complaints)}")


def _some(names: list[str]) -> str:
    named = ", ".join(
        name if len(name) <= 120 else name[:117] + "..." for name in names[:_NAMED_AT_MOST]
    )
    more = len(names) - _NAMED_AT_MOST
    return f"{named} and {more} more" if more > 0 else named


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, from the file's header alone."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise _unreadable(path, error) from None


def _fill(state: Mapping[str, Tensor], path: Path) -> None:
    """Copy the file's values into the network's own tensors, converting to their types."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            for name, tensor in state.items():
                stored = file.get_slice(name).get_dtype()
                if tensor.is_floating_point() != (stored in _FLOAT_TYPES):
                    raise CheckpointError(
                        f"{path}: {name} is stored as {stored}, which is not what a generator's "
                        "weights are; take the file again from where the model came from"
                    )
                with torch.no_grad():
                    tensor.copy_(file.get_tensor(name))
                if not bool(torch.isfinite(tensor).all()):
                    raise CheckpointError(
                        f"{path}: {name} holds values that are not finite: the file is damaged or "
                        "its training has diverged"
                    )
    except CheckpointError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{path} does not exist: give the folder of a model")
    if isinstance(error, OSError):
        return CheckpointError(f"{path} cannot be read ({one_line(error)})")
    return CheckpointError(
        f"{path} is damaged or not a safetensors file ({one_line(error)}): take it again "
        "from where the model came from"
    )


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
