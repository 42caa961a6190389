"""Sizes, times and ids as people read them, such as "50 GB", "20min" and "785f3d2"."""

from __future__ import annotations

import re

from .errors import UsageError

__all__ = ["duration_in_words", "parse_duration", "parse_size", "short_id", "size_in_words"]

POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d)\s*", re.IGNORECASE)
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)b?\s*", re.IGNORECASE)


def short_id(fingerprint: str) -> str:
    """Return the beginning of a fingerprint, by which people and commands know it."""
    return fingerprint[:7]


def parse_size(value: str | int) -> int:
    """Return the bytes of a size such as ``"50 GB"``, ``"1.5 GiB"`` or a number; raises ``UsageError`` for others."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = SIZE.fullmatch(str(value))
    if match is None or (match[3] and not match[2]):
        raise UsageError(
            f"{value!r} is not a size: write a number of bytes, or one with a unit, such as 500MB or '50 GB'."
        )
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** POWERS[match[2].lower()])


def parse_duration(value: str) -> float:
    """Return the seconds of a time such as ``"90s"``, ``"20 min"`` or ``"1.5h"``; raises ``UsageError`` for others."""
    match = DURATION.fullmatch(value)
    if match is None:
        raise UsageError(f"{value!r} is not a time: write a number with a unit, such as 90s, 20min or 2h.")
    return float(match[1]) * SECONDS[match[2].lower()]


def size_in_words(size_bytes: float) -> str:
    """Return bytes in words: 512 B, 2.0 kB, 1.4 GB."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def duration_in_words(elapsed_s: float) -> str:
    """Return seconds in words: 0.21 s, 14 s, 3 min 5 s."""
    if elapsed_s < 10:
        return f"{elapsed_s:.2f} s"
    if elapsed_s < 100:
        return f"{elapsed_s:.0f} s"
    return f"{int(elapsed_s // 60)} min {int(elapsed_s % 60)} s"
