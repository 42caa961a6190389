"""``folder:PATH``: images or sounds in one folder a class, as torchvision's ImageFolder has them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, DataNotFoundError
from ..samples import FileMemo, split_name, split_role
from .listing import KINDS, Listing
from .media import LOOKED_FOR, EncodedSamples, kind_of, read_media
from .targets import look_alikes

__all__ = ["FolderDataset"]


class FolderDataset(EncodedSamples):
    """Images or sounds below ``PATH/<class>/``, or below ``PATH/train/<class>/``, ``PATH/val/…`` and ``PATH/test/…``.

    Items are (PIL image in RGB, class number), or ((float32 waveform, sample rate), class number). Listing opens no file.
    ``notes`` says which files are left out. Raises ``DataNotFoundError`` for a missing folder and ``DataError``
    for one without classes or files.
    """

    def __init__(self, path: str, name: str) -> None:
        self.spec = f"folder:{path}"
        self.name = name
        self.root = Path(path).expanduser()
        if not self.root.exists():
            raise DataNotFoundError(f"there is no folder {path}. Check --data, or where you are.")
        if not self.root.is_dir():
            raise DataError(f"{path} is a file, not a folder of class folders. Check --data.")
        self.notes: list[str] = []
        listed = [(split, prefix, self._class_folders(prefix)) for split, prefix in self._parts()]
        self.classes = sorted({label for _, _, labels in listed for label in labels})
        self.notes += look_alikes(self.classes)
        numbers = {label: number for number, label in enumerate(self.classes)}
        self.names: list[str] = []
        self.splits: list[str] = []
        targets: list[int] = []
        self._listing = Listing()
        for folder in {self.root, *(self.root / prefix for _, prefix, _ in listed)}:
            self._listing.folders(folder)  # for what lies beside the class folders
        for split, prefix, labels in listed:
            above = _chain(self.root, prefix)
            for label in labels:
                found = sorted(self._listing.files(self.root / prefix / label, f"{prefix}{label}/", above))
                self.names += found
                self.splits += [split] * len(found)
                targets += [numbers[label]] * len(found)
        if not self.names:
            left = "".join(f" ({note})" for note in self._listing.notes)
            raise DataError(
                f"{path} holds no images or sounds in its {len(self.classes)} class folders: {LOOKED_FOR}{left}."
            )
        self.kind = self._keep_one_kind(targets)
        self.notes += self._listing.notes
        hollow = [label for label in self.classes if numbers[label] not in set(self.targets.tolist())]
        if hollow:
            raise DataError(
                f"{path} holds no {self.kind}s of the class {hollow[0]!r}: {LOOKED_FOR}. Remove that folder, or put "
                f"{self.kind}s in it."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.read(index)[1](), int(self.targets[index])

    def read(self, index: int) -> tuple[bytes, Callable[[], Any]]:
        """Return the id of a file's content, and a function that decodes what was read."""
        return read_media(self.kind, self.root / self.names[index], self.pixels)

    def sample_ids(self, memo: FileMemo | None = None) -> np.ndarray[Any, Any]:
        """Return the ids of the files' contents (samples, 16)."""
        return (memo or FileMemo()).ids(self.root, self.names)

    def _keep_one_kind(self, targets: list[int]) -> str:
        """Set the targets and return the kind of the samples; those of another kind are left out."""
        kind, kept = self._listing.one_kind(self.names, self.root)
        self.names = [self.names[position] for position in kept]
        self.splits = [self.splits[position] for position in kept]
        self.targets = np.array([targets[position] for position in kept], dtype=np.int64)
        return kind

    def _parts(self) -> list[tuple[str, str]]:
        """Return (split, prefix of its names) of the splits; where there are none, one that is the whole folder.

        A folder is a split if it is called like one and holds class folders: a class may be called `train`, too. So is one beside
        it that holds the same classes.
        """
        folders = _folders(self.root)
        called = [folder for folder in folders if split_role(folder) is not None]
        inside = {folder: set(_folders(self.root / folder)) for folder in called}
        splits = [folder for folder in called if inside[folder]] or (called if len(called) == len(folders) else [])
        if not splits:
            self._say_what_it_looks_like(folders)
            return [("", "")]
        known = set().union(*(inside[folder] for folder in splits))
        others = {each: set(_folders(self.root / each)) for each in folders if each not in splits}
        empty = [each for each in others if next(_files(self.root / each, ""), None) is None]
        if empty:
            self.notes.append(f"{', '.join(empty[:3])} beside the splits hold no images or sounds")
        others = {each: below for each, below in others.items() if each not in empty}
        loose = [each for each in others if each in called]
        alike = [each for each, below in others.items() if below & known]
        strange = [each for each in others if each not in loose and each not in alike]
        if strange:
            raise DataError(
                f"{self.root} holds both splits ({', '.join(splits)}) and folders of images that are none "
                f"({', '.join(strange[:3])}): move one kind elsewhere."
            )
        for each in loose:
            count = sum(1 for _ in _files(self.root / each, ""))
            self.notes.append(
                f"{count:,} files in {each}/ have no class and are left out; `featcache predict` says what they are"
            )
        self.notes += [
            f"{each} holds the same classes as {', '.join(splits)}: it is a split of that name, not a class"
            for each in alike
        ]
        return [(split_name(folder), f"{folder}/") for folder in sorted([*splits, *alike])]

    def _say_what_it_looks_like(self, folders: list[str]) -> None:
        """Note where folders that are taken for classes look like splits, or like the data set itself."""
        if len(folders) == 1:
            self._look_for_the_data_set(*folders)
            return
        self.notes += [
            f"{each!r} is taken for a class, though it is called like a split" for each in folders if split_role(each)
        ]
        shared = self._shared(folders)
        named = ", ".join(folders[:3])
        if any(map(split_role, shared)):
            self.notes.append(
                f"{named} are taken for classes, and what lies in their {' and '.join(shared[:3])} is not kept apart: put the "
                f"splits outside ({shared[0]}/{folders[0]}), or list the files in a CSV file with a column 'split'"
            )
        elif shared:
            self.notes.append(
                f"{named} are taken for classes, but all hold {shared[0]!r}: call them train, val or test if they are splits"
            )

    def _shared(self, folders: list[str]) -> list[str]:
        """Return the names of folders that lie in all of these; most classes hold none, so the first one mostly tells."""
        shared: set[str] | None = None
        for folder in folders:
            below = set(_folders(self.root / folder))
            shared = below if shared is None else shared & below
            if not shared:
                break
        return sorted(shared or ())

    def _look_for_the_data_set(self, only: str) -> None:
        """Note, or refuse, where the only folder is no class but has the classes in it, however deep."""
        place = only
        while (below := _folders(self.root / place)) and not any(
            "/" not in each for each in _files(self.root / place, "")
        ):
            meant = f"{self.spec.rstrip('/')}/{place}"
            if any(split_role(each) is not None and _folders(self.root / place / each) for each in below):
                raise DataError(
                    f"{self.root} holds one folder, {only!r}, in which {', '.join(below[:3])} look like splits. Did you mean "
                    f"{meant}?"
                )
            if len(below) > 1:
                self.notes.append(f"{only!r} is the only class, and holds folders like classes: {meant} has them")
                return
            place = f"{place}/{below[0]}"

    def _class_folders(self, prefix: str) -> list[str]:
        where = self.root / prefix
        labels = _folders(where)
        if not labels:
            loose = [kind_of(entry.name) for entry in os.scandir(where) if kind_of(entry.name) in KINDS]
            found = f"{len(loose)} {loose[0]}s that lie loose" if loose else "nothing that could be a class"
            raise DataError(
                f"{where} has no class folders: found {found}. Put each class's files in a folder of its own."
            )
        return labels


def _folders(root: Path) -> list[str]:
    return Listing().folders(root)


def _chain(root: Path, prefix: str) -> tuple[tuple[int, int], ...]:
    """Return what identifies the folders above the class folders, so that a link back to them is told."""
    states = [folder.stat() for folder in {root, root / prefix}]
    return tuple((state.st_dev, state.st_ino) for state in states)


def _files(folder: Path, prefix: str) -> Iterator[str]:
    return Listing().files(folder, prefix)
