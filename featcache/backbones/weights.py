"""Loading weights from a file, tensors only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import DataNotFoundError, UsageError

__all__ = ["fit", "load_weights", "read_weights"]

SHOWN = 3
PARALLEL = "module."  # what DataParallel puts before each name
COUNTERS = "num_batches_tracked"  # files from before 2018 lack these; they do not enter inference


def load_weights(model: nn.Module, path: str) -> None:
    """Put the weights of a .safetensors or .pt file into a model, which must have exactly these names and shapes.

    Nothing but tensors is read: a pickle that holds code is refused. Raises ``DataNotFoundError`` or
    ``UsageError``.
    """
    fit(model, read_weights(path), path)


def read_weights(path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a weights file by name; a state_dict within a checkpoint is found."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataNotFoundError(f"there is no weights file {path}. Check --weights.")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path} holds more than tensors, or is not a weights file; it is not loaded, because it could run code. Save "
            "model.state_dict() alone."
        ) from error
    except Exception as error:
        said = str(error).splitlines() or [""]
        raise UsageError(f"{path} is not a weights file: {type(error).__name__}: {said[0]}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UsageError(f"{path} holds no state_dict. Save model.state_dict().")
    if loaded and all(name.startswith(PARALLEL) for name in loaded):
        return {name.removeprefix(PARALLEL): value for name, value in loaded.items()}
    return loaded


def fit(model: nn.Module, loaded: dict[str, torch.Tensor], path: str) -> None:
    """Put tensors into a model; raises ``UsageError``, which names the first ones that do not fit."""
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in loaded and not name.endswith(COUNTERS)]
    unexpected = [name for name in loaded if name not in wanted]
    shapes = [
        f"{name} {list(loaded[name].shape)} for {list(wanted[name].shape)}"
        for name in wanted
        if name in loaded and loaded[name].shape != wanted[name].shape
    ]
    wrong = [
        f"{what} {', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes))
        if names
    ]
    if wrong:
        raise UsageError(f"{path} does not fit the backbone: {'; '.join(wrong)}.")
    wanted.update(loaded)
    model.load_state_dict(wanted)
