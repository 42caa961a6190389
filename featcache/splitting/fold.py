"""Folding: the leading part of a suffix that training never changes, to be run once and not in every epoch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx, nn

__all__ = ["fold", "lone_linear"]

# Modules whose output for a row depends on nothing but the row and their parameters, in training mode too.
DETERMINISTIC = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Flatten, nn.Identity, nn.LayerNorm, nn.GroupNorm, nn.Embedding,
    nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU,
    nn.Mish, nn.PReLU,
    nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.Softmax, nn.ZeroPad2d, nn.Upsample, nn.Unflatten, nn.PixelShuffle, nn.AdaptiveAvgPool3d, nn.AvgPool3d, nn.MaxPool3d,
)  # fmt: skip
NORMALISED = (nn.modules.batchnorm._BatchNorm,)
RANDOM = (nn.modules.dropout._DropoutNd, nn.RReLU, nn.FractionalMaxPool2d)
# Those that could mix rows or move the batch (mean, softmax, permute, view …) are left to every step.
FUNCTIONS = {
    "flatten", "relu", "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "gelu", "silu", "getattr", "size", "clone",
    "contiguous",
}  # fmt: skip


def fold(suffix: nn.Module, trainable: Collection[str] | None = None) -> tuple[nn.Module | None, nn.Module]:
    """Return (frozen, rest) such that ``rest(frozen(z))`` equals ``suffix(z)``; frozen is None where nothing can be folded.

    ``trainable`` names the parameters that are trained (default: all). What is folded holds none of them, and gives the
    same values for a row in every epoch: no dropout, and BatchNorm only with none of its parameters trained.
    """
    if not isinstance(suffix, fx.GraphModule):
        return None, suffix
    chosen = None if trainable is None else set(trainable)
    nodes = list(suffix.graph.nodes)
    placeholder = nodes[0]
    run = 1
    while run < len(nodes) and _is_foldable(suffix, nodes[run], chosen):
        run += 1
    # One tensor must cross from the folded part to the rest.
    while run > 1:
        inside = set(nodes[:run])
        crossing = {node for node in inside if any(user not in inside for user in node.users)}
        if len(crossing) == 1 and placeholder not in crossing and nodes[run - 1].op != "output":
            return _halves(suffix, nodes[:run], nodes[run:], crossing.pop())
        run -= 1
    return None, suffix


def lone_linear(suffix: nn.Module) -> nn.Linear | None:
    """Return the linear layer that is all of a suffix, or of what was not folded of it; None if there is more."""
    if not isinstance(suffix, fx.GraphModule):
        return None
    nodes = list(suffix.graph.nodes)
    if [node.op for node in nodes] != ["placeholder", "call_module", "output"]:
        return None
    first, called, last = nodes
    layer = suffix.get_submodule(str(called.target))
    whole = called.args == (first,) and not called.kwargs and last.args == (called,)
    return layer if whole and isinstance(layer, nn.Linear) else None


def _is_foldable(suffix: fx.GraphModule, node: fx.Node, trainable: set[str] | None) -> bool:
    if node.op == "call_module":
        return _is_frozen_module(suffix.get_submodule(str(node.target)), f"{node.target}.", trainable)
    if node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if name == "flatten" and (node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)) == 0:
            return False  # the rows of a sample, such as windows, become rows of the batch
        if name == "permute":
            order: Any = node.args[1]
            return isinstance(order, (tuple, list)) and order[0] == 0  # the batch stays where it is
        return str(name) in FUNCTIONS
    return False


def _is_frozen_module(module: nn.Module, prefix: str, trainable: set[str] | None) -> bool:
    names = [prefix + name for name, _ in module.named_parameters()]
    if names and (trainable is None or trainable.intersection(names)):
        return False
    for part in module.modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            return False  # who knows what these do in training mode
        if isinstance(part, RANDOM) and getattr(part, "p", 1) > 0:
            return False
        if isinstance(part, NORMALISED) and (part.training or not part.track_running_stats):
            return False
        leaf = not any(True for _ in part.children())
        if leaf and type(part) not in DETERMINISTIC and not isinstance(part, (*NORMALISED, *RANDOM)):
            return False
        if not leaf and not isinstance(part, (nn.Sequential, nn.ModuleList)) and part.training:
            return False  # its own code may do something else in training mode
    return True


def _halves(
    suffix: fx.GraphModule, first: list[fx.Node], second: list[fx.Node], crossing: fx.Node
) -> tuple[nn.Module, nn.Module]:
    head, tail = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, Any] = {}
    for node in first:
        copies[node] = head.node_copy(node, lambda each: copies[each])
    head.output(copies[crossing])
    behind: dict[fx.Node, Any] = {crossing: tail.placeholder(str(first[0].target))}
    for node in second:
        behind[node] = tail.node_copy(node, lambda each: behind[each])
    frozen, rest = fx.GraphModule(suffix, head, "Frozen"), fx.GraphModule(suffix, tail, "Rest")
    for made in (frozen, rest):
        made._non_persistent_buffers_set.update(name for name in made._buffers if name.startswith("_constant_"))
    return frozen, rest
