"""An iterator whose next element is fetched while the caller works on the one before."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class OneAhead(Generic[T]):
    """The elements of ``iterator``, each fetched in a thread as soon as the one before is taken.

    Whatever it raises is raised in its place. Call ``stop`` in the end: it waits for the element
    that is being fetched, and nothing touches the iterator afterwards.
    """

    def __init__(self, iterator: Iterator[T]) -> None:
        self._iterator = iterator
        self._fetched: queue.SimpleQueue[T | _Raised] = queue.SimpleQueue()
        self._room = threading.Semaphore(1)
        self._stopped = False
        self._thread = threading.Thread(target=self._fetch, name="one ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> OneAhead[T]:
        return self

    def __next__(self) -> T:
        fetched = self._fetched.get()
        if isinstance(fetched, _Raised):
            self._fetched.put(fetched)  # again, for whoever asks again
            raise fetched.error
        self._room.release()
        return fetched

    def stop(self) -> None:
        """Fetch no more."""
        self._stopped = True
        self._room.release()
        self._thread.join()

    def _fetch(self) -> None:
        while True:
            self._room.acquire()
            if self._stopped:
                return
            try:
                fetched = next(self._iterator)
            except BaseException as error:
                self._fetched.put(_Raised(error))
                return
            self._fetched.put(fetched)


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
