"""An image of a data set, in a file of its own or in a shard."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from pix2gan.data.image_io import Array, open_image
from pix2gan.data.shards import ShardMember

ImageFile: TypeAlias = Path | ShardMember
"""``str`` of it names it in errors."""


def open_file(file: ImageFile) -> Array:
    """Decode an image wherever it lies; as ``open_image``."""
    return open_image(file.open() if isinstance(file, ShardMember) else file)
