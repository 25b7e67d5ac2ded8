"""The options that paired and unpaired data are opened with alike, and what they may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from pix2gan.data.pair_layouts import Split
from pix2gan.data.transforms import Fit
from pix2gan.errors import ConfigError

Direction: TypeAlias = Literal["AtoB", "BtoA"]


def check_opening_options(
    *, direction: str, split: str, fit: str, holdout: float, size: int
) -> None:
    """ConfigError if an option of ``open_paired`` and ``open_unpaired`` makes no sense."""
    check_choice("direction", direction, get_args(Direction))
    check_choice("split", split, get_args(Split))
    check_choice("fit", fit, get_args(Fit))
    if not 0 <= holdout < 1:
        raise ConfigError(f"holdout is a share from 0 up to 1, not {holdout}; try 0.1.")
    if size < 2:
        raise ConfigError(f"size is the side of the samples in pixels, not {size}; try 256.")


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """ConfigError unless the option's value is one of the choices."""
    if value not in choices:
        raise ConfigError(f"Unknown {option} {value!r}: choose one of {', '.join(choices)}.")
