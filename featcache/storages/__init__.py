"""Where the files of a store lie: local folders and object stores, one file per kind, behind one small protocol.

A storage moves whole files and names their owners. It never looks into a file."""

from __future__ import annotations

from .local import LocalStorage, sync, temporary_beside
from .owner import is_dead, owner_name
from .storage import Entry, Storage, open_storage, put_folder, safe_path, storages
from .whole import whole_file

__all__ = [
    "Entry",
    "LocalStorage",
    "Storage",
    "is_dead",
    "open_storage",
    "owner_name",
    "put_folder",
    "safe_path",
    "storages",
    "sync",
    "temporary_beside",
    "whole_file",
]
