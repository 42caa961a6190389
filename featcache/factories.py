"""Specifications that name a Python function: ``path/to/file.py:factory`` and ``package.module:factory``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import FeatCacheError, UnknownNameError, UsageError, near_names

__all__ = ["call_factory", "can_be_loaded", "factory_takes", "load_file", "loaded_files", "looks_like_factory"]

PREFIX = "featcache_file_"


def looks_like_factory(spec: str) -> bool:
    """Return whether a specification names a Python function."""
    module, separator, attribute = spec.rpartition(":")
    if not separator or not attribute.isidentifier():
        return False
    return module.endswith(".py") or all(part.isidentifier() for part in module.split("."))


def can_be_loaded(spec: str) -> bool:
    """Return whether the file or the module that a specification names is there."""
    place = spec.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place).expanduser().is_file()
    return place in sys.modules or importlib.util.find_spec(place.partition(".")[0]) is not None


def call_factory(spec: str, noun: str, **optional: Any) -> Any:
    """Return what the named function returns; it gets those of the ``optional`` arguments that it takes.

    Raises ``UnknownNameError`` where there is no such file, module or function, ``UsageError`` where it fails.
    """
    factory = _factory(spec, noun)
    try:
        return factory(**{name: value for name, value in optional.items() if _takes(factory, name)})
    except FeatCacheError:
        raise
    except Exception as error:
        raise UsageError(f"{spec} failed to make a {noun}: {type(error).__name__}: {error}") from error


def factory_takes(spec: str, noun: str, argument: str) -> bool:
    """Return whether the named function takes an argument of that name; raises as ``call_factory`` does."""
    return _takes(_factory(spec, noun), argument)


def _factory(spec: str, noun: str) -> Callable[..., Any]:
    place, _, attribute = spec.rpartition(":")
    module = load_file(place, noun) if place.endswith(".py") else _import(place, noun)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        known = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise UnknownNameError(
            f"{place} has no function {attribute!r} that makes a {noun}.{near_names(attribute, known)}"
        )
    return factory  # type: ignore[no-any-return]


def _takes(factory: Callable[..., Any], argument: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of C code, which says nothing of its arguments
        return False
    return argument in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _import(name: str, noun: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UnknownNameError(
            f"no module {error.name!r} to take a {noun} from. Is it installed, and the specification right?"
        ) from error
    except Exception as error:
        raise UsageError(f"importing {name} failed: {type(error).__name__}: {error}") from error


def loaded_files() -> list[str]:
    """Return the Python files that specifications named so far."""
    found = [module for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]
    return [str(module.__file__) for module in found]


def load_file(place: str, noun: str) -> Any:
    """Return the module in a Python file, loaded once; raises as ``call_factory`` does."""
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise UnknownNameError(f"there is no file {place} to take a {noun} from.")
    name = f"{PREFIX}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise UsageError(f"{place} cannot be loaded as a Python file.")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # worker processes and fingerprints find its functions by this name
    beside = str(path.parent)
    sys.path.insert(0, beside)  # while it loads, as for a script: it may import the files beside it
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"loading {place} failed: {type(error).__name__}: {error}") from error
    finally:
        with suppress(ValueError):
            sys.path.remove(beside)
    return module
