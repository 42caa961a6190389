"""What a caller asks to have cached: a dataset as it is now, and the recipe of each cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .codecs import load_codec
from .datasets import open_dataset
from .errors import DataError, UsageError
from .filememo import FileMemo
from .progress import ProgressCallback, silent
from .recipe import Recipe
from .samples import Samples
from .snapshot import Snapshot
from .store import FeatureSet, StoreFiles

if TYPE_CHECKING:
    import torch

    from .split import Split

__all__ = [
    "Request",
    "as_inputs",
    "collate",
    "example_inputs",
    "make_recipe",
    "make_request",
    "remember_files",
    "remembered_snapshot",
    "save_example",
    "stored_example",
]


def remembered_snapshot(
    samples: Samples, store: StoreFiles, *, skip_unreadable: bool = False, progress: ProgressCallback = silent
) -> Snapshot:
    """Return what the dataset holds now; files that did not change since the store last saw them are not read."""
    memo = None
    if samples.memo is None and hasattr(samples.dataset, "sample_ids"):
        memo = FileMemo()
        with suppress(FileNotFoundError):
            memo = FileMemo.from_bytes(store.storage.read_bytes(_memo_path(samples)))
    snapshot = samples.snapshot(memo, skip_unreadable=skip_unreadable, progress=progress)
    remember_files(samples, store)
    return snapshot


def remember_files(samples: Samples, store: StoreFiles) -> None:
    """Keep in a store, if it exists yet, the ids of the files that were read."""
    memo = samples.memo
    if memo is not None and memo.hashed and store.storage.exists("store.json"):
        store.storage.write_bytes(_memo_path(samples), memo.to_bytes())
        memo.hashed = 0


def _memo_path(samples: Samples) -> str:
    return f"cache/files/{samples.name}.memo"


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


EXAMPLE_FILE = "example.safetensors"


@dataclass(frozen=True)
class Request:
    """What a caller asks to have cached: a split, its samples as they are now, and the recipe of their features."""

    split: Split
    samples: Samples
    snapshot: Snapshot
    recipe: Recipe


def make_request(
    model: torch.nn.Module | Split,
    dataset: Any,
    store: StoreFiles,
    *,
    cut: str | None = None,
    transform: Callable[[Any], Any] | None = None,
    dtype: str = "float32",
    name: str | None = None,
    skip_unreadable: bool = False,
    progress: ProgressCallback = silent,
) -> Request:
    """Return the request that these arguments of :func:`featcache.extract` make.

    Raises :class:`UsageError`, :class:`DataError`, :class:`SplitError` or :class:`FingerprintError` before anything
    is written.
    """
    from .split import Split
    from .split import split as split_model

    load_codec(dtype)
    if isinstance(dataset, Samples):
        samples = dataset
    else:
        samples = Samples(open_dataset(dataset) if isinstance(dataset, str) else dataset, transform, name)
    samples.refuse_random()
    if isinstance(model, Split):
        if cut not in (None, model.cut):
            raise UsageError(f"the split is cut at {model.cut!r}, but cut={cut!r} was asked for: give one of them.")
        split = model
    elif cut is None:
        raise UsageError("say where to cut, such as cut='layer4'; featcache.cuts(model, …) lists the candidates.")
    else:
        split = split_model(model, cut, example_inputs(samples))
    recipe = make_recipe(split, samples, dtype=dtype)
    snapshot = remembered_snapshot(samples, store, skip_unreadable=skip_unreadable, progress=progress)
    return Request(split, samples, snapshot, recipe)


def make_recipe(split: Split, samples: Samples, *, dtype: str = "float32") -> Recipe:
    """Return the recipe of a split applied to a dataset's samples.

    Raises :class:`FingerprintError` for a transform that has no identity.
    """
    return Recipe(
        cut=split.cut,
        structure=split.structure,
        weights=dict(split.weights),
        frontier=tuple(split.frontier),
        transform=samples.transform_identity,
        decoding=samples.decoding,
        dtype=dtype,
    )


def save_example(feature_set: FeatureSet, inputs: Any) -> None:
    """Keep a few model inputs beside the shards, so that a head can be trained where the samples are not at hand."""
    from safetensors.torch import save

    path = f"{feature_set.path}/{EXAMPLE_FILE}"
    if feature_set.storage.exists(path):
        return
    named = inputs.items() if isinstance(inputs, dict) else ((str(n), value) for n, value in enumerate(inputs))
    tensors = {name: value.detach().cpu().contiguous() for name, value in named if hasattr(value, "detach")}
    layout = {"inputs": "keyword" if isinstance(inputs, dict) else "positional"}
    feature_set.storage.write_bytes(path, save(tensors, layout))


def stored_example(feature_set: FeatureSet) -> Any | None:
    """Return the inputs that :func:`save_example` kept, None where there are none that can be read."""
    from safetensors import SafetensorError, safe_open

    path = f"{feature_set.path}/{EXAMPLE_FILE}"
    if not feature_set.storage.exists(path):
        return None
    try:
        with safe_open(feature_set.storage.fetch(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            keyword = (file.metadata() or {}).get("inputs") == "keyword"
    except (SafetensorError, OSError):
        return None
    return tensors if keyword else tuple(tensors[name] for name in sorted(tensors, key=int))
