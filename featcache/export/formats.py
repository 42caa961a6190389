"""The formats that are written, and files that appear whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError, DataNotFoundError, FeatCacheError, MissingDependencyError, UsageError, near_names
from ..storages import sync, temporary_beside

__all__ = ["FEATURE_FORMATS", "HEAD_FORMATS", "ExportReport", "find_format", "missing_extra", "whole_file"]

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


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name whose file takes the place of ``path`` when all went well, and is deleted otherwise.

    Raises ``DataNotFoundError`` or ``DataError`` where it cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        if path.is_dir():
            raise DataError(f"cannot write {path}: it is a folder. Name a file.")
        if not path.parent.is_dir():
            raise DataNotFoundError(f"cannot write {path}: there is no such folder.")
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if isinstance(error, FeatCacheError):
            raise
        raise DataError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def missing_extra(what: str, extra: str) -> MissingDependencyError:
    """Return the error of an optional package that is not installed."""
    return MissingDependencyError(f"writing {what} needs more packages: pip install 'featcache[{extra}]'.")
