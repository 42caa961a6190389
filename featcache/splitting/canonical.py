"""The canonical example: what a network is recorded on must not depend on which samples happen to come first.

The path of a forward pass can depend on masks, lengths and other side inputs, and what it computes on how long the
samples are. Row 0 is full and row 1 is half masked where there is a mask; other whole numbers beside the main input are
ones in row 0 and zeros in row 1; the length is one of a fixed list. Values of the main input stay as they are, since no path
may depend on them, but for the id of padding where the network looks for it: row 0 then has none, and row 1 is half of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .clone import skeleton
from .eager import eager
from .inputs import Call, copied, is_lengths, is_masks, main_input, named_tensors, with_tensors
from .names import ESCAPES, call_name, is_comparison, is_sized_by_content
from .randomness import quiet
from .trees import TensorSet, tensors_in

__all__ = ["canonical", "runs"]

LENGTHS = (64, 16, 1024, 16384, 4)  # the first on which the network runs as on the samples
SHORTER = 0.75  # of the length: the other one at which a network is recorded

Sizes = dict[tuple[str, int], tuple[int, ...]]


def canonical(model: nn.Module, two: Call, resized: Call | None) -> tuple[Call, Call | None]:
    """Return a batch of two rows, and the same at another length, in the canonical form.

    They are returned as they are where there is nothing to make canonical, or the network runs on no such form.
    """
    sides = _side_inputs(model, two)
    if resized is not None and "lengths" in sides:
        resized = _within(resized, sides)
    padding = _padding_ids(model, two, sides)
    varying = _varying(two, resized)
    if not {"mask", "lengths", "other"}.intersection(sides) and not any(varying) and not padding:
        return two, resized
    wanted = None if resized is None else _growing(_sizes(model, two), _sizes(model, resized))
    # A padding mask tells what is left out, an attention mask what is kept.
    masked = (1, 0) if any("pad" in name.lower() for name, _ in named_tensors(two, model)) else (0, 1)
    for padded, length, values, each in itertools.product(
        (*padding, None), LENGTHS if any(varying) else (None,), ((1, 0), (1, 1), (0, 0), None), masked
    ):
        form = _Form(tuple(sides), tuple(varying), values, each, padded)
        made = form.of(two, length)
        shorter = None if length is None else form.of(two, round(SHORTER * length))
        if not runs(model, made):
            continue
        if shorter is None or (wanted is not None and _growing(_sizes(model, made), _sizes(model, shorter)) == wanted):
            return made, shorter
    return two, resized


class _Form:
    """How the tensors of a call are made canonical: what each is, and in which dimensions it varies in length."""

    def __init__(
        self,
        sides: tuple[str, ...],
        varying: tuple[tuple[int, ...], ...],
        values: tuple[int, int] | None,
        masked: int,
        padding: int | None,
    ) -> None:
        self.sides, self.varying, self.values, self.masked, self.padding = sides, varying, values, masked, padding

    def of(self, call: Call, length: int | None) -> Call:
        places: Iterator[tuple[str, tuple[int, ...]]] = iter(zip(self.sides, self.varying, strict=True))
        longest = _longest(call) if length is None else length

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
        if side == "main" and self.padding is not None:
            others = tensor[tensor != self.padding]
            padded = tensor.where(tensor != self.padding, others[0] if len(others) else self.padding + 1)
            row = padded[1:]  # with a dimension at least, so that a slice is a view
            row[..., 0 if row.dim() == 1 else -(-row.shape[-1] // 2) :] = self.padding
            return padded
        if side != "other" or self.values is None:
            return tensor
        one, other = (torch.full_like(row, value) for row, value in zip(tensor, self.values, strict=True))
        return torch.stack([one, other])


def _within(call: Call, sides: list[str]) -> Call:
    """Return a call whose lengths are none that its samples do not have: they may have been cropped."""
    places, longest = iter(sides), _longest(call)
    return with_tensors(call, lambda each: each.clamp(max=longest) if next(places) == "lengths" else each)


def _longest(call: Call) -> int:
    return next((each.shape[1] for each in tensors_in(call) if each.dim() > 1), 1)


def _side_inputs(model: nn.Module, call: Call) -> list[str]:
    """Return of each tensor what it is: "main", "mask", "lengths" or "other"; "" for floating ones."""
    named = named_tensors(call, model)
    given = [name for name, _ in named]
    main = main_input(model, named) or given[0]
    found = []
    for place, (name, tensor) in enumerate(named):
        if tensor.is_floating_point() or tensor.is_complex() or not tensor.dim() or len(tensor) != 2:
            found.append("")
        elif is_masks(name, tensor):
            found.append("mask")
        elif place == given.index(main):
            found.append("main")
        else:
            found.append("lengths" if is_lengths(name, tensor) else "other")
    return found


def _padding_ids(model: nn.Module, call: Call, sides: list[str]) -> list[int]:
    """Return the values with which the network compares its main input, if it then decides on anything."""
    if "main" not in sides:
        return []
    seen = _Comparisons(named_tensors(call, model)[sides.index("main")][1])
    try:
        with torch.no_grad(), quiet(), eager(), seen:
            _run(skeleton(model, own_buffers=True), call)
    except Exception:  # recording says what is wrong
        return []
    return list(dict.fromkeys(seen.values)) if seen.decides else []


class _Comparisons(TorchFunctionMode):
    """Notes with which numbers token ids are compared, and whether a Python value comes of any tensor."""

    def __init__(self, ids: torch.Tensor) -> None:
        super().__init__()
        self.ids, self.values, self.decides = TensorSet([ids]), list[int](), False

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        result, name = func(*args, **kwargs), call_name(func).rpartition(".")[2]
        self.decides |= name in ESCAPES or is_sized_by_content(name, args, kwargs)
        given = tensors_in((args, kwargs))
        if self.ids.meets(given) and not any(each.is_floating_point() for each in given):
            self.ids.add(tensors_in(result))
            if is_comparison(name):
                others = [
                    each
                    for each in args
                    if isinstance(each, int) or (isinstance(each, torch.Tensor) and not each.dim())
                ]
                self.values += map(int, others)
        return result


def _varying(two: Call, resized: Call | None) -> list[tuple[int, ...]]:
    """Return of each tensor the dimensions in which it varies in length."""
    mine = tensors_in(two)
    if resized is None:
        return [()] * len(mine)
    pairs = zip(mine, tensors_in(resized), strict=True)
    return [tuple(dim for dim in range(1, a.dim()) if a.shape[dim] != b.shape[dim]) for a, b in pairs]


def runs(model: nn.Module, call: Call) -> bool:
    """Return whether the network runs and gives no NaN."""
    try:
        with torch.no_grad(), quiet():
            output = _run(skeleton(model, own_buffers=True), call)
    except Exception:  # whatever it is, this is not a form for this network
        return False
    return not any(bool(each.isnan().any()) for each in tensors_in(output) if each.is_floating_point())


def _run(running: nn.Module, call: Call) -> Any:
    args, kwargs = copied(call)
    return running(*args, **kwargs)


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
            _run(running, call)
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
