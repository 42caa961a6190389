"""A store on an object store (S3, Google Cloud Storage, Azure), or in memory: through fsspec.

An object appears whole by a single put, so nothing is renamed. Credentials come from the environment, as the clients of
these services read them, and are never part of a URL, a recipe or a message.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from errno import EINVAL
from pathlib import Path
from typing import Any

from ..errors import StoreError, UsageError
from ..extras import need
from .copies import Copies
from .retries import TruncatedError, attempt
from .storage import Entry, safe_path

__all__ = ["RemoteStorage"]

CLIENTS = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
PART_BYTES = 8 << 20
PARTS_AT_ONCE = 4
LISTED_AFTER_S = 60.0  # by when a listing shows what was put
TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
VERSIONS = ("ETag", "etag", "md5Hash", "content_settings", "LastModified", "created")

Info = dict[str, Any]


class RemoteStorage:
    """Objects below one URL; reading goes through local copies of whole objects, which can be mapped."""

    def __init__(self, url: str, copies: Copies | None = None) -> None:
        self.url = url.rstrip("/") if not url.endswith("://") else url
        self.scheme, _, root = self.url.partition("://")
        if "@" in root or "?" in root or "#" in root:
            # The URL is not repeated: what makes it wrong may be a secret.
            raise UsageError(
                f"the URL of a store is {self.scheme}://bucket/folder, without credentials or options: set these in the "
                "environment."
            )
        if not root and self.scheme != "memory":
            raise UsageError(f"{self.url} names no bucket: use {self.scheme}://bucket/folder.")
        need("fsspec", "remote", f"a store at {self.scheme}://")
        if self.scheme in CLIENTS:
            need(CLIENTS[self.scheme], "remote", f"a store at {self.scheme}://")
        self.root = root.strip("/")
        self.copies = copies or Copies()
        self._put: dict[str, tuple[float, Entry]] = {}
        self._listed: dict[str, Info] = {}
        self._read_again: set[Path] | None = None  # once others are not trusted any more

    def __getstate__(self) -> dict[str, Any]:
        # A client holds connections and threads: another process makes its own.
        return {**self.__dict__, "_listed": {}, "_put": {}}

    @property
    def files(self) -> Any:
        """Return fsspec's client; it is its own for each process and kept by fsspec."""
        import fsspec

        options: Info = {"use_listings_cache": False}
        if self.scheme == "s3" and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
            # Trying again is done here, once: three layers that each do it would take minutes to give up.
            options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 30}
        client = fsspec.filesystem(self.scheme, **options)
        if self.scheme == "s3":
            client.retries = 1
        return client

    def exists(self, path: str) -> bool:
        """Return whether an object lies at ``path``, or below it."""
        try:
            self._info(path)
        except FileNotFoundError:
            return bool(self.list(path))
        return True

    def read_bytes(self, path: str) -> bytes:
        """Return the content of an object; raises ``FileNotFoundError`` where there is none."""
        where = self._at(path)

        def read() -> bytes:
            size_bytes = self.files.info(where)["size"]
            content: bytes = self.files.cat_file(where)
            return _whole(content, size_bytes)

        return attempt("read", self._name(path), read)

    def write_bytes(self, path: str, content: bytes) -> None:
        """Put ``content`` at ``path`` in one step, replacing what was there."""
        with self.create(path) as temporary:
            temporary.write_bytes(content)

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[Path]:
        """Give a local temporary file; put it at ``path`` when the block ends well."""
        safe_path(path)
        with tempfile.TemporaryDirectory(prefix="featcache-") as folder:
            temporary = Path(folder) / "object"
            yield temporary
            if temporary.exists():  # not yet committed under a name that only its content gave
                self.commit(temporary, path)

    def commit(self, temporary: Path, path: str) -> None:
        """Put a file that ``create`` gave at ``path``, look whether it came in whole, and keep it as a local copy."""
        where, size_bytes = self._at(path), temporary.stat().st_size

        def put() -> Info:
            self.files.put_file(str(temporary), where)
            info: Info = self.files.info(where)
            if info["size"] != size_bytes:
                raise TruncatedError(f"{info['size']:,} of {size_bytes:,} bytes came in")
            return info

        try:
            info = attempt("write", self._name(path), put)
        except FileNotFoundError as error:
            raise StoreError(f"cannot write {self._name(path)}: {error}. Create the bucket first.") from None
        self._put[path] = (time.time(), _entry(info))
        self._listed.pop(path, None)
        if path.endswith(".h5"):
            with self.copies.create(self.copies.place(self._name(path), _version(info))) as copy:
                shutil.move(temporary, copy)
        temporary.unlink(missing_ok=True)

    def fetch(self, path: str) -> Path:
        """Return a local copy of an object, or of a folder of them; whole ones that are here already are not read again."""
        try:
            info = self._listed.get(path) or self._info(path)
        except FileNotFoundError:
            entries = [entry for entry in self.list(path) if not entry.is_folder]
            if not entries:
                raise
            return self._fetch_folder(path, entries)
        place = self.copies.place(self._name(path), _version(info))
        trusted = self._read_again is None or place in self._read_again
        if trusted and self.copies.find(place, info["size"]):
            return place
        with self.copies.alone(place):
            if trusted and self.copies.find(place, info["size"]):  # another rank of this machine made it meanwhile
                return place
            with self.copies.create(place) as temporary:
                self._download(path, info["size"], temporary)
        if self._read_again is not None:
            self._read_again.add(place)
        return place

    def read_start(self, path: str, size_bytes: int) -> bytes:
        """Return the first bytes of an object, from its local copy where there is one."""
        info = self._listed.get(path) or self._info(path)
        place = self.copies.place(self._name(path), _version(info))
        if self._read_again is None and self.copies.find(place, info["size"]):
            with place.open("rb") as file:
                return file.read(size_bytes)
        return self._range(path, 0, min(size_bytes, info["size"]))

    def list(self, path: str) -> list[Entry]:
        """Return what lies directly in a folder, sorted by name, and what this process has just put there."""
        where = self._at(path) if path else self.root
        prefix = f"{path}/" if path else ""
        try:
            infos = attempt("list", self._name(path), lambda: self.files.ls(where, detail=True, refresh=True))
        except (FileNotFoundError, NotADirectoryError):
            infos = []
        found = {}
        for info in infos:
            entry = _entry(info)
            # Some services show the folder itself as an empty object, or the object that was asked for.
            if entry.name and info["name"].strip("/") != where.strip("/"):
                found[entry.name] = entry
                if not entry.is_folder:
                    self._listed[f"{prefix}{entry.name}"] = info
        for put, (at_s, entry) in list(self._put.items()):
            if time.time() - at_s > LISTED_AFTER_S:
                self._put.pop(put, None)
            elif put == f"{prefix}{entry.name}" and entry.name not in found:
                try:  # either the listing is late, or someone has removed it since
                    found[entry.name] = _entry(self._info(put))
                except FileNotFoundError:
                    self._put.pop(put, None)
        return sorted(found.values(), key=lambda entry: entry.name)

    def free_bytes(self) -> int | None:
        """Return None: object stores have no end that one could know."""
        return None

    def create_new(self, path: str, content: bytes) -> bool:
        """Put ``content`` at ``path`` unless something lies there; return whether it was put.

        Of two processes that try in the same moment both may succeed where the service knows no conditional put.
        """
        where, tries = self._at(path), 0

        def put() -> bool:
            nonlocal tries
            tries += 1
            try:
                self.files.pipe_file(where, content, mode="create")
            except (TypeError, NotImplementedError):
                self.files.pipe_file(where, content)
            except OSError as error:
                # FileExistsError from some services, an invalid request from others.
                if not isinstance(error, FileExistsError) and (error.errno != EINVAL or not self.files.exists(where)):
                    raise
                # An answer that was lost may have been that of our own first try.
                return tries > 1 and self.files.cat_file(where) == content
            return True

        return not self.exists(path) and attempt("write", self._name(path), put)

    def touch(self, path: str) -> None:
        """Set the time of an object to now; an empty one is made where there is none."""
        try:
            content = self.read_bytes(path)
        except FileNotFoundError:
            content = b""
        self.write_bytes(path, content)

    def remove(self, path: str, unless: Callable[[], bool] | None = None) -> bool:
        """Remove an object or folder unless ``unless`` says no; return whether it is gone by this call."""
        if not self.exists(path) or (unless is not None and unless()):
            return False
        for known in (self._put, self._listed):
            for each in [each for each in known if each == path or each.startswith(f"{path}/")]:
                del known[each]
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            attempt("remove", self._name(path), lambda: self.files.rm(self._at(path), recursive=True))
        return True

    def sweep(self, path: str, dry_run: bool = False) -> int:
        """Return 0: a put leaves nothing behind when its writer dies."""
        return 0

    def reread(self) -> None:
        """Have every object read from the object store again, even where a local copy is at hand."""
        self._read_again = set()
        self._listed.clear()

    def _fetch_folder(self, path: str, entries: Sequence[Entry]) -> Path:
        state = ";".join(f"{each.name}:{each.size_bytes}:{each.modified_s}" for each in entries)
        folder = self.copies.place(self._name(path), state)
        folder.mkdir(parents=True, exist_ok=True)
        for each in entries:
            if not self.copies.find(folder / each.name, each.size_bytes):
                self._download(f"{path}/{each.name}", each.size_bytes, folder / each.name)
        return folder

    def _download(self, path: str, size_bytes: int, target: Path) -> None:
        def part(start: int) -> bytes:
            return self._range(path, start, min(start + PART_BYTES, size_bytes))

        with target.open("wb") as file, ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            starts = range(0, size_bytes, PART_BYTES)
            # A window, not all at once: what was read and not yet written is held in memory.
            for first in range(0, len(starts), 2 * PARTS_AT_ONCE):
                for content in pool.map(part, starts[first : first + 2 * PARTS_AT_ONCE]):
                    file.write(content)

    def _range(self, path: str, start: int, stop: int) -> bytes:
        where = self._at(path)
        return attempt(
            "read", self._name(path), lambda: _whole(self.files.cat_file(where, start=start, end=stop), stop - start)
        )

    def _info(self, path: str) -> Info:
        where = self._at(path)
        info: Info = attempt("read", self._name(path), lambda: self.files.info(where))
        if info["type"] == "directory":
            raise FileNotFoundError(self._name(path))
        return info

    def _at(self, path: str) -> str:
        return f"{self.root}/{safe_path(path)}" if self.root else safe_path(path)

    def _name(self, path: str) -> str:
        return f"{self.url.rstrip('/')}/{path}" if self.root else f"{self.scheme}://{path}"


def _whole(content: bytes, size_bytes: int) -> bytes:
    if len(content) != size_bytes:
        raise TruncatedError(f"{len(content):,} of {size_bytes:,} bytes came")
    return content


def _version(info: Info) -> str:
    return f"{info['size']}:{next((info[key] for key in VERSIONS if info.get(key)), '')}"


def _entry(info: Info) -> Entry:
    modified = next((info[key] for key in TIMES if info.get(key)), 0.0)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified.replace("Z", "+00:00"))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    name = info["name"].rstrip("/").rpartition("/")[2]
    return Entry(name, int(info.get("size") or 0), seconds, info["type"] == "directory")
