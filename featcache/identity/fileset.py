"""What is known of files and installed packages without reading them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["is_weights_file", "package_folder", "states", "versions"]


def states(paths: Iterable[Path]) -> list[list[str | int]]:
    """Return [path, size, mtime, ctime, inode] of each file, sorted; a missing file has no numbers."""
    found: list[list[str | int]] = []
    for path in sorted(set(paths)):
        try:
            state = path.stat()
            found.append([str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino])
        except OSError:
            found.append([str(path)])
    return found


def package_folder(name: str) -> Path | None:
    """Return the folder of an installed package without importing it, None where there is none."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))


def is_weights_file(weights: str) -> bool:
    """Return whether a weights option names a file."""
    return weights.endswith((".safetensors", ".pt", ".pth", ".bin")) or "/" in weights


def versions(*packages: str) -> dict[str, str | None]:
    """Return the versions of packages without importing them, None for those that are not installed."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
