"""How much memory a forward pass takes, and how much there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pix2gan.models.layer_graph import IMAGE, Layer, last_uses


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


def _number(file: str, key: str = "", unit: int = 1) -> int | None:
    """The number behind a key of a system's file, or None where there is none."""
    try:
        words = Path(file).read_text().split()
        return int(words[words.index(key) + 1 if key else 0]) * unit
    except (OSError, ValueError):
        return None
