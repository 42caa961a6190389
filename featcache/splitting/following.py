"""Following a run: whether a real batch takes a path that was recorded, and that the name of its set therefore covers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import SplitError
from .crossings import refs_in
from .names import call_name, is_content_free, is_metadata
from .runs import Call, Run
from .trees import Lists, TensorSet, named_state, tensors_in

__all__ = ["Follower", "Path", "path_of"]

VARIES = "varies"  # with the batch or the length: how, the structure digest tells


@dataclass(frozen=True)
class Step:
    """A call on what is cached: its name, the parameters and buffers that it reads, and its scalar arguments."""

    name: str
    states: tuple[str, ...]
    scalars: tuple[str, ...]

    def admits(self, other: Step) -> bool:
        """Return whether another step is this one, up to what varies."""
        alike = (self.name, self.states, len(self.scalars)) == (other.name, other.states, len(other.scalars))
        return alike and all(VARIES in (a, b) or a == b for a, b in zip(self.scalars, other.scalars, strict=True))

    def to_list(self) -> list[Any]:
        """Return the step as JSON-able values."""
        return [self.name, *self.states, *self.scalars]


Path = tuple[Step, ...]


def path_of(run: Run, others: list[Run], end: int, carried: set[int]) -> Path:
    """Return the calls on what is cached of a recorded run before the cut, found as ``Follower`` finds them.

    ``others`` show which scalars vary; ``carried`` are the inputs that cross the cut as they are.
    """
    steps, fed = [], set(run.input_numbers)
    cached = fed - carried
    for position, call in enumerate(run.calls[:end]):
        given = call.content_reads
        is_fed = not fed.isdisjoint(given)
        is_cached = not cached.isdisjoint(given) or (is_fed and any(map(run.is_weight, given)))
        made = {*refs_in(call.outputs), *(given[:1] if is_in_place(call.name) else ())}
        if is_fed or is_cached:
            fed |= made
        if not is_cached:
            continue
        cached |= made
        scalars = _scalars(call.args, call.kwargs)
        theirs = [_scalars(each.args, each.kwargs) for each in _calls_at(others, position, call)]
        fixed = [
            mine if all(len(each) == len(scalars) and each[place] == mine for each in theirs) else VARIES
            for place, mine in enumerate(scalars)
        ]
        if not others:  # a size of this batch, perhaps
            fixed = [VARIES if mine.lstrip("-").isdecimal() else mine for mine in scalars]
        states = tuple(str(run.origins[n][1]) for n in call.reads if run.origins[n][0] == "state")
        steps.append(Step(call.name, states, tuple(fixed)))
    return tuple(steps)


def _calls_at(runs: list[Run], position: int, call: Call) -> list[Call]:
    found = [run.calls[position] for run in runs if position < len(run.calls)]
    return [each for each in found if each.name == call.name]


def _scalars(args: Any, kwargs: Any) -> tuple[str, ...]:
    kinds = (bool, int, float, str)
    return tuple(repr(leaf) for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, kinds))


def is_in_place(name: str) -> bool:
    short = name.rpartition(".")[2]
    return (
        short == "__setitem__"
        or (short.startswith("__i") and short != "__invert__")
        or (short.endswith("_") and not short.endswith("__"))
    )


class Follower(TorchFunctionMode):
    """Compares the calls of a run with recorded paths; ``check`` raises ``SplitError`` where it took none of them.

    ``cached`` are the inputs that what is cached is made of, ``fed`` all of them.
    """

    def __init__(
        self, running: nn.Module, cut: str, paths: tuple[Path, ...], cached: list[torch.Tensor], fed: list[torch.Tensor]
    ) -> None:
        super().__init__()
        self.cut, self.paths, self.taken = cut, paths, list[Step]()
        self.longest = max(map(len, paths))
        self.cached, self.fed = TensorSet(cached), TensorSet(fed)
        self.kept = named_state(running)  # the tensors, too, so that none that replaces one gets its identity
        self.lists = Lists()
        self.states = {id(tensor): name for name, tensor in self.kept}

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = call_name(func)
        if is_metadata(name) or len(self.taken) >= self.longest:
            return func(*args, **kwargs)
        tree = self.lists.replaced((args, kwargs))
        given = tensors_in((tree[0][1:] if is_content_free(name) else tree[0], tree[1]))
        states = [each for each in given if id(each) in self.states]
        fed = self.fed.meets(given)
        cached = self.cached.meets(given) or (fed and any(each.is_floating_point() for each in states))
        result = func(*args, **kwargs)
        if given:
            self.lists.note(name, result, given[0])
        made = [*tensors_in(result), *(given[:1] if is_in_place(name) else ())] if fed or cached else []
        if cached:
            self.taken.append(Step(name, tuple(self.states[id(each)] for each in states), _scalars(*tree)))
            self.cached.add(made)
        self.fed.add(made)
        return result

    def check(self) -> None:
        """Raise ``SplitError`` where the run took no recorded path."""
        for path in self.paths:
            if len(self.taken) >= len(path) and all(a.admits(b) for a, b in zip(path, self.taken, strict=False)):
                return
        path = self.paths[0]
        place = next(
            (n for n, (a, b) in enumerate(zip(path, self.taken, strict=False)) if not a.admits(b)),
            min(len(path), len(self.taken)),
        )
        name = self.taken[place].name if place < len(self.taken) else "nothing more"
        raise SplitError(
            f"before the cut {self.cut!r} the model takes a path for these samples that it does not take for the example "
            f"({name}): it depends on their length, on the size of the batch, or on an input beside the main one, and the "
            "name of a set cannot cover it. Give samples of one length, choose an earlier cut, or make the choice an "
            "attribute of the model."
        )
