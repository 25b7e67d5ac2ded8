"""Scoring a folder of translated images against the real ones.

report = evaluate_folders(Path("photos"), Path("real"), report=Path("report.json"))
print(report.summary())
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pix2gan import image_metrics as metrics
from pix2gan.checkpoints import resolve_model
from pix2gan.checkpoints.load import find_weights
from pix2gan.data.image_io import list_images, open_image, to_float, to_rgb
from pix2gan.errors import BadImageError, CheckpointError, ConfigError, DataError
from pix2gan.evaluation.features import FeatureNetwork, open_features, open_maps
from pix2gan.evaluation.page import BEGINNING as PAGE_BEGINNING
from pix2gan.evaluation.page import Case, chosen, write_page
from pix2gan.evaluation.scores import ImageScores, MeanScores, PairedScores, versions
from pix2gan.evaluation.set_distances import (
    KID_SUBSET_SIZE,
    KID_SUBSETS,
    frechet_distance,
    kernel_distance,
    perceptual_distance,
)
from pix2gan.file_io import atomic_write, check_replaceable, check_writable

MAX_LISTED = 20
_BEGINNING = b'{\n  "outputs": '  # what a report begins with


@dataclass(frozen=True)
class EvaluationReport:
    """What ``evaluate_folders`` found.

    Attributes:
        counts: How many ``outputs`` and ``references`` there were.
        mean: The scores of pairs; None of unpaired sets.
        swd: Sliced Wasserstein distance of the two sets.
        distances: ``fid``, ``kid``, ``kid_deviation`` and ``lpips``, as far as their networks were
            given.
        images: The scores of each pair, in the order of their names.
        of: ``split`` and ``model`` (name and SHA-256 of the file), as far as they were given.
    """

    outputs: Path
    references: Path
    counts: dict[str, int]
    mean: MeanScores | None
    swd: metrics.SlicedWassersteinDistance
    distances: dict[str, float]
    images: list[ImageScores]
    of: dict[str, Any]
    protocol: dict[str, Any]
    versions: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        swd = {"mean": self.swd.mean, "levels": self.swd.levels}
        return {
            "outputs": str(self.outputs),
            "references": str(self.references),
            **self.of,
            "counts": self.counts,
            **(self.mean.as_dict() if self.mean is not None else {"swd": swd}),
            **self.distances,
            "protocol": self.protocol,
            "versions": self.versions,
            "images": [image.as_dict() for image in self.images],
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON; the file is whole or not there."""
        with atomic_write(path) as file:
            file.write((json.dumps(self.as_dict(), indent=2) + "\n").encode())

    def figures(self) -> dict[str, str]:
        """The scores of the whole by name, as a person reads them."""
        found = {}
        if self.mean is not None:
            found = {
                "PSNR": f"{self.mean.psnr:.2f} dB",
                "SSIM": f"{self.mean.ssim:.4f}",
                "L1": f"{self.mean.l1:.4f}",
            }
        levels = "  ".join(f"{level}: {value:.1f}" for level, value in self.swd.levels.items())
        found["SWD"] = f"{self.swd.mean:.1f}  ({levels})"
        if "lpips" in self.distances:
            found["LPIPS"] = f"{self.distances['lpips']:.4f}"
        if "fid" in self.distances:
            found["FID"] = f"{self.distances['fid']:.2f}"
            found["KID"] = f"{self.distances['kid']:.5f} ± {self.distances['kid_deviation']:.5f}"
        return found

    def facts(self) -> list[str]:
        """What was compared, in a few words each."""
        if self.mean is None:
            images = (
                f"{self.counts['outputs']} images against {self.counts['references']}, unpaired"
            )
        else:
            same = f", {self.mean.identical} identical" if self.mean.identical else ""
            images = f"{self.mean.count} image{'' if self.mean.count == 1 else 's'}{same}"
        found = [images]
        if "split" in self.of:
            found.append(f"split {self.of['split']}")
        if "model" in self.of:
            found.append(f"model {self.of['model']['name']}, {self.of['model']['sha256'][:12]}")
        return found

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{name:<5} {text}" for name, text in self.figures().items()]
        return "\n".join([self.facts()[0], *lines])


def evaluate_folders(
    outputs: Path,
    references: Path,
    *,
    unpaired: bool = False,
    features: Path | None = None,
    lpips: Path | None = None,
    lpips_layers: Path | None = None,
    report: Path | None = None,
    page: Path | None = None,
    inputs: Path | None = None,
    split: str = "",
    model: str | os.PathLike[str] | None = None,
    direction: str | None = None,
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
        unpaired: Compare the two as sets of any numbers and names, by the distances that need no
            pairs: sliced Wasserstein, FID and KID.
        features: The network of FID and KID: Inception's weights, or an ONNX file that makes
            features [N, D] (see ``pix2gan.evaluation.features``).
        lpips: The network of LPIPS: the weights of AlexNet or VGG-16, or an ONNX file that makes
            feature maps.
        lpips_layers: The weights of LPIPS's layers, for AlexNet or VGG-16; by default
            torchmetrics's.
        report: Where to write the scores as JSON, if anywhere. Missing folders are made.
        page: Where to write an HTML page of the scores and the worst, usual and best pairs.
        inputs: What was translated, to be shown on the page: images of the same names.
        split: The part of the data that this is, for the report: "test".
        model: What made the outputs, as ``resolve_model`` takes it: bundled name, folder, run,
            file or hub id. The SHA-256 of the file with its weights goes into the report.
        direction: "AtoB" or "BtoA": which of two models is meant, as CycleGAN's.
        seed: Of the sliced Wasserstein distance's patches and projections, and of KID's subsets.
        progress: Called with (images done, images in all) after each pair or image.

    Raises:
        DataError: Names every file without a partner; or, once all were read, every file that is
            broken, of another size than its partner, or too small. Nothing is written then.
        CheckpointError: If a feature network or the model cannot be read.
        ConfigError: The seed is none of torch's, an option needs pairs, or the report cannot be
            written where it is told to be; said before anything is scored.
    """
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be at least 0 and below 2**64, got {seed}")
    if unpaired and (lpips is not None or page is not None):
        raise ConfigError("LPIPS and the page of best and worst compare pairs: leave them out")
    outputs, references = Path(outputs), Path(references)
    of: dict[str, Any] = {"split": split} if split else {}
    run = _Run(
        open_features(Path(features)) if features is not None else None,
        open_maps(Path(lpips), lpips_layers) if lpips is not None else None,
        seed,
    )
    pairs = [] if unpaired else match_images(outputs, references)
    given: dict[str, Path] = {}
    if inputs is not None:
        if page is None:
            raise ConfigError("The inputs are for the page: leave them out, or ask for a page")
        given = {name: seen for name, _, seen in match_images(outputs, Path(inputs))}
    if None not in (report, page) and Path(str(report)).absolute() == Path(str(page)).absolute():
        raise ConfigError(f"The report and the page cannot both be {page}: name two files")
    for path, beginning in ((report, _BEGINNING), (page, PAGE_BEGINNING.encode())):
        if path is not None:
            _check_report(Path(path), beginning)
    if model is not None:
        of |= {"model": _hash_of(model, direction)}
    result = EvaluationReport(
        outputs=outputs,
        references=references,
        of=of,
        **(
            run.of_sets(_listed_images(outputs), _listed_images(references), progress)
            if unpaired
            else run.of_pairs(pairs, progress)
        ),
        versions=versions(),
    )
    if report is not None:
        Path(report).parent.mkdir(parents=True, exist_ok=True)
        result.write(Path(report))
    if page is not None:
        Path(page).parent.mkdir(parents=True, exist_ok=True)
        _write_page(Path(page), result, pairs, given)
    return result


class _Run:
    """One evaluation: reads images one after the other and keeps what is needed of them."""

    def __init__(
        self, features: FeatureNetwork | None, lpips: FeatureNetwork | None, seed: int
    ) -> None:
        self.features, self.lpips, self.seed = features, lpips, seed
        self.ours: list[Tensor] = []
        self.theirs: list[Tensor] = []

    def of_pairs(
        self,
        pairs: list[tuple[str, Path, Path]],
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:
        scores = PairedScores(len(pairs), seed=self.seed)
        problems, perceptual = [], []
        for done, (name, output, reference) in enumerate(pairs, start=1):
            try:
                image, real = _read_pair(output, reference)
                scores.add(name, image, real)
            except (BadImageError, DataError) as error:
                problems.append(str(error))
            else:
                self._take(image, self.ours)
                self._take(real, self.theirs)
                if self.lpips is not None:
                    distance = perceptual_distance(self.lpips(image[None]), self.lpips(real[None]))
                    perceptual.append(float(distance))
            if progress is not None:
                progress(done, len(pairs))
        if problems:
            raise DataError(
                _listed(f"{len(problems)} of {len(pairs)} pairs cannot be scored", problems)
            )
        mean, images, distances = scores.mean(), scores.images, self._distances()
        if self.lpips is not None:
            distances["lpips"] = sum(perceptual) / len(perceptual)
            images = [
                replace(image, lpips=value) for image, value in zip(images, perceptual, strict=True)
            ]
        return {
            "counts": {"outputs": len(pairs), "references": len(pairs)},
            "mean": mean,
            "swd": mean.swd,
            "images": images,
            "distances": distances,
            "protocol": self._protocol(scores.protocol()),
        }

    def of_sets(
        self,
        outputs: list[Path],
        references: list[Path],
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:
        total = len(outputs) + len(references)
        scores = PairedScores(max(len(outputs), len(references)), seed=self.seed)
        patches = [metrics.LaplacianPatches(scores.patches_per_image, seed=self.seed) for _ in "ab"]
        problems: list[str] = []
        for done, path in enumerate([*outputs, *references], start=1):
            second = done > len(outputs)
            try:
                image = _read(path)
                _check_size(path, image)
            except (BadImageError, DataError) as error:
                problems.append(str(error))
            else:
                patches[second].add(image[None])
                self._take(image, self.theirs if second else self.ours)
            if progress is not None:
                progress(done, total)
        if problems:
            raise DataError(_listed(f"{len(problems)} of {total} images cannot be used", problems))
        try:
            swd = patches[0].distance(patches[1])
        except ValueError as error:
            raise DataError(f"{error}: resize one of the sets.") from None
        protocol = {k: v for k, v in scores.protocol().items() if k in ("value_range", "swd")}
        return {
            "counts": {"outputs": len(outputs), "references": len(references)},
            "mean": None,
            "swd": swd,
            "images": [],
            "distances": self._distances(),
            "protocol": self._protocol({"pairs": "none", **protocol}),
        }

    def _take(self, image: Tensor, features: list[Tensor]) -> None:
        if self.features is not None:
            features += self.features(image[None])

    def _distances(self) -> dict[str, float]:
        """FID and KID of what was taken."""
        if self.features is None:
            return {}
        ours, theirs = torch.cat(self.ours), torch.cat(self.theirs)
        if min(len(ours), len(theirs)) < 2:
            raise DataError("FID and KID need two images at least, and many more to mean anything.")
        kid, deviation = kernel_distance(ours, theirs, seed=self.seed)
        return {
            "fid": frechet_distance(ours, theirs),
            "kid": kid,
            "kid_deviation": deviation,
        }

    def _protocol(self, scores: dict[str, Any]) -> dict[str, Any]:
        protocol = {"channels": "RGB, alpha over white", "resized": "no", **scores}
        if self.features is not None:
            subsets = {"subsets": KID_SUBSETS, "subset_size": KID_SUBSET_SIZE, "seed": self.seed}
            protocol["fid"] = protocol["kid"] = self.features.protocol()
            protocol["kid"] = protocol["kid"] | subsets
        if self.lpips is not None:
            protocol["lpips"] = self.lpips.protocol()
        return protocol


def _hash_of(model: str | os.PathLike[str], direction: str | None) -> dict[str, str]:
    """Name and SHA-256 of a model's file."""
    found = resolve_model(model, direction)
    path = find_weights(found, direction)
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error})") from None
    given = Path(model).expanduser()
    # Of a run, which of its models it was.
    inside = given.is_dir() and path.is_relative_to(given)
    return {
        "name": given.resolve().name if given.exists() else os.fspath(model),
        "file": path.relative_to(given).as_posix() if inside else path.name,
        "sha256": digest.hexdigest(),
    }


def _write_page(
    path: Path,
    result: EvaluationReport,
    pairs: list[tuple[str, Path, Path]],
    given: dict[str, Path],
) -> None:
    """The scores and the worst, usual and best images by SSIM."""
    files = {name: (output, reference) for name, output, reference in pairs}

    def case(scores: ImageScores) -> Case:
        seen = _read(given[scores.name]) if given else None
        return Case(scores, *_read_pair(*files[scores.name]), seen)

    found = chosen(result.images)
    sections = (
        ("Worst", "The lowest SSIM: where to look first.", found["worst"]),
        ("Usual", "Around the median of SSIM: what to expect.", found["usual"]),
        ("Best", "The highest SSIM.", found["best"]),
    )
    write_page(
        path,
        f"{result.outputs} against {result.references}",
        result.facts(),
        result.figures(),
        result.images,
        [(head, text, [case(s) for s in scores]) for head, text, scores in sections if scores],
        {**result.protocol, "versions": result.versions},
    )


def _listed_images(path: Path) -> list[Path]:
    return [path] if path.is_file() else [path / name for name in _images_in(path)]


def _check_report(path: Path, beginning: bytes) -> None:
    """ConfigError if the report cannot be written there; makes nothing."""
    if path.is_dir():
        raise ConfigError(f"The report {path} is a folder: name a file")
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        check_replaceable(path, lambda head: head.startswith(beginning))
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
    _check_size(output, image)
    return image, real


def _check_size(path: Path, image: Tensor) -> None:
    if min(image.shape[-2:]) < metrics.SSIM_WINDOW:
        least = f"{metrics.SSIM_WINDOW} x {metrics.SSIM_WINDOW}"
        raise DataError(f"{path} is {_size(image)} pixels, and the scores need {least}.")


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
