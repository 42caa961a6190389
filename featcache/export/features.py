"""Cached features as .npy, parquet, or a plain HDF5 file, written block by block."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, printable
from ..features import Features
from ..hdf5 import create_file
from ..storages import whole_file
from ..tensorspec import TensorSpec
from .formats import FEATURE_FORMATS, ExportReport, find_format, missing_extra

__all__ = ["export_features"]

BLOCK_BYTES = 64 << 20

Array = np.ndarray[Any, Any]


def export_features(features: Features, path: str | Path, format: str | None = None) -> ExportReport:
    """Write cached features to a file.

    Parameters
    ----------
    features : Features
        The features. Random views are left out.
    path : str or pathlib.Path
        The file. It appears whole or not at all.
    format : str, optional
        ``"npy"``, ``"parquet"`` or ``"hdf5"``. By default the suffix of ``path`` decides.

        - ``npy``: an array (rows, …) as ``.npy``; features, targets, names and splits as ``.npz``.
        - ``parquet``: a table of these, with flat lists.
        - ``hdf5``: a plain file with ``/features/NAME``, ``/targets``, ``/names`` and ``/splits``.

    Returns
    -------
    ExportReport
        What was written.

    Raises
    ------
    UsageError
        If the format is unknown or cannot hold these features, or there are no rows.
    DataNotFoundError
        If the folder of ``path`` does not exist.
    DataError
        If the file cannot be written.
    MissingDependencyError
        If parquet is asked for and pyarrow is not installed.

    Examples
    --------
    >>> import numpy
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> features = featcache.extract(network, samples, "features", cut="1")
    >>> featcache.export_features(features, "features.npy").rows
    30
    >>> numpy.load("features.npy").shape
    (30, 4)
    """
    path = Path(path)
    chosen = find_format(path, format, FEATURE_FORMATS)
    report = ExportReport(str(path), chosen, rows=len(features))
    if not len(features):
        raise UsageError(f"there are no rows of {features.dataset!r} to export.")
    if features.ragged and path.suffix.lower() != ".npz":
        raise UsageError(
            f"the samples of {features.dataset!r} vary in length: use .npz, which pads them and holds their mask, or extract "
            "with --pool."
        )
    if features.views:
        report.notes.append(f"holds the samples as they are, without their {features.views} random views")
    with whole_file(path) as temporary:
        if chosen == "npy":
            (_write_npz if path.suffix.lower() == ".npz" else _write_npy)(features, temporary)
        elif chosen == "parquet":
            _write_parquet(features, temporary)
        else:
            _write_hdf5(features, temporary)
        report.size_bytes = temporary.stat().st_size
    return report


def _blocks(features: Features) -> Iterator[tuple[slice, dict[str, Array], Array]]:
    """Yield (rows, arrays by tensor name, targets), as many rows at a time as take moderate memory."""
    step = max(1, BLOCK_BYTES // max(1, features.size_bytes // len(features)))
    for start in range(0, len(features), step):
        stop = min(start + step, len(features))
        frontier, targets = features.batch(np.arange(start, stop))
        named = frontier if isinstance(frontier, dict) else {features.frontier[0].name: frontier}
        yield slice(start, stop), {name: values.numpy() for name, values in named.items()}, targets.numpy()


def _specs(features: Features) -> list[tuple[TensorSpec, np.dtype[Any]]]:
    """Return the tensors with the type in which their rows are handed out."""
    frontier, _ = features.batch(np.arange(1))
    named = frontier if isinstance(frontier, dict) else {features.frontier[0].name: frontier}
    return [(spec, named[spec.name].numpy().dtype) for spec in features.frontier]


def _write_npy(features: Features, path: Path) -> None:
    specs = _specs(features)
    if len(specs) > 1:
        raise UsageError(
            f"{len(specs)} tensors cross the cut {features.recipe.cut!r} and .npy holds one: use .npz, .parquet or .h5."
        )
    ((spec, dtype),) = specs
    whole = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(len(features), *spec.value_shape))
    for rows, values, _ in _blocks(features):
        whole[rows] = values[spec.name]
    whole.flush()


def _write_npz(features: Features, path: Path) -> None:
    values, targets = features.numpy()
    named = values if isinstance(values, dict) else {"features": values}
    taken = {"targets", "names", "splits", "classes"}
    arrays = {f"features.{name}" if name in taken else name: value for name, value in named.items()}
    arrays |= {"targets": targets, "names": _texts(features.names), "splits": _texts(features.splits)}
    if features.classes is not None:
        arrays["classes"] = _texts(features.classes)
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _texts(names: Iterable[str]) -> Array:
    return np.array([printable(str(name)) for name in names])


def _write_parquet(features: Features, path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise missing_extra("parquet", "parquet") from error
    specs = _specs(features)
    names, splits = features.names, features.splits
    sizes = {spec.name: int(np.prod(spec.value_shape)) for spec, _ in specs}
    described = {
        "cut": features.recipe.cut,
        "recipe": features.recipe.fingerprint,
        "shapes": {spec.name: list(spec.value_shape) for spec, _ in specs},
        "target_shape": list(features.targets.shape[1:]),
        "classes": None if features.classes is None else _texts(features.classes).tolist(),
    }
    taken = {"name", "split", "target"}
    columns = {spec.name: f"features.{spec.name}" if spec.name in taken else spec.name for spec, _ in specs}

    def listed(values: Array) -> Any:
        flat = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
        size = values.size // len(values)
        return flat if values.ndim == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, size)

    writer: Any = None
    with path.open("wb") as file, ExitStack() as closing:  # pyarrow opens no path that is not UTF-8
        for rows, values, targets in _blocks(features):
            data = {
                "name": pyarrow.array(_texts(names[rows]).tolist(), pyarrow.string()),
                "split": pyarrow.array(_texts(splits[rows]).tolist(), pyarrow.string()),
                "target": listed(targets),
                **{columns[name]: listed(each.reshape(len(each), sizes[name])) for name, each in values.items()},
            }
            table = pyarrow.table(data).replace_schema_metadata({"featcache": json.dumps(described)})
            if writer is None:
                writer = closing.enter_context(pyarrow.parquet.ParquetWriter(file, table.schema))
            writer.write_table(table)


def _write_hdf5(features: Features, path: Path) -> None:
    attributes = {
        "cut": features.recipe.cut,
        "recipe": features.recipe.fingerprint,
        "dataset": features.dataset,
        "classes": json.dumps(features.classes),
    }
    with create_file(path, attributes) as file:
        made = {
            spec.name: file.empty(f"features/{spec.name}", (len(features), *spec.value_shape), dtype)
            for spec, dtype in _specs(features)
        }
        for rows, values, _ in _blocks(features):
            for name, each in values.items():
                made[name].write(rows.start, each)
        file.array("targets", features.targets)
        for name, texts in (("names", features.names), ("splits", features.splits.tolist())):
            encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
            file.array(name, np.array(encoded, dtype=f"S{max(1, max(map(len, encoded)))}"))
