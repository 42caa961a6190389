"""A seal tells whether any file beside it is not what it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featcache.errors import CorruptError
from featcache.store.seal import SEAL, check_seal, seal

FILES = {"b": b"two", "a": b"one"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / SEAL).write_bytes(seal(FILES))
    return tmp_path


def test_files_that_are_what_they_were_pass(folder: Path) -> None:
    check_seal(folder)
    (folder / "another").touch()
    check_seal(folder)
    assert seal(FILES) == seal(dict(sorted(FILES.items())))
    assert seal(FILES).endswith(b"}\n")


def test_a_folder_without_a_seal_passes(folder: Path) -> None:
    (folder / SEAL).unlink()
    (folder / "a").write_bytes(b"other")
    check_seal(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changed_or_is_gone_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"other")
    with pytest.raises(CorruptError, match=f"{name} is damaged: it is not what was saved"):
        check_seal(folder)
    (folder / name).unlink()
    with pytest.raises(CorruptError, match=f"{name} is damaged: it is not what was saved"):
        check_seal(folder)


def test_a_seal_that_was_changed_is_damaged(folder: Path) -> None:
    said = json.loads((folder / SEAL).read_text())
    shorter = {**said, "sha256": {"a": said["sha256"]["a"]}}
    for content in (json.dumps(shorter), "{", "[]", "{}", '{"sha256": 5}', '{"sha256": {}}', "[" * 100_000):
        (folder / SEAL).write_text(content)
        with pytest.raises(CorruptError, match=r"seal\.json is damaged"):
            check_seal(folder)


def test_a_seal_leads_nowhere_else(folder: Path) -> None:
    outside = folder / "inside"
    outside.mkdir()
    (outside / SEAL).write_bytes(seal({"../a": b"one"}))
    with pytest.raises(CorruptError, match="inside/a is damaged"):
        check_seal(outside)
