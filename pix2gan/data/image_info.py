"""What a file says about its image, and how much of that is believed."""

from __future__ import annotations

from dataclasses import dataclass

from pix2gan.errors import BadImageError, ImageTooLargeError


@dataclass(frozen=True)
class ImageInfo:
    """What a file says about its image, for whoever writes a translated copy of it."""

    format: str
    """"PNG", "JPEG", "TIFF" and so on."""
    mode: str
    """Pillow's name for the pixels in the file ("RGB", "P", "CMYK", "I;16"), or "N-channel"."""
    width: int
    height: int
    """Size in pixels as displayed, that is after the EXIF orientation."""
    bit_depth: int
    """Bits a channel in the file: 1 to 64."""
    icc_profile: bytes | None
    """Colour profile that fits the opened pixels; None for absent or converted (CMYK) ones."""
    dpi: tuple[float, float] | None
    orientation: int
    """EXIF orientation 1 to 8 in the file; ``open_image`` has applied it already."""


def check_size(name: str, width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadImageError(name, "its header says that it has no pixels; restore or remove it.")
    if width * height > max_pixels:
        raise ImageTooLargeError(
            name,
            f"its header says {width} x {height} pixels, more than the {max_pixels} allowed; "
            "shrink it, or raise max_pixels if you trust it.",
        )


def valid_orientation(value: object) -> int:
    if isinstance(value, (tuple, list)) and len(value) == 1:
        value = value[0]
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        return 1
    return number if 1 <= number <= 8 else 1


def valid_dpi(value: object) -> tuple[float, float] | None:
    try:
        x, y = (float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if 0 < x < 1e6 and 0 < y < 1e6 else None


def fitting_profile(profile: object) -> bytes | None:
    """The profile, if it speaks of grey or RGB; one of CMYK or LAB no longer fits the pixels."""
    if isinstance(profile, bytes) and len(profile) > 128 and profile[16:20] in {b"RGB ", b"GRAY"}:
        return profile
    return None
