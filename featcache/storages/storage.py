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
    """One file or folder directly below a folder of a storage.

    Attributes
    ----------
    name : str
        The name, without the folder.
    size_bytes : int
        The bytes of the file.
    modified_s : float
        When it was written or touched last, in seconds since 1970.
    is_folder : bool
        Whether it is a folder.
    """

    name: str
    size_bytes: int
    modified_s: float
    is_folder: bool


class Storage(Protocol):
    """The few operations that a store needs on the files that lie at its URL.

    Paths are relative, with ``/``, and never leave the storage. A file appears whole or not at all, under its final
    name. Whatever else lies in a folder (temporary files of a writer that was killed) is not listed.

    Register a class in ``featcache.storages.storages``, and a URL ``name://…`` finds it. It is called with the URL.

    Attributes
    ----------
    url : str
        The place of the storage.

    Notes
    -----
    A storage where whole files are slow to get may also have ``read_start(path, size_bytes)``, which returns the first
    bytes of a file. Listing and status then read no more.
    """

    url: str

    def exists(self, path: str) -> bool:
        """Return whether a file or folder lies at a path.

        Parameters
        ----------
        path : str
            The path.

        Returns
        -------
        bool
            True if something lies there.
        """

    def read_bytes(self, path: str) -> bytes:
        """Return the content of a file.

        Parameters
        ----------
        path : str
            The path of the file.

        Returns
        -------
        bytes
            The content.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        """

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put content at a path in one step, replacing what was there.

        Parameters
        ----------
        path : str
            The path of the file.
        content : bytes
            The content.
        """

    def create(self, path: str) -> AbstractContextManager[Path]:
        """Return a context that gives a local temporary file, and commits it when it ends well.

        Parameters
        ----------
        path : str
            The path that the file is committed as.

        Returns
        -------
        context manager of pathlib.Path
            The context, which gives the temporary file.
        """

    def commit(self, temporary: Path, path: str) -> None:
        """Make the file that ``create`` gave appear whole at a path, whose name may depend on its content.

        Parameters
        ----------
        temporary : pathlib.Path
            The temporary file.
        path : str
            The path of the file.
        """

    def fetch(self, path: str) -> Path:
        """Return a local file of the same name with the content of a file, or a local folder with the files of one.

        Parameters
        ----------
        path : str
            The path of the file or folder.

        Returns
        -------
        pathlib.Path
            The local file or folder. If ``path`` is local, it is returned itself.

        Raises
        ------
        FileNotFoundError
            If there is nothing.
        """

    def list(self, path: str) -> list[Entry]:
        """Return what lies directly in a folder, sorted by name.

        Parameters
        ----------
        path : str
            The path of the folder.

        Returns
        -------
        list of Entry
            The files and folders. Empty if there is no such folder.
        """

    def free_bytes(self) -> int | None:
        """Return how many bytes can still be written.

        Returns
        -------
        int or None
            The bytes. None if that is unknown.
        """

    def create_new(self, path: str, content: bytes) -> bool:
        """Put content at a path unless something lies there.

        Of several processes that try at once, one succeeds. A power failure may lose what was put.

        Parameters
        ----------
        path : str
            The path of the file.
        content : bytes
            The content.

        Returns
        -------
        bool
            Whether it was put.
        """

    def touch(self, path: str) -> None:
        """Set the time of a file to now; an empty file is made if there is none.

        Parameters
        ----------
        path : str
            The path of the file.
        """

    def remove(self, path: str, unless: Callable[[], bool] | None = None) -> bool:
        """Remove a file or folder.

        It goes out of sight in one step.

        Parameters
        ----------
        path : str
            The path of the file or folder.
        unless : callable, optional
            Called without arguments once it is out of sight. If the result is true, it is put back.

        Returns
        -------
        bool
            Whether this call removed it.
        """

    def sweep(self, path: str, dry_run: bool = False) -> int:
        """Remove temporary files that dead writers left in a folder.

        Parameters
        ----------
        path : str
            The path of the folder.
        dry_run : bool, default False
            Only count them.

        Returns
        -------
        int
            The number of temporary files.
        """

    def reread(self) -> None:
        """Have every file read from where it lies again, even if a local copy is at hand."""


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
    """Return ``path`` if it is relative and stays inside the storage; raises ``StoreError`` otherwise."""
    parts = path.split("/")
    if path.startswith("/") or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise StoreError(f"{path!r} is not a name inside the store: use plain names joined by '/'.")
    return path
