"""Looking at every file of a data set before training does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pix2gan.data.pair_layouts import name_some
from pix2gan.errors import BadImageError, DataError

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
