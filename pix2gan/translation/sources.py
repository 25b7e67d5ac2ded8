"""Which images a run is about: those of a folder, of a glob, or one."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from pix2gan.data.image_io import IMAGE_SUFFIXES, list_images
from pix2gan.errors import ConfigError, DataError
from pix2gan.translation.video import VIDEO_SUFFIXES

_SUFFIXES_SHOWN = ", ".join(sorted(IMAGE_SUFFIXES))


@dataclass
class Found:
    """What a look for images found.

    Attributes:
        images: In the order in which they are worked off.
        closed: Folders that cannot be read, each with the reason.
    """

    images: list[Path]
    closed: dict[Path, str] = field(default_factory=dict)

    def leave_out(self, error: OSError) -> None:
        """Note a folder that cannot be read."""
        self.closed[Path(error.filename)] = error.strerror or str(error)


def images_of_folder(folder: Path, out: Path, *, recursive: bool, pattern: str | None) -> Found:
    """The images in a folder, in natural order, without those in `out`; none may be there.

    Raises:
        DataError: If there is no such folder.
        ConfigError: If `out` cannot take the outputs.
    """
    found = Found([])
    images = _leave_out(out, list_images(folder, recursive, found.leave_out), folder)
    found.images = images if pattern is None else _matching(images, folder, pattern)
    return found


def nothing_found(source: Path, *, recursive: bool, pattern: str | None) -> DataError:
    """The error for a folder without images."""
    where = "" if recursive else " itself (sub-folders were left out)"
    matching = "" if pattern is None else f" that matches {pattern!r}"
    return DataError(
        f"There is no image in {source}{where}{matching}: looked for {_SUFFIXES_SHOWN} (videos are "
        "translated one by one)"
    )


def images_of_glob(pattern: str | os.PathLike[str], out: Path) -> tuple[Found, Path]:
    """The images that a glob such as "photos/**/*.jpg" names, and the folder of its fixed part.

    Raises:
        DataError: If there is none.
    """
    root = _fixed_part(Path(pattern))
    found = Found([])
    matches = set(_expanded(root, Path(pattern).parts[len(root.parts) :], found))
    found.images = _leave_out(out, sorted(matches), root)
    if not found.images and not found.closed:
        raise DataError(f"No image matches {pattern}: looked for {_SUFFIXES_SHOWN}")
    return found, root


def _expanded(folder: Path, parts: tuple[str, ...], found: Found) -> Iterator[Path]:
    """The images below `folder` that the parts of a glob name, as the glob module would say; that
    passes over folders which cannot be read, and they are noted here."""
    first, rest = parts[0], parts[1:]
    if first == "**":
        if folder.is_dir():
            images = list_images(folder, closed=found.leave_out)
            below = (i for i in images if _match(i.relative_to(folder).parts, parts))
            yield from (image for image in below if image.is_file())
    elif not rest:
        for path in _named(folder, first, found):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path
    else:
        for path in _named(folder, first, found):
            if path.is_dir():
                yield from _expanded(path, rest, found)


def _named(folder: Path, pattern: str, found: Found) -> Iterator[Path]:
    """What lies in a folder under such a name."""
    if not glob.has_magic(pattern):
        yield folder / pattern
        return
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        found.leave_out(error)
        return
    hidden = pattern.startswith(".")
    for name in sorted(names):
        if fnmatch(name, pattern) and (hidden or not name.startswith(".")):
            yield folder / name


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


def is_named_like_a_file(out: str | os.PathLike[str]) -> bool:
    """Whether `out` has a suffix (that of v1.2 is none) and is no folder that is there, or that a
    slash at its end says it will be."""
    if os.fspath(out).endswith(("/", os.sep)):
        return False
    suffix = Path(out).suffix.lower()
    return (suffix[1:].isalpha() or suffix in VIDEO_SUFFIXES) and not Path(out).is_dir()


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
    return bool(parts) and fnmatch(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part of a glob that has a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.parts[len(fixed.parts) :]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed
