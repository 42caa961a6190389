"""``cuts``: the modules of a network at which it can be cut, with what each costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import FeatCacheError
from ..tables import Records
from ..tensorspec import TensorSpec
from .analysis import analyse
from .examples import examples
from .nearest import candidate_names
from .randomness import quiet
from .recording import recorded
from .runs import Run
from .wrappers import unwrapped

__all__ = ["Cut", "cuts"]


@dataclass(frozen=True)
class Cut:
    """A candidate cut of a network, with what it costs.

    Attributes
    ----------
    name : str
        The name of the module.
    frontier : tuple of TensorSpec
        The tensors that cross the cut. Empty if the cut is refused.
    size_bytes : int
        The bytes of the frontier per sample, or per step if samples vary in length.
    flops_share : float
        The share of the network's FLOPs that lies before the cut, from 0 to 1.
    parameters_share : float
        The share of the network's parameters that lies before the cut, from 0 to 1.
    refused : str, optional
        Why the network cannot be cut there. None if it can.
    """

    name: str
    frontier: tuple[TensorSpec, ...]
    size_bytes: int
    flops_share: float
    parameters_share: float
    refused: str | None = None


def cuts(model: nn.Module, example_inputs: Any, other_length: Any = None) -> list[Cut]:
    """List the candidate cuts of a network, in the order in which it computes them.

    Candidates are the blocks: modules that are called once, have parameters or children, and are not buried inside a
    single block. Each place in the network has one candidate.

    Parameters
    ----------
    model : torch.nn.Module
        The network. It is not changed.
    example_inputs : tuple or mapping of str
        Example inputs with the batch as first dimension, as for ``featcache.split``.
    other_length : tuple or mapping of str, optional
        Example inputs at another length, as for ``featcache.split``.

    Returns
    -------
    list of Cut
        The candidates. ``Cut.refused`` says why the network cannot be cut at one of them.

    Raises
    ------
    SplitError
        If the model cannot run on the example, or gives different outputs for equal inputs.
    UsageError
        If ``example_inputs`` holds no batch, or ``other_length`` has the same shapes or holds other inputs.

    Notes
    -----
    FLOPs are counted by torch's flop counter, which counts a multiply and an add as two.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> for cut in featcache.cuts(network, (torch.zeros(2, 8),)):
    ...     print(cut.name, cut.size_bytes, round(cut.flops_share, 2))
    0 16 0.73
    1 16 0.73
    2 12 1.0
    """
    model = unwrapped(model)
    given = examples(model, example_inputs, other_length)
    runs = recorded(model, given)
    flops = _flops(model, given.two, runs.run)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total_flops, total_parameters = max(1, flops[-1]), max(1, sum(sizes.values()))
    found = Records[Cut]()
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
    from .eager import eager
    from .names import call_name, is_metadata

    before: list[int] = []
    total = 0

    # Not FlopCounterMode: it also follows modules, and fails where one is given a parameter (CaiT's class token).
    class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
        supports_higher_order_operators = True  # flex_attention is one

        def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            result = func(*args, **(kwargs or {}))
            count = flop_registry.get(getattr(func, "_overloadpacket", func))
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
    running = skeleton(model, own_buffers=True)
    with torch.no_grad(), quiet(), eager(), counter, Positions():
        running(*args, **kwargs)
    return [*before, total]
