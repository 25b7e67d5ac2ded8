"""Splitting a data set into training, validation and test: always the same way, losing nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pix2gan.data.image_file import ImageFile
from pix2gan.data.manifest import is_manifest, write_manifest
from pix2gan.data.pair_layouts import find_pairs, name_place
from pix2gan.data.unpaired import find_domains
from pix2gan.errors import ConfigError, DataError


def split_data(
    data: Path,
    out: Path,
    *,
    val: float = 0.0,
    test: float = 0.1,
    by: str = "name",
    seed: int = 0,
    unpaired: bool = False,
) -> dict[str, int]:
    """Divide a data set and write a manifest, or folders with copies; the data stay as they are.

    Args:
        data: A folder or a manifest of pairs (or of two domains, with ``unpaired``).
        out: A manifest to write (.csv, .jsonl), or a folder, new or empty, that gets ``trainA/``,
            ``trainB/``, ``testA/`` and so on (or ``train/`` and so on with images side by side).
        val: Share of the validation set.
        test: Share of the test set.
        by: "name" decides by the names of pairs and the seed; "content" by what is in the files, so
            that doubles of an image never lie in two of the sets.
        seed: Another number, another split.
        unpaired: The images of A and B do not belong together: each is divided by itself.

    Returns:
        How many pairs (or images) each set has.

    Raises:
        ConfigError: If an option makes no sense, or ``out`` is in use.
        DataError: If the data cannot be read, or are in shards.
    """
    if by not in ("name", "content"):
        raise ConfigError(f"by must be name or content, not {by!r}.")
    if not (0 <= val < 1 and 0 <= test < 1 and 0 < val + test < 1):
        raise ConfigError(f"val and test are shares, below 1 together, not {val} and {test}.")
    if out.exists() and (is_manifest(out) or not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists already: choose another place for the split.")
    entries = _entries(data, unpaired)
    rows = []
    for name, files in entries:
        key = name if by == "name" else _content_key(list(files.values()))
        place = name_place(key, seed)
        split = "test" if place < test else "val" if place < test + val else "train"
        rows.append((name, files, split))
    if is_manifest(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(
            out,
            (
                {side: _from(out.parent, file) for side, file in files.items()} | {"split": split}
                for _, files, split in rows
            ),
        )
    else:
        _copy(rows, out)
    counts = Counter(split for _, _, split in rows)
    return {split: counts[split] for split in ("train", "val", "test") if counts[split]}


def _entries(data: Path, unpaired: bool) -> list[tuple[str, dict[str, Path]]]:
    """Name and files of each pair or image: {"A": ..., "B": ...}, or one of the two."""
    if unpaired:
        domains = find_domains(data, None, "train")
        return [
            (image.name.partition("/")[2], {letter: _local(image.file)})
            for letter, images in zip("AB", domains, strict=True)
            for image in images
        ]
    pairs = find_pairs(data, sketched=False).pairs
    return [
        (
            pair.name,
            ({} if pair.a is None else {"A": _local(pair.a)}) | {"B": _local(pair.b)},
        )
        for pair in pairs
    ]


def _local(file: ImageFile) -> Path:
    if not isinstance(file, Path):
        raise DataError("Shards cannot be split: split the files, then pack each set.")
    return file


def _content_key(files: Sequence[Path]) -> str:
    """A digest of the last file, which is B's where there are two."""
    with files[-1].open("rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _from(folder: Path, file: Path) -> str:
    """The file's path seen from a folder."""
    return Path(os.path.relpath(file, folder)).as_posix()


def _copy(rows: Sequence[tuple[str, dict[str, Path], str]], out: Path) -> None:
    side_by_side = all("A" not in files for _, files, _ in rows)
    targets: dict[Path, Path] = {}
    for name, files, split in rows:
        for side, file in files.items():
            folder = out / (split if side_by_side else f"{split}{side}")
            target = folder / _plain(f"{name}{file.suffix}")
            if targets.setdefault(target, file) != file:
                raise DataError(f"{file} and {targets[target]} would both become {target}.")
    for target, file in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def _plain(name: str) -> Path:
    """A name of a manifest may lead anywhere; a copy of its file may not."""
    return Path(*(part for part in PurePosixPath(name).parts if part not in ("/", "..")))
