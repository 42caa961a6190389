"""Registries of the extension points: a name leads to an object that is loaded when it is first asked for."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from .errors import UnknownNameError, near_names

__all__ = ["Registry"]

Kind = TypeVar("Kind")


class Registry(Generic[Kind]):
    """The known implementations of one extension point, by name.

    Built-in ones are given as ``"module:attribute"`` and imported on first use, so that naming a kind costs
    nothing. Third parties add theirs by ``register`` or by an entry point in ``group``.
    """

    def __init__(self, group: str, noun: str, builtin: dict[str, str]) -> None:
        self.group = group
        self.noun = noun
        self._entries: dict[str, Any] = dict(builtin)

    def register(self, name: str, implementation: Kind) -> None:
        """Make ``implementation`` known as ``name``, replacing an earlier one."""
        self._entries[name] = implementation

    def __contains__(self, name: str) -> bool:
        """Return whether there is an implementation called ``name``; packages are looked through only for a foreign one."""
        return name in self._entries or name in self.names()

    def names(self) -> list[str]:
        """Return the sorted names of all implementations, installed entry points included."""
        return sorted({*self._entries, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str) -> Kind:
        """Return the implementation called ``name``.

        Raises ``UnknownNameError``, which lists the known names.
        """
        found = self._entries.get(name)
        if found is None:
            for point in entry_points(group=self.group):
                if point.name == name:
                    found = point.load()
        if found is None:
            known = self.names()
            raise UnknownNameError(f"unknown {self.noun} {name!r}.{near_names(name, known)} Known: {', '.join(known)}.")
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = getattr(importlib.import_module(module), attribute)
        self._entries[name] = found
        return cast(Kind, found)
