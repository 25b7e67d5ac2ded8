"""What each method takes besides the options of all, with the defaults of its paper.

Free of torch, so that the command line can show them at once.
"""

# Annotations are not postponed, for the reason that ``config`` gives.

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pix2gan.errors import ConfigError
from pix2gan.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PairedConfig(TrainConfig):
    """What all methods on paired data take."""

    data: Path = dataclasses.field(kw_only=False)
    """Training data: side-by-side images, folders A/ and B/ (or trainA/ and trainB/), a manifest
    (.csv, .jsonl), shards (.tar), or, with --sketch, photos."""

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which domain is the input."""

    sketch: str | None = None
    """Draw the input from photos as training goes: canny, xdog, strokes or mixed."""

    side_by_side: bool = False
    """The images hold A|B side by side even if no seam shows in their middle."""

    plain_background: bool = False
    """Leave out photos whose background is not light and even; a sketch would trace it."""

    generator: str = "unet256"


@dataclass(frozen=True, kw_only=True)
class Pix2PixConfig(PairedConfig):
    """Options of pix2pix (Isola et al. 2017, arXiv:1611.07004)."""

    method: str = "pix2pix"

    l1: float = 100.0
    """Weight of the L1 distance to the target."""

    diversity: float = 0.5
    """Weight, relative to --l1, of how far two translations of one image lie apart, for generators
    with a style code; 0 does without the second translation."""

    feature_matching: float = 0.0
    """Weight of the feature-matching loss; pix2pixHD uses 10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("l1", "diversity", "feature_matching")


@dataclass(frozen=True, kw_only=True)
class UnpairedConfig(TrainConfig):
    """What all methods on unpaired data take."""

    data: Path = dataclasses.field(kw_only=False)
    """Training data: a folder with A/ and B/ (or trainA/ and trainB/), a manifest (.csv, .jsonl),
    shards of pairs (.tar), or, with --data-b, domain A: a folder or shards."""

    data_b: Path | None = None
    """Domain B, if DATA is domain A."""

    pairing: Literal["random", "serial"] = "random"
    """Whether an image meets others of the smaller domain in each epoch, or always the same."""

    fit: Literal["pad", "resize", "crop", "scale-width", "none"] = "crop"


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(UnpairedConfig):
    """Options of CycleGAN (Zhu et al. 2017, arXiv:1703.10593)."""

    method: str = "cyclegan"

    lambda_cycle: float = 10.0
    """Weight of the cycle loss: there and back again, an image should be what it was."""

    lambda_identity: float = 0.5
    """Weight, times --lambda-cycle, of the identity loss: what is of the target domain already
    should stay as it is; 0 turns it off, and with it two passes through the generators."""

    pool_size: int = 50
    """Generated images that each discriminator is reminded of; 0 turns it off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("lambda_cycle", "lambda_identity", "pool_size")


@dataclass(frozen=True, kw_only=True)
class CUTConfig(UnpairedConfig):
    """Options of CUT (Park et al. 2020, arXiv:2007.15651)."""

    default_epochs: ClassVar[float] = 400.0

    method: str = "cut"

    direction: Literal["AtoB", "BtoA"] = "AtoB"
    """Which domain is the input."""

    downsampling: Literal["strided", "blur"] = "blur"

    upsampling: Literal["transposed", "nearest", "blur"] = "blur"

    epochs: float | None = None
    """Length of the training in passes over the data; 400 if neither this nor --steps is given."""

    lambda_nce: float = 1.0
    """Weight of the contrastive loss: a patch should resemble the one that it comes from."""

    nce_identity: bool = True
    """Contrast the target domain's images with what the generator makes of them, too."""

    nce_layers: str | None = None
    """Stages of the generator whose patches are compared, as in 0,2,3,4,8; five early ones if not
    given."""

    nce_patches: int = 256
    """Patches of an image that are compared with each other."""

    nce_temperature: float = 0.07
    """The lower, the more the most similar patches count."""

    flip_equivariance: bool = False
    """Mirror every other input and expect a mirrored output."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._not_negative("lambda_nce")
        self._at_least_one("nce_patches")
        self._above_zero("nce_temperature")
        self.nce_stages()

    def nce_stages(self) -> tuple[int, ...]:
        """``nce_layers`` as numbers; none if the generator shall choose."""
        if self.nce_layers is None:
            return ()
        try:
            stages = tuple(int(number) for number in self.nce_layers.split(","))
        except ValueError:
            raise ConfigError(
                f"--nce-layers must be numbers as in 0,2,3,4,8, got {self.nce_layers!r}."
            ) from None
        if min(stages) < 0 or len(set(stages)) < len(stages):
            raise ConfigError(
                f"--nce-layers must be numbers from 0 on, each once, got {self.nce_layers!r}."
            )
        return stages


@dataclass(frozen=True, kw_only=True)
class FastCUTConfig(CUTConfig):
    """Options of FastCUT, the faster variant of CUT in the same paper."""

    default_epochs: ClassVar[float] = 200.0

    method: str = "fastcut"

    epochs: float | None = None
    """Length of the training in passes over the data; 200 if neither this nor --steps is given."""

    decay_start: float = 0.75

    lambda_nce: float = 10.0

    nce_identity: bool = False

    flip_equivariance: bool = True
