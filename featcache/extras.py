"""Optional packages: imported when they are needed, and asked for by the name of their extra."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingDependencyError

__all__ = ["need"]


def need(module: str, extra: str, purpose: str) -> Any:
    """Return an imported optional module; raises ``MissingDependencyError``, which names the extra to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == package:
            said = f"{purpose} needs the package {package}, which is not installed"
        else:
            said = f"{purpose} needs the package {package}, which does not load ({str(error).splitlines()[0]})"
        raise MissingDependencyError(f"{said}: pip install 'featcache[{extra}]'.") from error
