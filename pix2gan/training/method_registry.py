"""Which methods of training there are: the package's, registered ones and those of other packages.

Free of torch, and nothing is imported before a method is asked for by name.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
from typing import TYPE_CHECKING

from pix2gan.errors import ConfigError

if TYPE_CHECKING:
    from pix2gan.training.methods import Method

ENTRY_POINT_GROUP = "pix2gan.methods"

logger = logging.getLogger("pix2gan.training")

_METHODS: dict[str, str] = {
    "cut": "pix2gan.training.methods.cut:CUT",
    "cyclegan": "pix2gan.training.methods.cyclegan:CycleGAN",
    "fastcut": "pix2gan.training.methods.cut:FastCUT",
    "pix2pix": "pix2gan.training.methods.pix2pix:Pix2Pix",
}
_entry_points_read = False


def register_method(name: str, location: str) -> None:
    """Make ``TrainConfig(method=name)`` find the class at ``"package.module:Class"``."""
    _METHODS[name] = location


def list_methods() -> list[str]:
    """The names that ``TrainConfig.method`` takes."""
    _read_entry_points()
    return sorted(_METHODS)


def locate_method(name: str) -> str:
    """Where the method called ``name`` is, as ``"package.module:Class"``.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in list_methods():
        raise ConfigError(f"--method must be {' or '.join(list_methods())}, got {name!r}.")
    return _METHODS[name]


def find_method(name: str) -> type[Method]:
    """The method class called ``name``.

    Raises:
        ConfigError: If there is none of that name, or it cannot be loaded.
    """
    location = locate_method(name)
    module, _, attribute = location.partition(":")
    try:
        found: type[Method] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever another package's import may raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(
            f"The method {name} cannot be loaded from {location} ({reason}): mend or remove what "
            "brings it; PIX2GAN_DEBUG=1 shows the whole error."
        ) from error
    _check(name, location, found)
    return found


def _check(name: str, location: str, found: object) -> None:
    """ConfigError unless ``found`` is what the trainer and the command line can use."""
    from pix2gan.training.config import TrainConfig
    from pix2gan.training.methods import Method

    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(
            f"The method {name} cannot be used: {location} is no subclass of "
            "pix2gan.training.methods.Method."
        )
    if not issubclass(found.options, TrainConfig):
        raise ConfigError(
            f"The method {name} cannot be used: the options of {location} are no subclass of "
            "pix2gan.training.TrainConfig."
        )


def _read_entry_points() -> None:
    """Registers the methods that installed packages declare; once, when one is first asked for."""
    global _entry_points_read
    if _entry_points_read:
        return
    _entry_points_read = True
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if _METHODS.setdefault(entry.name, entry.value) != entry.value:
            logger.warning(
                "pix2gan: the entry point %s = %s is ignored, a method has that name already.",
                entry.name,
                entry.value,
            )
