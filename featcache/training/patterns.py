"""Parameters chosen by name: of a module or a parameter, or a pattern of either."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from ..errors import UsageError, near_names

__all__ = ["chosen_by", "matches"]


def matches(pattern: str, parameter: str) -> bool:
    """Return whether a parameter's name, or that of a module which it is in, is ``pattern`` or fits it as fnmatch does."""
    parts = parameter.split(".")
    names = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(name == pattern or fnmatchcase(name, pattern) for name in names)


def chosen_by(option: str, patterns: Sequence[str], module: nn.Module) -> dict[str, set[str]]:
    """Return the names of the parameters of a module that each pattern chooses; raises ``UsageError`` for one of nothing."""
    parameters = [name for name, _ in module.named_parameters()]
    modules = [name for name, _ in module.named_modules() if name]
    found = {pattern: {name for name in parameters if matches(pattern, name)} for pattern in patterns}
    for pattern, names in found.items():
        if not names and not any(pattern == each or fnmatchcase(each, pattern) for each in modules):
            known = [*modules, *parameters]
            raise UsageError(
                f"{option} {pattern!r} is not a module after the cut, nor a parameter or pattern of either."
                f"{near_names(pattern, known)} There are: {', '.join(each for each in modules if '.' not in each)}."
            )
    return found
