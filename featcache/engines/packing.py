"""Sending a job to another process: bytes that bring along which Python files it was made from."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

from ..errors import UsageError, one_line
from ..factories import load_file, loaded_files

__all__ = ["pack", "unpack"]


def pack(value: Any, dumps: Callable[[Any], bytes] = pickle.dumps) -> bytes:
    """Return a job as bytes; raises ``UsageError`` where a part of it does not pickle."""
    try:
        return pickle.dumps((loaded_files(), list(sys.path), dumps(value)))
    except Exception as error:  # whatever pickling a stranger's class raises
        raise UsageError(
            f"the job cannot be sent to other processes: {one_line(error, 1000)}. Define the dataset, the transform and "
            "the model at the top of a module, or use the engine local."
        ) from error


def unpack(content: bytes) -> Any:
    """Return a job that ``pack`` made in another process, which must see the same Python files."""
    files, path, packed = pickle.loads(content)
    sys.path += [each for each in path if each not in sys.path]
    for file in files:
        load_file(file, "job")
    return pickle.loads(packed)
