"""What does the jobs of a run: this machine (`folder_run`) or a cluster (`ray_engine`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pix2gan.translation.folder_options import FolderOptions
from pix2gan.translation.folder_report import LEFT, Outcome
from pix2gan.translation.progress import FolderProgress
from pix2gan.translation.targets import Job

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator


@dataclass
class Engine:
    """A list of jobs to do, whose folder `out` exists.

    Attributes:
        translator: What to translate with.
        jobs: Where images lie and outputs go; a whole number of chunks and the rest.
        out: The folder that nothing is written outside of.
        options: As the user gave them.
        progress: Told of every image.
        outcomes: What has become of each of the jobs so far.
    """

    translator: Translator
    jobs: Sequence[Job]
    out: Path
    options: FolderOptions
    progress: FolderProgress
    outcomes: list[Outcome] = field(init=False)

    def __post_init__(self) -> None:
        self.outcomes = [Outcome(job.source, job.target, LEFT) for job in self.jobs]

    def run(self) -> None:
        """Translate what is wanted; `outcomes` tells how it went, however this ends.

        Raises:
            Pix2ganError: If nothing more can be written, as on a full disk.
        """
        raise NotImplementedError
