"""Errors that should come, without pytest, which those who only use featcache need not have."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["raises"]


@contextlib.contextmanager
def raises(kind: type[BaseException], words: str = "") -> Iterator[None]:
    """Expect an error of a kind that says these words; raises ``AssertionError`` where there is none."""
    try:
        yield
    except kind as error:
        if words in str(error):
            return
        raise AssertionError(f"{error!r} does not say {words!r}") from error
    raise AssertionError(f"this should have raised {kind.__name__}")
