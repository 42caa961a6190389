"""Writing a shard, and the digest that names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..hdf5 import Ragged, block_checksums, block_of, compressed_chunks, create_file, worth_shuffling
from ..identity import Recipe

__all__ = ["SHARD_FORMAT", "shard_digest", "write_shard"]

SHARD_FORMAT = "featcache-shard-1"

Array = np.ndarray[Any, Any]


def write_shard(
    path: Path,
    recipe: Recipe,
    ids: Array,
    views: Array,
    features: Mapping[str, Array | Ragged],
    provenance: Mapping[str, Any],
    scales: Mapping[str, Array] | None = None,
    compression: str | None = None,
) -> str:
    """Write encoded rows to a new file and return the digest that names the shard; ``compression`` does not change it."""
    scales = scales or {}
    fixed = [values for values in features.values() if isinstance(values, np.ndarray)]
    ragged = {name: values for name, values in features.items() if isinstance(values, Ragged)}
    block_rows = block_of(fixed)
    block_steps = block_of([values.values for values in ragged.values()])
    arrays = {name: values.values if isinstance(values, Ragged) else values for name, values in features.items()}
    blocks = {name: block_steps if name in ragged else block_rows for name in features}
    checksums = {name: block_checksums(values, blocks[name]) for name, values in arrays.items()}
    ends = {name: values.ends for name, values in ragged.items()}
    attributes: dict[str, int | str] = {
        "format": SHARD_FORMAT,
        "recipe": recipe.fingerprint,
        "block_rows": block_rows,
        "provenance": json.dumps(dict(provenance), sort_keys=True),
    }
    if ragged:
        attributes["block_steps"] = block_steps
    with create_file(path, attributes) as file:
        file.array("ids", ids)
        file.array("views", views)
        for name, values in arrays.items():
            if compression is None or not values.size:
                file.array(f"features/{name}", values)
            else:
                rows = min(blocks[name], len(values))
                shuffled = worth_shuffling(values[:rows])
                chunks = compressed_chunks(values, rows, shuffled)
                file.chunks(f"features/{name}", values.shape, values.dtype, rows, shuffled, chunks)
            file.array(f"checksums/{name}", checksums[name])
        for name, each in ends.items():
            file.array(f"ends/{name}", each)
        for name, each in scales.items():
            file.array(f"scales/{name}", each)
    return shard_digest(recipe.fingerprint, ids, views, blocks, checksums, ends, scales)


def shard_digest(
    fingerprint: str,
    ids: Array,
    views: Array,
    blocks: Mapping[str, int],
    checksums: Mapping[str, Array],
    ends: Mapping[str, Array],
    scales: Mapping[str, Array] | None = None,
) -> str:
    """Return the name of a shard with this content: 32 hexadecimal characters."""
    digest = hashlib.sha256(f"{SHARD_FORMAT}:{fingerprint}".encode())
    digest.update(ids.tobytes())
    digest.update(views.tobytes())
    for name in sorted(checksums):
        digest.update(f"\0{name}\0{blocks[name]}\0".encode())
        digest.update(checksums[name].tobytes())
        if name in ends:
            digest.update(b"\0ends\0" + ends[name].tobytes())
        if scales and name in scales:
            digest.update(b"\0scales\0" + scales[name].tobytes())
    return digest.hexdigest()[:32]
