"""Methods of training: what the networks are and what they minimise.

A method owns networks and losses; the trainer owns devices, precision, optimizers, logging and
saving, and knows no method by name. Adding one: write a subclass of :class:`Method` and register
it under a name, or declare it in a package (``docs/training.md`` has a complete example).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from pix2gan.training.config import TrainConfig
from pix2gan.training.method_registry import find_method, list_methods, register_method

if TYPE_CHECKING:
    from pix2gan.training.dataset import TrainingData

__all__ = [
    "Domains",
    "Method",
    "Translation",
    "Update",
    "find_method",
    "list_methods",
    "register_method",
]


class Update(NamedTuple):
    """What a method yields: the loss that one player minimises next."""

    player: str
    """A key of :attr:`Method.players`; only its networks get a gradient."""
    loss: Tensor
    """Scalar with gradient."""
    log: Mapping[str, Tensor]
    """Scalars for the metrics, unweighted; detached by the trainer."""


class Domains(NamedTuple):
    """What a trained generator turns into what, to be recorded with the model."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which way round it uses the data."""
    reads: str = "photo"
    makes: str = "photo"
    """In a word; "sketch" has a meaning for translation (see ``Preprocessing``)."""


class Translation(NamedTuple):
    """What a generator makes of a batch; all are [N, C, H, W] in [-1, 1]."""

    given: Tensor
    output: Tensor
    real: Tensor
    """Images of the domain of ``output``."""


class Method(ABC):
    """The algorithm of one paper."""

    options: ClassVar[type[TrainConfig]] = TrainConfig
    """The options that it takes: what ``__init__`` is given is one of these."""

    networks: nn.ModuleDict
    """Everything that is trained or saved. The trainer moves it to the device and may wrap its
    entries, so look networks up here at each step."""

    players: ClassVar[Mapping[str, tuple[str, ...]]]
    """Who takes turns: for each player the networks that its optimizer updates. A player whose
    name begins with ``discriminator`` trains at ``lr_discriminator``."""

    models: ClassVar[Mapping[str, str]]
    """What the run is for: folder name in the run -> generator in ``networks``. These are averaged
    (EMA), sampled from and saved."""

    paired: ClassVar[bool] = False
    """Whether the real images that ``translate`` gives are what the outputs should be, pixel by
    pixel; else they are merely of the same domain."""

    @abstractmethod
    def __init__(self, config: Any) -> None:
        """Create ``networks`` from the options, on the CPU; the seed is set.

        Raises:
            ConfigError: If the options do not go together.
        """

    @staticmethod
    @abstractmethod
    def open_data(config: Any) -> TrainingData:
        """Check and open the data that the options name; called before anything is written.

        Raises:
            DataError: If files are broken or do not match; it lists them.
        """

    @abstractmethod
    def step(self, batch: Mapping[str, Tensor]) -> Iterator[Update]:
        """One iteration of the paper's algorithm, as a generator function.

        At each ``yield Update(player, loss, log)`` the trainer computes the gradient of ``loss``
        for the player's networks and updates them before the next line of the method runs. The
        method runs under autocast; losses should be computed in float32.
        """

    @abstractmethod
    def sample(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> list[Tensor]:
        """The columns of a sample sheet, each [N, C, H, W] in [-1, 1].

        ``generators`` holds the averaged networks under the names that ``models`` gives them.
        """

    def domains(self, model: str) -> Domains:
        """What the generator that is saved in the folder ``model`` reads and makes."""
        return Domains()

    def translate(
        self, batch: Mapping[str, Tensor], generators: Mapping[str, nn.Module]
    ) -> Mapping[str, Translation]:
        """For each of ``models`` (by folder) what its generator makes of ``batch``.

        It is what the held-out data are scored by and collapse is noticed by; without it neither
        happens.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State besides ``networks`` that a checkpoint must hold, such as an image pool.

        It is that of this process, where several train together.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """The inverse of :meth:`state_dict`."""
