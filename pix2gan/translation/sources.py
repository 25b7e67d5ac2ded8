"""Which images a run is about: those of a folder, of a glob, or one."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from pix2gan.data.image_io import IMAGE_SUFFIXES, list_images
from pix2gan.errors import ConfigError, DataError
from pix2gan.translation.video import VIDEO_SUFFIXES

_SUFFIXES_SHOWN = ", ".join(sorted(IMAGE_SUFFIXES))


def images_of_folder(
    folder: Path, out: Path, *, recursive: bool, pattern: str | None
) -> list[Path]:
    """The images in a folder, in natural order, without those in `out`; none may be there.

    Raises:
        DataError: If there is no such folder.
        ConfigError: If `out` cannot take the outputs.
    """
    images = _leave_out(out, list_images(folder, recursive), folder)
    return images if pattern is None else _matching(images, folder, pattern)


def nothing_found(source: Path, *, recursive: bool, pattern: str | None) -> DataError:
    """The error for a folder without images."""
    where = "" if recursive else " itself (sub-folders were left out)"
    matching = "" if pattern is None else f" that matches {pattern!r}"
    return DataError(
        f"There is no image in {source}{where}{matching}: looked for {_SUFFIXES_SHOWN} (videos are "
        "translated one by one)"
    )


def images_of_glob(pattern: str | os.PathLike[str], out: Path) -> tuple[list[Path], Path]:
    """The images that a glob such as "photos/**/*.jpg" names, and the folder of its fixed part.

    Raises:
        DataError: If there is none.
    """
    root = _fixed_part(Path(pattern))
    parts = Path(pattern).parts[len(root.parts) :]
    if "**" in parts:  # glob would pass over folders that cannot be read
        images = [i for i in list_images(root) if _match(i.relative_to(root).parts, parts)]
    else:
        # Not Path.glob: the pattern may be absolute or begin with "..".
        names = glob.iglob(os.fspath(pattern))  # noqa: PTH207
        matches = (Path(name) for name in names)
        images = sorted(
            match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file()
        )
    images = _leave_out(out, images, root)
    if not images:
        raise DataError(f"No image matches {pattern}: looked for {_SUFFIXES_SHOWN}")
    return images, root


def _leave_out(out: Path, images: list[Path], root: Path) -> list[Path]:
    """The images below `root` without those in `out`, which are outputs of an earlier run.

    Raises:
        ConfigError: If `out` is named like an image, or outputs and inputs would lie side by side,
            where the next run could not tell them apart.
    """
    refuse_name(out, "an image", "The outputs need a folder")
    refuse_name(out, "a video", "The outputs need a folder")
    real_out, real_root = os.path.realpath(out), os.path.realpath(root)
    folders = {folder: os.path.realpath(folder) for folder in {image.parent for image in images}}
    is_below_root = real_out != real_root and is_within(real_out, real_root)
    inside = {f for f, real in folders.items() if is_below_root and is_within(real, real_out)}
    if any(real == real_out for folder, real in folders.items() if folder not in inside):
        raise ConfigError(
            f"The outputs cannot go to {out}, where the inputs are: choose another folder for them"
        )
    return [image for image in images if image.parent not in inside]


_NAMES = {"an image": IMAGE_SUFFIXES, "a video": VIDEO_SUFFIXES}


def refuse_name(out: Path, kind: str, why: str) -> None:
    """ConfigError if `out` is no folder that is there, and named like what it will not be."""
    if out.suffix.lower() in _NAMES[kind] and not out.is_dir():
        raise ConfigError(f"{why}, and {out} is named like {kind}: choose another name")


def is_named_like_a_file(out: Path) -> bool:
    """Whether `out` has a suffix (that of v1.2 is none) and is no folder that is there."""
    suffix = out.suffix.lower()
    return (suffix[1:].isalpha() or suffix in VIDEO_SUFFIXES) and not out.is_dir()


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _matching(images: Iterable[Path], root: Path, pattern: str) -> list[Path]:
    """The images whose path below `root` matches; of a pattern without "/" it is the name that
    has to, in whichever sub-folder."""
    patterns = tuple(pattern.split("/")) if "/" in pattern else ("**", pattern)
    return [image for image in images if _match(image.relative_to(root).parts, patterns)]


def _match(parts: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":  # any number of folders
        return any(_match(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part of a glob that has a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) :]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
