"""Memory for decoded images, so that they are decoded once and not once an epoch."""

from __future__ import annotations

from collections.abc import Hashable

from pix2gan.data.image_io import Array


class ImageCache:
    """Keeps the first images that fit; epochs visit all alike, so replacing any gains nothing.

    Args:
        capacity: In bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.used = capacity, 0
        self._images: dict[Hashable, list[Array]] = {}

    def get(self, key: Hashable) -> list[Array] | None:
        return self._images.get(key)

    def put(self, key: Hashable, images: list[Array]) -> list[Array]:
        """Keep ``images`` (which become read-only) if there is room; returns them."""
        size = sum(image.nbytes for image in images)
        if self.used + size <= self.capacity:
            for image in images:
                image.flags.writeable = False
            self._images[key] = images
            self.used += size
        return images
