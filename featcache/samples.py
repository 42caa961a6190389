"""One view on any dataset: what its samples are (ids, names, targets) and what the backbone gets to see."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .errors import DataError, FingerprintError
from .filememo import FileMemo
from .fingerprint import content_id, identity
from .progress import ProgressCallback, ProgressEvent, silent
from .snapshot import Snapshot

__all__ = ["Samples", "Unreadable"]

Array = np.ndarray[Any, Any]
TWICE = 8  # samples that are fetched again to find what is random
TRIES = 5


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
    positions: Array | None = None
    memo: FileMemo | None = None
    unreadable: list[Unreadable] = field(default_factory=list)


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
        self.name = name or getattr(dataset, "name", None) or _slug(type(dataset).__name__)
        self._taken = _Taken()

    def transformed(self, transform: Callable[[Any], Any] | None) -> Samples:
        """Return the same samples with a transform; they share the snapshot, since it is taken before the transform."""
        other = copy.copy(self)
        other.transform = transform
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
        if self.transform is None:
            return None
        try:
            return identity(self.transform)
        except FingerprintError as error:
            raise FingerprintError(f"the transform cannot be fingerprinted: {error}") from error

    def raw(self, position: int) -> tuple[Any, Any]:
        """Return (input, target) as the dataset gives them."""
        item = self.dataset[position]
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise DataError(
                f"item {position} of {type(self.dataset).__name__} is {type(item).__name__}, not (input, target). "
                "Return pairs; a dataset without targets returns (input, 0)."
            )
        return item[0], item[1]

    def input(self, position: int) -> Any:
        """Return what the backbone gets to see of a sample."""
        value = self.raw(position)[0]
        return value if self.transform is None else self.transform(value)

    def label(self, position: int) -> str:
        """Return the name of a sample, for words about it."""
        names = getattr(self.dataset, "names", None)
        return str(names[position]) if names is not None else f"item {position}"

    def positions(self) -> Array:
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

        Raises :class:`DataError` for an empty dataset, and for an item that cannot be read unless it is to be skipped.
        """
        taken = self._taken
        if taken.snapshot is None:
            if len(self.dataset) == 0:
                raise DataError(f"the dataset {self.name!r} is empty: it needs at least one sample.")
            if hasattr(self.dataset, "sample_ids"):
                ids = self.dataset.sample_ids(memo)
                targets = np.asarray(self.dataset.targets)
                taken.positions, taken.memo = np.arange(len(ids)), memo
            else:
                ids, targets, taken.positions = self._hash_items(skip_unreadable, progress)
            taken.snapshot = Snapshot(
                self.name,
                ids,
                self._aligned("names", [str(position) for position in taken.positions.tolist()]),
                targets,
                self._aligned("splits", [""] * len(ids)),
                _classes(self.dataset),
            )
        return taken.snapshot

    def refuse_random(self) -> None:
        """Check on a few samples that item and transform give the same result twice; raises :class:`DataError` if not."""
        count = len(self.dataset)
        if not count:
            raise DataError(f"the dataset {self.name!r} is empty: it needs at least one sample.")
        for position in np.unique(np.linspace(0, count - 1, min(TWICE, count)).astype(int)).tolist():
            try:
                fetched = [self.raw(position)[0] for _ in range(2)]
            except OSError:
                continue  # an unreadable sample is named when its turn comes
            if _differ(fetched) or _draws(partial(self.raw, position)):
                raise DataError(
                    f"{self.label(position)} of {self.name!r} differs when it is fetched twice: the dataset draws random "
                    "numbers. Take random augmentation out of the dataset; cached features need the same input every time."
                )
            transform = self.transform
            if transform is None:
                continue
            item = fetched[0]
            if _differ([transform(item), transform(item)]) or _draws(partial(transform, item)):
                raise DataError(
                    f"the transform draws random numbers ({self.label(position)} of {self.name!r}): random augmentation "
                    "cannot be cached. Use a deterministic transform for extract."
                )

    def _aligned(self, attribute: str, default: list[str]) -> Sequence[str]:
        values = getattr(self.dataset, attribute, None)
        if values is None or len(values) != len(self.dataset):
            return default
        return [str(values[position]) for position in self.positions().tolist()]

    def _hash_items(self, skip_unreadable: bool, progress: ProgressCallback) -> tuple[Array, Array, Array]:
        ids, targets, positions = [], [], []
        count = len(self.dataset)
        named = hasattr(self.dataset, "sample_id")
        for position in range(count):
            try:
                value, target = self.raw(position)
                ids.append(_declared_id(self.dataset.sample_id(position)) if named else content_id(value))
            except OSError as error:
                if not skip_unreadable:
                    raise DataError(
                        f"{self.label(position)} of {self.name!r} cannot be read: {error}. "
                        "Mend or remove it, or use --on-error skip."
                    ) from error
                self.unreadable.append(Unreadable(position, self.label(position), str(error)))
                continue
            targets.append(target)
            positions.append(position)
            progress(ProgressEvent("hash", position + 1, count, "samples"))
        if not ids:
            raise DataError(
                f"no sample of the dataset {self.name!r} can be read; the first: {self.unreadable[0].reason}"
            )
        return (
            np.frombuffer(b"".join(ids), dtype=np.uint8).reshape(-1, 16),
            _stack(targets),
            np.array(positions),
        )


def _differ(items: list[Any]) -> bool:
    return len({content_id(item) for item in items}) > 1


def _draws(run: Callable[[], Any]) -> bool:
    """Return whether a function draws from a global random generator, whose state is put back.

    Comparing results would miss an augmentation that is seldom applied. Other threads may draw meanwhile, so only what
    draws every time counts.
    """
    import torch

    for _ in range(TRIES):
        before = _random_state()
        torch_before = torch.get_rng_state()
        python_before, numpy_before = random.getstate(), np.random.get_state()
        run()
        if _random_state() == before:
            return False
        random.setstate(python_before)
        np.random.set_state(numpy_before)
        torch.set_rng_state(torch_before)
    return True


def _random_state() -> tuple[Any, ...]:
    import torch

    kind: Any = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(kind[1]).tobytes(), kind[2:], torch.get_rng_state().numpy().tobytes()


def _declared_id(value: Any) -> bytes:
    if isinstance(value, bytes) and len(value) == 16:
        return value
    return content_id(value)


def _stack(targets: list[Any]) -> Array:
    try:
        stacked = np.stack([np.asarray(target) for target in targets])
    except ValueError as error:
        raise DataError(
            f"the targets of the dataset have different shapes ({error}); give all the same shape."
        ) from error
    if stacked.dtype.kind not in "biuf":
        raise DataError(
            f"the targets of the dataset are {stacked.dtype}, not numbers: give class numbers (and `classes` with "
            "their names)."
        )
    return stacked.astype(np.int64) if stacked.dtype.kind in "iu" else stacked


def _classes(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", None)
    return None if names is None else [str(name) for name in names]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:60].lower() or "dataset"
