"""Batches of cached features, epoch by epoch."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import UsageError
from ..machine import free_memory_bytes, pick_device, transferred
from ..tensorspec import TensorSpec
from .device_rows import DeviceRows
from .memory import Empty, RecycledMemory, pinned
from .windows import Windows, in_blocks, window_sizes

__all__ = ["FeatureLoader", "LoadableRows"]

GATHER_BYTES = 2 << 20  # of rows that are gathered at once: they are given out from the processor's cache
BLOCK_BYTES = 512 << 10  # of rows that lie side by side; reading fewer at a time from a disk is much slower
DEVICE_SHARE = 0.4  # of a device's free memory that may be filled with rows; the training needs the rest
WINDOW_BLOCKS = 384  # that are shuffled among each other: 192 MB in memory
AHEAD = 2  # windows that are read while one is used: the disk goes on while one of them is prepared or checked

Array = np.ndarray[Any, Any]
Batch = tuple[Any, torch.Tensor]


class LoadableRows(Protocol):
    """What a loader asks of features; ``Features`` says what each of these is."""

    frontier: tuple[TensorSpec, ...]

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    @property
    def views(self) -> int:
        """Return the number of random views."""
        ...

    @property
    def ragged(self) -> bool:
        """Return whether samples vary in length."""
        ...

    @property
    def targets(self) -> Array:
        """Return the targets."""
        ...

    def fits_in_memory_of(self, processes: int) -> bool:
        """Return whether so many processes of this machine may hold the rows in memory."""
        ...

    @property
    def fits_in_page_cache(self) -> bool:
        """Return whether the operating system can keep the files in memory."""
        ...

    @property
    def loaded(self) -> list[dict[str, torch.Tensor]]:
        """Return the rows of each view that is loaded, by tensor."""
        ...

    @property
    def memory(self) -> RecycledMemory:
        """Return the memory that batches are gathered in."""
        ...

    def load(self) -> LoadableRows:
        """Return the same rows, held in memory."""
        ...

    def load_rows(self, indices: Array, views: Array | None, empty: Empty, direct: bool) -> LoadableRows:
        """Return some rows, each in one view, held in memory."""
        ...

    def batch(self, indices: Array, views: Array | None, empty: Empty) -> Batch:
        """Return a batch of rows."""
        ...


class FeatureLoader:
    """An iterable of (frontier, targets) batches, each iteration of which is one epoch with its own order.

    Features that take a moderate share of the free memory are shuffled as a whole: gathered from the pages of their
    files, or decoded once and held, see ``Features.load``. On a GPU they are held in its own
    memory if they take a moderate share of that too, and batches are gathered there without the host.

    Larger features are read two windows ahead in threads, and shuffled by blocks: runs of rows of 512 KB come in a
    random order, and the rows of 384 such blocks are mixed among each other. In an epoch of twelve such windows or
    more, windows at the beginning and the end are smaller: 48, 96 and 192 blocks.

    ``Features.loader`` makes it.

    Parameters
    ----------
    features : Features
        The rows.
    batch_size : int
        The rows per batch.
    shuffle : bool or str, default True
        Whether rows are shuffled. ``"full"`` and ``"blocks"`` choose one way whatever the memory.
    seed : int, default 0
        The seed of the order and of the views.
    device : str, torch.device or None, default "cpu"
        The device of the batches. None is the best one there is.
    rank : int, default 0
        The number of this process among ``world_size``.
    world_size : int, optional
        The number of processes that share the rows. By default this process gets all of them, which is refused where
        torch.distributed runs several: say 1 if it is meant.
    augmented : bool, optional
        Whether each row of an epoch is one of its random views. By default the same as ``shuffle``.

    Attributes
    ----------
    blockwise : bool
        Whether rows are shuffled by blocks.
    epoch : int
        The number of the next epoch, from 0.

    Raises
    ------
    UsageError
        If an option is not valid.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> features = featcache.extract(network, samples, "features", cut="1")
    >>> batches = features.loader(batch_size=16, seed=1)
    >>> len(batches)
    2
    >>> sorted(batches.order(epoch=0)) == list(range(30))
    True
    """

    def __init__(
        self,
        features: LoadableRows,
        batch_size: int,
        shuffle: bool | str = True,
        seed: int = 0,
        device: str | torch.device | None = "cpu",
        rank: int = 0,
        world_size: int | None = None,
        augmented: bool | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
        self._shared = world_size is not None
        world_size = 1 if world_size is None else world_size
        if not 0 <= rank < world_size:
            raise UsageError(f"rank must be from 0 to world_size - 1, not {rank} of {world_size}.")
        if shuffle not in (True, False, "full", "blocks"):
            raise UsageError(f"shuffle must be True, False, 'full' or 'blocks', not {shuffle!r}.")
        self.features = features
        self.batch_size = batch_size
        self.shuffle = bool(shuffle)
        self.seed = seed
        self.device = pick_device(None if device is None else str(device))
        self.rank = rank
        self.world_size = world_size
        self.blockwise = shuffle == "blocks" or (shuffle is True and not self._fits())
        self.augmented = bool(features.views) and (self.shuffle if augmented is None else augmented)
        self.epoch = 0
        self._loaded: LoadableRows | None = None
        self._on_device: DeviceRows | None = None
        # Pinned memory has a cache of its own, which knows when a copy to the device has ended.
        self._empty: Empty = pinned if self.device.type == "cuda" else features.memory
        row_bytes = sum(spec.size_bytes for spec in features.frontier)
        self._block_rows = max(1, BLOCK_BYTES // max(1, row_bytes))
        largest = max((spec.size_bytes for spec in features.frontier), default=0) * self._block_rows * WINDOW_BLOCKS
        self._window_memory = RecycledMemory((AHEAD + 2) * len(features.frontier), largest)

    def __repr__(self) -> str:
        way = "in order" if not self.shuffle else "shuffled by blocks" if self.blockwise else "shuffled"
        return f"FeatureLoader({self._share()} rows in batches of {self.batch_size}, {way}, on {self.device})"

    def __len__(self) -> int:
        return -(-self._share() // self.batch_size)

    def _share(self) -> int:
        """Return how many rows this process gets in an epoch."""
        return -(-len(self.features) // self.world_size)

    def order(self, epoch: int) -> Array:
        """Return the row numbers of an epoch in the order in which they are given out.

        Parameters
        ----------
        epoch : int
            The number of the epoch, from 0.

        Returns
        -------
        numpy.ndarray, shape (rows,), int64
            The row numbers. With several processes, those of this one.
        """
        count = len(self.features)
        if self.blockwise and count:
            return self._by_blocks(epoch).order()
        order = np.random.default_rng([self.seed, epoch]).permutation(count) if self.shuffle else np.arange(count)
        if self.world_size == 1 or not count:
            return order
        return np.resize(order, self._share() * self.world_size)[self.rank :: self.world_size]

    def _by_blocks(self, epoch: int) -> Windows:
        """Return the windows of an epoch that is shuffled by blocks."""
        rows = in_blocks(len(self.features), self._block_rows, np.random.default_rng([self.seed, epoch]))
        share = self._share()
        if self.world_size > 1:
            # A run of blocks for each process, so that none reads what another one is given.
            rows = np.resize(rows, share * self.world_size)[self.rank * share : (self.rank + 1) * share]
        return Windows(rows, self._sizes(share), [self.seed, epoch, 2, self.rank])

    def _sizes(self, rows: int) -> list[int]:
        return window_sizes(rows, self._block_rows, WINDOW_BLOCKS)

    def views(self, epoch: int) -> Array | None:
        """Return the view of each row in an epoch.

        Parameters
        ----------
        epoch : int
            The number of the epoch, from 0.

        Returns
        -------
        numpy.ndarray, shape (rows,), or None
            The view of each row of the features. None if all are plain.
        """
        if not self.augmented:
            return None
        return np.random.default_rng([self.seed, epoch, 1]).integers(1, self.features.views + 1, len(self.features))

    def __iter__(self) -> Iterator[Batch]:
        if not self._shared:
            _refuse_several_processes()
        epoch, self.epoch = self.epoch, self.epoch + 1
        views = self.views(epoch)
        self._load()
        if self._on_device is not None:
            yield from self._on_device.batches(self.order(epoch), views, self.batch_size)
        else:
            yield from transferred(self._batches(epoch, views), self.device)

    def _fits(self) -> bool:
        here = min(self.world_size, int(os.environ.get("LOCAL_WORLD_SIZE", self.world_size)))  # which torchrun sets
        return self.features.fits_in_memory_of(here)

    def _load(self) -> None:
        """Read what fits into memory, once."""
        if self.blockwise or self._loaded is not None or self._on_device is not None or not self._fits():
            return
        loaded = self.features.load()
        if self.device.type != "cpu" and not loaded.ragged:
            views = loaded.loaded
            size_bytes = sum(values.nbytes for view in views for values in view.values())
            if size_bytes <= DEVICE_SHARE * free_memory_bytes(self.device):
                self._on_device = DeviceRows(views, torch.from_numpy(loaded.targets), self.device)
                return
        self._loaded = loaded

    def _batches(self, epoch: int, views: Array | None) -> Iterator[Batch]:
        scattered = self.shuffle and not self.blockwise
        if self._loaded is not None or scattered or self.features.ragged:
            batches = self._gathered(self.features if self._loaded is None else self._loaded, self.order(epoch), views)
        elif self.blockwise:
            batches = self._streamed(self._by_blocks(epoch), views)
        else:
            order = self.order(epoch)
            batches = self._streamed(Windows(order, self._sizes(len(order)), None), views)
        if self.device.type != "cuda":
            yield from batches
            return
        for frontier, targets in batches:
            yield _pinned(frontier), targets.pin_memory()

    def _gathered(self, features: LoadableRows, order: Array, views: Array | None) -> Iterator[Batch]:
        """Yield batches; several small ones are gathered at once, which costs little more than one."""
        row_bytes = sum(spec.size_bytes for spec in features.frontier)
        together = 1 if features.ragged else max(1, GATHER_BYTES // max(1, self.batch_size * row_bytes))
        size = self.batch_size
        for start in range(0, len(order), size * together):
            batch = _batch(features, order[start : start + size * together], views, self._empty)
            if together == 1:
                yield batch
            else:
                yield from zip(_parts(batch[0], size), batch[1].split(size), strict=True)  # type: ignore[no-untyped-call]

    def _streamed(self, windows: Windows, views: Array | None) -> Iterator[Batch]:
        """Yield batches from windows that a thread reads, in the order of the files, while the last one is used."""
        begun: list[Batch] = []  # a batch that ends in the next window
        for window, places in self._read(windows, views):
            wanted = self.batch_size - sum(len(targets) for _, targets in begun) if begun else 0
            if wanted:
                begun.append(_batch(window, places[:wanted], None, self._empty))
                if len(places) < wanted:
                    continue
                yield _joined(begun)
                begun = []
            whole = wanted + (len(places) - wanted) // self.batch_size * self.batch_size
            yield from self._gathered(window, places[wanted:whole], None)
            if whole < len(places):
                begun = [_batch(window, places[whole:], None, self._empty)]
            del window  # its memory is that of the next but one
        if begun:
            yield _joined(begun)

    def _read(self, windows: Windows, views: Array | None) -> Iterator[tuple[LoadableRows, Array]]:
        """Yield the rows of each window in memory, and the places there of its part of the order."""
        direct = not self.features.fits_in_page_cache

        def read(number: int) -> tuple[LoadableRows, Array]:
            rows, places = windows.window(number)
            return self.features.load_rows(rows, views, self._window_memory, direct), places

        with ThreadPoolExecutor(AHEAD) as readers:
            waiting = deque(readers.submit(read, number) for number in range(min(AHEAD, len(windows))))
            for number in range(AHEAD, len(windows) + AHEAD):
                window = waiting.popleft().result()
                if number < len(windows):
                    waiting.append(readers.submit(read, number))
                yield window
                del window


def _refuse_several_processes() -> None:
    """Raise ``UsageError`` where this process is one of several, each of which would train on all rows."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    count = torch.distributed.get_world_size()
    if count > 1:
        raise UsageError(
            f"{count} processes work together (torch.distributed), and this loader would give all rows to each. Give each its "
            f"share, on its own device: features.loader(…, rank={torch.distributed.get_rank()}, world_size={count}, device=…). "
            "accelerate.prepare leaves such a loader as it is; it shares and moves torch.utils.data.DataLoader(features, …). "
            "world_size=1 has all rows given to this process."
        )


def _batch(features: LoadableRows, rows: Array, views: Array | None, empty: Empty) -> Batch:
    return features.batch(rows, None if views is None else views[rows], empty)


def _parts(frontier: Any, size: int) -> Iterable[Any]:
    if isinstance(frontier, dict):
        split = zip(*(values.split(size) for values in frontier.values()), strict=True)
        return (dict(zip(frontier, values, strict=True)) for values in split)
    parts: Iterable[Any] = frontier.split(size)
    return parts


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    frontiers, targets = zip(*batches, strict=True)
    if isinstance(frontiers[0], dict):
        return {name: torch.cat([each[name] for each in frontiers]) for name in frontiers[0]}, torch.cat(targets)
    return torch.cat(frontiers), torch.cat(targets)


def _pinned(frontier: Any) -> Any:
    if isinstance(frontier, dict):
        return {name: values.pin_memory() for name, values in frontier.items()}
    return frontier.pin_memory()
