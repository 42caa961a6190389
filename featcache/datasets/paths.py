"""Paths that tables name: where they lead, whatever system wrote them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError

__all__ = ["full_path", "place_of", "rewritten_note"]

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def place_of(root: Path, value: str, where: str) -> str:
    """Return the path that a table's value stands for, relative to ``root`` unless it is absolute.

    The value is taken as it is where such a file is there, else without spaces around it, else with slashes for the
    backslashes of Windows. Raises ``DataError``, which says ``where``, for a URL.
    """
    # Text, not Path objects, which would take most of the time with a million rows.
    stripped = value.strip()
    if URL.match(stripped):
        raise DataError(
            f"{where} names {stripped!r}, which is a URL: download the files first, and name them by their paths."
        )
    if stripped == value and "\\" not in value:
        return value
    for candidate in (value, stripped, stripped.replace("\\", "/")):
        if os.path.isfile(full_path(root, candidate)):  # noqa: PTH113
            return candidate
    return stripped


def full_path(root: Path, value: str) -> str:
    """Return a path below ``root``, or an absolute one as it is; ``~`` is the home folder."""
    return os.path.join(root, os.path.expanduser(value) if value[:1] == "~" else value)  # noqa: PTH111, PTH118


def rewritten_note(given: Sequence[str], places: Sequence[str]) -> list[str]:
    """Return what to say of paths whose backslashes were taken for slashes."""
    count = sum("\\" in value and "\\" not in place for value, place in zip(given, places, strict=True))
    return [f"{count:,} {'path' if count == 1 else 'paths'} with backslashes read with slashes"] if count else []
