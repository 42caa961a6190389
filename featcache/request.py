"""What a caller asks to have cached: a dataset as it is now, and the recipe of each cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .codecs import load_codec
from .errors import DataError, UsageError
from .filememo import FileMemo
from .progress import ProgressCallback, silent
from .recipe import Recipe
from .samples import Samples
from .snapshot import Snapshot
from .store import StoreFiles

if TYPE_CHECKING:
    from .split import Split

__all__ = ["example_inputs", "make_recipe", "remembered_snapshot", "split_model"]


def remembered_snapshot(
    samples: Samples, store: StoreFiles, *, skip_unreadable: bool = False, progress: ProgressCallback = silent
) -> Snapshot:
    """Return what the dataset holds now; files that did not change since the store last saw them are not read."""
    if not hasattr(samples.dataset, "sample_ids"):
        return samples.snapshot(skip_unreadable=skip_unreadable, progress=progress)
    path = f"cache/files/{samples.name}.memo"
    memo = FileMemo()
    with suppress(FileNotFoundError):
        memo = FileMemo.from_bytes(store.storage.read_bytes(path))
    snapshot = samples.snapshot(memo, progress=progress)
    if memo.hashed and store.storage.exists("store.json"):
        store.storage.write_bytes(path, memo.to_bytes())
    return snapshot


def example_inputs(samples: Samples, count: int = 2) -> Any:
    """Return a small batch of real inputs: a tuple of positional inputs, or a dict of keyword inputs.

    Raises :class:`DataError` where no sample can be read, or the samples have different shapes.
    """
    from torch.utils.data import default_collate

    found: list[Any] = []
    failure: Exception | None = None
    for position in range(min(len(samples.dataset), 100)):
        if len(found) == count:
            break
        try:
            found.append(samples.input(position))
        except OSError as error:
            failure = error
    if not found:
        raise DataError(f"no sample of {samples.name!r} can be read: {failure}. Check the data.") from failure
    while len(found) < count:
        found.append(found[0])
    return as_inputs(collate(found, default_collate))


def collate(items: list[Any], default_collate: Callable[[list[Any]], Any]) -> Any:
    """Return a batch of inputs; raises :class:`DataError` where they cannot be stacked."""
    try:
        return default_collate(items)
    except (RuntimeError, TypeError) as error:
        kinds = {str(tuple(item.shape)) if hasattr(item, "shape") else type(item).__name__ for item in items}
        raise DataError(
            f"samples cannot be stacked into a batch: found {', '.join(sorted(kinds)[:4])}. Give a transform that makes "
            "tensors of one shape (--transform, --image-size)."
        ) from error


def as_inputs(batch: Any) -> Any:
    """Return the inputs of a model: a dict as keywords, a tuple or list as positions, anything else as the only one."""
    if isinstance(batch, dict):
        return batch
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def make_recipe(split: Split, samples: Samples, *, dtype: str = "float32", numerics: str = "exact") -> Recipe:
    """Return the recipe of a split applied to a dataset's samples.

    Raises :class:`FingerprintError` for a transform that has no identity, :class:`UsageError` for unknown settings.
    """
    load_codec(dtype)
    if numerics != "exact":
        raise UsageError(f"unknown numerics {numerics!r}. Known: exact.")
    return Recipe(
        cut=split.cut,
        structure=split.structure,
        weights=dict(split.weights),
        frontier=tuple(split.frontier),
        transform=samples.transform_identity,
        decoding=samples.decoding,
        dtype=dtype,
        numerics=numerics,
    )
