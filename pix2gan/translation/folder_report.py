"""What became of the images of a folder: for people, and as JSON lines for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pix2gan.file_io import atomic_write

if TYPE_CHECKING:
    from pix2gan.translation.translator import Translator

TRANSLATED, SKIPPED, FAILED = "translated", "skipped", "failed"
PLANNED = "planned"  # by a dry run
LEFT = "left"  # the run ended before their turn


@dataclass(frozen=True)
class Outcome:
    """What became of one image.

    Attributes:
        source: The image.
        target: Where its output is, or would be.
        status: "translated", "skipped" (its output was there already), "failed", "planned" (by a
            dry run) or "left" (the run ended before its turn).
        error: Why it failed, in one sentence.
    """

    source: Path
    target: Path
    status: str
    error: str | None = None


@dataclass
class FolderReport:
    """What became of the images.

    Attributes:
        images: One `Outcome` an image, in the order of the folder.
        out: Where the outputs are.
        seconds: How long it took.
        dry_run: Whether nothing was done.
    """

    images: list[Outcome] = field(default_factory=list)
    out: Path = Path()
    seconds: float = 0.0
    dry_run: bool = False

    @property
    def done(self) -> int:
        """How many were translated by this run."""
        return self._count(TRANSLATED)

    @property
    def skipped(self) -> int:
        """How many were there already."""
        return self._count(SKIPPED)

    @property
    def failed(self) -> list[tuple[Path, str]]:
        """Path and reason of each that could not be translated."""
        return [(i.source, i.error or "") for i in self.images if i.status == FAILED]

    @property
    def left(self) -> int:
        """How many were not tried, because the run stopped before."""
        return self._count(LEFT)

    @property
    def planned(self) -> list[tuple[Path, Path]]:
        """Image and output of each that a dry run would translate."""
        return [(i.source, i.target) for i in self.images if i.status == PLANNED]

    @property
    def exit_code(self) -> int:
        """0, or 1 if some images failed."""
        return 1 if self.failed else 0

    def __str__(self) -> str:
        planned, failed = self.planned, self.failed
        parts = [f"{len(planned)} to translate" if self.dry_run else f"{self.done} translated"]
        if self.skipped:
            parts.append(f"{self.skipped} skipped (already there)")
        if failed:
            parts.append(f"{len(failed)} failed")
        if self.left:
            parts.append(f"{self.left} left")
        time = "" if self.dry_run else f" in {self.seconds:.1f} s"
        lines = [f"{', '.join(parts)}{time}: {self.out}"]
        lines += [f"  {source} -> {target}" for source, target in planned]
        lines += [f"  {path}: {reason}" for path, reason in failed]
        return "\n".join(lines)

    def _count(self, status: str) -> int:
        return sum(image.status == status for image in self.images)


def report_lines(images: Sequence[Outcome], translator: Translator) -> bytes:
    """One line of JSON an image. Without times, so that equal runs have equal reports."""
    config = translator.config
    model = {
        "model": config.name or str(config.architecture["name"]),
        "version": config.version,
        "weights": f"sha256:{translator.weights_hash()}",
    }
    lines = [
        json.dumps(
            {
                "input": os.fspath(image.source),
                "output": os.fspath(image.target),
                "status": image.status,
                "error": image.error,
                **model,
            },
            ensure_ascii=False,
        )
        for image in images
    ]
    # Names that are no UTF-8 come as surrogates.
    return "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")


def is_report(head: bytes) -> bool:
    """Whether a file that begins with this is a report."""
    try:
        found = json.loads(head.partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(found, dict) and {"input", "output", "status", "weights"} <= found.keys()


def write_report(
    path: str | os.PathLike[str] | None, images: Sequence[Outcome], translator: Translator
) -> None:
    """Write the lines of a whole run to a file, if there is to be one, in place of what it held."""
    if path is None:
        return
    with atomic_write(path) as file:
        file.write(report_lines(images, translator))


def append_report(
    path: str | os.PathLike[str], images: Sequence[Outcome], translator: Translator
) -> None:
    """Put lines behind those of a run that goes on."""
    with Path(path).open("ab") as file:
        file.write(report_lines(images, translator))
