"""``torchvision:NAME``: the classification sets of torchvision.datasets; nothing is downloaded unless it is asked for."""

from __future__ import annotations

import inspect
import os
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import (
    DataError,
    DataNotFoundError,
    UnknownNameError,
    UnreadableSampleError,
    UsageError,
    near_names,
    one_line,
)
from ..identity import content_id
from ..samples import FileMemo, private_copy, split_name
from .media import EncodedSamples, kind_of, read_media
from .options import parse_options
from .targets import Targets, encode_targets, target_of

__all__ = ["TorchvisionSamples", "open_torchvision"]

OPTIONS = ("root", "split", "download", "as", "missing")
ROOT = "data"
BY_FLAG = {"train": True, "test": False}  # for the sets that only know train=True or False
USUAL_SPLITS = ("train", "val", "valid", "test")
SPLIT_ARGUMENTS = ("split", "image_set")
FILE_LISTS = ("_image_files", "_images", "samples", "_samples", "imgs")
TARGET_LISTS = ("targets", "labels", "_labels")

Array = np.ndarray[Any, Any]


class TorchvisionSamples(EncodedSamples):
    """The samples of one or several splits. Images that lie in files are opened as ``folder:`` opens them."""

    kind = "image"

    def __init__(self, spec: str, name: str, parts: list[tuple[str, Any]], root: Path, options: dict[str, str]) -> None:
        self.spec = spec
        self.name = name
        self.root = root
        self._parts = [dataset for _, dataset in parts]
        self._ends = np.cumsum([len(dataset) for dataset in self._parts])
        files = [_files(dataset) for dataset in self._parts]
        self._files: list[Path] | None = None
        if all(each is not None for each in files):
            self._files = [path for each in files if each is not None for path in each]
        if self._files is None:
            self.pixels = None
        self.names = [f"{split or 'item'}/{row:06d}" for split, dataset in parts for row in range(len(dataset))]
        targets = [target for dataset in self._parts for target in _targets(dataset, spec)]
        found = self._found(targets, options)
        self.targets, self.classes, self.notes = found.values, found.classes, found.notes
        self.splits = found.splits([split for split, dataset in parts for _ in range(len(dataset))])

    def _found(self, targets: Sequence[Any], options: dict[str, str]) -> Targets:
        names: Any = getattr(self._parts[0], "classes", None)
        named = isinstance(names, (list, tuple)) and {*targets} <= {-1, *range(len(names))}
        if not named or options.get("as") == "float":
            return encode_targets([list(map(str, targets))], ["target"], self._where, options)
        # A set that has parts without labels, such as STL10, numbers them -1.
        known = [None if target == -1 else str(int(target)) for target in targets]
        found = encode_targets([known], ["target"], self._where, options)
        said = f"target: {len(names):,} classes that the set names"
        numbers = np.array(targets, dtype=np.int64)
        return Targets(numbers, [str(each) for each in names], [said, *found.notes[1:]], found.missing)

    @property
    def decoding(self) -> dict[str, Any]:
        """How a sample's bytes become its item, as JSON-able values."""
        return {"decoder": "torchvision", "mode": "RGB"} if self._files is None else super().decoding

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.read(index)[1](), target_of(self.targets, index)

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a file's content or of the image itself, and a function that gives what was read."""
        if self._files is not None:
            return read_media("image", self._files[index], self.pixels)
        item = private_copy(self._item(index))
        return content_id(item), lambda: item

    def sample_ids(self, memo: FileMemo | None = None) -> Array:
        """Return the ids of the files' contents, or of the images themselves where there are no files (samples, 16)."""
        if self._files is not None:
            anchor = Path(self.root.anchor)
            return (memo or FileMemo()).ids(anchor, [str(path.relative_to(anchor)) for path in self._files])
        ids = b"".join(content_id(self._item(row)) for row in range(len(self)))
        return np.frombuffer(ids, dtype=np.uint8).reshape(-1, 16)

    def _item(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        place = index - (int(self._ends[part - 1]) if part else 0)
        try:
            value = self._parts[part][place][0]
        except Exception as error:  # each decoder raises what the damage leads to
            said = one_line(error) or type(error).__name__
            raise UnreadableSampleError(f"{self._where(index)} is damaged or unreadable ({said})") from error
        return value.convert("RGB") if hasattr(value, "convert") else value

    def _where(self, row: int) -> str:
        return f"{self.spec} {self.names[row]}"


def open_torchvision(argument: str, name: str) -> TorchvisionSamples:
    """Return the samples of a set: ``NAME[?root=FOLDER][&split=SPLIT[,SPLIT]][&download=true]``; the root is ``data`` by default.

    All of train, val and test that the set has are taken, unless splits are named.
    """
    place, options = parse_options(argument, "torchvision", OPTIONS)
    from torchvision import datasets

    known = [each for each in datasets.__all__ if each not in ("VisionDataset", "DatasetFolder")]
    if place not in known:
        raise UnknownNameError(
            f"torchvision has no data set {place!r}.{near_names(place, known)} It has: {', '.join(sorted(known))}."
        )
    kind, spec = getattr(datasets, place), f"torchvision:{argument}"
    parameters = inspect.signature(kind.__init__).parameters
    root = Path(options.get("root", ROOT)).expanduser().absolute()
    given: dict[str, Any] = {"root": str(root)} if "root" in parameters else {}
    if _asks_for_download(options):
        if "download" not in parameters:
            raise UsageError(
                f"torchvision cannot download {place}: fetch it by hand into {root}, and leave download out."
            )
        given["download"] = True
    parts = [
        (split_name(split), dataset)
        for split, extra in _splits(place, parameters, options.get("split"))
        if (dataset := _open(kind, {**given, **extra}, spec, probing=bool(extra) and "split" not in options))
        is not None
    ]
    if not parts:
        raise DataError(
            f"torchvision:{place} has no split called {', '.join(USUAL_SPLITS)}: name one with split=SPLIT."
        )
    return TorchvisionSamples(spec, name, parts, root, options)


def _asks_for_download(options: dict[str, str]) -> bool:
    value = options.get("download", "false").lower()
    if value not in ("true", "false", "1", "0", "yes", "no"):
        raise UsageError(f"download={value} is neither true nor false.")
    return value in ("true", "1", "yes")


def _splits(place: str, parameters: Any, asked: str | None) -> list[tuple[str, dict[str, Any]]]:
    """Return (split, arguments) of the splits that were asked for, or that the set may have."""
    argument = next((each for each in SPLIT_ARGUMENTS if each in parameters), None)
    if argument is not None:
        return [(each, {argument: each}) for each in (asked.split(",") if asked else USUAL_SPLITS)]
    if "train" in parameters:
        wanted = asked.split(",") if asked else list(BY_FLAG)
        wrong = next((each for each in wanted if each not in BY_FLAG), None)
        if wrong is not None:
            raise UnknownNameError(f"torchvision:{place} has no split {wrong!r}. It has: {', '.join(BY_FLAG)}.")
        return [(each, {"train": BY_FLAG[each]}) for each in wanted]
    if asked:
        raise UsageError(f"torchvision:{place} has no splits: leave split={asked} out.")
    return [("", {})]


def _open(kind: Any, given: dict[str, Any], spec: str, *, probing: bool) -> Any:
    """Return the opened set; None for a split that it does not know, where that was only a try."""
    try:
        return kind(**given)
    except ValueError as error:
        if probing:
            return None
        raise UsageError(f"{spec} cannot be opened: {one_line(error)}.") from error
    except (RuntimeError, OSError, urllib.error.URLError) as error:
        raise DataNotFoundError(
            f"{spec} is not in {given.get('root', '')} ({one_line(error)}). Put it there (root=FOLDER names another place), or "
            "add download=true where there is a network."
        ) from error
    except ImportError as error:
        raise UsageError(f"{spec} needs more packages: {error}.") from error


def _files(dataset: Any) -> list[Path] | None:
    """Return the image files of a set's items in their order; None for one that keeps images otherwise."""
    for attribute in FILE_LISTS:
        listed = getattr(dataset, attribute, None)
        if not isinstance(listed, list) or len(listed) != len(dataset) or not listed:
            continue
        paths = [each[0] if isinstance(each, (tuple, list)) else each for each in listed]
        if all(isinstance(path, (str, os.PathLike)) and kind_of(str(path)) == "image" for path in paths):
            found = [Path(path).absolute() for path in paths]
            if found[0].is_file():
                return found
    return None


def _targets(dataset: Any, spec: str) -> Sequence[Any]:
    """Return the targets as numbers; those that the set does not list are had by opening every item."""
    first = _number(dataset[0][1], spec)
    for attribute in TARGET_LISTS:
        listed = getattr(dataset, attribute, None)
        if listed is not None and len(listed) == len(dataset):
            values = np.asarray(listed)
            if values.ndim == 1 and values.dtype.kind in "iuf" and values[0] == first:
                return list(values.tolist())
    return [_number(dataset[row][1], spec) for row in range(len(dataset))]


def _number(target: Any, spec: str) -> int | float:
    value = np.asarray(target)
    if value.ndim or value.dtype.kind not in "biuf":
        raise DataError(
            f"the targets of {spec} are {type(target).__name__}, not one number a sample: it is not a set of classes."
        )
    number: int | float = value.item()
    return number
