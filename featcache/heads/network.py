"""The default head: a copy of the network whose last layer is new, made for the data's classes."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from ..errors import HeadError
from ..machine import seeded, to_device
from ..splitting import Split, as_call, deep_copy, difference, rounding
from ..training import chosen_by, evaluating, is_pointwise, output_tensor

if TYPE_CHECKING:
    from ..features import Features

__all__ = [
    "choose_trainable",
    "last_layers",
    "new_layer",
    "new_network",
    "put_layers",
    "refuse_other_sizes",
    "same_network",
    "train_mode",
]

TOLERANCE = 1e-4  # of two ways of computing a batch
MOST_TOGETHER = 3  # maps that are added up to one output
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MOST_TRIED = 8  # convolutions of any size, of which a network may have many as wide as its output


def new_network(split: Split, classes: int, seed: int = 0, device: torch.device | None = None) -> Split:
    """Return a split of a deep copy of the network, on ``device``, with a new last layer, made under ``seed``.

    An end-to-end loop that starts from ``new_network(…).model`` starts from the weights that ``train_head`` starts from:
    the new layer is drawn on the CPU right after seeding, whatever the device. The suffix consists of that copy's modules;
    if the network is in evaluation mode, it is put into training mode. Raises ``HeadError`` where there is no last layer
    after the cut that alone makes the output.
    """
    network, _ = _renewed(split, classes, seed, device)
    if not network.model.training:
        network.suffix.train()
    return network


def same_network(split: Split, device: torch.device) -> Split:
    """Return a split of a deep copy of the network, on ``device``, whose last layer is the network's own."""
    with torch.inference_mode(False):
        return split.rebind(deep_copy(split.model).to(device))


def refuse_other_sizes(suffix: nn.Module, replay: nn.Module, rows: Features, batch_size: int) -> None:
    """Raise ``HeadError`` where a flat suffix is not its replay in batches of the sizes that training takes."""
    device = next((each.device for each in suffix.parameters()), torch.device("cpu"))
    for size in {min(batch_size, len(rows)), len(rows) % batch_size} - {0}:
        frontier, _ = next(iter(rows.loader(size, shuffle=False, device=str(device), world_size=1)))
        try:
            expected = output_tensor(_evaluated(replay, frontier))
        except Exception:  # a replay that was not proven; what the network itself cannot take is named where it comes
            continue
        found = output_tensor(_evaluated(suffix, frontier))
        if difference(expected, found) > max(TOLERANCE, rounding(expected.dtype)):
            raise HeadError(
                f"after the cut {rows.recipe.cut!r} the network does something else in a batch of {size} rows than in the small "
                "ones that it was split on: its code asks for the size of the batch. Use another --train-batch-size."
            )


def last_layers(split: Split, classes: int) -> tuple[str, ...]:
    """Return the names of the layers that ``new_network`` replaces: one, but where maps of several are added up."""
    return _renewed(split, classes, 0, None)[1]


def _renewed(split: Split, classes: int, seed: int, device: torch.device | None) -> tuple[Split, tuple[str, ...]]:
    with torch.inference_mode(False):  # tensors made under it could not be trained
        model = deep_copy(split.model)
        trial = split.rebind(model)
        frontier = _example_frontier(trial)
        for names in _last_layers(trial, frontier):
            old = [model.get_submodule(name) for name in names]
            with seeded(seed):
                new = [new_layer(layer, classes) for layer in old]
            put_layers(model, names, new)
            network = split.rebind(model)
            if _make_the_output(network, frontier, names, classes):
                break
            put_layers(model, names, old)
        else:
            raise HeadError(
                f"the layer {names[0]!r}, the last one after the cut {split.cut!r}, does not make the network's output alone, "
                "so it cannot be replaced by one for the data's classes: use --head linear."
            )
        if device is not None and device != next(new[0].parameters()).device:
            model.to(device)
            network = split.rebind(model)  # a flat suffix holds some buffers itself, which must be those on the device
    return network, names


def _example_frontier(split: Split) -> Any:
    home = next((tensor.device for tensor in (*split.model.parameters(), *split.model.buffers())), torch.device("cpu"))
    inputs = to_device(split.example_inputs, home)
    args, kwargs = as_call(inputs, split.model)
    return split.prefix(*args, **kwargs)


def new_layer(old: nn.Module, classes: int) -> nn.Module:
    """Return a layer like the last one, with random weights and as many outputs as there are classes."""
    alike: dict[str, Any] = {"bias": old.bias is not None, "dtype": torch.float32}
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, **alike)
    else:
        assert isinstance(old, CONVOLUTIONS)
        if classes % old.groups:
            raise HeadError(
                f"the last layer is a convolution in {old.groups} groups, which cannot have {classes} outputs: use --head linear."
            )
        if old.transposed:
            alike["output_padding"] = old.output_padding
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
            alike[name] = getattr(old, name)
        kind: Any = next(each for each in CONVOLUTIONS if isinstance(old, each))
        new = kind(old.in_channels, classes, **alike)
    parameter = next(old.parameters())
    return new.to(parameter.device, parameter.dtype).train(old.training)


def put_layers(model: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]) -> None:
    """Put layers into the places of those of some names."""
    for name, layer in zip(names, layers, strict=True):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, layer)


def _last_layers(split: Split, frontier: Any) -> list[tuple[str, ...]]:
    """Return the layers that may make the output, alone or together, in the order in which to try.

    That is the last one that is run, but of a segmentation network with an auxiliary classifier another one, and of one
    that adds up maps of several resolutions (LR-ASPP) several. Raises ``HeadError`` where there is none.
    """
    run: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: run.append(name))
        for name, module in split.suffix.named_modules()
        if name and (_width(module) or any(True for _ in module.parameters(recurse=False)))
    ]
    try:
        output = output_tensor(_evaluated(split.suffix, frontier))
    finally:
        for handle in handles:
            handle.remove()
    if not output.dim():
        raise HeadError(
            "the network returns one number, its own loss perhaps, and no scores for the data's classes: use task='output' with "
            "loss=lambda output, targets: output, or a network that returns scores too."
        )
    layers = {name: split.suffix.get_submodule(name) for name in reversed(run)}
    remakable = {name: layer for name, layer in layers.items() if _width(layer)}
    if not remakable or next(iter(layers)) not in remakable:
        last = next(
            (f"the last one, {name!r}, is {type(layer).__name__}" for name, layer in layers.items()), "none is run"
        )
        raise HeadError(
            f"after the cut {split.cut!r} there is no last layer to replace for the data's classes, nn.Linear or a convolution "
            f"without code of its own: {last}. Use --head linear, or an earlier cut."
        )
    fitting = [name for name, layer in remakable.items() if _outputs(output) == _width(layer) and run.count(name) == 1]
    if not fitting or (output.dim() < 4 and fitting[0] != run[-1]):
        name = run[-1]
        raise HeadError(
            f"the network's output has shape {list(output.shape)}, not (batch, {_width(layers[name])}) as its last layer "
            f"{name!r} would give: use --head linear."
        )
    if output.dim() < 4:
        return [(fitting[0],)]
    pointwise = [name for name in fitting if is_pointwise(layers[name])]
    alone = [(name,) for place, name in enumerate(fitting) if place < MOST_TRIED or name in pointwise]
    sizes = range(2, min(len(pointwise), MOST_TOGETHER) + 1)
    return [*alone, *(together for size in sizes for together in itertools.combinations(pointwise, size))]


def _outputs(output: torch.Tensor) -> int:
    """Return how many classes an output is for: of a sample, of each token (batch, length, classes) or of each pixel."""
    return output.shape[-1] if output.dim() == 3 else output.shape[1] if output.dim() in (2, 4) else 0


def _width(layer: nn.Module) -> int:
    """Return how many outputs a layer gives if it can be replaced, else 0."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    plain = type(layer).forward in [each.forward for each in CONVOLUTIONS]
    return int(layer.out_channels) if plain or is_pointwise(layer) else 0  # type: ignore[arg-type]


def _make_the_output(network: Split, frontier: Any, names: Sequence[str], classes: int) -> bool:
    """Return whether the new layers give the output: their values, and nothing else, decide on that."""
    seen: dict[int, torch.Tensor] = {}

    def first_again(number: int) -> Any:  # by number: a suffix that replays runs copies of the modules
        return lambda _module, _inputs, output: seen.setdefault(number, output)

    layers = [network.suffix.get_submodule(name) for name in names]
    handles = [layer.register_forward_hook(first_again(number)) for number, layer in enumerate(layers)]
    try:
        first = output_tensor(_evaluated(network.suffix, frontier))
        other = output_tensor(_evaluated(network.suffix, _perturbed(frontier)))
        alone = _outputs(first) == classes and torch.allclose(first, other, equal_nan=True)
    except (RuntimeError, ValueError, IndexError):  # what runs behind the layer needs its old number of outputs
        return False
    finally:
        for handle in handles:
            handle.remove()
    if alone and first.dim() == 3 and first.shape[1] == classes and not isinstance(layers[0], nn.Linear):
        raise HeadError(
            f"the network gives {classes} × {classes} scores for {classes} classes, so it cannot be told whether the channels of "
            f"its last layer {names[0]!r} come last: use --head linear, or samples of another number of tokens."
        )
    return alone


def _evaluated(suffix: nn.Module, frontier: Any) -> Any:
    with torch.no_grad(), seeded(0), evaluating(suffix):
        # A graph that fails would print its code when it is called.
        return suffix.forward(frontier) if isinstance(suffix, fx.GraphModule) else suffix(frontier)


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

    ``modules`` are names of modules or parameters of the suffix, or patterns of either; None means all. Raises
    ``UsageError`` for what is none of them.
    """
    parameters = dict(suffix.named_parameters())
    if modules is None:
        return {name for name, parameter in parameters.items() if parameter.requires_grad}
    chosen = set().union(*chosen_by("trainable", list(modules), suffix).values())
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
