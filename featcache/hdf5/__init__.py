"""Arrays in HDF5 files: reading files that may come from a stranger, writing new ones, blocks with checksums, compression.

Only this room imports h5py. It knows bytes, shapes and offsets; it never knows what a row means."""

from __future__ import annotations

from .blocks import Ragged, block_checksums, block_of, checksum, gather, last_end, steps_of
from .compressed import CompressedArray, check_compression, compressed_chunks, worth_shuffling
from .joined import Part, join_arrays
from .reading import (
    StoredArray,
    StoredChunks,
    find_array,
    map_array,
    open_file,
    read_array,
    read_attributes,
    stored_chunks,
)
from .spans import Blocks, Wanted, read_rows
from .writing import create_file

__all__ = [
    "Blocks",
    "CompressedArray",
    "Part",
    "Ragged",
    "StoredArray",
    "StoredChunks",
    "Wanted",
    "block_checksums",
    "block_of",
    "check_compression",
    "checksum",
    "compressed_chunks",
    "create_file",
    "find_array",
    "gather",
    "join_arrays",
    "last_end",
    "map_array",
    "open_file",
    "read_array",
    "read_attributes",
    "read_rows",
    "steps_of",
    "stored_chunks",
    "worth_shuffling",
]
