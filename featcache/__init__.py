"""featcache: run the frozen layers of a network once, train the rest from the cache, never use a stale feature."""

from __future__ import annotations

from typing import Any

import lazy_loader

# Loaded on first use, from the names in __init__.pyi: importing featcache must cost nothing, and torch takes seconds.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("featcache")
    return _load(name)
