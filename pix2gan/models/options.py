"""Checks of architecture options: each failure is one sentence that names option and remedy."""

from __future__ import annotations

from collections.abc import Sequence

from pix2gan.errors import ConfigError

from .registry import did_you_mean

NORMS = ("instance", "batch", "none")
DOWNSAMPLINGS = ("strided", "blur")
UPSAMPLINGS = ("transposed", "nearest", "blur")
PADDINGS = ("reflect", "replicate", "zeros")


def check_choice(option: str, value: object, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``allowed``."""
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(
            f"{option} cannot be {value!r}{did_you_mean(value, allowed)}; "
            f"choose one of {', '.join(allowed)}."
        )
    return value


def check_count(option: str, value: object, minimum: int = 1) -> int:
    """Return ``value`` if it is a whole number of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigError(f"{option} must be a whole number of at least {minimum}, not {value!r}.")
    return value


def check_switch(option: str, value: object) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise ConfigError(f"{option} must be true or false, not {value!r}.")
    return value
