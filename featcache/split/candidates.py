"""``cuts``: the modules of a network at which it can be cut, with what each costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import FeatCacheError
from ..tensorspec import TensorSpec
from .analysis import analyse
from .record import Run
from .splitting import recorded
from .trial import examples

__all__ = ["Cut", "cuts"]


@dataclass(frozen=True)
class Cut:
    """A candidate: what crosses the cut, its bytes a sample, and the shares of FLOPs and parameters that lie before it.

    ``refused`` says why the network cannot be cut there, None if it can.
    """

    name: str
    frontier: tuple[TensorSpec, ...]
    size_bytes: int
    flops_share: float
    parameters_share: float
    refused: str | None = None


def cuts(model: nn.Module, example_inputs: Any) -> list[Cut]:
    """Return the candidate cuts of a network in the order in which it computes them.

    Candidates are the blocks: modules that are called once, have parameters or children, and are not buried inside a
    single block, one for each place. FLOPs are counted by torch's flop counter (multiply and add as two).
    """
    given = examples(example_inputs)
    runs = recorded(model, given)
    flops = _flops(model, given.two, runs[0])
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total_flops, total_parameters = max(1, flops[-1]), max(1, sum(sizes.values()))
    found = []
    for name in _candidates(model, runs[0]):
        end = next(call.end for call in reversed(runs[0].modules) if call.name == name)
        try:
            analysis = analyse(model, name, runs[0], runs[1])
        except FeatCacheError as error:
            found.append(Cut(name, (), 0, flops[end] / total_flops, 0.0, str(error)))
            continue
        frontier = tuple(crossing.spec for crossing in analysis.crossings)
        found.append(
            Cut(
                name,
                frontier,
                sum(spec.size_bytes for spec in frontier),
                flops[end] / total_flops,
                sum(sizes.get(each, 0) for each in analysis.state_before) / total_parameters,
            )
        )
    return found


def _candidates(model: nn.Module, run: Run) -> list[str]:
    """Return the names of modules that are worth listing, in the order in which they end."""
    counts = Counter(call.name for call in run.modules)
    ended = sorted((call for call in run.modules if call.name and call.end > call.begin), key=lambda call: call.end)
    chosen: dict[int, str] = {}
    for call in ended:
        module = model.get_submodule(call.name)
        if counts[call.name] > 1 or not _is_block(call.name, module):
            continue
        # Of modules that end at the same place, the outermost names it.
        if call.end not in chosen or call.name.count(".") < chosen[call.end].count("."):
            chosen[call.end] = call.name
    return [chosen[end] for end in sorted(chosen)]


def _is_block(name: str, module: nn.Module) -> bool:
    depth = name.count(".")
    return depth == 0 or (depth <= 3 and any(True for _ in module.children()) and _in_sequence(name))


def _in_sequence(name: str) -> bool:
    """Return whether every level of a name is a stage or a numbered block, not a part of a block."""
    *_, last = name.split(".")
    return last.isdigit() or last[-1:].isdigit()


def _flops(model: nn.Module, call: Any, run: Run) -> list[int]:
    """Return the FLOPs before each recorded call, and in all."""
    from torch.overrides import TorchFunctionMode
    from torch.utils.flop_counter import FlopCounterMode

    from .clone import skeleton
    from .record import call_name, is_metadata

    counter = FlopCounterMode(display=False)
    before: list[int] = []

    class Positions(TorchFunctionMode):
        def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not is_metadata(call_name(func)):
                before.append(counter.get_total_flops())
            return func(*args, **(kwargs or {}))

    args, kwargs = call
    with torch.no_grad(), torch.random.fork_rng(devices=[]), counter, Positions():
        skeleton(model)(*args, **kwargs)
    return [*before, counter.get_total_flops()]
