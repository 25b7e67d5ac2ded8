"""Scoring a folder of translated images against the real ones.

report = evaluate_folders(Path("photos"), Path("real"), report=Path("report.json"))
print(report.summary())
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pix2gan import image_metrics as metrics
from pix2gan.data.image_io import list_images, open_image, to_float, to_rgb
from pix2gan.errors import BadImageError, ConfigError, DataError
from pix2gan.evaluation.scores import ImageScores, MeanScores, PairedScores, finite, versions
from pix2gan.file_io import atomic_write, check_writable

MAX_LISTED = 20


@dataclass(frozen=True)
class EvaluationReport:
    """What ``evaluate_folders`` found; ``images`` in the order of their names."""

    outputs: Path
    references: Path
    mean: MeanScores
    images: list[ImageScores]
    protocol: dict[str, Any]
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "outputs": str(self.outputs),
            "references": str(self.references),
            **self.mean.as_dict(),
            "protocol": self.protocol,
            "versions": self.versions,
            "images": [asdict(image) | {"psnr": finite(image.psnr)} for image in self.images],
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON; the file is whole or not there."""
        with atomic_write(path) as file:
            file.write((json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def summary(self) -> str:
        """A few lines for a person."""
        mean = self.mean
        levels = "  ".join(f"{level}: {value:.1f}" for level, value in mean.swd.levels.items())
        same = f", {mean.identical} identical" if mean.identical else ""
        return "\n".join(
            [
                f"{mean.count} images{same}",
                f"PSNR  {mean.psnr:.2f} dB",
                f"SSIM  {mean.ssim:.4f}",
                f"L1    {mean.l1:.4f}",
                f"SWD   {mean.swd.mean:.1f}  ({levels})",
            ]
        )


def evaluate_folders(
    outputs: Path,
    references: Path,
    *,
    report: Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationReport:
    """Score the images of one folder, or one image, against real ones.

    Images are matched by their path within the folder without its suffix; where ``a.jpg`` and
    ``a.png`` lie side by side, by the full name, alone or with a suffix added (``a.jpg.png``).
    They are compared as RGB in [0, 1], alpha over white, each as it is: nothing is resized.

    Args:
        outputs: The translated images: a folder (with sub-folders) or a file.
        references: The real images, as many, of the same sizes: a folder or a file likewise.
        report: Where to write the scores as JSON, if anywhere. Missing folders are made.
        seed: Of the sliced Wasserstein distance's patches and projections.
        progress: Called with (pairs done, pairs in all) after each pair.

    Raises:
        DataError: Names every file without a partner; or, once all were read, every file that is
            broken, of another size than its partner, or too small. Nothing is written then.
        ConfigError: The seed is none of torch's, or the report cannot be written where it is told
            to be; said before anything is scored.
    """
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be at least 0 and below 2**64, got {seed}")
    pairs = match_images(Path(outputs), Path(references))
    if report is not None:
        _check_report(Path(report))
    scores = PairedScores(len(pairs), seed=seed)
    problems = []
    for done, (name, output, reference) in enumerate(pairs, start=1):
        try:
            scores.add(name, *_read_pair(output, reference))
        except (BadImageError, DataError) as error:
            problems.append(str(error))
        if progress is not None:
            progress(done, len(pairs))
    if problems:
        raise DataError(
            _listed(f"{len(problems)} of {len(pairs)} pairs cannot be scored", problems)
        )
    result = EvaluationReport(
        outputs=Path(outputs),
        references=Path(references),
        mean=scores.mean(),
        images=scores.images,
        protocol={"channels": "RGB, alpha over white", **scores.protocol()},
        versions=versions(),
    )
    if report is not None:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
        result.write(Path(report))
    return result


def _check_report(path: Path) -> None:
    """ConfigError if the report cannot be written there; makes nothing."""
    if path.is_dir():
        raise ConfigError(f"The report {path} is a folder: name a file")
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        check_writable(folder)
    except OSError as error:
        raise ConfigError(
            f"The report {path} cannot be written ({folder}: {error.strerror}): choose another file"
        ) from None


def match_images(outputs: Path, references: Path) -> list[tuple[str, Path, Path]]:
    """(name, output, reference) for each pair, in natural order; see ``evaluate_folders``.

    Raises:
        DataError: If either is missing or holds no images, or if any file has no partner.
    """
    if outputs.is_file() and references.is_file():
        return [(outputs.name, outputs, references)]
    for path in (outputs, references):
        if path.is_file():
            other = references if path == outputs else outputs
            raise DataError(f"{path} is a file and {other} is not: give two folders or two files.")
    ours, theirs = _images_in(outputs), _images_in(references)
    partners = _match(ours, theirs)
    matched = set(partners.values())
    lonely = [str(outputs / path) for path in ours if path not in partners]
    lonely += [str(references / path) for path in theirs if path not in matched]
    if lonely:
        raise DataError(
            _listed(
                f"{len(lonely)} images of {outputs} and {references} have no partner of the same "
                "name in the other; add or remove them",
                lonely,
            )
        )
    return [(path.as_posix(), outputs / path, references / partners[path]) for path in ours]


def _match(ours: list[Path], theirs: list[Path]) -> dict[Path, Path]:
    """Ours to theirs, each at most once: by name, then by name and suffix added, then by stem."""
    partners: dict[Path, Path] = {}
    for our_key, their_key in ((_name, _name), (_stem, _name), (_stem, _stem)):
        matched = set(partners.values())
        mine = _by_unique_key(our_key, [path for path in ours if path not in partners])
        others = _by_unique_key(their_key, [path for path in theirs if path not in matched])
        partners |= {path: others[key] for key, path in mine.items() if key in others}
    return partners


def _name(path: Path) -> str:
    return path.as_posix()


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()


def _by_unique_key(key: Callable[[Path], str], paths: list[Path]) -> dict[str, Path]:
    """Paths by key, without those that share a key."""
    count = Counter(map(key, paths))
    return {key(path): path for path in paths if count[key(path)] == 1}


def _images_in(folder: Path) -> list[Path]:
    """Paths within the folder."""
    found = [path.relative_to(folder) for path in list_images(folder)]
    if not found:
        raise DataError(f"{folder} holds no images: give a folder of images.")
    return found


def _read_pair(output: Path, reference: Path) -> tuple[Tensor, Tensor]:
    image, real = _read(output), _read(reference)
    if image.shape != real.shape:
        raise DataError(
            f"{output} is {_size(image)} pixels and {reference} {_size(real)}: resize one of them."
        )
    if min(image.shape[-2:]) < metrics.SSIM_WINDOW:
        least = f"{metrics.SSIM_WINDOW} x {metrics.SSIM_WINDOW}"
        raise DataError(f"{output} is {_size(image)} pixels, and the scores need {least}.")
    return image, real


def _read(path: Path) -> Tensor:
    """[3, H, W] in [0, 1]"""
    pixels = open_image(path)
    if pixels.shape[2] > 4:
        raise DataError(f"{path} has {pixels.shape[2]} channels: give images of 1 to 4 channels.")
    return torch.from_numpy(to_rgb(to_float(pixels))).permute(2, 0, 1)


def _size(image: Tensor) -> str:
    return f"{image.shape[-1]} x {image.shape[-2]}"


def _listed(what: str, lines: list[str]) -> str:
    shown = [f"  {line}" for line in lines[:MAX_LISTED]]
    if len(lines) > MAX_LISTED:
        shown.append(f"  and {len(lines) - MAX_LISTED} more")
    return "\n".join([f"{what}:", *shown])
