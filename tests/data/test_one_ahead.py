"""Elements that are fetched while the one before is worked on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pix2gan.data.one_ahead import OneAhead


def test_the_elements_come_in_order_and_one_of_them_early() -> None:
    fetched: list[int] = []
    events = [threading.Event() for _ in range(6)]

    def numbers() -> Iterator[int]:
        for number in range(6):
            fetched.append(number)
            events[number].set()
            yield number

    ahead = OneAhead(numbers())
    for number in range(5):
        assert next(ahead) == number
        assert events[number + 1].wait(60)  # without being asked for
        assert fetched == list(range(number + 2))  # and no further
    ahead.stop()
    assert fetched == list(range(6))
    assert not any(thread.name == "one ahead" for thread in threading.enumerate())


def test_what_the_iterator_raises_comes_in_its_place() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("gone")

    ahead = OneAhead(broken())
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="gone"):
            next(ahead)
    ahead.stop()
    assert list(OneAhead(iter([1, 2]))) == [1, 2]


def test_stopping_waits_for_what_is_being_fetched() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []

    def slow() -> Iterator[int]:
        begun.set()
        assert go_on.wait(60)
        done.append(1)
        yield 1

    ahead = OneAhead(slow())
    assert begun.wait(60)
    stopping = threading.Thread(target=ahead.stop)
    stopping.start()
    go_on.set()
    stopping.join()
    assert done == [1]
