"""Where samples come from: a small protocol, its registry, and ``open_dataset``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UnknownNameError, UsageError, near_names
from ..registry import Registry
from .options import QUERY
from .pixels import Pixels

if TYPE_CHECKING:
    from ..samples import FileMemo

__all__ = ["DatasetSource", "SourceDataset", "dataset_name", "dataset_sources", "open_dataset"]

PLACES = ("csv", "wds")  # what these specifications name is a file, wherever one is


class SourceDataset(Protocol):
    """A map-style dataset of (input, target) that knows its samples without opening them.

    Attributes
    ----------
    spec : str
        The specification that opens the dataset again.
    name : str
        The name of its snapshots.
    names : sequence of str
        The name of each sample.
    targets : numpy.ndarray, shape (samples, …)
        The target of each sample, a number or a vector.
    splits : sequence of str
        The split name of each sample, ``""`` if there is none.
    classes : sequence of str or None
        The names of the targets.
    decoding : dict of str to Any
        How a sample's bytes become its item, as JSON-able values.

    Notes
    -----
    A dataset may have an attribute ``notes`` besides, a list of str: what the user should know of it, such as what it
    left out, each a sentence without a full stop. Reports and commands repeat them.
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
        """Return one item.

        Parameters
        ----------
        index : int
            The number of the sample.

        Returns
        -------
        input : Any
            The sample as it is before any transform.
        target : Any
            Its target.

        Raises
        ------
        UnreadableSampleError
            If the sample cannot be read.
        """

    def sample_ids(self, memo: FileMemo | None = None) -> np.ndarray[Any, Any]:
        """Return the content ids of all samples.

        Only what the memo does not know is read.

        Parameters
        ----------
        memo : FileMemo, optional
            The ids of files that did not change.

        Returns
        -------
        numpy.ndarray, shape (samples, 16), uint8
            The ids.
        """

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Read one sample, and say what was read.

        An extraction reads a sample only here, once: a row belongs to the bytes that it was computed from, even where
        somebody writes to them meanwhile.

        Parameters
        ----------
        index : int
            The number of the sample.

        Returns
        -------
        sample_id : bytes
            The 16-byte id of what was read, made as ``sample_ids`` makes it.
        item : callable
            A function that makes the item of what was read, and reads nothing more. It raises ``UnreadableSampleError``
            for what is damaged.

        Raises
        ------
        UnreadableSampleError
            If there is nothing to read.
        """


class DatasetSource(Protocol):
    """Opens the datasets of one kind.

    Register a callable in ``featcache.datasets.dataset_sources``, and the specification ``KIND:ARGUMENT`` finds it.
    """

    def __call__(self, argument: str, name: str) -> Any:
        """Open a dataset.

        Parameters
        ----------
        argument : str
            The part of the specification after the colon.
        name : str
            The name of the dataset's snapshots.

        Returns
        -------
        SourceDataset or Any
            A ``SourceDataset``, or any map-style dataset of (input, target).
        """


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


def open_dataset(spec: str, *, decoding: str = "exact", exif: str = "ignore", background: str | None = None) -> Any:
    """Open the dataset that a specification names.

    Parameters
    ----------
    spec : str
        ``folder:PATH``, ``csv:FILE``, ``wds:PATTERN``, ``hf:NAME``, ``torchvision:NAME``, ``sklearn:digits``,
        ``path/to/file.py:factory`` or ``package.module:factory``.
    decoding : {"exact", "scaled"}, default "exact"
        Whether a JPEG that the transform makes smaller is decoded whole, or at the smallest of the scales 1/2, 1/4 and
        1/8 that is at least twice the size that the transform asks for. That is several times faster for photographs,
        and changes the pixels a little.
    exif : {"ignore", "apply"}, default "ignore"
        Whether an image is turned as its EXIF orientation says. By default it is not, as in torchvision.
    background : str, optional
        The colour behind transparent pixels, such as ``"white"`` or ``"#7f7f7f"``. By default transparency is dropped,
        as in torchvision.

    Returns
    -------
    SourceDataset or Any
        A ``SourceDataset``, or the map-style dataset of (input, target) that the factory returns.

    Raises
    ------
    UsageError
        If ``spec`` is not a data specification, a factory fails, or the data are not images that featcache decodes and
        an option of decoding is given.
    UnknownNameError
        If the source, or what it is asked for, is unknown.
    DataNotFoundError
        If the data is not where the specification says.
    DataError
        If the data cannot be used as it is.
    MissingDependencyError
        If the source needs a package that is not installed.

    Examples
    --------
    >>> import featcache
    >>> dataset = featcache.open_dataset("sklearn:digits")
    >>> len(dataset)
    1797
    >>> image, target = dataset[3]
    >>> image.size, target
    ((8, 8), 3)
    """
    pixels = Pixels(decoding, exif, background)
    dataset = _opened(spec)
    if pixels != Pixels():
        if getattr(dataset, "kind", None) != "image" or getattr(dataset, "pixels", None) is None:
            raise UsageError(
                f"decoding, exif and background say how featcache decodes images, and it decodes none of {spec!r}: "
                "leave them out."
            )
        dataset.pixels = pixels
    return dataset


def _opened(spec: str) -> Any:
    kind, separator, argument = spec.partition(":")
    if not separator or not argument:
        meant = f" Did you mean 'folder:{spec}'?" if spec and Path(spec).is_dir() else ""
        raise UsageError(
            f"{spec!r} is not a data specification.{meant} Use folder:PATH, csv:FILE, wds:PATTERN, hf:NAME, torchvision:NAME, "
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
    whole = f"{kind}:{argument}".encode("utf-8", "surrogateescape")  # a path may hold bytes that are not UTF-8
    return f"{stem}-{hashlib.sha256(whole).hexdigest()[:8]}"
