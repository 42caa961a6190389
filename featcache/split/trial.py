"""Trial runs that prove a split: example inputs, the truly frozen reference, and the comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..errors import SplitError, UsageError
from .analysis import CutAnalysis, state_behind
from .clone import skeleton
from .record import record

__all__ = [
    "Examples",
    "compare",
    "examples",
    "frozen_reference",
    "refuse_tied",
    "refuse_train_only_branch",
    "seeded",
    "tensors_in",
]

TOLERANCE = 1e-5
SEED = 20240229
Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Examples:
    """The example input as (args, kwargs): with a batch of two, of three, and of two with other values."""

    two: Call
    three: Call
    other: Call


def examples(example_inputs: Any) -> Examples:
    """Return the variants of an example input that a recording needs; raises :class:`UsageError` if it has no batch."""
    if isinstance(example_inputs, Mapping):
        call: Call = ((), dict(example_inputs))
    elif isinstance(example_inputs, (tuple, list)):
        call = (tuple(example_inputs), {})
    else:
        call = ((example_inputs,), {})
    tensors = [leaf for leaf in pytree.tree_leaves(call) if isinstance(leaf, torch.Tensor)]
    if not tensors or not tensors[0].dim() or not len(tensors[0]):
        raise UsageError(
            "example_inputs must hold tensors whose first dimension is the batch, with at least one sample."
        )
    batch = len(tensors[0])

    def rows(numbers: list[int]) -> Call:
        def pick(tensor: torch.Tensor) -> torch.Tensor:
            has_batch = tensor.dim() and len(tensor) == batch
            return tensor.detach()[[number % batch for number in numbers]] if has_batch else tensor

        return pytree.tree_map_only(torch.Tensor, pick, call)  # type: ignore[no-any-return]

    return Examples(rows([0, 1]), rows([0, 1, 0]), pytree.tree_map_only(torch.Tensor, _changed, rows([1, 0])))


def _changed(tensor: torch.Tensor) -> torch.Tensor:
    # Whole numbers may be token ids or masks: their own values in another order are surely allowed.
    if not tensor.is_floating_point():
        return tensor
    return tensor * 0.75 + 0.03125


def tensors_in(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in an output of any kind: containers, dataclasses, and objects that hold them."""
    found: list[torch.Tensor] = []
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (type, nn.Module)):
            found.extend(value for value in vars(leaf).values() if isinstance(value, torch.Tensor))
    return found


def compare(expected: Any, found: Any, what: str, refuse: bool = True) -> float:
    """Return the largest difference between two outputs, relative to the scale of the first.

    Values that are not finite in ``expected`` prove nothing and are left out; they must be as little finite in
    ``found``. Raises :class:`SplitError` above the tolerance, or where no value is finite, if ``refuse``.
    """
    left, right = tensors_in(expected), tensors_in(found)
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right, strict=False)):
        raise SplitError(f"{what} gives tensors of other number or shape than the whole model.")
    largest, proven = 0.0, not left
    for mine, theirs in zip(left, right, strict=True):
        if torch.equal(mine, theirs) and bool(torch.isfinite(_float(mine)).all()):
            proven = proven or mine.numel() > 0
            continue
        mine, theirs = _float(mine), _float(theirs)
        finite = torch.isfinite(mine)
        if not torch.equal(finite, torch.isfinite(theirs)):
            largest = float("inf")
        elif finite.any():
            proven = True
            scale = mine[finite].abs().max().clamp_min(1e-30)
            largest = max(largest, float((mine[finite] - theirs[finite]).abs().max() / scale))
    if refuse and (largest > TOLERANCE or not proven):
        reason = (
            f"differs from the whole model by {largest:.1e} of its scale"
            if proven
            else "has no finite value to compare"
        )
        raise SplitError(f"{what} {reason}: caching there would be unsound. `featcache cuts` lists other candidates.")
    return largest


def _float(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor).double() if tensor.is_complex() else tensor.double()


def seeded(run: Callable[[], Any]) -> Any:
    """Return what ``run`` returns under a fixed seed, the caller's random state left alone."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        return run()


def frozen_reference(model: nn.Module, analysis: CutAnalysis, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Return output and buffers behind the cut of a training step of the whole model with a truly frozen prefix.

    Modules before the cut are in evaluation mode, those behind it in training mode, those that are running at the cut
    change over there. Where the model cannot run so, the exception stands for the output.
    """
    running = skeleton(model, own_buffers=True)
    opened = []
    for name, module in running.named_modules():
        module.training = name not in analysis.before and name not in analysis.open
        if name in analysis.open:
            opened.append(module)
    last = analysis.run.modules[analysis.cut_call]
    seen = Counter[str]()

    def change_over(_: nn.Module, inputs: Any, outputs: Any) -> None:
        if seen["cut"] == last.nth:
            for module in opened:
                module.training = True
        seen["cut"] += 1

    running.get_submodule(last.name).register_forward_hook(change_over)
    try:
        output = seeded(lambda: running(*args, **kwargs))
    except Exception as error:
        return error, {}
    buffers = {
        name: buffer for name, buffer in running.named_buffers() if name not in analysis.state_before and buffer.numel()
    }
    return output, buffers


def refuse_tied(model: nn.Module, analysis: CutAnalysis) -> None:
    """Raise :class:`SplitError` where a parameter is used on both sides of the cut."""
    tied = sorted({name for name, _ in model.named_parameters()} & analysis.state_before & state_behind(analysis))
    if tied:
        raise SplitError(
            f"tied parameters are used on both sides of the cut {analysis.cut!r} ({', '.join(tied[:3])}): training what lies "
            "behind it would change what is cached. Untie them (give one side a copy), or choose another cut."
        )


def refuse_train_only_branch(model: nn.Module, analysis: CutAnalysis, call: Call) -> None:
    """Raise :class:`SplitError` where the model, in training mode, computes more before the cut than in evaluation mode."""
    try:
        run = record(model, *call, 2, training=analysis.open)
    except Exception:
        return  # it cannot be run so; the trial in training mode says what that means
    ours = [each.name for each in analysis.run.calls[: analysis.end]]
    positions = [number for number, each in enumerate(run.modules) if each.name == analysis.cut]
    theirs = [each.name for each in run.calls[: run.modules[positions[-1]].end]] if positions else []
    if ours != theirs:
        raise SplitError(
            f"in training mode the model runs other calls before the cut {analysis.cut!r} than in evaluation mode (an "
            "auxiliary head, perhaps): a head trained from the cache would not equal the model. Choose an earlier cut, or "
            "build the model without that branch."
        )
