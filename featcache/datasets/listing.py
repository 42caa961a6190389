"""What lies below a folder: images and sounds by one rule for all commands, and a count of everything that is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import DataError, printable
from .media import kind_of, needs_heif

__all__ = ["KINDS", "Listing"]

KINDS = ("image", "sound")
# What file managers, disk stations and archives put beside one's own files.
HIDDEN = ("@eadir", "__macosx", "thumbs.db", "desktop.ini")
MOST_NAMED = 5
SPECIAL, UP = "pipe, socket or device", "link to a folder above it"

Above = tuple[tuple[int, int], ...]


class Listing:
    """Lists folders, and remembers what it leaves out of them.

    Links are followed, unless they lead to a folder above. Hidden files and folders are left out, and so are files whose
    extension is neither that of an image nor that of a sound. No file is opened. All methods raise ``DataError`` for a
    folder that cannot be listed.
    """

    def __init__(self) -> None:
        # By folder, so that a folder that is listed twice counts once.
        self._left: dict[str, Counter[str]] = {}
        self._nowhere: dict[str, None] = {}

    def folders(self, root: Path) -> list[str]:
        """Return the names of the folders in a folder, sorted; files beside them are counted as left out."""
        left = self._left[str(root)] = Counter()
        found = []
        for entry in _entries(root):
            kind = self._kind(entry, str(root), left)
            if kind == "folder":
                found.append(entry.name)
            elif kind in KINDS:
                left[_extension(entry.name)] += 1
        return sorted(found)

    def files(self, folder: Path, prefix: str = "", above: Above = ()) -> Iterator[str]:
        """Yield the images and sounds below a folder, their paths after ``prefix``.

        ``above`` identifies further folders above it, to which links are not followed.
        """
        left = self._left[str(folder)] = Counter()
        place = _place(folder)
        if place in above:
            left[UP] += 1
            return
        for entry in _entries(folder):
            kind = self._kind(entry, str(folder), left)
            if kind in KINDS:
                yield prefix + entry.name
            elif kind == "folder":
                yield from self.files(folder / entry.name, f"{prefix}{entry.name}/", (*above, place))

    def one_kind(self, names: Sequence[str], root: Path) -> tuple[str, list[int]]:
        """Return the kind of the samples and which names are of it: images if there are any; a few stray sounds are left out.

        More sounds than images are not strays: refused, since pictures beside the sounds would be taken for the samples.
        """
        kinds = [kind_of(name) for name in names]
        images, sounds = kinds.count("image"), kinds.count("sound")
        if sounds > images > 0:
            raise DataError(
                f"{root} holds both {images} images and {sounds} sounds: move one kind elsewhere, or list the files in "
                "a CSV file."
            )
        kind = "image" if images else "sound"
        others = (name for name, each in zip(names, kinds, strict=True) if each != kind)
        self._left.setdefault("", Counter()).update(map(_extension, others))
        return kind, [position for position, each in enumerate(kinds) if each == kind]

    @property
    def notes(self) -> list[str]:
        """Return what was left out, in sentences."""
        total: Counter[str] = sum(self._left.values(), Counter())
        folders, links = total.pop("hidden folder", 0), total.pop(UP, 0)
        notes = []
        if total:
            notes.append(f"{_many(total.total(), 'file')} left out: {_named(total)}")
        if folders:
            notes.append(f"{_many(folders, 'hidden folder')} left out")
        if links:
            notes.append(f"{_many(links, 'link')} to a folder above not followed")
        if self._nowhere:
            notes.append(
                f"{_many(len(self._nowhere), 'link')} to no file, the first: {printable(next(iter(self._nowhere)))}"
            )
        return notes

    def _kind(self, entry: os.DirEntry[str], folder: str, left: Counter[str]) -> str | None:
        """Return whether an entry is a folder, an image or a sound; count it and return None if it is to be left out."""
        kind = kind_of(entry.name)
        if kind in KINDS and not entry.name.startswith(".") and _is(entry.is_file):
            return kind  # nearly all entries, which nothing else need be asked of
        is_folder, is_file = _is(entry.is_dir), _is(entry.is_file)
        if entry.name.startswith(".") or entry.name.lower() in HIDDEN:
            left["hidden folder" if is_folder else "hidden"] += 1
            return None
        if is_folder:
            return "folder"
        nowhere = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
        if not is_file and not nowhere:
            left[SPECIAL] += 1
            return None
        if kind not in KINDS:
            left[_extension(entry.name)] += 1
            return None
        if nowhere:  # a sample that cannot be read: whoever opens it says so
            self._nowhere[os.path.join(folder, entry.name)] = None  # noqa: PTH118
        return kind


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unlisted(folder, error) from error


def _place(folder: Path) -> tuple[int, int]:
    """Return what identifies a folder, by whatever links it was reached."""
    try:
        state = folder.stat()
    except OSError as error:
        raise _unlisted(folder, error) from error
    return state.st_dev, state.st_ino


def _unlisted(folder: Path, error: OSError) -> DataError:
    return DataError(f"{printable(str(folder))} cannot be listed: {error.strerror}. Check its permissions.")


def _is(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except OSError:  # a link that leads to itself, or where nobody may look
        return False


def _extension(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else "without extension"


def _named(counts: Counter[str]) -> str:
    """Return counts in words, the largest first, only so many of them."""
    ranked = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    shown = MOST_NAMED if len(ranked) > MOST_NAMED + 1 else len(ranked)
    said = [f"{count:,} {printable(what)}{needs_heif(what)}" for what, count in ranked[:shown]]
    rest = ranked[shown:]
    return ", ".join(said) + (f" and {sum(count for _, count in rest):,} of {len(rest)} other kinds" if rest else "")


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
