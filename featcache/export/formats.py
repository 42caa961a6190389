"""The formats that are written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import MissingDependencyError, UsageError, near_names

__all__ = ["FEATURE_FORMATS", "HEAD_FORMATS", "ExportReport", "find_format", "missing_extra"]

HEAD_FORMATS = ("state_dict", "torch_export", "onnx")
FEATURE_FORMATS = ("npy", "parquet", "hdf5")
SUFFIXES = {
    ".safetensors": "state_dict",
    ".pt": "state_dict",
    ".pth": "state_dict",
    ".pt2": "torch_export",
    ".onnx": "onnx",
    ".npy": "npy",
    ".npz": "npy",
    ".parquet": "parquet",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
}


@dataclass
class ExportReport:
    """What an export wrote.

    Attributes
    ----------
    path : str
        The file.
    format : str
        The format.
    size_bytes : int
        The bytes of the file.
    rows : int, optional
        The number of rows of exported features. None for a head.
    difference : float, optional
        The largest difference from the merged model on real input, relative to the output's scale. None if nothing is
        computed.
    notes : list of str
        What anyone who loads the file should know.
    """

    path: str
    format: str
    size_bytes: int = 0
    rows: int | None = None
    difference: float | None = None
    notes: list[str] = field(default_factory=list)


def find_format(path: Path, given: str | None, known: Collection[str] = (*HEAD_FORMATS, *FEATURE_FORMATS)) -> str:
    """Return the format of a file: the one that was given, or else by its suffix; raises ``UsageError`` for none."""
    if given is not None:
        if given not in known:
            raise UsageError(f"unknown format {given!r}.{near_names(given, known)} Known: {', '.join(known)}.")
        return given
    found = SUFFIXES.get(path.suffix.lower())
    if found is None or found not in known:
        suffixes = [suffix for suffix, name in SUFFIXES.items() if name in known]
        raise UsageError(
            f"{path} does not say which format it is to have: end it in {', '.join(suffixes)}, or use --format."
        )
    return found


def missing_extra(what: str, extra: str) -> MissingDependencyError:
    """Return the error of an optional package that is not installed."""
    return MissingDependencyError(f"writing {what} needs more packages: pip install 'featcache[{extra}]'.")
