"""Images, sounds and texts by path, for prediction: no classes, no targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError
from .media import IMAGES, SOUNDS, EncodedSamples, kind_of, open_media
from .pixels import Pixels

__all__ = ["ImageFiles"]


class ImageFiles(EncodedSamples):
    """The named images, sounds or texts (.txt), and all images and sounds below the named folders; targets are 0."""

    kind = "image"  # which is what pixels are for; other kinds have one way of decoding

    def __init__(self, paths: list[str], pixels: Pixels | None = None) -> None:
        self.pixels = pixels or Pixels()
        self.paths: list[Path] = []
        for given in paths:
            path = Path(given).expanduser()
            if path.is_dir():
                self.paths += sorted(each for each in path.rglob("*") if kind_of(each.name) in ("image", "sound"))
            elif path.is_file():
                self.paths.append(path)
            else:
                raise DataNotFoundError(f"there is no file or folder {given}.")
        if not self.paths:
            raise DataError(
                f"no images or sounds below {', '.join(paths)}: looked for {', '.join(IMAGES)}, {', '.join(SOUNDS)}."
            )
        self.names = [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        path = self.paths[index]
        return open_media(kind_of(path.name) or "image", path, self.pixels), 0
