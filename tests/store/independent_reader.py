"""Reads and checks a store as docs/format.md describes it, with nothing of featcache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import xxhash


def read_store(store: Path) -> dict[str, dict[str, bytes]]:
    """Return the bytes of every row: set → "id/view/tensor" → bytes. Raises AssertionError where a digest is wrong."""
    assert json.loads((store / "store.json").read_text())["format"] == 1
    for path in store.glob("snapshots/*/*.h5"):
        check_snapshot(path)
    rows: dict[str, dict[str, bytes]] = {}
    for folder in sorted((store / "sets").iterdir()):
        recipe = json.loads((folder / "recipe.json").read_text())
        text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        assert hashlib.sha256(text.encode()).hexdigest()[:32] == folder.name
        rows[folder.name] = {}
        for path in sorted(folder.glob("*.h5")):
            rows[folder.name].update(read_shard(path, folder.name))
    return rows


def read_shard(path: Path, recipe: str) -> dict[str, bytes]:
    rows = {}
    with h5py.File(path) as file:  # compressed features need `import hdf5plugin` before
        assert file.attrs["format"] == b"featcache-shard-1"
        assert file.attrs["recipe"].decode() == recipe
        ids, views = file["ids"][:], file["views"][:]
        digest = hashlib.sha256(f"featcache-shard-1:{recipe}".encode() + ids.tobytes() + views.tobytes())
        for name in sorted(file["features"]):
            values, checksums = file[f"features/{name}"][:], file[f"checksums/{name}"][:]
            ragged = "ends" in file and name in file["ends"]
            block = int(file.attrs["block_steps" if ragged else "block_rows"])
            found = [xxhash.xxh3_64_intdigest(values[at : at + block].tobytes()) for at in range(0, len(values), block)]
            assert found == checksums.tolist()
            digest.update(f"\0{name}\0{block}\0".encode() + checksums.tobytes())
            ends = file[f"ends/{name}"][:] if ragged else np.arange(1, len(ids) + 1)
            digest.update(b"\0ends\0" + ends.tobytes() if ragged else b"")
            if "scales" in file and name in file["scales"]:
                digest.update(b"\0scales\0" + file[f"scales/{name}"][:].tobytes())
            starts = [0, *ends[:-1].tolist()]
            for number, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
                rows[f"{ids[number].tobytes().hex()}/{views[number]}/{name}"] = values[start:end].tobytes()
        assert digest.hexdigest()[:32] == path.stem
    return rows


def read_values(path: Path, name: str, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the rows (or steps) of a floating tensor as numbers, each of the given shape."""
    with h5py.File(path) as file:
        stored = file[f"features/{name}"][:]
        scales = file[f"scales/{name}"][:] if "scales" in file else None
    if dtype == "bfloat16":
        return (stored.astype("<u4") << 16).view("<f4")
    if dtype == "float8_e5m2":
        return (stored.astype("<u2") << 8).view("<f2").astype("<f4")
    if dtype == "float8_e4m3":
        exponent, fraction, sign = stored >> 3 & 15, stored & 7, np.where(stored >> 7, -1.0, 1.0)
        return sign * np.where(
            exponent, np.ldexp(1 + fraction / 8, exponent.astype(int) - 7), np.ldexp(fraction / 8, -6)
        )
    if scales is None:
        return stored.astype("<f4")
    if dtype == "int4":
        stored = np.stack([stored & 15, stored >> 4], axis=-1).reshape(len(stored), -1)[:, : int(np.prod(shape))]
    stored = stored.reshape(len(stored), *shape)
    first = len(shape) >= 3 and not (shape[0] == shape[1] != shape[-1])
    step, zero = scales.reshape(2, -1, *[1] * (len(shape) - 1)) if first else scales
    return (stored - zero) * step


def check_snapshot(path: Path) -> None:
    digest = hashlib.sha256(b"featcache-snapshot-1")
    with h5py.File(path) as file:
        for name in ("ids", "name_ends", "names", "split_codes", "targets"):
            values = file[name][:]
            digest.update(f"\0{name}\0{values.dtype.str}\0{values.shape}\0".encode() + values.tobytes())
        digest.update(file.attrs["notes"])
    assert digest.hexdigest()[:32] == path.stem
