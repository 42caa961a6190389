"""A store in a folder of this machine (or of a network file system)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import CorruptError, NotAStoreError, StoreError, StorePermissionError
from .owner import is_dead, owner_name
from .storage import Entry, safe_path

__all__ = ["LocalStorage", "sync", "temporary_beside"]

TEMPORARY_PREFIX = ".tmp~"
SEALED = "seal.json"  # the last file that is written to a folder which appears as a whole
ABANDONED_AFTER_S = 24 * 3600.0


class LocalStorage:
    """Files below one folder, committed by temporary name, fsync, rename and fsync of the folder."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = Path(url.removeprefix("file://")).expanduser()
        if self.root.is_file():
            raise NotAStoreError(f"{url} is a file, not a folder: choose an empty or new folder with --store.")

    def exists(self, path: str) -> bool:
        """Return whether a file or folder lies at ``path``."""
        return self._at(path).exists()

    def read_bytes(self, path: str) -> bytes:
        """Return the content of a file; raises ``FileNotFoundError`` where there is none."""
        with _explained("read", self._at(path)):
            return self._at(path).read_bytes()

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put ``content`` at ``path`` in one step, replacing what was there."""
        with self.create(path) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[Path]:
        """Give a temporary file in the same folder; commit it as ``path`` when the block ends well."""
        final = self._at(path)
        temporary = temporary_beside(final)
        with _explained("write", final):
            final.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _explained("write", final):
                yield temporary
                if temporary.exists():  # not yet committed under a name that only its content gave
                    self.commit(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def commit(self, temporary: Path, path: str) -> None:
        """Make a file that ``create`` gave appear as ``path``."""
        final = self._at(path)
        with _explained("write", final):
            sync(temporary)
            temporary.replace(final)
            sync(final.parent)

    def fetch(self, path: str) -> Path:
        """Return the file itself."""
        return self._at(path)

    def list(self, path: str) -> list[Entry]:
        """Return what lies directly in a folder, sorted by name, temporary files and symbolic links left out."""
        folder = self._at(path) if path else self.root
        found = []
        with _explained("list", folder):
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(TEMPORARY_PREFIX) or entry.is_symlink():
                            continue
                        try:
                            state = entry.stat()
                        except FileNotFoundError:  # deleted by another process since it was listed
                            continue
                        found.append(Entry(entry.name, state.st_size, state.st_mtime, entry.is_dir()))
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(found, key=lambda entry: entry.name)

    def free_bytes(self) -> int | None:
        """Return the free bytes of the disk that the folder is, or will be, on."""
        folder = self.root.absolute()
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
        return None

    def create_new(self, path: str, content: bytes) -> bool:
        """Put ``content`` at ``path`` unless something lies there; return whether it was put."""
        final = self._at(path)
        temporary = temporary_beside(final)
        with _explained("write", final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                try:
                    os.link(temporary, final)  # whole or not at all, and of several one wins, on NFS too
                except FileExistsError:
                    raise
                except OSError:  # a file system without hard links
                    with final.open("xb") as file:
                        file.write(content)
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)
        return True

    def touch(self, path: str) -> None:
        """Set the time of a file to now; an empty one is made where there is none."""
        final = self._at(path)
        with _explained("write", final):
            final.parent.mkdir(parents=True, exist_ok=True)
            final.touch()

    def remove(self, path: str, unless: Callable[[], bool] | None = None) -> bool:
        """Remove a file or folder, out of sight first; put it back if ``unless`` says so then. Return whether it is gone."""
        final = self._at(path, removed=True)
        with _explained("remove", final):
            if unless is None and (final.is_symlink() or not final.is_dir()):
                there = os.path.lexists(final)
                final.unlink(missing_ok=True)
                return there
            aside = temporary_beside(final)
            try:
                final.rename(aside)
            except FileNotFoundError:
                return False
            if unless is not None and unless():
                _put_back(aside, final)
                return False
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        return True

    def sweep(self, path: str, dry_run: bool = False) -> int:
        """Remove temporary files whose writer on this machine is dead, or that are a day old; return their number."""
        removed = 0
        folder = self._at(path) if path else self.root
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*") if folder.is_dir() else ():
            with contextlib.suppress(OSError):
                if _is_abandoned(leftover):
                    if not dry_run and not _restored(leftover):
                        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
                    removed += 1
        return removed

    def reread(self) -> None:
        """Do nothing: there are no copies."""

    def _at(self, path: str, removed: bool = False) -> Path:
        """Return where ``path`` lies; raises ``CorruptError`` where a symbolic link would lead elsewhere.

        What is to be removed may itself be one.
        """
        place = self.root
        *folders, name = safe_path(path).split("/")
        for part in (*folders, *(() if removed else (name,))):
            place /= part
            if place.is_symlink():
                raise CorruptError(
                    f"{place} is a symbolic link, which may lead out of the store, so it is not followed. Put the file or "
                    "folder itself there, or remove the link to have the rows recomputed."
                )
        return place / name if removed else place


def _put_back(aside: Path, final: Path) -> None:
    try:
        aside.rename(final)
    except OSError:  # another process began the folder again meanwhile
        for each in aside.iterdir():
            if not (final / each.name).exists():
                each.rename(final / each.name)
        shutil.rmtree(aside)


def _restored(leftover: Path) -> bool:
    """Give a whole folder its name, if its writer was killed between putting the old one aside and the new one in place."""
    final = leftover.with_name(leftover.name.split("~", 4)[-1])
    if not (leftover / SEALED).is_file() or final.exists():
        return False
    leftover.rename(final)
    return True


def _is_abandoned(temporary: Path) -> bool:
    if time.time() - temporary.stat().st_mtime > ABANDONED_AFTER_S:
        return True
    parts = temporary.name.split("~")
    return len(parts) >= 5 and is_dead("~".join(parts[1:3]))


def temporary_beside(final: Path) -> Path:
    """Return a new temporary name in the same folder; it says who writes, so that what a killed process left is swept."""
    return final.parent / f"{TEMPORARY_PREFIX}{owner_name()}~{secrets.token_hex(4)}~{final.name}"


def sync(path: Path) -> None:
    """Have the operating system write a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # folders cannot be synced there
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself was synced before.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(action: str, path: Path) -> Iterator[None]:
    """Turn what the operating system says into one line that names the file and what to do."""
    try:
        yield
    except (FileNotFoundError, StoreError):
        raise
    except PermissionError as error:
        raise StorePermissionError(
            f"cannot {action} {path}: permission denied. Check who owns the folder, or choose another --store."
        ) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise StorePermissionError(
                f"cannot {action} {path}: the file system is read-only. Choose another --store."
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"cannot {action} {path}: the disk is full. Free some space and run again; "
                "everything committed so far is kept."
            ) from error
        raise StoreError(f"cannot {action} {path}: {error.strerror or error}.") from error
