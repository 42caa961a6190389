"""A head's weights in the network that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import HeadError, UsageError
from ..identity import Recipe
from ..machine import seeded
from ..splitting import Split, deep_copy, unwrapped, weight_digests
from .load import check_backbone, load_onto, read_head, split_for
from .network import new_layer, put_layers
from .save import TENSORS
from .trained import TrainedHead

__all__ = ["differing_layers", "merge"]


def merge(head: TrainedHead | str | Path, model: nn.Module | Split | Sequence[Split]) -> nn.Module:
    """Put the weights of a trained head into a copy of the network they belong to.

    A new last layer is made if the head has another number of classes. Every weight up to the cut must be the one that
    the head was trained on. Only tensors are read from a folder.

    Parameters
    ----------
    head : TrainedHead, str or pathlib.Path
        A trained head or a head folder.
    model : torch.nn.Module, Split or sequence of Split
        The network. Given a split, the structure up to the cut is compared, too. Heads on pooled features are not part
        of the model and need a split; an all-layers head needs one at each cut.

    Returns
    -------
    torch.nn.Module
        The merged network, in evaluation mode.

    Raises
    ------
    HeadError
        If the head belongs to another backbone, does not fit the model, or its folder is damaged.
    UsageError
        If the head works on pooled features and ``model`` is not a split.
    DataNotFoundError
        If the folder holds no head.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 10))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> head = featcache.train_head(cut, features, epochs=1)
    >>> featcache.merge(head, network)
    Sequential(
      (0): Linear(in_features=8, out_features=4, bias=True)
      (1): ReLU()
      (2): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    where = Path("head") if isinstance(head, TrainedHead) else Path(head)
    if not isinstance(model, nn.Module):
        if not isinstance(head, TrainedHead):
            return load_onto(where, model).model
        split = split_for("the head", model, head.cuts, head.options.pool)
        check_backbone("the head", head.recipe, split.cut, split.structure, split.weights)
        return deep_copy(head.model).eval()
    if isinstance(head, TrainedHead):
        kind, recipe = head.head, head.recipe
        tensors = {head.built.stored_at + name: value for name, value in head.built.stored.state_dict().items()}
    else:
        described = read_head(where)
        kind, recipe = str(described["head"]), _recipe(where, described)
        tensors = _read(where / TENSORS)
        if len(tensors) != described.get("tensors", len(tensors)):
            raise HeadError(f"{where / TENSORS} is damaged: tensors are missing. Train the head again.")
    if kind != "suffix":
        raise UsageError(
            f"a {kind} head is not part of the model: give featcache.split(model, {recipe.cut!r}, …) in the model's place."
        )
    model = unwrapped(model)
    _check_weights(where, recipe, model)
    merged = deep_copy(model)
    for name in differing_layers(tensors, merged):
        _make_room(merged, name, tensors)
    state = merged.state_dict()
    unknown = sorted(name for name in tensors if name not in state or state[name].shape != tensors[name].shape)
    if unknown:
        raise HeadError(
            f"the head {where} does not fit {type(model).__name__}: {unknown[0]!r} and {len(unknown) - 1} more differ in name or "
            "shape. Load the backbone that the head was trained on."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            state[name].copy_(value)
    return merged.eval()


def differing_layers(state: Mapping[str, torch.Tensor], model: nn.Module) -> list[str]:
    """Return the names of the layers that must be replaced before a state loads into a model."""
    own = model.state_dict()
    names = (name.rpartition(".")[0] for name, value in state.items() if name in own and own[name].shape != value.shape)
    return list(dict.fromkeys(names))


def _make_room(model: nn.Module, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a last layer as many outputs as the head's has."""
    if f"{name}.weight" not in tensors:
        return
    layer, weight = model.get_submodule(name), tensors[f"{name}.weight"]
    if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or weight.dim() != layer.weight.dim():
        return
    if "weight" not in layer._parameters:  # a parametrization makes it, which a new last layer has not
        groups = layer.groups if isinstance(layer, nn.modules.conv._ConvNd) and layer.transposed else 0
        with seeded(0):
            put_layers(model, [name], [new_layer(layer, weight.shape[1] * groups if groups else weight.shape[0])])
        return
    outputs, groups = (0, 1) if isinstance(layer, nn.Linear) or not layer.transposed else (1, layer.groups)
    same = [size for place, size in enumerate(weight.shape) if place != outputs]
    if same != [size for place, size in enumerate(layer.weight.shape) if place != outputs]:
        return
    # Filled later: no random numbers are drawn.
    for each, values in (("weight", weight), ("bias", tensors.get(f"{name}.bias"))):
        old = getattr(layer, each)
        if old is not None and values is not None:
            setattr(layer, each, nn.Parameter(torch.empty_like(values, device=old.device, dtype=old.dtype)))
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", weight.shape[outputs] * groups)


def _check_weights(where: Path, recipe: Recipe, model: nn.Module) -> None:
    names = {
        name
        for name, _ in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    }
    known = frozenset(name for name in recipe.weights if name in names)
    check_backbone(f"the head {where}", recipe, recipe.cut, recipe.structure, weight_digests(model, known))


def _recipe(where: Path, described: Mapping[str, object]) -> Recipe:
    try:
        return Recipe.from_dict(described["recipe"])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HeadError(f"{where}/head.json is damaged ({error!r}). Train the head again.") from error


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise HeadError(f"{path} cannot be read ({str(error).splitlines()[0]}). Train the head again.") from error
