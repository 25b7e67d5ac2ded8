"""Errors are sentences, and survive the way home from a worker process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pix2gan import errors


def test_every_error_is_a_pix2gan_error() -> None:
    kinds = [vars(errors)[name] for name in vars(errors) if name.endswith("Error")]
    assert len(kinds) >= 6
    assert all(issubclass(kind, errors.Pix2ganError) for kind in kinds)


def test_bad_image_error_names_the_file_in_one_sentence() -> None:
    error = errors.BadImageError(Path("a/b.png"), "it is empty; remove it.")
    assert str(error) == "Cannot use image a/b.png: it is empty; remove it."
    assert (error.path, error.reason) == ("a/b.png", "it is empty; remove it.")


@pytest.mark.parametrize(
    "error", [errors.BadImageError("x.png", "it is empty."), errors.DataError("no pairs")]
)
def test_errors_survive_pickling(error: errors.Pix2ganError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
