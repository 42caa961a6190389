"""Images, sounds and texts by path, for prediction: no classes, no targets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError
from ..identity import is_special
from .listing import Listing
from .media import LOOKED_FOR, EncodedSamples, kind_of, open_media
from .pixels import Pixels

__all__ = ["ImageFiles"]


class ImageFiles(EncodedSamples):
    """The named images, sounds or texts (.txt), and all images and sounds below the named folders; targets are 0.

    A file that is named is taken whatever its extension is. A few stray sounds among the images of a folder are left out.
    One that is named twice is taken once. ``notes`` says which files of the folders are left out.
    """

    kind = "image"  # which is what pixels are for; other kinds have one way of decoding

    def __init__(self, paths: list[str], pixels: Pixels | None = None) -> None:
        self.pixels = pixels or Pixels()
        self.paths: list[Path] = []
        listing = Listing()
        for given in paths:
            path = Path(given).expanduser()
            if path.is_dir():
                names = sorted(listing.files(path))
                _, kept = listing.one_kind(names, path)
                self.paths += [path / names[position] for position in kept]
            elif path.is_file():
                self.paths.append(path)
            elif is_special(path):
                raise DataError(f"{given} is a pipe, a socket or a device: name a file or a folder.")
            else:
                raise DataNotFoundError(f"there is no file or folder {given}.")
        given_files = len(self.paths)
        self.paths = list({os.path.abspath(path): path for path in self.paths}.values())  # noqa: PTH100
        self.notes = listing.notes
        if len(self.paths) < given_files:
            self.notes.append(f"{given_files - len(self.paths):,} of the files are named twice, and taken once")
        if not self.paths:
            left = "".join(f" ({note})" for note in self.notes)
            raise DataError(f"no images or sounds below {', '.join(paths)}: {LOOKED_FOR}{left}.")
        self.names = [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path = self.paths[index]
        return open_media(kind_of(path.name) or "image", path, self.pixels), 0
