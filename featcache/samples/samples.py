"""One view on any dataset: what its samples are (ids, names, targets) and what the backbone gets to see."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, FingerprintError
from ..identity import content_id, identity
from ..progress import ProgressCallback, ProgressEvent, silent
from .augment import view_of
from .columns import CodedColumn, TextColumn
from .file_memo import FileMemo
from .snapshot import Snapshot
from .stacking import TargetStack, length_of, stack_inputs
from .transforms import apply

__all__ = ["Samples", "Unreadable"]

Array = np.ndarray[Any, Any]
TWICE = 8  # samples that are fetched again to find what is random


@dataclass(frozen=True)
class Unreadable:
    """A sample that could not be read, and why."""

    position: int
    name: str
    reason: str


@dataclass
class _Taken:
    """What is known of a dataset once its samples were hashed; shared by all views on it, so that they are hashed once."""

    snapshot: Snapshot | None = None
    positions: Sequence[int] | Array | None = None
    memo: FileMemo | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    ragged: dict[int, bool] = field(default_factory=dict)  # by transform


class Samples:
    """A map-style dataset of (input, target) with the transform that leads to the backbone's input.

    With a ``transform`` given apart, samples are hashed before it and the transform is part of the recipe; without
    one, items are hashed as the dataset returns them. A dataset that offers ``sample_id(i)`` or ``sample_ids(memo)``
    is asked instead, and what it does to an item is part of the recipe.
    """

    def __init__(self, dataset: Any, transform: Callable[[Any], Any] | None = None, name: str | None = None) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise DataError(
                f"a map-style dataset is needed, with __len__ and __getitem__; {type(dataset).__name__} is none. "
                "Wrap it in one, or use a data specification such as folder:PATH."
            )
        self.dataset = dataset
        self.transform = transform
        self.augment: Callable[[Any], Any] | None = None
        self.view_seed = 0
        self.name = name or getattr(dataset, "name", None) or _slug(type(dataset).__name__)
        self._taken = _Taken()

    def transformed(self, transform: Callable[[Any], Any] | None) -> Samples:
        """Return the same samples with a transform; they share the snapshot, since it is taken before the transform."""
        other = copy.copy(self)
        other.transform = transform
        return other

    def augmented(self, augment: Callable[[Any], Any] | None, seed: int = 0) -> Samples:
        """Return the same samples with random views; they share the snapshot, as in ``transformed``."""
        other = copy.copy(self)
        other.augment, other.view_seed = augment, seed
        return other

    @property
    def decoding(self) -> Any:
        """Return how a sample's content becomes the item, as JSON-able values: a part of the recipe."""
        declared = getattr(self.dataset, "decoding", None)
        if declared is not None:
            return declared
        if not hasattr(self.dataset, "sample_id"):
            return {"item": "hashed as it is"}
        parts: dict[str, Any] = {"dataset": identity(type(self.dataset))}
        for attribute in ("transform", "transforms"):
            if getattr(self.dataset, attribute, None) is not None:
                parts[attribute] = identity(getattr(self.dataset, attribute))
        return parts

    @property
    def transform_identity(self) -> Any:
        """Return the transform as JSON-able values, None if there is none: a part of the recipe."""
        return None if self.transform is None else _identified(self.transform, "transform")

    @property
    def views_identity(self) -> Any:
        """Return the augmentation and its seed as JSON-able values, None if there is none: a part of the views' recipe."""
        if self.augment is None:
            return None
        return {"augment": _identified(self.augment, "augmentation"), "seed": self.view_seed}

    def raw(self, position: int) -> tuple[Any, Any]:
        """Return (input, target) as the dataset gives them."""
        item = self.dataset[position]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(
                f"item {position} of {type(self.dataset).__name__} is {type(item).__name__}, not (input, target). "
                "Return pairs; a dataset without targets returns (input, 0)."
            )
        return item[0], item[1]

    def input(self, position: int, view: int = 0, sample_id: bytes = b"") -> Any:
        """Return what the backbone gets to see of a sample, or of one of its random views (from 1 on)."""
        value = self.raw(position)[0]
        if view:
            assert self.augment is not None
            value = view_of(value, self.augment, sample_id, view, self.view_seed)
        return value if self.transform is None else apply(self.transform, value)

    def batch(self, inputs: list[Any]) -> Any:
        """Return inputs stacked into a batch; see ``stack_inputs``."""
        return stack_inputs(inputs, self.transform)

    @property
    def ragged(self) -> bool:
        """Return whether samples vary in length: the transform says so, or a few samples show it."""
        declared = getattr(self.transform, "ragged", None)
        if declared is None:
            declared = self._taken.ragged.get(id(self.transform))
        if declared is None:
            lengths = {length_of(each) for each in self.some_inputs()}
            declared = len(lengths) > 1 and None not in lengths
            self._taken.ragged[id(self.transform)] = declared
        return bool(declared)

    def some_inputs(self) -> list[Any]:
        """Return what the backbone gets to see of a few samples from all over the dataset."""
        found = []
        for position in self.spread():
            with suppress(OSError):  # an unreadable sample is named when its turn comes
                found.append(self.input(position))
        return found

    def spread(self) -> list[int]:
        """Return the positions of a few samples from all over the dataset, to try things on."""
        count = len(self.dataset)
        positions: list[int] = np.unique(np.linspace(0, count - 1, min(TWICE, count)).astype(int)).tolist()
        return positions

    def label(self, position: int) -> str:
        """Return the name of a sample, for words about it."""
        names = getattr(self.dataset, "names", None)
        return str(names[position]) if names is not None else f"item {position}"

    def positions(self) -> Sequence[int] | Array:
        """Return where in the dataset each row of the snapshot is."""
        if self._taken.positions is None:
            self.snapshot()
        assert self._taken.positions is not None
        return self._taken.positions

    @property
    def unreadable(self) -> list[Unreadable]:
        """Return the samples that could not be read when they were hashed, and are left out of the snapshot."""
        return self._taken.unreadable

    @property
    def memo(self) -> FileMemo | None:
        """Return what is remembered of the samples' files, None unless they are files that were hashed with a memo."""
        return self._taken.memo

    def snapshot(
        self,
        memo: FileMemo | None = None,
        *,
        skip_unreadable: bool = False,
        progress: ProgressCallback = silent,
    ) -> Snapshot:
        """Return what the dataset holds now; taken once.

        Raises ``DataError`` for an empty dataset, and for an item that cannot be read unless it is to be skipped.
        """
        taken = self._taken
        if taken.snapshot is None:
            if len(self.dataset) == 0:
                raise DataError(f"the dataset {self.name!r} is empty: it needs at least one sample.")
            if hasattr(self.dataset, "sample_ids"):
                ids = self.dataset.sample_ids(memo)
                targets = np.asarray(self.dataset.targets)
                taken.positions, taken.memo = range(len(ids)), memo
            else:
                ids, targets, taken.positions = self._hash_items(skip_unreadable, progress)
            taken.snapshot = Snapshot(
                self.name,
                ids,
                TextColumn.of(self._aligned("names") or map(str, taken.positions)),
                targets,
                CodedColumn.of(self._aligned("splits") or itertools.repeat("", len(ids))),
                _classes(self.dataset),
            )
        return taken.snapshot

    def _aligned(self, attribute: str) -> Iterator[str] | None:
        values = getattr(self.dataset, attribute, None)
        if values is None or len(values) != len(self.dataset):
            return None
        return (str(values[int(position)]) for position in self.positions())

    def _hash_items(
        self, skip_unreadable: bool, progress: ProgressCallback
    ) -> tuple[Array, Array, Sequence[int] | Array]:
        ids, targets = bytearray(), TargetStack()
        count = len(self.dataset)
        named = hasattr(self.dataset, "sample_id")
        for position in range(count):
            try:
                value, target = self.raw(position)
                ids += _declared_id(self.dataset.sample_id(position)) if named else content_id(value)
            except OSError as error:
                if not skip_unreadable:
                    raise DataError(
                        f"{self.label(position)} of {self.name!r} cannot be read: {error}. "
                        "Mend or remove it, or use --on-error skip."
                    ) from error
                self.unreadable.append(Unreadable(position, self.label(position), str(error)))
                continue
            targets.add(target)
            progress(ProgressEvent("hash", position + 1, count, "samples"))
        if not ids:
            raise DataError(
                f"no sample of the dataset {self.name!r} can be read; the first: {self.unreadable[0].reason}"
            )
        left_out = [each.position for each in self.unreadable]
        positions = np.delete(np.arange(count), left_out) if left_out else range(count)
        return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16), targets.stacked(), positions


def _identified(value: Any, noun: str) -> Any:
    try:
        return identity(value)
    except FingerprintError as error:
        raise FingerprintError(f"the {noun} cannot be fingerprinted: {error}") from error


def _declared_id(value: Any) -> bytes:
    if isinstance(value, bytes) and len(value) == 16:
        return value
    return content_id(value)


def _classes(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    return None if names is None else [str(name) for name in names]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60].lower() or "dataset"
