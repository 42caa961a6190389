"""Files of a user's own appear whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from featcache.errors import DataError, DataNotFoundError
from featcache.storages import whole_file


def write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def test_a_file_that_is_there_stays_until_the_whole_new_one_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("earlier")
    path.chmod(0o640)
    with pytest.raises(UnicodeEncodeError):
        write(path, "half" * 100_000 + "\udce9")
    assert path.read_text() == "earlier"
    write(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out.csv").symlink_to(tmp_path / "real" / "out.csv")
    write(tmp_path / "out.csv", "new")
    assert (tmp_path / "out.csv").is_symlink()
    assert (tmp_path / "real" / "out.csv").read_text() == "new"


def test_a_pipe_gets_what_is_written_and_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
    reader.start()
    write(tmp_path / "pipe", "new")
    reader.join(10)
    assert read == ["new"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="there is no such folder"):
        write(tmp_path / "none" / "out.csv", "new")
    with pytest.raises(DataError, match="it is a folder"):
        write(tmp_path, "new")
