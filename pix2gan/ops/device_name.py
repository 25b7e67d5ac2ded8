"""The name that a person knows a device by."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch


def device_name(device: str | torch.device) -> str:
    """The name a person knows the device by: ``NVIDIA H200``, ``AMD EPYC 9654, 8 cores``.

    A virtual machine may hide the number of its processor; its family and model then stand in, or
    two unlike machines would share a file of results.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    fields = _first_processor(Path("/proc/cpuinfo"))
    name = fields.get("model name") or platform.processor() or platform.machine()
    name = re.sub(r"\((R|TM)\)|\bCPU\b|@.*|\d+-Core Processor.*", "", name)
    name = " ".join(name.split())
    if not re.search(r"\d", name) and "cpu family" in fields:
        name += f" family {fields['cpu family']} model {fields.get('model', '?')}"
    cores = _usable_cores()
    return f"{name}, {cores} core{'s' if cores != 1 else ''}"


def _first_processor(cpuinfo: Path) -> dict[str, str]:
    if not cpuinfo.exists():
        return {}
    block = cpuinfo.read_text(encoding="utf-8").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
