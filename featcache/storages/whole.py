"""Files of a user's own that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import DataError, DataNotFoundError, FeatCacheError
from ..identity import is_special
from .local import sync, temporary_beside

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name whose file takes the place of ``path`` when all went well, and is deleted otherwise.

    A link stays one: what it leads to is replaced. A pipe or a device gets what was written. Raises ``DataNotFoundError``
    or ``DataError`` where it cannot be written.
    """
    passed_on = is_special(path)
    final = path if passed_on else Path(os.path.realpath(path))
    temporary = temporary_beside(Path(tempfile.gettempdir()) / "passed-on" if passed_on else final)
    try:
        if final.is_dir():
            raise DataError(f"cannot write {path}: it is a folder. Name a file.")
        if not final.parent.is_dir():
            raise DataNotFoundError(f"cannot write {path}: there is no such folder.")
        if final.exists() and not os.access(final, os.W_OK):
            raise DataError(f"cannot write {path}: it may not be written. Check its permissions, or name another file.")
        yield temporary
        if passed_on:
            with temporary.open("rb") as source, final.open("wb") as target:
                shutil.copyfileobj(source, target)
            return
        sync(temporary)
        if final.exists():
            shutil.copymode(final, temporary)
        temporary.replace(final)
        sync(final.parent)
    except OSError as error:
        if isinstance(error, FeatCacheError):
            raise
        raise DataError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
