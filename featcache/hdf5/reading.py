"""HDF5 files written plainly and read warily: any HDF5 tool can open ours, and a stranger's file is only data.

Before a value is read from a file, the path to it must consist of hard links, its storage must be contiguous,
inside this very file, without filters, and its size must be covered by the file's length; or, where the reader asks for
it, in chunks through two filters, shuffle and zstd, or zstd alone, which are undone without HDF5. What these checks
exclude is how HDF5 files have been used against their readers: external links and external raw storage read
any file, virtual datasets read others, filters load native code, and a lying shape allocates without bound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..errors import CorruptError, StoreError, StorePermissionError

__all__ = [
    "StoredArray",
    "StoredChunks",
    "find_array",
    "map_array",
    "open_file",
    "read_array",
    "read_attributes",
    "stored_chunks",
]

MAX_ATTRIBUTE_BYTES = 1 << 20
MAX_ATTRIBUTES = 64
MAX_CHUNK_BYTES = 4 << 20  # of chunks that hold more than one row
SHUFFLE, ZSTD = h5py.h5z.FILTER_SHUFFLE, 32015
SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class StoredArray:
    """Where the values of one array lie in a file, in bytes from its beginning."""

    offset_bytes: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class StoredChunks:
    """Where the chunks of one array lie in a file, in bytes from its beginning, and how long each is there.

    ``shuffled`` says whether their bytes were shuffled before they were compressed.
    """

    offsets: np.ndarray[Any, Any]
    sizes: np.ndarray[Any, Any]
    chunk_rows: int
    shuffled: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Give an HDF5 file opened for reading, without locks: committed files never change.

    Raises ``FileNotFoundError`` where there is none, ``CorruptError`` where it is not HDF5.
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


def read_attributes(file: h5py.File, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the root's text and integer attributes, or those of some names; raises ``CorruptError`` for any other kind.

    h5py's own dict of them opens each three times, which takes as long as all else that is read for a shard's ids.
    """
    found: dict[str, Any] = {}
    root = file.id
    if names is None:
        if h5py.h5a.get_num_attrs(root) > MAX_ATTRIBUTES:
            raise _corrupt(_path_of(file), f"it has {h5py.h5a.get_num_attrs(root)} attributes")
        names = list(file.attrs)
    for name in names:
        if not isinstance(name, str):  # h5py hands out as bytes what is not UTF-8
            raise _corrupt(_path_of(file), f"its attribute {name!r} is not named by text")
        if not h5py.h5a.exists(root, name.encode()):
            continue
        attribute = h5py.h5a.open(root, name.encode())
        if attribute.get_storage_size() > MAX_ATTRIBUTE_BYTES or attribute.shape != ():
            raise _corrupt(_path_of(file), f"its attribute {name!r} is too large")
        kind = attribute.dtype
        if kind.kind not in "iuS":
            raise _corrupt(_path_of(file), f"its attribute {name!r} is neither fixed text nor a whole number")
        value = np.empty((), kind)
        attribute.read(value)
        found[name] = value.item().decode() if kind.kind == "S" else int(value)
    return found


def find_array(file: h5py.File, path: str, dtype: np.dtype[Any] | None = None, rank: int | None = None) -> StoredArray:
    """Return where the array at ``path`` lies, after every check that the module's docstring lists."""
    dataset, properties = _dataset(file, path, dtype, rank)
    where = _path_of(file)
    if properties.get_layout() != h5py.h5d.CONTIGUOUS:
        raise _corrupt(where, f"/{path} is not stored contiguously inside the file")
    if properties.get_nfilters():
        raise _corrupt(where, f"/{path} uses a filter, which this layout never does")
    shape, kind = dataset.shape, dataset.dtype
    size_bytes = math.prod(shape) * kind.itemsize
    offset = dataset.id.get_offset()
    if size_bytes == 0:
        return StoredArray(0, shape, kind)
    if offset is None or offset + size_bytes > where.stat().st_size:
        raise _corrupt(where, f"/{path} claims {size_bytes} bytes, more than the file holds")
    return StoredArray(int(offset), shape, kind)


def stored_chunks(file: h5py.File, path: str, dtype: np.dtype[Any]) -> StoredChunks | None:
    """Return where the compressed chunks of the array at ``path`` lie, after every check; None where it has no chunks."""
    where = _path_of(file)
    dataset, properties = _dataset(file, path, dtype, None)
    if properties.get_layout() != h5py.h5d.CHUNKED:
        return None
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    shuffled = filters == [SHUFFLE, ZSTD] and dtype.itemsize > 1
    if not shuffled and filters != [ZSTD]:
        raise _corrupt(where, f"/{path} uses the filters {filters} where zstd belongs, behind shuffle or alone")
    shape, (chunk_rows, *rest) = dataset.shape, properties.get_chunk()
    chunk_bytes = chunk_rows * math.prod(rest) * dtype.itemsize
    if tuple(rest) != shape[1:] or (chunk_rows > 1 and chunk_bytes > MAX_CHUNK_BYTES):
        raise _corrupt(where, f"/{path} has chunks of shape {(chunk_rows, *rest)}, which is none of ours")
    count = -(-shape[0] // chunk_rows)
    found: dict[int, Any] = {}
    if count <= where.stat().st_size:  # each takes a byte at least
        dataset.id.chunk_iter(lambda chunk: found.__setitem__(chunk.chunk_offset[0] // chunk_rows, chunk))
    if sorted(found) != list(range(count)):
        raise _corrupt(where, f"/{path} lacks some of its {count} chunks")
    chunks = [found[number] for number in range(count)]
    offsets = np.array([chunk.byte_offset or 0 for chunk in chunks], dtype=np.int64)
    sizes = np.array([chunk.size for chunk in chunks], dtype=np.int64)
    if any(chunk.filter_mask for chunk in chunks) or (offsets + sizes > where.stat().st_size).any():
        raise _corrupt(where, f"/{path} has chunks that lie outside the file, or are not compressed")
    return StoredChunks(offsets, sizes, chunk_rows, shuffled, shape, dataset.dtype)


def _dataset(file: h5py.File, path: str, dtype: np.dtype[Any] | None, rank: int | None) -> tuple[Any, Any]:
    """Return the dataset at ``path`` and its properties, after the checks that hold for every layout."""
    parent: Any = file
    *groups, name = path.split("/")
    for group in groups:
        parent = _hard_child(file, parent, group, h5py.Group)
    dataset = _hard_child(file, parent, name, h5py.Dataset)
    properties = dataset.id.get_create_plist()
    kind, shape = dataset.dtype, dataset.shape
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        raise _corrupt(_path_of(file), f"{name!r} is a virtual dataset")
    if properties.get_external_count():
        raise _corrupt(_path_of(file), f"/{path} is not stored contiguously inside the file")
    if kind.kind not in "buif" or kind.hasobject or kind.names:
        raise _corrupt(_path_of(file), f"/{path} holds {kind} where plain numbers belong")
    if dtype is not None and kind != dtype:
        raise _corrupt(_path_of(file), f"/{path} holds {kind} where {dtype} belongs")
    if shape is None or (rank is not None and len(shape) != rank):
        raise _corrupt(_path_of(file), f"/{path} has shape {shape} where {rank} dimensions belong")
    return dataset, properties


def read_array(
    file: h5py.File, path: str, dtype: np.dtype[Any] | None = None, rank: int | None = None
) -> np.ndarray[Any, Any]:
    """Return the values at ``path``, read into memory after the checks of ``find_array``."""
    place, where = find_array(file, path, dtype, rank), _path_of(file)
    if math.prod(place.shape) == 0:
        return np.empty(place.shape, place.dtype)
    # Not by a map, whose pages would count as memory beside their copy.
    return np.fromfile(where, place.dtype, math.prod(place.shape), offset=place.offset_bytes).reshape(place.shape)


def map_array(path: Path, place: StoredArray) -> np.ndarray[Any, Any]:
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


def _opened(path: Path, locking: bool | None = False, again: bool = True) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=locking)
    except (OSError, RuntimeError) as error:
        if not path.exists():  # removed by another process since it was looked at
            raise FileNotFoundError(path) from error
        if again:  # it may have been out of sight for a moment, or the caller has it open with locks and we must agree
            return _opened(path, None if "locking flag" in str(error) else False, again=False)
        raise _corrupt(path, "it is not a whole HDF5 file") from error


def _hard_child(file: h5py.File, parent: Any, name: str, kind: Any) -> Any:
    links, encoded = parent.id.links, name.encode()
    if not links.exists(encoded) or links.get_info(encoded).type != h5py.h5l.TYPE_HARD:
        raise _corrupt(_path_of(file), f"it has no plain {name!r} in {parent.name!r}")
    child: Any = parent[name]
    if not isinstance(child, kind):
        raise _corrupt(_path_of(file), f"{name!r} in {parent.name!r} is not a {kind.__name__.lower()}")
    return child


def _path_of(file: h5py.File) -> Path:
    return Path(file.filename)


def _corrupt(path: Path, found: str) -> CorruptError:
    return CorruptError(
        f"{path} cannot be trusted: {found}. Run `featcache verify`; delete the file to have its rows recomputed."
    )
