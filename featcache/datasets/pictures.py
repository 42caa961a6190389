"""Opening images with Pillow: its limit of pixels, its warnings, and whatever damage makes it raise."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ..errors import FeatCacheError, UnreadableSampleError, UsageError, one_line
from ..extras import need

__all__ = ["open_picture", "reading_image"]

LIMIT_VARIABLE = "FEATCACHE_MAX_PIXELS"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def open_picture(file: BinaryIO, where: object) -> Any:
    """Return an image of Pillow that is not decoded yet; of an animation or several pages it is the first one."""
    from PIL import Image, UnidentifiedImageError

    _set_limit()
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(4)
        if file.read(4) != b"ftyp" or file.read(4) not in HEIF_BRANDS:
            raise
    # Only now: an image that Pillow knows by itself is decoded the same, whether this package is installed or not.
    need("pillow_heif", "heif", f"{where} is a HEIF image, which").register_heif_opener()
    file.seek(0)
    return Image.open(file)


@contextmanager
def reading_image(where: object) -> Iterator[None]:
    """Turn whatever Pillow raises into ``UnreadableSampleError``, and keep its warnings to itself."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Of damaged notes beside the pixels, and of images between half its limit and the limit, which are read.
            warnings.simplefilter("ignore")
            yield
    except FeatCacheError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableSampleError(f"{where} is not an image that PIL knows") from error
    except Image.DecompressionBombError as error:
        raise UnreadableSampleError(
            f"{where} has more pixels than Pillow decodes, {2 * (Image.MAX_IMAGE_PIXELS or 0):,}: make it smaller, or allow "
            f"more by the environment variable {LIMIT_VARIABLE}, if you trust the file"
        ) from error
    except Exception as error:  # each decoder raises what the damage leads to
        said = one_line(error) or type(error).__name__
        raise UnreadableSampleError(f"{where} is damaged or unreadable ({said})") from error


def _set_limit() -> None:
    """Allow images of as many pixels as the environment says; without it Pillow's own limit holds, or what was set in it."""
    from PIL import Image

    given = os.environ.get(LIMIT_VARIABLE)
    if given is None:
        return
    if not given.isdecimal() or not int(given):
        raise UsageError(f"{LIMIT_VARIABLE} is the most pixels of an image, such as 500000000, not {given!r}.")
    Image.MAX_IMAGE_PIXELS = -(-int(given) // 2)  # Pillow refuses images of more than twice of it
