"""Where the files of a store lie: a small protocol, its registry, and ``open_storage``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..errors import StoreError
from ..registry import Registry

__all__ = ["Entry", "Storage", "open_storage", "put_folder", "safe_path", "storages"]


@dataclass(frozen=True)
class Entry:
    """One file or folder directly below a folder of a storage."""

    name: str
    size_bytes: int
    modified_s: float
    is_folder: bool


class Storage(Protocol):
    """The few operations that a store needs. Paths are relative, with ``/``, and never leave the storage.

    A file appears whole or not at all, under its final name; whatever else lies in a folder (temporary
    files of a writer that was killed) is not listed. A storage where whole files are slow to get may also have
    ``read_start(path, size_bytes)``, which returns the first bytes of one: listing and status then read no more.
    """

    url: str

    def exists(self, path: str) -> bool:
        """Return whether a file or folder lies at ``path``."""

    def read_bytes(self, path: str) -> bytes:
        """Return the content of a file; raises :class:`FileNotFoundError` where there is none."""

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put ``content`` at ``path`` in one step, replacing what was there."""

    def create(self, path: str) -> AbstractContextManager[Path]:
        """Return a context that gives a local temporary file, and commits it as ``path`` when it ends well."""

    def commit(self, temporary: Path, path: str) -> None:
        """Make the file that :meth:`create` gave appear whole as ``path``, whose name may depend on its content."""

    def fetch(self, path: str) -> Path:
        """Return a local file of the same name with the content of ``path``, or a local folder with the files of one.

        Where ``path`` is local it is returned itself. Raises :class:`FileNotFoundError` where there is nothing.
        """

    def list(self, path: str) -> list[Entry]:
        """Return what lies directly in a folder, sorted by name; nothing where there is no such folder."""

    def free_bytes(self) -> int | None:
        """Return how many bytes can still be written, None where that is unknown."""

    def create_new(self, path: str, content: bytes) -> bool:
        """Put ``content`` at ``path`` unless something lies there, and return whether it was put.

        Of several processes that try at once, one succeeds. What is put so may be lost in a power failure.
        """

    def touch(self, path: str) -> None:
        """Set the time of a file to now; an empty one is made where there is none."""

    def remove(self, path: str, unless: Callable[[], bool] | None = None) -> bool:
        """Remove a file or folder, and return whether it is gone by this call.

        It goes out of sight in one step; if ``unless`` returns true after that, it is put back.
        """

    def sweep(self, path: str, dry_run: bool = False) -> int:
        """Remove temporary files that dead writers left in a folder, and return how many there were."""

    def reread(self) -> None:
        """Have every file read from where it lies again, even where a local copy is at hand."""


storages: Registry[type[Storage]] = Registry(
    "featcache.storages",
    "storage",
    {
        "file": "featcache.storages.local:LocalStorage",
        **dict.fromkeys(("s3", "gs", "az", "memory"), "featcache.storages.remote:RemoteStorage"),
    },
)


def open_storage(url: str) -> Storage:
    """Return the storage at a path or URL; the part before ``://`` names its kind, a plain path is local."""
    scheme, separator, _ = url.partition("://")
    return storages.get(scheme if separator else "file")(url)  # type: ignore[call-arg]


def put_folder(storage: Storage, folder: Path, path: str, last: str) -> None:
    """Put the files of a local folder at ``path``; the one called ``last``, by which the folder is known, comes last."""
    for file in sorted(folder.iterdir(), key=lambda file: (file.name == last, file.name)):
        storage.write_bytes(f"{path}/{file.name}", file.read_bytes())


def safe_path(path: str) -> str:
    """Return ``path`` if it is relative and stays inside the storage; raises :class:`StoreError` otherwise."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{path!r} is not a name inside the store: use plain names joined by '/'.")
    return path
