"""Running what torch compiles by itself as it is written, so that a mode on the stack sees its calls."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

__all__ = ["eager"]


def eager() -> AbstractContextManager[Any]:
    """Return a context in which ``flex_attention`` is one call: it compiles itself, and the compiler would trace the mode.

    Where that is not loaded there is nothing to do, and the compiler, whose import takes a second, is not loaded either.
    """
    loaded = "torch.nn.attention.flex_attention" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()
