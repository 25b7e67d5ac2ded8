"""Looking a data set over: what is in it, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pix2gan.data.image_file import ImageFile
from pix2gan.data.image_io import (
    Array,
    list_images,
    natural_key,
    open_image_with_info,
    to_rgb,
    to_uint8,
)
from pix2gan.data.inspection import in_threads
from pix2gan.data.manifest import is_manifest, read_manifest
from pix2gan.data.pair_layouts import name_some
from pix2gan.data.seams import Halves, are_pairs, look_at_halves
from pix2gan.data.shards import ShardMember, names_shards, open_shards
from pix2gan.data.sheet import side_by_side
from pix2gan.errors import BadImageError, DataError

_PARTNERS = (("A", "B"), ("trainA", "trainB"), ("testA", "testB"), ("valA", "valB"))
_EMPTY = 1.0  # a standard deviation below this, in levels of 8 bits, is one colour and noise
_CELLS = 24
_COLUMNS = 6


@dataclass
class DataReport:
    """What ``check_data`` found."""

    layout: str
    """"two folders", "unpaired folders", "side by side", "photos", "manifest" or "shards"."""
    files: int
    sizes: dict[str, int] = field(default_factory=dict)
    """How many images have each size ("width x height"), the most frequent first."""
    modes: dict[str, int] = field(default_factory=dict)
    """How many have each mode and depth ("RGB, 8 bits")."""
    broken: list[tuple[str, str]] = field(default_factory=list)
    """Files that cannot be used, and why."""
    unmatched: list[str] = field(default_factory=list)
    """Files of pairs whose partner is missing."""
    duplicates: list[list[str]] = field(default_factory=list)
    """Groups of files with the same pixels."""
    near_empty: list[str] = field(default_factory=list)
    """Images that are all of one colour, or nearly."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.broken or self.unmatched or self.duplicates or self.near_empty)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"sound": self.is_sound, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        sizes = list(self.sizes.items())
        lines = [f"{self.files} images ({self.layout})"]
        shown = [f"{size} ({count})" for size, count in sizes[:5]]
        more = f", and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""
        lines += [f"sizes: {', '.join(shown)}{more}"] if sizes else []
        modes = [f"{mode} ({count})" for mode, count in self.modes.items()]
        lines += [f"modes: {'; '.join(modes)}"] if modes else []
        for title, found in (
            ("broken", [f"{name}: {reason}" for name, reason in self.broken]),
            ("without a partner", self.unmatched),
            ("the same pixels", [" = ".join(group) for group in self.duplicates]),
            ("nearly empty", self.near_empty),
        ):
            if found:
                lines.append(f"{title}: {len(found)}\n{name_some(found)}")
        return "\n".join([*lines, "nothing is wrong" if self.is_sound else "see above"])


@dataclass(frozen=True)
class _Seen:
    name: str
    size: str
    mode: str
    digest: bytes
    is_empty: bool
    halves: Halves | None
    small: Array | None


def check_data(
    data: Path,
    *,
    unpaired: bool = False,
    sheet: Path | None = None,
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Open every image of a data set and report what it is and what is wrong with it.

    Args:
        data: A folder, a manifest or shards.
        unpaired: Images of A and B need no partners.
        sheet: Where to write a contact sheet (PNG) of images evenly spread over the data.
        threads: How many files to decode at a time.
        progress: Called with (files done, files in all).

    Raises:
        DataError: If there is no such data, or not one image in it.
    """
    layout, files = _list_files(data)
    if not files:
        raise DataError(f"There are no images in {data}; check the path.")
    shown = {i * len(files) // min(_CELLS, len(files)) for i in range(min(_CELLS, len(files)))}
    root = data if data.is_dir() else data.parent

    def look(index: int) -> _Seen | tuple[str, str]:
        file = files[index]
        name = _name(file, root)
        try:
            return _look(file, name, with_picture=sheet is not None and index in shown)
        except BadImageError as error:
            return name, error.reason

    results = in_threads(look, range(len(files)), threads, progress)
    seen = [result for result in results if isinstance(result, _Seen)]
    if layout == "images":
        halves = [one.halves for one in seen if one.halves is not None]
        layout = "side by side" if halves and are_pairs(halves) else "photos"
    unmatched: list[str] = []
    if layout == "two folders" and not unpaired:
        unmatched, any_match = _find_unmatched(data)
        if not any_match:
            layout, unmatched = "unpaired folders", []
    report = DataReport(
        layout=layout,
        files=len(files),
        sizes=dict(Counter(one.size for one in seen).most_common()),
        modes=dict(Counter(one.mode for one in seen).most_common()),
        broken=[result for result in results if not isinstance(result, _Seen)],
        unmatched=unmatched,
        duplicates=_find_duplicates(seen),
        near_empty=[one.name for one in seen if one.is_empty],
    )
    if sheet is not None:
        _draw_sheet(seen, sheet)
    return report


def _list_files(data: Path) -> tuple[str, list[ImageFile]]:
    if is_manifest(data):
        rows = read_manifest(data)
        named = [file for row in rows for file in (row.a, row.b) if file is not None]
        return "manifest", list(dict.fromkeys(named))
    if names_shards(data):
        samples = [sample for shard in open_shards(data) for sample in shard]
        return "shards", [file for s in samples for file in (s.a, s.b) if file is not None]
    files: list[ImageFile] = list(list_images(data))
    two = any((data / a).is_dir() and (data / b).is_dir() for a, b in _PARTNERS)
    return ("two folders" if two else "images"), files


def _name(file: ImageFile, root: Path) -> str:
    if isinstance(file, ShardMember):
        return str(file)
    return (file.relative_to(root) if file.is_relative_to(root) else file).as_posix()


def _look(file: ImageFile, name: str, with_picture: bool) -> _Seen:
    pixels, info = open_image_with_info(file.open() if isinstance(file, ShardMember) else file)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise BadImageError(name, "it holds values that are not finite; fill or remove them.")
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(f"{pixels.shape}{pixels.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    eight = to_uint8(pixels)
    halves = None
    if width >= 2 and width % 2 == 0:
        halves = look_at_halves(eight[:, : width // 2], eight[:, width // 2 :])
    return _Seen(
        name=name,
        size=f"{width} x {height}",
        mode=f"{info.mode}, {info.bit_depth} bits",
        digest=digest.digest(),
        is_empty=float(eight.reshape(-1, eight.shape[2]).std(axis=0).max()) < _EMPTY,
        halves=halves,
        small=_thumbnail(eight) if with_picture else None,
    )


def _thumbnail(pixels: Array) -> Array:
    shown = pixels[..., :3] if pixels.shape[2] > 4 else to_rgb(pixels)
    picture = Image.fromarray(np.ascontiguousarray(shown))
    picture.thumbnail((160, 160))
    return np.asarray(picture)


def _find_unmatched(data: Path) -> tuple[list[str], bool]:
    """Files without a partner, and whether any file has one."""
    lonely: list[str] = []
    any_match = False
    for first, second in _PARTNERS:
        if not ((data / first).is_dir() and (data / second).is_dir()):
            continue
        a, b = (
            {
                f.relative_to(data / side).with_suffix("").as_posix(): f
                for f in list_images(data / side)
            }
            for side in (first, second)
        )
        any_match = any_match or bool(a.keys() & b.keys())
        lonely += [_name(a[stem], data) for stem in a.keys() - b.keys()]
        lonely += [_name(b[stem], data) for stem in b.keys() - a.keys()]
    return sorted(lonely, key=natural_key), any_match


def _find_duplicates(seen: Sequence[_Seen]) -> list[list[str]]:
    groups: dict[bytes, list[str]] = {}
    for one in seen:
        groups.setdefault(one.digest, []).append(one.name)
    return [group for group in groups.values() if len(group) > 1]


def _draw_sheet(seen: Sequence[_Seen], path: Path) -> None:
    from pix2gan.file_io import atomic_write

    pictures = [Image.fromarray(one.small) for one in seen if one.small is not None]
    if not pictures:
        raise DataError("No image can be opened, so there is none for a contact sheet.")
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    with atomic_write(path) as file:
        side_by_side(rows, cell=160).save(file, "PNG")
