"""Where samples come from: a small protocol, its registry, and ``open_dataset``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UnknownNameError, UsageError, near_names
from ..registry import Registry
from .options import QUERY

if TYPE_CHECKING:
    from ..samples import FileMemo

__all__ = ["DatasetSource", "SourceDataset", "dataset_name", "dataset_sources", "open_dataset"]

PLACES = ("csv", "wds")  # what these specifications name is a file, wherever one is


class SourceDataset(Protocol):
    """A map-style dataset of (input, target) that knows its samples without opening them.

    ``spec`` is the specification that opens it again; ``name`` names its snapshots; ``names``, ``targets`` and ``splits``
    (``""`` where there are none) are aligned with the items, ``targets`` with one number or vector a sample; ``classes``
    are the names of the targets; ``decoding`` says how a sample's bytes become its item.
    """

    spec: str
    name: str
    names: Sequence[str]
    targets: np.ndarray[Any, Any]
    splits: Sequence[str]
    classes: Sequence[str] | None
    decoding: dict[str, Any]

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return (input, target); raises :class:`UnreadableSampleError` for a sample that cannot be read."""

    def sample_ids(self, memo: FileMemo | None = None) -> np.ndarray[Any, Any]:
        """Return the content ids (samples, 16), reading only what the memo does not know."""


class DatasetSource(Protocol):
    """Opens the datasets of one kind; ``argument`` is what stands behind the colon of a specification."""

    def __call__(self, argument: str, name: str) -> Any:
        """Return a :class:`SourceDataset`, or any map-style dataset of (input, target)."""


dataset_sources: Registry[DatasetSource] = Registry(
    "featcache.datasets",
    "data source",
    {
        "csv": "featcache.datasets.csv:open_csv",
        "folder": "featcache.datasets.folder:FolderDataset",
        "hf": "featcache.datasets.hf:open_hf",
        "sklearn": "featcache.datasets.sklearn:open_sklearn",
        "torchvision": "featcache.datasets.torchvision:open_torchvision",
        "wds": "featcache.datasets.wds:open_wds",
    },
)


def open_dataset(spec: str) -> Any:
    """Return the dataset that a specification names: ``folder:PATH``, ``csv:FILE``, ``module:factory``, ….

    Raises :class:`UsageError`, :class:`UnknownNameError`, :class:`DataNotFoundError` or :class:`DataError`.
    """
    kind, separator, argument = spec.partition(":")
    if not separator or not argument:
        meant = f" Did you mean 'folder:{spec}'?" if spec and Path(spec).is_dir() else ""
        raise UsageError(
            f"{spec!r} is no data specification.{meant} Use folder:PATH, csv:FILE, wds:PATTERN, hf:NAME, torchvision:NAME, "
            "sklearn:digits or module:factory."
        )
    if kind in dataset_sources:
        return dataset_sources.get(kind)(argument, dataset_name(spec))
    from ..factories import call_factory, can_be_loaded, looks_like_factory

    if not looks_like_factory(spec) or not (kind.endswith(".py") or can_be_loaded(spec)):
        known = dataset_sources.names()
        raise UnknownNameError(
            f"unknown data source or module {kind!r}.{near_names(kind, known)} Known: {', '.join(known)}, module:factory."
        )
    dataset = call_factory(spec, "dataset")
    if getattr(dataset, "name", None) is None:
        try:
            dataset.name = dataset_name(spec)
        except AttributeError:  # a dataset with slots is named after its class
            return dataset
    return dataset


def dataset_name(spec: str) -> str:
    """Return the name under which a store files the snapshots of a specification: readable, and unlike all others."""
    kind, _, argument = spec.partition(":")
    place, query = argument, ""
    if kind == "folder":
        argument = str(Path(argument).expanduser().resolve())
        place = argument
    elif kind in dataset_sources:
        place = QUERY.sub(r"\g<place>", argument)
        query = argument[len(place) :]
        if kind in PLACES or (kind == "hf" and Path(place).expanduser().exists()):
            argument = f"{Path(place).expanduser().resolve()}{query}"
    stem = re.sub(r"[^A-Za-z0-9]+", "-", Path(place).name or kind).strip("-").lower()[:40] or kind
    return f"{stem}-{hashlib.sha256(f'{kind}:{argument}'.encode()).hexdigest()[:8]}"
