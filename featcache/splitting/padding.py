"""Padding: whether a suffix takes rows that are padded with zeros, as batches of cached rows are, for what the network has."""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree

from .clone import skeleton
from .compare import difference
from .inputs import as_call, as_given
from .randomness import quiet, seeded
from .splitting import Split, prefixes
from .trees import tensors_in

__all__ = ["padding_difference"]


def padding_difference(split: Split) -> float:
    """Return how far the suffix on two cached rows, the second padded to the length of the first, is from the network.

    The network sees the padded batch of the example. Returns 0 where samples do not vary in length; infinity where the
    second row cannot be computed by itself.
    """
    if split.other_length is None:
        return 0.0
    inputs, shorter = split.example_inputs, split.other_length
    mine, theirs = (pytree.tree_leaves(each) for each in (inputs, shorter))
    varying = {
        id(a): [d for d in range(1, a.dim()) if a.shape[d] != b.shape[d]] for a, b in zip(mine, theirs, strict=True)
    }

    def cropped(tensor: torch.Tensor) -> torch.Tensor:
        row = tensor[1:2]
        for dim in varying[id(tensor)]:
            row = row.narrow(dim, 0, -(-row.shape[dim] // 2))
        return row

    alone = pytree.tree_map_only(torch.Tensor, cropped, inputs)
    full = pytree.tree_map_only(torch.Tensor, lambda tensor: tensor[:1], inputs)
    try:
        one, other = (prefixes([split], each)[0] for each in (full, alone))
    except Exception:  # whatever it is, the row is not what the network makes of it in a batch
        return float("inf")
    frontier = {name: torch.cat([value, _padded(other[name], value)]) for name, value in one.items()}
    running, (args, kwargs) = skeleton(split.model, own_buffers=True), as_call(inputs, split.model)
    with torch.no_grad(), quiet():
        expected = seeded(running, *args, **kwargs)
        suffix = split.rebind(skeleton(split.model, own_buffers=True)).suffix.eval()
        found = seeded(suffix, as_given(frontier))
    length = max(mine[0].shape[1] if mine[0].dim() > 1 else 0, 1)
    return max(
        (_row_difference(a, b, length) for a, b in zip(tensors_in(expected), tensors_in(found), strict=True)),
        default=0.0,
    )


def _padded(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    made = like.new_zeros((1, *like.shape[1:]))
    made[tuple(slice(0, size) for size in value.shape)] = value
    return made


def _row_difference(expected: torch.Tensor, found: torch.Tensor, length: int) -> float:
    """Return the difference in both rows; of a value for each place, that in the places of the second row's content."""
    if expected.shape != found.shape or not expected.dim() or len(expected) != 2:
        return 0.0 if expected.shape == found.shape else float("inf")
    places = slice(0, -(-length // 2)) if expected.dim() > 1 and expected.shape[1] == length else slice(None)
    if expected.dim() == 1:
        return difference(expected, found)
    return max(difference(expected[0], found[0]), difference(expected[1][places], found[1][places]))
