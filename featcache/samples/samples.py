"""One view on any dataset: what its samples are (ids, names, targets) and what the backbone gets to see."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, FingerprintError, UsageError
from ..identity import content_id, identity
from ..progress import ProgressCallback, ProgressEvent, silent
from .augment import view_of
from .columns import CodedColumn, TextColumn
from .file_memo import FileMemo
from .reading import Unreadable, declared_id, read_item
from .snapshot import Snapshot
from .stacking import TargetStack, length_of, stack_inputs
from .transforms import apply

__all__ = ["Samples"]

Array = np.ndarray[Any, Any]
TWICE = 8  # samples that are fetched again to find what is random


@dataclass
class _Taken:
    """What is known of a dataset once its samples were hashed; shared by all views on it, so that they are hashed once."""

    snapshot: Snapshot | None = None
    positions: Sequence[int] | Array | None = None
    memo: FileMemo | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    unread: frozenset[bytes] = frozenset()  # the ids of what could not be read, which have no content
    lengths: set[Any] = field(default_factory=set)  # of all items, where they were hashed one by one


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
        if hasattr(dataset, "sample_ids") and not hasattr(dataset, "read"):
            raise DataError(
                f"{type(dataset).__name__} lists the ids of its samples by sample_ids(memo), but has no read(index), which "
                "gives the id and the item of what is read: add it (docs/extending.md), or leave sample_ids out."
            )
        self.dataset = _scaled(dataset, transform)
        self.transform = transform
        self.augment: Callable[[Any], Any] | None = None
        self.view_seed = 0
        self.name = name or getattr(dataset, "name", None) or _slug(type(dataset).__name__)
        self._taken = _Taken()
        self._ragged: tuple[Snapshot | None, bool] | None = None

    def transformed(self, transform: Callable[[Any], Any] | None) -> Samples:
        """Return the same samples with a transform; they share the snapshot, since it is taken before the transform."""
        other = copy.copy(self)
        other.dataset, other.transform, other._ragged = _scaled(self.dataset, transform), transform, None
        return other

    def augmented(self, augment: Callable[[Any], Any] | None, seed: int = 0) -> Samples:
        """Return the same samples with random views; they share the snapshot, as in ``transformed``."""
        if augment is not None and getattr(getattr(self.dataset, "pixels", None), "decoding", "exact") != "exact":
            raise UsageError(
                "decoding 'scaled' keeps the pixels that the transform asks for, and a random view may ask for more: use "
                "decoding 'exact' with an augmentation."
            )
        other = copy.copy(self)
        other.augment, other.view_seed = augment, seed
        return other

    @property
    def notes(self) -> list[str]:
        """Return what the dataset says of itself: what it left out, and what it took its targets for."""
        return [str(note) for note in getattr(self.dataset, "notes", ())]

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

    def read(self, position: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of what a sample holds now, and a function that makes the item of just that.

        Raises ``OSError`` where the sample cannot be read; the function does for what is damaged.
        """
        if hasattr(self.dataset, "sample_ids"):
            found: tuple[bytes, Callable[[], Any]] = self.dataset.read(position)
            return found
        return read_item(self.dataset, lambda place: self.raw(place)[0], position)

    def input(self, position: int) -> Any:
        """Return what the backbone gets to see of a sample as it is now."""
        return self.seen(self.raw(position)[0])

    def seen(self, item: Any, view: int = 0, sample_id: bytes = b"") -> Any:
        """Return what the backbone gets to see of an item, or of one of its random views (from 1 on)."""
        if view:
            assert self.augment is not None
            item = view_of(item, self.augment, sample_id, view, self.view_seed)
        return item if self.transform is None else apply(self.transform, item)

    def batch(self, inputs: list[Any]) -> Any:
        """Return inputs stacked into a batch; see ``stack_inputs``."""
        return stack_inputs(inputs, self.transform)

    @property
    def ragged(self) -> bool:
        """Return whether samples vary in length, whatever their order: the transform says so, or their contents show it.

        Items that nothing transforms show it while they are hashed, all of them. Else a few inputs do, those whose ids
        come first, and ``check_alike`` guards the others. Until the snapshot is taken it is a guess from a few inputs.
        """
        declared = getattr(self.transform, "ragged", None)
        if declared is not None:
            return bool(declared)
        taken = self._taken
        if self._ragged is None or self._ragged[0] is not taken.snapshot:
            lengths = taken.lengths if self.transform is None else set()
            lengths = lengths or {length_of(each) for each in self.some_inputs()}
            self._ragged = taken.snapshot, len(lengths) > 1 and None not in lengths
        return self._ragged[1]

    def check_alike(self, inputs: list[Any]) -> None:
        """Raise ``DataError`` where inputs vary in length, though the samples that were looked at do not."""
        if getattr(self.transform, "ragged", None) is None and len({length_of(each) for each in inputs}) > 1:
            raise DataError(
                f"some samples of {self.name!r} vary in length, but those that were looked at do not: lengths "
                f"{', '.join(sorted({str(length_of(each)) for each in inputs})[:4])}. Let the transform say so with an "
                "attribute `ragged = True`, or make all inputs equally long."
            )

    def some_inputs(self) -> list[Any]:
        """Return what the backbone gets to see of a few samples from all over the dataset."""
        found = []
        for position in self.spread() if self._taken.snapshot is None else self._by_content():
            with suppress(OSError):  # an unreadable sample is named when its turn comes
                found.append(self.input(position))
        return found

    def _by_content(self) -> list[int]:
        """Return the positions of a few samples that are the same ones in every order of the samples."""
        leading = np.ascontiguousarray(self.snapshot().ids[:, :8]).view(">u8").reshape(-1)
        _, first = np.unique(leading, return_index=True)
        return [int(self.positions()[number]) for number in first[:TWICE].tolist()]

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
    def unread(self) -> frozenset[bytes]:
        """Return the ids in the snapshot that stand for files that could not be read when they were listed."""
        return self._taken.unread

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
                ids, targets, taken.positions = self._listed(memo)
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

    def forget(self, changed: Collection[bytes]) -> None:
        """Take the snapshot again when it is next asked for, and read the files again whose ids are no longer right."""
        if self._taken.memo is not None:
            self._taken.memo.forget(changed)
        vars(self._taken).update(vars(_Taken()))

    def _listed(self, memo: FileMemo | None) -> tuple[Array, Array, Sequence[int]]:
        self._taken.memo, memo = memo, memo or FileMemo()
        ids = self.dataset.sample_ids(memo)
        self._taken.unread = frozenset(memo.unread)
        return ids, np.asarray(self.dataset.targets), range(len(ids))

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
                ids += declared_id(self.dataset.sample_id(position)) if named else content_id(value)
            except OSError as error:
                if not skip_unreadable:
                    raise DataError(
                        f"{self.label(position)} of {self.name!r} cannot be read: {error}. "
                        "Mend or remove it, or use --on-error skip."
                    ) from error
                self.unreadable.append(Unreadable(position, self.label(position), str(error)))
                continue
            targets.add(target)
            self._taken.lengths.add(length_of(value))
            progress(ProgressEvent("hash", position + 1, count, "samples"))
        if not ids:
            raise DataError(
                f"no sample of the dataset {self.name!r} can be read; the first: {self.unreadable[0].reason}"
            )
        left_out = [each.position for each in self.unreadable]
        positions = np.delete(np.arange(count), left_out) if left_out else range(count)
        return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16), targets.stacked(), positions


def _scaled(dataset: Any, transform: Callable[[Any], Any] | None) -> Any:
    """Return the dataset, which may decode its images as small as the transform allows."""
    return dataset if transform is None or not hasattr(dataset, "scaled_for") else dataset.scaled_for(transform)


def _identified(value: Any, noun: str) -> Any:
    try:
        return identity(value)
    except FingerprintError as error:
        raise FingerprintError(f"the {noun} cannot be fingerprinted: {error}") from error


def _classes(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    return None if names is None else [str(name) for name in names]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60].lower() or "dataset"
