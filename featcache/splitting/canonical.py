"""The canonical example: what a network is recorded on must not depend on which samples happen to come first.

The path of a forward pass can depend on masks, lengths and other side inputs, and what it computes on how long the
samples are. Row 0 is full and row 1 is half masked where there is a mask; other whole numbers beside the main input are
ones in row 0 and zeros in row 1; the length is one of a fixed list. Values of the main input stay as they are, since no path
may depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .clone import skeleton
from .inputs import Call, is_lengths, is_masks, main_input, named_tensors, with_tensors
from .randomness import quiet
from .trees import tensors_in

__all__ = ["canonical"]

LENGTHS = (64, 16, 1024, 16384, 4)  # the first on which the network runs as on the samples
SHORTER = 0.75  # of the length: the other one at which a network is recorded

Sizes = dict[tuple[str, int], tuple[int, ...]]


def canonical(model: nn.Module, two: Call, resized: Call | None) -> tuple[Call, Call | None]:
    """Return a batch of two rows, and the same at another length, in the canonical form.

    They are returned as they are where there is nothing to make canonical, or the network runs on no such form.
    """
    sides = _side_inputs(model, two)
    varying = _varying(two, resized)
    if not any(sides) and not any(varying):
        return two, resized
    wanted = None if resized is None else _growing(_sizes(model, two), _sizes(model, resized))
    # A padding mask tells what is left out, an attention mask what is kept.
    masked = (1, 0) if any("pad" in name.lower() for name, _ in named_tensors(two, model)) else (0, 1)
    for length, values, each in itertools.product(
        LENGTHS if any(varying) else (None,), ((1, 0), (1, 1), (0, 0), None), masked
    ):
        form = _Form(tuple(sides), tuple(varying), values, each)
        made = form.of(two, length)
        shorter = None if length is None else form.of(two, round(SHORTER * length))
        if not _runs(model, made):
            continue
        if shorter is None or (wanted is not None and _growing(_sizes(model, made), _sizes(model, shorter)) == wanted):
            return made, shorter
    return two, resized


class _Form:
    """How the tensors of a call are made canonical: what each is, and in which dimensions it varies in length."""

    def __init__(
        self, sides: tuple[str, ...], varying: tuple[tuple[int, ...], ...], values: tuple[int, int] | None, masked: int
    ) -> None:
        self.sides, self.varying, self.values, self.masked = sides, varying, values, masked

    def of(self, call: Call, length: int | None) -> Call:
        places: Iterator[tuple[str, tuple[int, ...]]] = iter(zip(self.sides, self.varying, strict=True))
        longest = next((each.shape[1] for each in tensors_in(call) if each.dim() > 1), 1) if length is None else length

        def made(tensor: torch.Tensor) -> torch.Tensor:
            side, dims = next(places)
            for dim in dims:
                assert length is not None
                tensor = tensor.index_select(dim, torch.arange(length, device=tensor.device) % tensor.shape[dim])
            return self.filled(tensor, side, longest)

        return with_tensors(call, made)

    def filled(self, tensor: torch.Tensor, side: str, longest: int) -> torch.Tensor:
        if side == "lengths":
            return torch.tensor([longest, -(-longest // 2)], dtype=tensor.dtype, device=tensor.device)
        if side == "mask":
            mask = torch.full_like(tensor, 1 - self.masked)
            mask[1, ..., -(-mask.shape[-1] // 2) :] = self.masked
            return mask
        if side != "other" or self.values is None:
            return tensor
        one, other = (torch.full_like(row, value) for row, value in zip(tensor, self.values, strict=True))
        return torch.stack([one, other])


def _side_inputs(model: nn.Module, call: Call) -> list[str]:
    """Return of each tensor what it is beside the main input: "mask", "lengths" or "other"; "" for main and floating ones."""
    named = named_tensors(call, model)
    given = [name for name, _ in named]
    main = main_input(model, given) or given[0]
    found = []
    for place, (name, tensor) in enumerate(named):
        if tensor.is_floating_point() or tensor.is_complex() or not tensor.dim() or len(tensor) != 2:
            found.append("")
        elif is_masks(name, tensor):
            found.append("mask")
        elif place == given.index(main):
            found.append("")
        else:
            found.append("lengths" if is_lengths(name, tensor) else "other")
    return found


def _varying(two: Call, resized: Call | None) -> list[tuple[int, ...]]:
    """Return of each tensor the dimensions in which it varies in length."""
    mine = tensors_in(two)
    if resized is None:
        return [()] * len(mine)
    pairs = zip(mine, tensors_in(resized), strict=True)
    return [tuple(dim for dim in range(1, a.dim()) if a.shape[dim] != b.shape[dim]) for a, b in pairs]


def _runs(model: nn.Module, call: Call) -> bool:
    """Return whether the network runs and gives no NaN."""
    try:
        with torch.no_grad(), quiet():
            output = skeleton(model, own_buffers=True)(*call[0], **call[1])
    except Exception:  # whatever it is, this is not a form for this network
        return False
    return not any(bool(each.isnan().any()) for each in tensors_in(output) if each.is_floating_point())


def _sizes(model: nn.Module, call: Call) -> Sizes | None:
    """Return the shapes of what the modules give; None where the network does not run."""
    running, sizes = skeleton(model, own_buffers=True), Sizes()
    for name, module in running.named_modules():

        def note(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
            for leaf, tensor in enumerate(tensors_in(output)):
                sizes[name, leaf] = tuple(tensor.shape)

        module.register_forward_hook(note)
    try:
        with torch.no_grad(), quiet():
            running(*call[0], **call[1])
    except Exception:  # as above
        return None
    return sizes


def _growing(one: Sizes | None, other: Sizes | None) -> set[tuple[str, int, int]] | None:
    """Return which sizes of what the modules give follow the length."""
    if one is None or other is None or one.keys() != other.keys():
        return None
    return {
        (*place, dim)
        for place, shape in one.items()
        for dim, (mine, theirs) in enumerate(zip(shape, other[place], strict=False))
        if mine != theirs
    }
