"""Generators of the original PyTorch repositories: read from their `.pth` files, and written back.

The repositories of pix2pix and CycleGAN, of CUT and of pix2pixHD save one network a file, as a dict
of tensors and without a word on its architecture, which is inferred (`legacy_layouts`). A file is
read with `torch.load(weights_only=True)`: nothing in it is executed. Reading is strict, every
tensor has its place or is named in the error.
"""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pix2gan.checkpoints.legacy_layouts import BLUR_UP_TAPS, Layout, NoLayout, infer, layout_of
from pix2gan.checkpoints.model_config import ModelConfig, Preprocessing
from pix2gan.checkpoints.native import build_generator, check_fit, one_line
from pix2gan.errors import CheckpointError
from pix2gan.file_io import atomic_write
from pix2gan.models import model_options

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")

_WRAPPERS = ("module.", "_orig_mod.", "netG.")
_DIRECTION_SIGNS = {"AtoB": ("a2b", "atob", "g_a", "ab"), "BtoA": ("b2a", "btoa", "g_b", "ba")}
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def load_legacy(
    path: str | Path,
    *,
    direction: str | None = None,
    statistics: str | None = None,
    dropout: bool | None = None,
) -> tuple[nn.Module, ModelConfig]:
    """Load a generator that one of the original repositories has saved.

    Args:
        path: The file, such as `latest_net_G.pth`.
        direction: What is recorded as the direction, "AtoB" or "BtoA", and which of two generators
            is meant where the file holds both. By default the one that the file's name tells
            (CycleGAN's `G_B` turns B into A), else "AtoB".
        statistics: What batch norms use: each "image"'s own, which is how the original pix2pix is
            tested unless told otherwise, and the default, or the "running" ones of its training.
        dropout: Whether dropout goes on in translation, as it does in the originals' tests, and
            therefore by default where the network was trained with it. Of U-Nets, whose tensors do
            not tell, those of pix2pix are taken to be, which have batch norms, and others if this
            says so.

    Returns:
        The generator, as `load_model` returns it, and a config for it.

    Raises:
        CheckpointError: If the file is missing, damaged, could execute code, is named as the
            generator of the other direction, or is not exactly a generator of a known
            architecture; names the file and the tensors.
    """
    path = Path(path)
    direction = _direction(path, direction)
    state = _tidy(_select(read_tensors(path), direction, path))
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    try:
        found = infer(shapes)
        architecture = {**model_options(found["name"]), **found}
        if architecture["name"].startswith("unet"):
            by_default = architecture["norm"] == "batch"
            architecture["dropout"] = by_default if dropout is None else dropout
        layout = layout_of(architecture)
    except NoLayout as error:
        raise CheckpointError(f"{path} cannot be imported: {error}") from None
    halves = all(t.dtype == torch.float16 for t in state.values() if t.is_floating_point())
    config = _config(path, architecture, layout, direction, statistics, dropout, halves)
    generator = build_generator(config, path, allocate=False)
    ours = {
        theirs: tensor
        for theirs, name in layout.keys.items()
        if (tensor := generator.state_dict().get(name)) is not None
    }
    stored = {key: shape for key, shape in shapes.items() if key not in layout.filters}
    # Batch norms did not count their batches before PyTorch 0.4.1, and nothing reads the count.
    uncounted = [k for k in ours if k.endswith("num_batches_tracked") and k not in stored]
    check_fit(
        {**stored, **dict.fromkeys(uncounted, ())},
        ours,
        where=str(path),
        what=f"the {layout.family} generator that it resembles ({architecture['name']})",
    )
    gain = _check_filters(state, layout, path)
    if gain is not None:
        config.training["up_filter_gain"] = gain
    generator = build_generator(config, path, allocate=True)
    with torch.no_grad():
        own = generator.state_dict(keep_vars=True)
        for theirs in ours:
            tensor = own[layout.keys[theirs]]
            tensor.zero_() if theirs in uncounted else tensor.copy_(state[theirs])
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(
                    f"{path}: {theirs} holds values that are not finite: the file is damaged or "
                    "its training has diverged"
                )
    return generator.eval().requires_grad_(False), config


def _direction(path: Path, asked_for: str | None) -> str:
    named = re.search(r"net_G_([AB])(?![A-Za-z])", path.name)
    own = None if named is None else "AtoB" if named[1] == "A" else "BtoA"
    if None not in (own, asked_for) and own != asked_for:
        raise CheckpointError(
            f"{path} is named as the generator of {own}, not {asked_for}: give the other one, or "
            "rename it"
        )
    return own or asked_for or "AtoB"


def save_legacy(path: str | Path, generator: nn.Module, config: ModelConfig) -> Path:
    """Write `generator` as the original repository does, for use with its code.

    A generator that came from `load_legacy` gives back every tensor, bit for bit.

    Args:
        path: The file to write, whole or not at all: `latest_net_G.pth`.
        generator: A network of `pix2gan.models`, on any device.
        config: Its config; `weights_dtype` is the type of the tensors.

    Raises:
        CheckpointError: If no original repository has this architecture.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    try:
        layout = layout_of(config.architecture)
    except NoLayout as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from None
    own = generator.state_dict()
    dtype = getattr(torch, config.weights_dtype)
    state: dict[str, Tensor] = {}
    for theirs, name in layout.keys.items():
        if name in own:
            tensor = own[name].detach().cpu().contiguous()
            state[theirs] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    for theirs, taps in layout.filters.items():
        gain = float(config.training.get("up_filter_gain", 4.0)) if taps == BLUR_UP_TAPS else 1.0
        index = int(theirs.split(".")[1])
        # A filter of the way down follows its convolution, one of the way up goes before it.
        channels = _channels_at(state, index, taps == BLUR_UP_TAPS)
        state[theirs] = (_filter(taps) * gain).to(dtype).repeat(channels, 1, 1, 1)
    ordered = dict(sorted(state.items(), key=lambda item: _natural(item[0])))
    with atomic_write(path) as file:
        torch.save(ordered, file)
    return path


# ------------------------------------------------------------------------------------------ reading


def read_tensors(path: Path) -> Mapping[str, Any]:
    """What `torch.load` makes of a file without executing anything in it: a mapping.

    Raises:
        CheckpointError: If the file is none, is damaged, or would have to execute code.
    """
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > size:
                raise CheckpointError(
                    f"{path} is refused: it unpacks to more than it holds, which no checkpoint does"
                )
        elif not _begins_as_a_checkpoint(path):
            raise ValueError("neither an archive nor a pickle")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the file of a checkpoint") from None
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise CheckpointError(
                f"{path} is refused: it holds more than tensors, and reading it could execute "
                "code; save the network's state_dict() alone"
            ) from None
        raise _damaged(path, error) from None
    except Exception as error:  # torch, zipfile and pickle raise all sorts of things
        # Of a file that is cut short torch looks for a place before its beginning: EINVAL.
        if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
        raise _damaged(path, error) from None
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not the tensors of a network: save the "
            "network's state_dict()"
        )
    _check_tensors(content, size, path)
    return content


def _begins_as_a_checkpoint(path: Path) -> bool:
    """Whether it may be a cut archive, or of the format before, whose parts are pickles."""
    with path.open("rb") as file:
        return file.read(1) in (b"P", pickle.PROTO)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    detail = one_line(error).partition(" This is an internal")[0]  # to whom it matters
    return CheckpointError(
        f"{path} is damaged or not a PyTorch checkpoint ({detail}): take it again from where it "
        "came from"
    )


def _check_tensors(content: Mapping[str, Any], size: int, path: Path, depth: int = 0) -> None:
    """Refuses tensors that are larger than the file: views that repeat a few bytes."""
    for key, value in content.items():
        if isinstance(value, Mapping) and depth < 4:
            _check_tensors(value, size, path, depth + 1)
        elif isinstance(value, Tensor):
            if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
                raise CheckpointError(
                    f"{path}: {key} is a tensor of an unusual kind; save it dense"
                )
            if value.numel() * value.element_size() > min(value.untyped_storage().nbytes(), size):
                raise CheckpointError(f"{path} is refused: {key} claims to be larger than the file")


def _select(content: Mapping[str, Any], direction: str, path: Path) -> Mapping[str, Tensor]:
    """The state dict of one network: the content itself, or the one that it holds in a dict."""
    if content and all(isinstance(value, Tensor) for value in content.values()):
        return content
    networks = {
        str(key): value
        for key, value in content.items()
        if isinstance(value, Mapping)
        and value
        and all(isinstance(item, Tensor) for item in value.values())
    }
    if len(networks) > 1:
        generators = {key: value for key, value in networks.items() if _is_generator(value)}
        networks = generators or networks
    if len(networks) > 1:
        signs = _DIRECTION_SIGNS[direction]
        meant = {k: v for k, v in networks.items() if any(s in k.lower() for s in signs)}
        networks = meant or networks
    if len(networks) == 1:
        return next(iter(networks.values()))
    if not networks:
        raise CheckpointError(
            f"{path} holds no network: expected tensors by name, as state_dict() gives them"
        )
    raise CheckpointError(
        f"{path} holds {len(networks)} networks ({', '.join(sorted(networks)[:6])}) and their "
        "names do not tell which one translates: save that one alone"
    )


def _is_generator(state: Mapping[str, Tensor]) -> bool:
    try:
        infer({key: tuple(t.shape) for key, t in _tidy(state).items()})
    except NoLayout:
        return False
    return True


def _tidy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the prefixes of DataParallel and torch.compile; without the running statistics
    that instance norms kept before PyTorch 0.4, and which the originals do not use."""
    tidy = {str(key): tensor for key, tensor in state.items()}
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPERS:
            if tidy and all(key.startswith(prefix) for key in tidy):
                tidy = {key.removeprefix(prefix): tensor for key, tensor in tidy.items()}
                stripped = True
    return {
        key: tensor
        for key, tensor in tidy.items()
        if not (
            key.rpartition(".")[2] in _STATISTICS and f"{key.rpartition('.')[0]}.weight" not in tidy
        )
    }


# ------------------------------------------------------------------------------------------- config


def _config(
    path: Path,
    architecture: dict[str, Any],
    layout: Layout,
    direction: str,
    statistics: str | None,
    dropout: bool | None,
    halves: bool,
) -> ModelConfig:
    batch = architecture["norm"] == "batch"
    if statistics is None:
        statistics = "image" if batch else "running"
    method = {"cyclegan": "pix2pix" if batch else "cyclegan"}.get(layout.family, layout.family)
    if layout.family == "pix2pix" and not batch:
        method = "cyclegan"
    return ModelConfig(
        architecture=architecture,
        in_channels=architecture["in_channels"],
        out_channels=architecture["out_channels"],
        preprocessing=Preprocessing(size=256, fit="resize", resize_mode="none"),
        statistics=statistics,
        keeps_dropout=bool(architecture.get("dropout")) if dropout is None else dropout,
        direction=direction,
        method=method,
        name=path.name.removesuffix(path.suffix),
        training={"imported_from": path.name, "layout": layout.family},
        weights_dtype="float16" if halves else "float32",
    )


# ----------------------------------------------------------------------------- antialiasing filters


def _filter(taps: tuple[float, ...]) -> Tensor:
    """[1, 1, K, K] float32, with the sum 1."""
    line = torch.tensor(taps)
    return (line[:, None] * line / line.sum().square())[None, None]


def _check_filters(state: Mapping[str, Tensor], layout: Layout, path: Path) -> float | None:
    """Compares the stored filters with ours; the gain that those of the way up contain."""
    found = None
    for key, taps in layout.filters.items():
        stored = state.get(key)
        if stored is None:
            raise CheckpointError(f"{path}: the antialiasing filter {key} is missing")
        own = _filter(taps)
        gain = round(float(stored.float().sum() / max(stored.shape[0], 1)), 3)
        known = (1.0, 4.0) if taps == BLUR_UP_TAPS else (1.0,)
        if (
            stored.dim() != 4
            or stored.shape[1:] != own.shape[1:]
            or gain not in known
            or not torch.allclose(stored.float(), (own * gain).expand_as(stored), atol=1e-4)
        ):
            raise CheckpointError(
                f"{path}: the antialiasing filter {key} is not that of CUT, "
                f"{list(taps)} along both axes; other filters are not supported"
            )
        if taps == BLUR_UP_TAPS:
            found = gain
    return found


def _channels_at(state: Mapping[str, Tensor], index: int, up: bool) -> int:
    if up:
        return int(state[f"model.{index + 1}.weight"].shape[1])
    return int(state[f"model.{index - 3}.weight"].shape[0])


def _natural(key: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]
