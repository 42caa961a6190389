"""The default head: a copy of the network whose last layer is made anew for the data's classes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from ..devices import to_device
from ..errors import HeadError, UsageError, near_names
from ..seeding import seeded
from ..split import Split

__all__ = ["choose_trainable", "new_network", "train_mode"]


def new_network(split: Split, classes: int, seed: int = 0, device: torch.device | None = None) -> Split:
    """Return a split of a deep copy of the network, on ``device``, with its last layer made anew under ``seed``.

    An end-to-end loop that starts from ``new_network(…).model`` starts from the weights that ``train_head`` starts from:
    the new layer is drawn on the CPU right after seeding, whatever the device. Raises :class:`HeadError` where there is
    no last layer behind the cut that alone makes the output.
    """
    with torch.inference_mode(False):  # tensors made under it could not be trained
        model = copy.deepcopy(split.model)
        trial = split.rebind(model)
        frontier = _example_frontier(trial)
        name, old = _last_layer(trial, frontier)
        new: nn.Module
        with seeded(seed):
            if isinstance(old, nn.Linear):
                new = nn.Linear(old.in_features, classes, bias=old.bias is not None, dtype=torch.float32)
            else:
                assert isinstance(old, nn.Conv2d)
                new = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None, dtype=torch.float32)
                new.stride, new.padding = old.stride, old.padding
        parameter = next(old.parameters())
        new.to(parameter.device, parameter.dtype).train(old.training)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)
        network = split.rebind(model)
        _check_new_layer(network, frontier, name, new, classes)
        if device is not None and device != parameter.device:
            model.to(device)
            network = split.rebind(model)  # a flat suffix holds some buffers itself, which must be those on the device
    return network


def _example_frontier(split: Split) -> Any:
    home = next((tensor.device for tensor in (*split.model.parameters(), *split.model.buffers())), torch.device("cpu"))
    inputs = to_device(split.example_inputs, home)
    return split.prefix(**inputs) if isinstance(inputs, Mapping) else split.prefix(*inputs)


def _last_layer(split: Split, frontier: Any) -> tuple[str, nn.Module]:
    """Return name and module of the last layer with parameters that is run, if it can be made anew."""
    run: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: run.append(name))
        for name, module in split.suffix.named_modules()
        if name and any(True for _ in module.parameters(recurse=False))
    ]
    try:
        output = _evaluated(split.suffix, frontier)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, torch.Tensor):
        raise HeadError(
            f"the network's output is {type(output).__name__}, not a tensor of class scores: wrap it so that it returns one, "
            "or use --head linear."
        )
    name = run[-1] if run else ""
    layer = split.suffix.get_submodule(name)
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    if not name or not (isinstance(layer, nn.Linear) or pointwise):
        raise HeadError(
            f"behind the cut {split.cut!r} there is no last linear layer to make anew for the data's classes. "
            "Use --head linear, or an earlier cut."
        )
    width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if output.dim() != 2 or output.shape[1] != width or run.count(name) > 1:
        raise HeadError(
            f"the network's output has shape {list(output.shape)}, not (batch, {width}) as its last layer {name!r} would "
            "give: use --head linear."
        )
    return name, layer


def _check_new_layer(network: Split, frontier: Any, name: str, layer: nn.Module, classes: int) -> None:
    """Raise :class:`HeadError` unless the new layer gives the output: its values, and nothing else, decide on that."""
    seen: list[torch.Tensor] = []

    def first_again(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output)
        return seen[0]

    handle = layer.register_forward_hook(first_again)
    try:
        first = _evaluated(network.suffix, frontier)
        other = _evaluated(network.suffix, _perturbed(frontier))
        alone = first.shape[1:] == (classes,) and torch.allclose(first, other, equal_nan=True)
    except (RuntimeError, ValueError, IndexError):  # what runs behind the layer needs its old number of outputs
        alone = False
    finally:
        handle.remove()
    if not alone:
        raise HeadError(
            f"the layer {name!r}, the last one behind the cut {network.cut!r}, does not make the network's output alone, so it "
            "cannot be made anew for the data's classes: use --head linear."
        )


def _evaluated(suffix: nn.Module, frontier: Any) -> Any:
    modes = [(module, module.training) for module in suffix.modules()]
    try:
        with torch.no_grad(), seeded(0):
            return suffix.eval()(frontier)
    finally:
        for module, training in modes:
            module.training = training


def _perturbed(frontier: Any) -> Any:
    if isinstance(frontier, dict):
        return {key: _perturbed(value) for key, value in frontier.items()}
    return frontier * 1.5 + 1 if frontier.is_floating_point() else frontier


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
