"""Looking at every file of a data set before training does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pix2gan.data.pair_layouts import name_some
from pix2gan.data.pixels import Array, is_converted
from pix2gan.errors import BadImageError, DataError

CHECKED_IN_SHARDS = 256
"""Of images in shards so many are opened: shards may hold more than anyone would wait for."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_threads(
    work: Callable[[_Item], _Result],
    items: Sequence[_Item],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Result]:
    """``work`` of each item in order; ``progress`` is called with (done, in all)."""
    results: list[_Result] = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for result in pool.map(work, items):
            results.append(result)
            if progress is not None:
                progress(len(results), len(items))
    return results


def raise_broken(broken: Sequence[BadImageError], total: int, things: str) -> None:
    """DataError that lists ``broken``, if there are any, of ``total`` pairs, images, ..."""
    if broken:
        listed = name_some([f"{error.path}: {error.reason}" for error in broken])
        raise DataError(
            f"{len(broken)} of {total} {things} cannot be used; repair or remove these:\n{listed}"
        )


def check_channels(image: Array, channels: int, path: str) -> None:
    """BadImageError if ``image``, ``[H, W, C]``, cannot be had with ``channels`` channels."""
    present = image.shape[2]
    if not is_converted(present, channels):
        reason = (
            f"it has {present} channel{'s' * (present != 1)} where {channels} are expected, and "
            "only 1 to 4 become one another; save it like the others, or set in_channels or "
            "out_channels."
        )
        raise BadImageError(path, reason)


def choose_to_open(items: Sequence[_Item], in_shards: bool) -> Sequence[_Item]:
    """All of the items, or of those in shards ``CHECKED_IN_SHARDS``, evenly spread."""
    if not in_shards or len(items) <= CHECKED_IN_SHARDS:
        return items
    places = (i * len(items) // CHECKED_IN_SHARDS for i in range(CHECKED_IN_SHARDS))
    return [items[place] for place in places]
