"""Cached rows as a dataset of the datasets library, written to an Arrow file block by block."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codecs import MASK
from ..errors import UsageError, printable
from ..extras import need

if TYPE_CHECKING:
    import torch

__all__ = ["hf_dataset"]

BLOCK_BYTES = 64 << 20
OWN_COLUMNS = ("target", "name", "split")

Array = np.ndarray[Any, Any]


def hf_dataset(features: Any) -> Any:
    """Return ``Features``, which imports this file, as ``Features.to_hf`` says."""
    library = need("datasets", "hf-data", "to_hf")
    import pyarrow  # which datasets needs

    columns = _columns(features)
    first = _arrays(features, np.arange(min(1, len(features))), columns)
    schema = library.Features(
        {column: _type(library, spec.shape, first[column], column) for column, spec in columns.items()}
    )
    schema["target"] = _target_type(library, features)
    schema["name"] = schema["split"] = library.Value("string")
    layout = schema.arrow_schema
    names, splits, targets = features.names, features.splits, features.targets
    step = max(1, BLOCK_BYTES // max(1, features.size_bytes // max(1, len(features))))
    # A file of its own for each call: mapped rows keep their recipe, so that nothing says which file would hold the same.
    folder = tempfile.mkdtemp(prefix="featcache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "features.arrow"
    with path.open("wb") as file, pyarrow.ipc.new_stream(file, layout) as writer:
        for start in range(0, len(features), step):
            rows = slice(start, min(start + step, len(features)))
            block = {**_arrays(features, np.arange(rows.start, rows.stop), columns), "target": targets[rows]}
            made = {column: _arrow(pyarrow, values, layout.field(column).type) for column, values in block.items()}
            for column, texts in (("name", names), ("split", splits)):
                made[column] = pyarrow.array([printable(str(text)) for text in texts[rows]], pyarrow.string())
            writer.write_table(pyarrow.table(made, layout))
    return library.Dataset.from_file(str(path))


def _columns(features: Any) -> dict[str, Any]:
    """Return the tensors of a row by the name of their column."""
    if len(features.frontier) == 1:
        return {"features": features.frontier[0]}
    return {f"features.{spec.name}" if spec.name in OWN_COLUMNS else spec.name: spec for spec in features.frontier}


def _arrays(features: Any, indices: Array, columns: dict[str, Any]) -> dict[str, Any]:
    """Return some rows by column; of samples that vary in length only their own steps."""
    frontier: torch.Tensor | dict[str, torch.Tensor] = features.batch(indices)[0]
    named = frontier if isinstance(frontier, dict) else {features.frontier[0].name: frontier}
    arrays: dict[str, Any] = {column: named[spec.name].numpy() for column, spec in columns.items()}
    for column, spec in columns.items():
        if spec.ragged:
            lengths = named[MASK].sum(1).tolist()
            arrays[column] = [row[:length] for row, length in zip(arrays[column], lengths, strict=True)]
    return arrays


def _arrow(pyarrow: Any, values: Any, kind: Any) -> Any:
    """Return an array (rows, …), or a list of one array per row, as Arrow has it; the library itself takes far longer."""
    if isinstance(kind, pyarrow.BaseExtensionType):
        return pyarrow.ExtensionArray.from_storage(kind, _arrow(pyarrow, values, kind.storage_type))
    if isinstance(values, list):
        offsets = np.cumsum([0, *map(len, values)])
        values = np.concatenate(values)
    elif values.ndim == 1:
        return pyarrow.array(values, kind)
    else:
        offsets = np.arange(len(values) + 1) * values.shape[1]
        values = values.reshape(-1, *values.shape[2:])
    items = _arrow(pyarrow, values, kind.value_type)
    if pyarrow.types.is_fixed_size_list(kind):
        return pyarrow.FixedSizeListArray.from_arrays(items, kind.list_size)
    return pyarrow.ListArray.from_arrays(offsets.astype(np.int32), items)


def _type(library: Any, shape: Sequence[int | None], values: Any, column: str) -> Any:
    dtype = np.asarray(values[0] if len(values) else values).dtype
    if dtype.kind not in "biuf":
        raise UsageError(f"the values of {column!r} are {dtype}, which the datasets library has no column for.")
    if 2 <= len(shape) <= 5:
        return getattr(library, f"Array{len(shape)}D")(tuple(shape), dtype.name)
    found = library.Value(dtype.name)
    for size in reversed(shape):
        found = library.List(found, length=-1 if size is None else size)
    return found


def _target_type(library: Any, features: Any) -> Any:
    targets, classes = features.targets, features.classes
    numbers = targets.ndim == 1 and targets.dtype.kind in "iu"
    if classes is not None and numbers and all(-1 <= each < len(classes) for each in np.unique(targets).tolist()):
        return library.ClassLabel(names=[printable(name) for name in classes])
    return _type(library, targets.shape[1:], targets, "target")
