"""``cuts``: the modules of a network at which it can be cut, with what each costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import FeatCacheError
from ..tensorspec import TensorSpec
from .analysis import analyse
from .examples import examples
from .nearest import candidate_names
from .randomness import quiet
from .record import Run
from .splitting import recorded

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


def cuts(model: nn.Module, example_inputs: Any, other_length: Any = None) -> list[Cut]:
    """Return the candidate cuts of a network in the order in which it computes them.

    Candidates are the blocks: modules that are called once, have parameters or children, and are not buried inside a
    single block, one for each place. FLOPs are counted by torch's flop counter (multiply and add as two).
    ``other_length`` is as for :func:`split`.
    """
    given = examples(example_inputs, other_length)
    runs = recorded(model, given)
    flops = _flops(model, given.two, runs.run)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total_flops, total_parameters = max(1, flops[-1]), max(1, sum(sizes.values()))
    found = []
    for name in candidate_names(model, runs.run):
        end = next(call.end for call in reversed(runs.run.modules) if call.name == name)
        try:
            analysis = analyse(model, name, runs)
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


def _flops(model: nn.Module, call: Any, run: Run) -> list[int]:
    """Return the FLOPs before each recorded call, and in all."""
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    from .clone import skeleton
    from .names import call_name, is_metadata

    before: list[int] = []
    total = 0

    # Not FlopCounterMode: it also follows modules, and fails where one is given a parameter (CaiT's class token).
    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            result = func(*args, **(kwargs or {}))
            count = flop_registry.get(func._overloadpacket)
            if count is not None:
                total += count(*args, **(kwargs or {}), out_val=result)
            return result

    class Positions(TorchFunctionMode):
        def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            if not is_metadata(call_name(func)):
                before.append(total)
            return func(*args, **(kwargs or {}))

    counter = Counter()  # type: ignore[no-untyped-call]
    args, kwargs = call
    with torch.no_grad(), quiet(), counter, Positions():
        skeleton(model)(*args, **kwargs)
    return [*before, total]
