"""Loading weights from a file, tensors only."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import DataNotFoundError, UsageError

__all__ = ["load_weights"]

SHOWN = 3


def load_weights(model: nn.Module, path: str) -> None:
    """Put the weights of a .safetensors or .pt file into a model, which must have exactly these names and shapes.

    Nothing but tensors is read: a pickle that holds code is refused. Raises :class:`DataNotFoundError` or
    :class:`UsageError`.
    """
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
            f"{path} holds more than tensors, which is not loaded because it could run code. Save model.state_dict() alone."
        ) from error
    except Exception as error:
        raise UsageError(f"{path} is no weights file: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UsageError(f"{path} holds no state_dict. Save model.state_dict().")
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in loaded]
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
    model.load_state_dict(loaded)
