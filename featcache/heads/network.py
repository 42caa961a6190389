"""The default head: a copy of the network whose last layer is made anew for the data's classes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

import torch
from torch import fx, nn

from ..errors import HeadError, UsageError, near_names
from ..split import Split

__all__ = ["choose_trainable", "new_network", "train_mode"]


def new_network(split: Split, classes: int, seed: int = 0) -> Split:
    """Return a split of a deep copy of the network, with its last layer made anew under ``seed``.

    An end-to-end loop that starts from ``new_network(…).model`` starts from the weights that ``train_head`` starts from.
    Raises :class:`HeadError` where there is no last layer behind the cut.
    """
    name = _last_layer(split)
    model = copy.deepcopy(split.model)
    old = model.get_submodule(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new: nn.Module
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
        else:
            assert isinstance(old, nn.Conv2d)
            new = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None)
    parameter = next(old.parameters())
    new.to(parameter.device, parameter.dtype).train(old.training)
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, new)
    return split.rebind(model)


def _last_layer(split: Split) -> str:
    for name, module in reversed(list(_in_order(split.suffix))):
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            _check_output(split, module)
            return name
        if any(True for _ in module.parameters(recurse=False)):
            break
    raise HeadError(
        f"behind the cut {split.cut!r} there is no last linear layer to make anew for the data's classes. "
        "Use --head linear, or an earlier cut."
    )


def _check_output(split: Split, layer: nn.Linear | nn.Conv2d) -> None:
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    trial = copy.deepcopy(split.suffix).eval()
    inputs = split.example_inputs
    with torch.no_grad():
        frontier = split.prefix(**inputs) if isinstance(inputs, dict) else split.prefix(*inputs)
        output = trial(frontier)
    if not isinstance(output, torch.Tensor):
        raise HeadError(
            f"the network's output is {type(output).__name__}, not a tensor of class scores: wrap it so that it returns one, "
            "or use --head linear."
        )
    if output.dim() != 2 or output.shape[1] != outputs:
        raise HeadError(
            f"the network's output has shape {list(output.shape)}, not (batch, {outputs}) as its last layer would give: "
            "use --head linear."
        )


def _in_order(suffix: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a suffix by name, in the order in which they are run where that is known."""
    if not isinstance(suffix, fx.GraphModule):
        yield from ((name, module) for name, module in suffix.named_modules() if name)
        return
    for node in suffix.graph.nodes:
        if node.op == "call_module":
            for name, module in suffix.get_submodule(str(node.target)).named_modules():
                yield f"{node.target}.{name}" if name else str(node.target), module


def choose_trainable(suffix: nn.Module, modules: Collection[str] | None) -> set[str]:
    """Return the names of the parameters that are trained; all others of the suffix stop requiring gradients.

    ``modules`` names modules of the suffix, None means all. Raises :class:`UsageError` for a name that is none.
    """
    parameters = dict(suffix.named_parameters())
    if modules is None:
        return {name for name, parameter in parameters.items() if parameter.requires_grad}
    known = [name for name, _ in suffix.named_modules() if name]
    for name in modules:
        if name not in known:
            raise UsageError(
                f"trainable {name!r} is no module behind the cut.{near_names(name, known)} There are: "
                f"{', '.join(each for each in known if '.' not in each)}."
            )
    chosen = {name for name in parameters if any(name.startswith(f"{module}.") for module in modules)}
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in chosen)
    return chosen


def train_mode(suffix: nn.Module, trainable: Collection[str], everything: bool) -> None:
    """Put a suffix into training mode, frozen parts of it into evaluation mode.

    Frozen is what runs before the first trained parameter, and every module with parameters none of which is trained:
    its BatchNorm statistics must not drift.
    """
    suffix.train()
    if everything:
        return
    reached = not isinstance(suffix, fx.GraphModule)
    for name, module in list(_in_order(suffix)):
        names = {f"{name}.{each}" for each, _ in module.named_parameters()}
        trained = bool(names.intersection(trainable))
        reached = reached or trained
        if (names and not trained) or not reached:
            module.eval()
