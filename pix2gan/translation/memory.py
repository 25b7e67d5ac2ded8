"""How much memory a forward pass takes, how much there is, and what if that does not suffice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from pix2gan.models.layer_graph import IMAGE, Layer, last_uses

Made = TypeVar("Made")


def bytes_per_pixel(layers: Sequence[Layer], in_channels: int) -> float:
    """What a float32 forward pass keeps at the same time, for each pixel of the image."""
    scale, channels = {IMAGE: 1.0}, {IMAGE: in_channels}
    alive, most = {IMAGE: 4.0 * in_channels}, 0.0
    for layer, finished in zip(layers, last_uses(layers), strict=True):
        up, down, _ = layer.step.geometry
        seen = layer.inputs[0].name
        scale[layer.name] = scale[seen] * (up / down) ** 2
        channels[layer.name] = layer.step.out_channels or channels[seen]
        alive[layer.name] = 4.0 * channels[layer.name] * scale[layer.name]
        # beside what is kept: the input with its border, or the bare convolution
        working = max(alive[layer.name], sum(alive[each.name] for each in layer.inputs))
        most = max(most, sum(alive.values()) + working)
        for name in finished:
            del alive[name]
    return most


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_number("/proc/meminfo", "MemAvailable:", 1024)]
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        free.append(max(limit - used, 0))
    known = [value for value in free if value is not None]
    return min(known) if known else 4 * 2**30


def attempt(run: Callable[[], Made], device: torch.device) -> Made | None:
    """What ``run`` returns, or None if memory did not suffice; what it had taken is free then."""
    try:
        return run()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler: the traceback would keep the failed attempt's memory alive.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, in the words of whatever library."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(
        sign in text
        for sign in ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
    )


def _number(file: str, key: str = "", unit: int = 1) -> int | None:
    """The number behind a key of a system's file, or None where there is none."""
    try:
        words = Path(file).read_text().split()
        return int(words[words.index(key) + 1 if key else 0]) * unit
    except (OSError, ValueError):
        return None
