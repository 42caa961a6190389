"""Reading a sample once: its id and its item are of the same bytes, whatever happens to them meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..identity import content_id, is_image, is_tensor, load_image

__all__ = ["Changed", "Unreadable", "declared_id", "is_turned", "private_copy", "read_item"]

ORIENTATION = 0x0112
UPRIGHT = (0, 1)  # 0 is not an orientation, though some cameras write it

NO_ID = b""  # which no sample has


@dataclass(frozen=True)
class Unreadable:
    """A sample that could not be read, and why."""

    position: int
    name: str
    reason: str


@dataclass(frozen=True)
class Changed:
    """A sample that was no longer what was listed when its turn came, and in which way."""

    position: int
    name: str
    reason: str


def read_item(dataset: Any, fetch: Callable[[int], Any], position: int) -> tuple[bytes, Callable[[], Any]]:
    """Return the id that an item of a dataset of one's own has now, and a function that gives the item of that id.

    An id that the dataset declares by ``sample_id(i)`` counts if it is the same before and after the item is fetched.
    """
    declares = hasattr(dataset, "sample_id")
    before = declared_id(dataset.sample_id(position)) if declares else NO_ID
    item = fetch(position)
    if not declares:
        item = private_copy(item)
        return content_id(item), lambda: item
    try:
        item = private_copy(item)
    except OSError as error:  # an image that is decoded only now: the id is known, and its content is damaged
        return _if_same(before, declared_id(dataset.sample_id(position))), _raising(error)
    return _if_same(before, declared_id(dataset.sample_id(position))), lambda: item


def is_turned(item: Any) -> bool:
    """Return whether an item is an image that its EXIF notes ask to be turned before it is looked at."""
    if not is_image(item) or "exif" not in item.info:
        return False
    try:
        return item.getexif().get(ORIENTATION, 1) not in UPRIGHT
    except Exception:  # damaged notes of a whole image
        return False


def declared_id(value: Any) -> bytes:
    """Return the 16-byte id that ``sample_id(i)`` of a dataset stands for."""
    if isinstance(value, bytes) and len(value) == 16:
        return value
    return content_id(value)


def private_copy(item: Any) -> Any:
    """Return an item whose values lie in memory of its own, and are decoded.

    A dataset may hand out a buffer that it uses again, or a mapped file that others write to.
    """
    if is_tensor(item):
        return item.detach().clone()
    if isinstance(item, np.ndarray):
        return np.array(item, copy=True, order="K", subok=True)
    if is_image(item):
        return _private_image(item)
    if isinstance(item, Mapping):
        return _private_mapping(item)
    if isinstance(item, (tuple, list)):
        parts = [private_copy(part) for part in item]
        try:
            return type(item)(*parts) if hasattr(item, "_fields") else type(item)(parts)
        except TypeError:  # a class that is made otherwise
            return tuple(parts) if isinstance(item, tuple) else parts
    return bytes(item) if isinstance(item, bytearray) else item


def _private_mapping(item: Mapping[Any, Any]) -> Any:
    values = {name: private_copy(value) for name, value in item.items()}
    try:
        made: Any = copy.copy(item)
        for name, value in values.items():
            made[name] = value
    except TypeError:  # one that cannot be changed
        return values
    return made


def _private_image(image: Any) -> Any:
    # Not image.copy(), which forgets the file's format and a TIFF's orientation.
    load_image(image)
    own: Any = object.__new__(type(image))
    own.__dict__.update(image.__dict__, info=dict(image.info))
    own.im, own.readonly = image.im.copy(), 0
    return own


def _if_same(before: bytes, after: bytes) -> bytes:
    return before if before == after else NO_ID


def _raising(error: Exception) -> Callable[[], Any]:
    def item() -> Any:
        raise error

    return item
