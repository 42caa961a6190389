"""Head folders: written whole or not at all."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from ..errors import HeadError, StorePermissionError
from ..storages import sync, temporary_beside
from ..store import SEAL, seal
from ..training import EpochRecord
from .estimators import save_estimator
from .kinds import BuiltHead
from .layers import EstimatorLayer

__all__ = ["ESTIMATOR", "HEAD_FORMAT", "TENSORS", "save_head"]

HEAD_FORMAT = 2  # 1 has no task but single labels; heads of these are written so, for older readers
TENSORS, ESTIMATOR, DESCRIPTION = "head.safetensors", "head.skops", "head.json"


def save_head(
    folder: Path,
    built: BuiltHead,
    description: Mapping[str, Any],
    *,
    history: Sequence[EpochRecord],
    plots: Mapping[str, bytes],
) -> Path:
    """Write a head's files to a new folder beside ``folder``, which takes its place when it is whole.

    Raises ``HeadError`` where the folder holds something other than a head, or cannot be written.
    """
    _refuse_foreign(folder)
    files: dict[str, bytes] = {}
    tensors = {
        built.stored_at + name: value.detach().cpu().contiguous().clone()
        for name, value in built.stored.state_dict().items()
    }
    files[TENSORS] = save(tensors)
    if isinstance(built.stored, EstimatorLayer):
        files[ESTIMATOR] = save_estimator(built.stored.estimator)
    described = json.dumps(description, indent=1, default=_plain)
    files[DESCRIPTION] = (described + "\n").encode()
    files["history.csv"] = _history(history).encode()
    files.update(plots)
    files[SEAL] = seal(files)
    try:
        _write_folder(folder, files)
    except PermissionError as error:
        raise StorePermissionError(
            f"cannot write the head {folder}: permission denied. Choose another place."
        ) from error
    except OSError as error:
        raise HeadError(f"cannot write the head {folder}: {error.strerror or error}.") from error
    return folder


def _refuse_foreign(folder: Path) -> None:
    """Raise ``HeadError`` where saving would delete what is not a head."""
    if folder.is_dir() and not (folder / DESCRIPTION).is_file() and any(folder.iterdir()):
        raise HeadError(
            f"{folder} exists and holds no head: a head would replace all that is in it. Choose another folder."
        )
    if folder.exists() and not folder.is_dir():
        raise HeadError(f"{folder} is a file: choose a folder for the head.")


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    temporary, replaced = temporary_beside(folder), temporary_beside(folder)
    try:
        temporary.mkdir(parents=True)
        for name, content in files.items():
            (temporary / name).write_bytes(content)
            sync(temporary / name)
        sync(temporary)
        if folder.exists():
            folder.rename(replaced)
        try:
            temporary.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)


def _plain(value: Any) -> Any:
    """Return numbers and arrays as JSON has them, paths and objects (an estimator's parameters) as text."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


def _history(history: Sequence[EpochRecord]) -> str:
    out = io.StringIO()
    names = [each.name for each in dataclasses.fields(EpochRecord)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(each) for each in history)
    return out.getvalue()
