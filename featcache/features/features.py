"""The read side: cached rows joined to their targets, one by one, in batches, or as arrays."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch

from ..errors import UsageError
from ..identity import Recipe
from ..machine import HostCopy, available_memory_bytes, pick_device, to_device
from ..quantity import short_id
from ..samples import CodedColumn, Snapshot, split_name
from ..store import FeatureSet
from ..tables import html_table
from ..tensorspec import TensorSpec
from .hf import hf_dataset
from .labels import RowLabels
from .loader import FeatureLoader
from .memory import Empty, RecycledMemory, in_large_pages
from .rows import LoadedRows, Rows
from .shard_rows import ShardRows

__all__ = ["FeatureLoader", "Features"]

Array = np.ndarray[Any, Any]
Frontier = torch.Tensor | dict[str, torch.Tensor]
LOADED_SHARE = 0.4  # of the free memory that a loader may fill with one set


SHOWN = 20  # classes


class Features(torch.utils.data.Dataset[tuple[Frontier, torch.Tensor]]):
    """The cached frontier of every sample of a dataset, with its target, as a map-style torch Dataset.

    ``features[i]`` is ``(frontier, target)``. The frontier is a tensor, or a dict of tensors if several cross the cut.
    Floating values come back as float32. If samples vary in length, a batch is padded with zeros, and its dict holds a
    boolean ``mask`` of the samples' own steps. Rows are in the dataset's order. Features can be pickled, and reopen
    their files afterwards.

    ``featcache.extract`` makes them; you rarely call the class yourself.

    Parameters
    ----------
    rows : sequence of Rows
        Where the rows come from, by view. The plain one comes first.
    recipe : Recipe
        What the rows are computed from.
    frontier : sequence of TensorSpec
        The tensors of a row.
    labels : RowLabels
        The names, targets and splits of the samples.
    positions : numpy.ndarray, shape (rows,), int64, optional
        The positions of the rows among the samples. By default all, in order.
    report : ExtractReport, optional
        What the extraction did.
    memory : RecycledMemory, optional
        What batches are gathered in. By default memory of its own.

    Attributes
    ----------
    recipe : Recipe
        What the rows are computed from.
    frontier : tuple of TensorSpec
        The tensors of a row.
    dataset : str
        The name of the dataset.
    snapshot : str
        The digest of the dataset's snapshot.
    report : ExtractReport or None
        What the extraction did.
    memory : RecycledMemory
        What batches are gathered in: memory that one loader leaves is used again by the next.
    classes : list of str or None
        The names of the classes. None if the dataset names none.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> features = featcache.extract(network, samples, "features", cut="1")
    >>> len(features)
    30
    >>> values, target = features[1]
    >>> values.shape, target
    (torch.Size([4]), tensor(1))
    >>> len(features[2:5]), len(features[[0, 2]]), len(features[features.targets == 1])
    (3, 2, 10)
    >>> arrays, targets = features.numpy()
    >>> arrays.shape, targets.shape
    ((30, 4), (30,))
    >>> for values, targets in features.loader(batch_size=16):
    ...     print(values.shape)
    torch.Size([16, 4])
    torch.Size([14, 4])
    """

    def __init__(
        self,
        rows: Sequence[Rows],
        recipe: Recipe,
        frontier: Sequence[TensorSpec],
        labels: RowLabels,
        positions: Array | None = None,
        report: Any = None,
        memory: RecycledMemory | None = None,
    ) -> None:
        self.memory = memory or RecycledMemory()  # of batches: what one loader leaves, the next one uses again
        self._rows = tuple(rows)  # by view: the plain one first
        self._positions = np.arange(len(labels.targets)) if positions is None else positions
        self._labels = labels
        self.recipe = recipe
        self.frontier = tuple(frontier)
        self.dataset = labels.dataset
        self.snapshot = labels.snapshot
        self.report = report
        self.classes = None if labels.classes is None else list(labels.classes)

    @classmethod
    def join(
        cls,
        feature_set: FeatureSet,
        snapshot: Snapshot,
        report: Any = None,
        augmented: FeatureSet | None = None,
        views: int = 0,
    ) -> Features:
        """Return the rows that a set holds of the samples in a snapshot, in its order.

        Samples without a row are left out.

        Parameters
        ----------
        feature_set : FeatureSet
            The set of the plain samples.
        snapshot : Snapshot
            What the dataset holds.
        report : ExtractReport, optional
            What the extraction did.
        augmented : FeatureSet, optional
            The set of the samples' random views.
        views : int, default 0
            The number of random views to take.

        Returns
        -------
        Features
            The rows with their targets.
        """
        rows = [ShardRows(feature_set, snapshot.ids)]
        if augmented is not None:
            rows += [ShardRows(augmented, snapshot.ids, view) for view in range(1, views + 1)]
        kept = np.flatnonzero(np.logical_and.reduce([each.present for each in rows]))
        recipe = feature_set.recipe
        return cls(rows, recipe, recipe.frontier, RowLabels.of(snapshot), kept, report)

    @property
    def views(self) -> int:
        """The number of random views of each sample beside the plain one."""
        return len(self._rows) - 1

    @property
    def ragged(self) -> bool:
        """Whether samples vary in length."""
        return any(spec.ragged for spec in self.frontier)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        tensors = ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in self.frontier)
        return f"Features({len(self)} samples of {self.dataset!r}: {tensors}; set {short_id(self.recipe.fingerprint)})"

    @property
    def targets(self) -> Array:
        """The target of each row, shape (rows, …)."""
        return self._labels.targets[self._positions]

    @property
    def names(self) -> list[str]:
        """The sample name of each row."""
        return list(self._labels.names.take(self._positions))

    @property
    def sample_ids(self) -> Array:
        """The content id of each row's sample, shape (rows, 16), uint8: equal samples have equal ones."""
        return self._labels.ids[self._positions]

    @property
    def splits(self) -> Array:
        """The split name of each row, empty if the dataset has none."""
        return self._labels.splits.take(self._positions).array()

    @property
    def split_counts(self) -> dict[str, int]:
        """The number of rows of each split, by its name."""
        splits = self._labels.splits.take(self._positions)
        return dict(zip(splits.table, np.bincount(splits.codes).tolist(), strict=True))

    def in_splits(self, *names: str) -> Array:
        """Return for each row whether it is in one of the named splits.

        Parameters
        ----------
        *names : str
            The names of the splits.

        Returns
        -------
        numpy.ndarray, shape (rows,), bool
            True for rows of these splits.
        """
        return self._labels.splits.among(names)[self._positions]

    @property
    def size_bytes(self) -> int:
        """The bytes of all rows and views in memory, decoded."""
        fixed = len(self) * sum(spec.size_bytes for spec in self.frontier if not spec.ragged)
        step = sum(spec.size_bytes for spec in self.frontier if spec.ragged)
        return sum(fixed + (step * rows.steps(self._positions) if step else 0) for rows in self._rows)

    def _repr_html_(self) -> str:
        rows = [
            [
                "rows",
                ", ".join(f"{number:,} {name or 'without a split'}" for name, number in self.split_counts.items()),
            ],
            ["classes", "" if self.classes is None else f"{len(self.classes):,}: {', '.join(self.classes[:SHOWN])}"],
            ["targets", f"{list(self.targets.shape[1:])} {self.targets.dtype}"],
            *([spec.name, f"{list(spec.shape)} {spec.dtype}"] for spec in self.frontier),
            ["set", short_id(self.recipe.fingerprint)],
        ]
        return html_table([self.dataset, f"{len(self):,} samples"], rows)

    @overload
    def __getitem__(self, index: int) -> tuple[Frontier, torch.Tensor]: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | Sequence[bool] | Array) -> Features: ...

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        if np.ndim(index):
            return self.subset(index)
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return self.__getitems__([number % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Frontier, torch.Tensor]]:
        frontier, targets = self.batch(np.asarray(indices, dtype=np.int64))
        if isinstance(frontier, dict):
            return [({name: values[n] for name, values in frontier.items()}, targets[n]) for n in range(len(indices))]
        return [(frontier[n], targets[n]) for n in range(len(indices))]

    def batch(
        self, indices: Array, views: Array | None = None, empty: Empty = in_large_pages
    ) -> tuple[Frontier, torch.Tensor]:
        """Return several rows, stacked, in the order asked for.

        Parameters
        ----------
        indices : numpy.ndarray, shape (batch,), int64
            The numbers of the rows.
        views : numpy.ndarray, shape (batch,), optional
            The view of each row; 0 is the plain one. By default all are plain.
        empty : callable, optional
            Gives the memory that the rows are gathered in, from a shape and a torch dtype.

        Returns
        -------
        frontier : torch.Tensor or dict of str to torch.Tensor
            The rows, with the batch as first dimension. A dict if several tensors cross the cut or samples vary in
            length.
        targets : torch.Tensor, shape (batch, …)
            The targets.

        Raises
        ------
        CorruptError
            If the stored rows are damaged.
        """
        positions = self._positions[indices]
        targets = torch.from_numpy(self._labels.targets[positions])
        if views is None:
            return self._shaped(self._rows[0].gather(positions, empty)), targets
        parts = []
        for view in np.unique(views).tolist():
            places = np.flatnonzero(views == view)
            parts.append((torch.from_numpy(places), self._rows[view].gather(positions[places])))
        return self._shaped(_merged(parts, len(positions))), targets

    def subset(self, indices: Sequence[int] | Array) -> Features:
        """Return the features of some rows.

        They share the files or the memory of these features.

        Parameters
        ----------
        indices : sequence of int or numpy.ndarray, shape (rows,)
            The numbers of the rows, or a boolean for each row.

        Returns
        -------
        Features
            The chosen rows.

        Raises
        ------
        UsageError
            If the rows are chosen by something else, or there are not as many booleans as rows.
        """
        chosen = np.asarray(indices)
        if chosen.dtype == bool and chosen.shape != (len(self),):
            raise UsageError(f"a choice of rows is a boolean for each of the {len(self)}, not of shape {chosen.shape}.")
        if chosen.size and (chosen.ndim != 1 or chosen.dtype.kind not in "biu"):
            raise UsageError(
                f"rows are chosen by whole numbers, or a boolean for each, not by {chosen.dtype} of shape {chosen.shape}."
            )
        if chosen.dtype != bool:
            chosen = chosen.astype(np.int64)
        part = copy.copy(self)
        part._positions = self._positions[chosen]
        return part

    def where(self, split: str) -> Features:
        """Return the rows of one split.

        Parameters
        ----------
        split : str
            The name of the split. Where no split is called so, those that mean the same count: ``"dev"`` is ``"val"``,
            and ``"Training"`` is ``"train"``.

        Returns
        -------
        Features
            The rows of the split.

        Raises
        ------
        UsageError
            If the dataset has no such split.
        """
        chosen = np.flatnonzero(self.in_splits(split))
        table = self._labels.splits.take(self._positions).table
        if not len(chosen):
            chosen = np.flatnonzero(self.in_splits(*(each for each in table if split_name(each) == split_name(split))))
        if not len(chosen):
            known = ", ".join(map(repr, table))
            raise UsageError(f"the dataset {self.dataset!r} has no split {split!r}; it has {known}.")
        return self.subset(chosen)

    def with_splits(self, splits: Sequence[str] | Array) -> Features:
        """Return the same rows in other splits.

        Parameters
        ----------
        splits : sequence of str or numpy.ndarray, shape (rows,)
            The split name of each row.

        Returns
        -------
        Features
            The rows in the given splits.

        Raises
        ------
        UsageError
            If there is not one split name per row.
        """
        if len(splits) != len(self):
            raise UsageError(f"{len(self)} rows need one split name each, not {len(splits)}.")
        part = copy.copy(self)
        given = CodedColumn.of(map(str, splits))
        codes = self._labels.splits.codes.astype(np.int64) + len(given.table)
        codes[self._positions] = given.codes
        part._labels = replace(self._labels, splits=CodedColumn(codes, given.table + self._labels.splits.table))
        return part

    def numpy(self, view: int = 0) -> tuple[Any, Array]:
        """Return all rows as arrays.

        Parameters
        ----------
        view : int, default 0
            The view of the rows; 0 is the plain one.

        Returns
        -------
        X : numpy.ndarray, shape (rows, …), or dict of str to numpy.ndarray
            The rows. A dict if several tensors cross the cut or samples vary in length.
        y : numpy.ndarray, shape (rows, …)
            The targets.

        Raises
        ------
        UsageError
            If the view is not stored.
        """
        if not 0 <= view <= self.views:
            raise UsageError(f"there is no view {view}: {self.views} random views are stored beside the plain one (0).")
        frontier, targets = self.batch(np.arange(len(self)), np.full(len(self), view) if view else None)
        if isinstance(frontier, dict):
            return {name: values.numpy() for name, values in frontier.items()}, targets.numpy()
        return frontier.numpy(), targets.numpy()

    def to_hf(self) -> Any:
        """Return all rows as a dataset of Hugging Face's datasets library.

        The rows are written, some at a time, to an Arrow file in the folder for temporary files. The dataset reads them
        from there; the file is removed when Python exits. ``save_to_disk`` keeps them. Random views are left out.

        Returns
        -------
        datasets.Dataset
            The columns are ``features`` (or the names of the tensors if several cross the cut), ``target``, ``name`` and
            ``split``. Targets that are numbers of named classes are a ``ClassLabel``. Samples that vary in length have
            their own steps, without padding.

        Raises
        ------
        MissingDependencyError
            If datasets is not installed.
        UsageError
            If the values are of a type that the library has no column for.
        """
        return hf_dataset(self)

    def loader(
        self,
        batch_size: int,
        shuffle: bool | str = True,
        seed: int = 0,
        device: str | torch.device | None = "cpu",
        rank: int = 0,
        world_size: int | None = None,
        augmented: bool | None = None,
    ) -> FeatureLoader:
        """Return an iterable of (frontier, targets) batches, each iteration of which is one epoch.

        The order of an epoch depends only on ``seed`` and the number of the epoch.

        Parameters
        ----------
        batch_size : int
            The rows per batch.
        shuffle : bool or str, default True
            Whether rows are shuffled. Features that exceed the free memory are shuffled by blocks, see
            ``FeatureLoader``. ``"full"`` and ``"blocks"`` choose one way whatever the memory.
        seed : int, default 0
            The seed of the order and of the views.
        device : str, torch.device or None, default "cpu"
            The device of the batches. None is the best one there is.
        rank : int, default 0
            The number of this process among ``world_size``.
        world_size : int, optional
            The number of processes. Each gets every ``world_size``-th row, padded by repetition to equal counts, as
            torch's DistributedSampler does. If rows are shuffled by blocks, each gets a run of blocks instead. By default
            this process gets all rows, which is refused where torch.distributed runs several: say 1 if it is meant.
        augmented : bool, optional
            Whether each row of an epoch is one of its random views, drawn with ``seed``, if views are stored. By
            default the same as ``shuffle``.

        Returns
        -------
        FeatureLoader
            The batches.

        Raises
        ------
        UsageError
            If an option is not valid. When it is iterated over: if several processes would each get all rows.
        """
        return FeatureLoader(self, batch_size, shuffle, seed, device, rank, world_size, augmented)

    def load(self) -> Features:
        """Return the same features with all rows in memory, checked.

        Rows that are stored in float32, float16 or bfloat16, without compression, stay in the pages of their files, which
        all loaders and processes share. Others are decoded once, and held for as long as these features are.

        Returns
        -------
        Features
            The loaded features.
        """
        sources = [rows for rows in self._rows if isinstance(rows, ShardRows)]
        if len(sources) < len(self._rows):
            return self
        if not len(self) or not all(rows.shared for rows in sources):
            return self.with_rows([rows.load(self._positions) for rows in sources], self.frontier)
        part = copy.copy(self)
        part._rows = tuple(rows.mapped(self._positions) for rows in sources)
        return part

    @property
    def loaded(self) -> list[dict[str, torch.Tensor]]:
        """What loaded features of fixed length hold of each view, by tensor name. Half precisions are held as such."""
        return [rows.held(self._positions) for rows in self._rows if isinstance(rows, LoadedRows)]

    def load_rows(
        self, indices: Array, views: Array | None = None, empty: Empty = in_large_pages, direct: bool = False
    ) -> Features:
        """Return some rows, loaded into memory.

        The length of the rows must not vary.

        Parameters
        ----------
        indices : numpy.ndarray, shape (rows,), int64
            The numbers of the rows.
        views : numpy.ndarray, optional
            The view of each row of these features, not of the chosen ones; 0 is the plain one. By default all are
            plain.
        empty : callable, optional
            Gives the memory, from a shape and a torch dtype.
        direct : bool, default False
            Read around the page cache if the system can.

        Returns
        -------
        Features
            The chosen rows, in memory.
        """
        part = self.subset(indices)
        if views is None and isinstance(self._rows[0], ShardRows):
            return part.with_rows([self._rows[0].read(part._positions, empty, direct)], self.frontier)
        frontier, _ = self.batch(indices, None if views is None else views[indices])
        values = frontier if isinstance(frontier, dict) else {self.frontier[0].name: frontier}
        return part.with_rows([LoadedRows(values)], self.frontier)

    @property
    def fits_in_memory(self) -> bool:
        """Whether holding all rows takes a moderate share of the memory that is free now."""
        return self.fits_in_memory_of(1)

    def fits_in_memory_of(self, processes: int) -> bool:
        """Return whether so many processes of this machine can hold all rows in a moderate share of the free memory.

        Parameters
        ----------
        processes : int
            How many load these rows. They share those that stay in the pages of their files.

        Returns
        -------
        bool
            Whether they fit.
        """
        room_bytes = LOADED_SHARE * available_memory_bytes()
        if self.size_bytes > room_bytes or self.size_bytes * processes <= room_bytes:
            return self.size_bytes <= room_bytes
        return all(rows.shared for rows in self._rows if isinstance(rows, ShardRows))

    @property
    def fits_in_page_cache(self) -> bool:
        """Whether the files could stay in the memory that is free now.

        Then only the first epoch waits for the disk.
        """
        return self.size_bytes <= available_memory_bytes()

    def map(
        self, module: Callable[[Any], Any], batch_size: int = 256, device: str | torch.device | None = "cpu"
    ) -> Features:
        """Apply a module to every row and hold the results in memory.

        The module runs without gradients. Targets, names, splits and recipe stay as they are.

        Parameters
        ----------
        module : callable
            Takes a batch of frontiers and returns a tensor, or a dict of tensors, with the batch as first dimension.
        batch_size : int, default 256
            The rows per call.
        device : str, torch.device or None, default "cpu"
            The device of the batches. None is the best one there is. The module is not moved.

        Returns
        -------
        Features
            The results, with the targets of these features.
        """
        where = pick_device(None if device is None else str(device))
        mapped = [self._mapped(module, batch_size, where, view) for view in range(len(self._rows))]
        specs = [
            TensorSpec(name, tuple(values.shape[1:]), str(values.dtype).removeprefix("torch."))
            for name, values in mapped[0].items()
        ]
        return self.with_rows([LoadedRows(values) for values in mapped], specs)

    def _mapped(
        self, module: Callable[[Any], Any], batch_size: int, where: torch.device, view: int
    ) -> dict[str, torch.Tensor]:
        parts: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad():
            for start in range(0, len(self), batch_size):
                indices = np.arange(start, min(start + batch_size, len(self)))
                frontier, _ = self.batch(indices, np.full(len(indices), view) if view else None)
                result = module(to_device(frontier, where))
                named = result if isinstance(result, dict) else {self.frontier[0].name: result}
                for name, values in HostCopy(named).result().items():
                    parts.setdefault(name, []).append(values)
        return {name: torch.cat(values) for name, values in parts.items()}

    def with_rows(self, rows: Sequence[Rows], frontier: Iterable[TensorSpec], recipe: Recipe | None = None) -> Features:
        """Return the same samples with other rows.

        Parameters
        ----------
        rows : sequence of Rows
            Where the rows come from, by view.
        frontier : iterable of TensorSpec
            The tensors of a row.
        recipe : Recipe, optional
            What the rows are computed from. By default the recipe of these features.

        Returns
        -------
        Features
            The rows, with the targets, names and splits of these features.
        """
        labels = replace(self._labels.take(self._positions), classes=self.classes)
        return Features(rows, recipe or self.recipe, tuple(frontier), labels, report=self.report, memory=self.memory)

    def _shaped(self, values: dict[str, torch.Tensor]) -> Frontier:
        return values if len(values) > 1 else next(iter(values.values()))


def _merged(parts: list[tuple[torch.Tensor, dict[str, torch.Tensor]]], count: int) -> dict[str, torch.Tensor]:
    """Return rows that were gathered apart in their places, padded alike where they vary in length."""
    merged = {}
    for name, first in parts[0][1].items():
        shape = [max(sizes) for sizes in zip(*(tuple(part[name].shape[1:]) for _, part in parts), strict=True)]
        merged[name] = torch.zeros((count, *shape), dtype=first.dtype)
        for places, part in parts:
            values = part[name]
            target = merged[name] if not shape else merged[name][:, : values.shape[1]]
            target[places] = values
    return merged
