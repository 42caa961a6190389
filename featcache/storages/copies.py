"""Local copies of objects: a folder with a size limit, shared by all processes of a machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from ..errors import ConfigError
from .local import TEMPORARY_PREFIX, temporary_beside

__all__ = ["FOLDER_VARIABLE", "LIMIT_VARIABLE", "Copies", "default_folder"]

FOLDER_VARIABLE = "FEATCACHE_COPIES"
LIMIT_VARIABLE = "FEATCACHE_COPIES_GB"
DEFAULT_LIMIT_GB = 50.0


def default_folder() -> Path:
    """Return the folder of local copies: what the environment says, or the user's folder for caches."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base.expanduser() / "featcache" / "copies"


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_GB))
    try:
        limit = float(text)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise ConfigError(f"{LIMIT_VARIABLE} is {text!r}: give the gigabytes of local copies to keep, such as 50.")
    return int(limit * 1e9)


class Copies:
    """Copies by URL and version, each a file under the object's own name; those unused for longest go first.

    The limit holds for what is kept between runs: a copy that some process has mapped stays readable when its name goes.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = folder or default_folder()
        self.limit_bytes = _limit_bytes() if limit_bytes is None else limit_bytes

    def place(self, url: str, version: str) -> Path:
        """Return where the copy of a version of an object lies, or would lie."""
        # The object's name is kept, because a shard is checked against it.
        digest = hashlib.sha256(f"{url}\0{version}".encode()).hexdigest()[:32]
        return self.folder / digest[:2] / digest / url.rpartition("/")[2]

    def find(self, place: Path, size_bytes: int) -> bool:
        """Return whether a whole copy is there, and note that it was used."""
        with contextlib.suppress(OSError):
            if place.stat().st_size == size_bytes:
                os.utime(place)
                return True
        return False

    @contextlib.contextmanager
    def alone(self, place: Path) -> Iterator[None]:
        """Keep other processes and threads from making the same copy while the block runs."""
        group = place.parent.parent  # one lock for many copies, so that no folder is left behind for its lock alone
        group.mkdir(parents=True, exist_ok=True)
        lock = FileLock(group / ".lock", is_singleton=False, thread_local=False)
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError, NotImplementedError):  # where files cannot be locked, each makes its own
                held.enter_context(lock)
            yield

    @contextlib.contextmanager
    def create(self, place: Path) -> Iterator[Path]:
        """Give a temporary file that becomes the copy when the block ends well, and then keep to the limit."""
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(place)
        try:
            yield temporary
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)
        self._evict(place)

    def _evict(self, newest: Path) -> None:
        found = []
        for path in self.folder.glob("*/*/*"):
            if not path.name.startswith(TEMPORARY_PREFIX):
                with contextlib.suppress(OSError):
                    state = path.stat()
                    found.append((state.st_mtime, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit_bytes:
                return
            if path != newest:  # it is about to be opened
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()
                total -= size
