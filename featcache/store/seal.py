"""A seal: the digests of the files of a folder, by which damage to any of them shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import CorruptError

__all__ = ["SEAL", "check_seal", "seal"]

SEAL = "seal.json"


def seal(files: Mapping[str, bytes]) -> bytes:
    """Return the content of the seal of these files."""
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    return (json.dumps({"sha256": digests, "of_these": _digest(digests)}, indent=1) + "\n").encode()


def check_seal(folder: Path) -> None:
    """Raise ``CorruptError`` where a sealed file is not what it was; a folder of an older featcache has no seal."""
    path = folder / SEAL
    if not path.is_file():
        return
    try:
        sealed = json.loads(path.read_bytes())
        digests = {str(name): str(digest) for name, digest in sealed["sha256"].items()}
        whole = sealed["of_these"] == _digest(digests)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise CorruptError(f"{path} is damaged, so the files beside it cannot be checked. Train the head again.")
    for name, digest in digests.items():
        part = folder / Path(name).name
        if not part.is_file() or hashlib.sha256(part.read_bytes()).hexdigest() != digest:
            raise CorruptError(f"{part} is damaged: it is not what was saved. Train the head again.")


def _digest(digests: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
