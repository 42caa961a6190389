"""What is wrapped around a whole network: by torch.compile, or to run it on several devices. It is taken off."""

from __future__ import annotations

from torch import nn

from ..errors import SplitError

__all__ = ["inner_name", "name_inside", "unwrapped"]

WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
ACROSS_PROCESSES = {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}


def inner_name(module: nn.Module) -> str | None:
    """Return the name under which a wrapper holds what it wraps; None if the module is no wrapper."""
    name = WRAPPERS.get(type(module).__name__) if _is_of_torch(type(module)) else None
    return name if name is not None and name in module._modules else None


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside of its wrappers, whose cuts and fingerprints are those of a network that never had one.

    A wrapper that has hooks of its own stays: they may change what goes in and comes out. Raises ``SplitError`` for what else
    needs other processes: a part whose gradients are averaged over them, or whose parameters are spread over them.
    """
    while (name := inner_name(model)) and not (model._forward_hooks or model._forward_pre_hooks):
        model = model.get_submodule(name)
    for name, module in model.named_modules():
        for kind in type(module).__mro__:
            if kind.__name__ in ACROSS_PROCESSES and _is_of_torch(kind):
                raise SplitError(
                    f"{repr(name) if name else 'the network'} is {kind.__name__}, which works together with other processes: "
                    "its part of a suffix could not be run alone. Split the network without it, and wrap split.suffix."
                )
    return model


def name_inside(model: nn.Module, cut: str) -> str:
    """Return the name that a module has in the network inside of its wrappers, in front of which theirs may stand."""
    inside = unwrapped(model)
    known, short = dict(inside.named_modules()), cut
    while model is not inside and short not in known:
        name = inner_name(model)
        assert name is not None
        short, model = short.removeprefix(f"{name}."), model.get_submodule(name)
    return short if short in known else cut


def _is_of_torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"
