"""Encoders of torch that leave out what is padded: between their layers there are nested tensors, which have no rows to store."""

from __future__ import annotations

from torch import nn

from ..errors import SplitError
from .crossings import ancestors
from .runs import ModuleCall, Run

__all__ = ["REMEDY", "has_nested_encoder", "refuse_inside_nested"]

REMEDY = (
    " torch's encoder leaves out what is padded, if all masks of a batch allow it: build it with enable_nested_tensor=False, "
    "which gives the same for what is not padded."
)


def has_nested_encoder(model: nn.Module, run: Run, end: int) -> bool:
    """Return whether an encoder begins before a cut that may run on nested tensors."""
    return any(call.begin < end and _is_nested(model, call) for call in run.modules)


def refuse_inside_nested(model: nn.Module, run: Run, cut: str, cut_call: int) -> None:
    """Raise ``SplitError`` where a cut is inside of an encoder that may run on nested tensors."""
    names = [run.modules[each].name for each in ancestors(run, cut_call) if _is_nested(model, run.modules[each])]
    if names:
        raise SplitError(
            f"the cut {cut!r} is inside of {names[0]!r}, an encoder between whose layers there are nested tensors.{REMEDY} Or "
            "cut before it."
        )


def _is_nested(model: nn.Module, call: ModuleCall) -> bool:
    module = model.get_submodule(call.name)
    masked = (len(call.args) > 2 and call.args[2] is not None) or call.kwargs.get("src_key_padding_mask") is not None
    return isinstance(module, nn.TransformerEncoder) and bool(getattr(module, "use_nested_tensor", True)) and masked
