"""Several passes through a network side by side, each on its share of the processor's cores.

On a CPU one pass on all cores is a chain of short parallel loops, and each loop is as slow as its
slowest thread: where decoding or encoding displaces one of them, the others spin until it is back.
Passes side by side do not wait for each other, and fill each other's gaps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Result = TypeVar("Result")

_LANES = 2
_counting = threading.Lock()


class Lanes:
    """Threads for passes through a network on ``device``; a context manager that ends them.

    The number of torch's threads may change the last bits of a result. So it depends on the
    machine alone, and not on how much there is to do.

    Attributes:
        count: How many passes run at the same time.
        pool: Their threads, which may do other work in between.
    """

    MOST_PIXELS = 2**18
    """Of an image: larger ones get all cores, and the memory, to themselves."""

    def __init__(self, device: torch.device) -> None:
        with _counting:
            threads = torch.get_num_threads()
            self.count = _LANES if device.type == "cpu" and threads >= _LANES else 1
            self.pool = ThreadPoolExecutor(self.count, thread_name_prefix="network")
            if self.count > 1:
                self._share(threads)

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *exception: object) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, run: Callable[..., Result], *arguments: object) -> Future[Result]:
        """Have ``run(*arguments)`` done by the next lane that is free."""
        return self.pool.submit(run, *arguments)

    def _share(self, threads: int) -> None:
        """Give each lane its share of torch's threads."""
        all_there = threading.Barrier(self.count)  # or one lane would answer for all

        def take_share() -> None:
            torch.get_num_threads()  # or the first op of this thread undoes what is set here
            torch.set_num_threads(threads // self.count)
            all_there.wait()

        for taken in [self.submit(take_share) for _ in range(self.count)]:
            taken.result()
        # A thread has its own number, but the last one set is what new threads begin with.
        torch.set_num_threads(threads)
