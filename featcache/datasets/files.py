"""Images by path, for prediction: no classes, no targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError
from .folder import EXTENSIONS, open_image

__all__ = ["ImageFiles"]


class ImageFiles:
    """The named images, and all images below the named folders, in RGB; targets are 0."""

    def __init__(self, paths: list[str]) -> None:
        self.paths: list[Path] = []
        for given in paths:
            path = Path(given).expanduser()
            if path.is_dir():
                self.paths += sorted(each for each in path.rglob("*") if each.suffix.lower() in EXTENSIONS)
            elif path.is_file():
                self.paths.append(path)
            else:
                raise DataNotFoundError(f"there is no image or folder {given}.")
        if not self.paths:
            raise DataError(f"no images below {', '.join(paths)}: looked for {', '.join(EXTENSIONS)}.")
        self.names = [str(path) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return open_image(self.paths[index]), 0
