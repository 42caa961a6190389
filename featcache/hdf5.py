"""HDF5 files written plainly and read warily: any HDF5 tool can open ours, and a stranger's file is only data.

Before a value is read from a file, the path to it must consist of hard links, its storage must be contiguous,
inside this very file, without filters, and its size must be covered by the file's length. What these checks
exclude is how HDF5 files have been used against their readers: external links and external raw storage read
any file, virtual datasets read others, filters load native code, and a lying shape allocates without bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .errors import CorruptError, StoreError, StorePermissionError

__all__ = [
    "Stored",
    "create_file",
    "map_array",
    "open_file",
    "read_array",
    "read_attributes",
    "stored",
    "write_array",
]

ALIGNMENT_BYTES = 4096
GROWTH_BYTES = 1 << 22
MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_ATTRIBUTES = 64
SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Stored:
    """Where the values of one array lie in a file, in bytes from its beginning."""

    offset_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@contextmanager
def create_file(path: Path, attributes: Mapping[str, int | str]) -> Iterator[h5py.File]:
    """Give a new HDF5 file whose root carries ``attributes``, large arrays aligned to pages."""
    # Made in memory and written by ourselves: after a disk that fills up while HDF5 closes a file, HDF5 crashes later on.
    with h5py.File(
        path,
        "w",
        driver="core",
        backing_store=False,
        block_size=GROWTH_BYTES,
        libver=("earliest", "v110"),
        alignment_threshold=ALIGNMENT_BYTES,
        alignment_interval=ALIGNMENT_BYTES,
    ) as file:
        for name, value in attributes.items():
            # Text of fixed length: text of variable length lies in a heap that its reader would have to trust.
            file.attrs[name] = value if isinstance(value, int) else np.bytes_(value.encode())
        yield file
        file.flush()
        image = file.id.get_file_image()
    path.write_bytes(image)


def write_array(file: h5py.File, path: str, values: np.ndarray[Any, Any]) -> None:
    """Store ``values`` contiguously at ``path``, creating the groups above it."""
    values = np.ascontiguousarray(values)
    *groups, name = path.split("/")
    parent = file
    for group in groups:
        parent = parent.require_group(group)
    parent.create_dataset(name, data=values, track_times=False)


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file opened for reading, without locks: committed files never change.

    Raises :class:`FileNotFoundError` where there is none, :class:`CorruptError` where it is not HDF5.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    if not _readable(path).startswith(SIGNATURE):
        raise _corrupt(path, "it is not an HDF5 file")
    with _opened(path) as file:
        try:
            yield file
        except (CorruptError, FileNotFoundError):  # the latter: removed by another process while it was read
            raise
        except (KeyError, RuntimeError, TypeError, OverflowError, ValueError, OSError) as error:
            raise _corrupt(path, f"its structure is damaged ({error})") from error


def read_attributes(file: h5py.File) -> dict[str, Any]:
    """Return the root's text and integer attributes; raises :class:`CorruptError` for any other kind."""
    found: dict[str, Any] = {}
    attributes = file.attrs
    if len(attributes) > MAX_ATTRIBUTES:
        raise _corrupt(_path_of(file), f"it has {len(attributes)} attributes")
    for name in attributes:
        kind = attributes.get_id(name)
        if kind.get_storage_size() > MAX_ATTRIBUTE_BYTES or kind.shape != ():
            raise _corrupt(_path_of(file), f"its attribute {name!r} is too large")
        if kind.dtype.kind not in "iuS":
            raise _corrupt(_path_of(file), f"its attribute {name!r} is neither fixed text nor a whole number")
        value = attributes[name]
        found[name] = value.decode() if isinstance(value, bytes) else int(value)
    return found


def stored(file: h5py.File, path: str, dtype: np.dtype[Any] | None = None, rank: int | None = None) -> Stored:
    """Return where the array at ``path`` lies, after every check that the module's docstring lists."""
    where = _path_of(file)
    parent: Any = file
    *groups, name = path.split("/")
    for group in groups:
        parent = _hard_child(where, parent, group, h5py.Group)
    dataset = _hard_child(where, parent, name, h5py.Dataset)
    properties = dataset.id.get_create_plist()
    if properties.get_layout() != h5py.h5d.CONTIGUOUS or properties.get_external_count():
        raise _corrupt(where, f"/{path} is not stored contiguously inside the file")
    if properties.get_nfilters():
        raise _corrupt(where, f"/{path} uses a filter, which this layout never does")
    if dataset.dtype.kind not in "buif" or dataset.dtype.hasobject or dataset.dtype.names:
        raise _corrupt(where, f"/{path} holds {dataset.dtype} where plain numbers belong")
    if dtype is not None and dataset.dtype != dtype:
        raise _corrupt(where, f"/{path} holds {dataset.dtype} where {dtype} belongs")
    shape = dataset.shape
    if shape is None or (rank is not None and len(shape) != rank):
        raise _corrupt(where, f"/{path} has shape {shape} where {rank} dimensions belong")
    size_bytes = math.prod(shape) * dataset.dtype.itemsize
    offset = dataset.id.get_offset()
    if size_bytes == 0:
        return Stored(0, shape, dataset.dtype)
    if offset is None or offset + size_bytes > where.stat().st_size:
        raise _corrupt(where, f"/{path} claims {size_bytes} bytes, more than the file holds")
    return Stored(int(offset), shape, dataset.dtype)


def read_array(
    file: h5py.File, path: str, dtype: np.dtype[Any] | None = None, rank: int | None = None
) -> np.ndarray[Any, Any]:
    """Return the values at ``path``, read into memory after the checks of :func:`stored`."""
    place = stored(file, path, dtype, rank)
    return map_array(_path_of(file), place).copy()


def map_array(path: Path, place: Stored) -> np.ndarray[Any, Any]:
    """Return the values of a stored array as a read-only memory map."""
    if math.prod(place.shape) == 0:
        return np.empty(place.shape, place.dtype)
    mapped = np.memmap(path, dtype=place.dtype, mode="r", offset=place.offset_bytes, shape=place.shape)
    return mapped.view(np.ndarray)  # subclass checks would cost more than a small gather


def _readable(path: Path) -> bytes:
    """Return the first bytes; a disk or a permission that fails is not a damaged file, which repair may drop."""
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE))
    except PermissionError as error:
        raise StorePermissionError(f"cannot read {path}: permission denied. Check who owns the store.") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise StoreError(f"cannot read {path}: {error.strerror or error}. Check the disk.") from error


def _opened(path: Path, again: bool = True) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except (OSError, RuntimeError) as error:
        if not path.exists():  # removed by another process since it was looked at
            raise FileNotFoundError(path) from error
        if again:  # it may have been out of sight for a moment
            return _opened(path, again=False)
        raise _corrupt(path, "it is not a whole HDF5 file") from error


def _hard_child(where: Path, parent: Any, name: str, kind: Any) -> Any:
    if name not in parent or not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        raise _corrupt(where, f"it has no plain {name!r} in {parent.name!r}")
    child: Any = parent[name]
    if not isinstance(child, kind):
        raise _corrupt(where, f"{name!r} in {parent.name!r} is not a {kind.__name__.lower()}")
    if kind is h5py.Dataset and child.is_virtual:
        raise _corrupt(where, f"{name!r} is a virtual dataset")
    return child


def _path_of(file: h5py.File) -> Path:
    return Path(file.filename)


def _corrupt(path: Path, found: str) -> CorruptError:
    return CorruptError(
        f"{path} cannot be trusted: {found}. Run `featcache verify`; delete the file to have its rows recomputed."
    )
