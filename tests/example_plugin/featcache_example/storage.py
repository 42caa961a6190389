"""``--store sqlite://FILE``: a store in one SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from featcache.storages import Entry, safe_path

BELOW = "path = ? OR substr(path, 1, length(?) + 1) = ? || '/'"


class SqliteStorage:
    def __init__(self, url: str) -> None:
        self.url = url
        self._copies: tempfile.TemporaryDirectory[str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "_copies": None}  # a worker process makes copies of its own

    def exists(self, path: str) -> bool:
        return bool(self._do(f"SELECT 1 FROM files WHERE {BELOW} LIMIT 1", *[safe_path(path)] * 3))

    def read_bytes(self, path: str) -> bytes:
        found = self._do("SELECT content FROM files WHERE path = ?", safe_path(path))
        if not found:
            raise FileNotFoundError(f"{self.url} holds no {path}")
        return bytes(found[0][0])

    def write_bytes(self, path: str, content: bytes) -> None:
        self._do("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", safe_path(path), content, time.time())

    @contextlib.contextmanager
    def create(self, path: str) -> Iterator[Path]:
        safe_path(path)
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder) / "file"
            yield temporary
            if temporary.exists():  # not yet committed under another name
                self.commit(temporary, path)

    def commit(self, temporary: Path, path: str) -> None:
        self.write_bytes(path, temporary.read_bytes())
        temporary.unlink()

    def fetch(self, path: str) -> Path:
        if self._copies is None:
            self._copies = tempfile.TemporaryDirectory()
        # A folder for each copy: what is mapped already must not change. The name stays, since shards are checked by it.
        copy = Path(tempfile.mkdtemp(dir=self._copies.name)) / path.rpartition("/")[2]
        files = [entry.name for entry in self.list(path)]
        if not files:
            copy.write_bytes(self.read_bytes(path))
            return copy
        copy.mkdir()
        for name in files:
            (copy / name).write_bytes(self.read_bytes(f"{path}/{name}"))
        return copy

    def list(self, path: str) -> list[Entry]:
        prefix = f"{safe_path(path)}/" if path else ""
        files = "SELECT path, length(content), modified FROM files WHERE substr(path, 1, length(?)) = ?"
        found: dict[str, Entry] = {}
        for each, size_bytes, modified_s in self._do(files, prefix, prefix):
            name, below, _ = each[len(prefix) :].partition("/")
            found[name] = Entry(name, 0 if below else size_bytes, modified_s, bool(below))
        return sorted(found.values(), key=lambda entry: entry.name)

    def free_bytes(self) -> int | None:
        return None

    def create_new(self, path: str, content: bytes) -> bool:
        with contextlib.suppress(sqlite3.IntegrityError):
            self._do("INSERT INTO files VALUES (?, ?, ?)", safe_path(path), content, time.time())
            return True
        return False

    def touch(self, path: str) -> None:
        if not self.create_new(path, b""):
            self._do("UPDATE files SET modified = ? WHERE path = ?", time.time(), path)

    def remove(self, path: str, unless: Callable[[], bool] | None = None) -> bool:
        if not self.exists(path) or (unless is not None and unless()):
            return False
        self._do(f"DELETE FROM files WHERE {BELOW}", *[safe_path(path)] * 3)
        return True

    def sweep(self, path: str, dry_run: bool = False) -> int:
        return 0  # a transaction leaves nothing behind

    def reread(self) -> None:
        pass  # every fetch reads again

    def _do(self, words: str, *values: Any) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite://"), timeout=60)) as base, base:
            base.execute("CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, content BLOB, modified REAL)")
            return base.execute(words, values).fetchall()
