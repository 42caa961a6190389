"""featcache: run the frozen layers of a network once, train the rest from the cache, never use a stale feature."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import lazy_loader

# Loaded on first use, from the names in __init__.pyi: importing featcache must cost nothing, and torch takes seconds.
_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


class _Package(ModuleType):
    """Keeps ``featcache.extract`` and ``featcache.split`` the functions: importing the modules would put them there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, tuple[str]]:  # a function that names featcache goes to Ray, Dask or Spark
        return importlib.import_module, (__name__,)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("featcache")
    return _load(name)
