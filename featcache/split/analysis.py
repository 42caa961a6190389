"""What a recorded run says about a cut: which calls lie before it, and which tensors cross it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from ..errors import SplitError
from ..tensorspec import TensorSpec
from .record import ModuleCall, Ref, Run, Runs
from .sizes import Growth, growth

__all__ = ["Crossing", "CutAnalysis", "analyse", "refs_in"]


@dataclass(frozen=True)
class Crossing:
    """A tensor that crosses the cut: the number of its object, and the module output that it is, if it is one.

    ``carried`` ones are inputs of the model, such as masks, that the suffix needs as they are. A sample may be several
    rows of it in a run, as the windows of an image are: ``rows`` tells how many; they are stored as one row.
    """

    number: int
    spec: TensorSpec
    source: tuple[str, int, int] | None  # (module, which call of it, leaf of its output)
    carried: bool
    rows: int = 1


@dataclass(frozen=True)
class CutAnalysis:
    """Everything about a cut that splitting needs; ``run`` is the recorded pass, ``end`` its calls before the cut."""

    cut: str
    run: Run
    other: Run  # the same with a batch of another size
    cut_call: int
    end: int
    answered: frozenset[int]  # objects that are not computed behind the cut
    crossings: tuple[Crossing, ...]
    before: frozenset[str]  # modules that run before the cut only
    open: frozenset[str]  # modules that are still running at the cut
    state_before: frozenset[str]
    overwritten: frozenset[int]  # crossing tensors that what lies behind the cut changes in place
    resized: Run | None = None  # the same with samples of another length, where they vary in it
    training_only: frozenset[str] = frozenset()  # modules that run in training mode only

    @property
    def basis(self) -> tuple[Crossing, int, int] | None:
        """Return a crossing tensor that varies in length, with its recorded and its other length."""
        for crossing in self.crossings:
            if crossing.spec.ragged and self.resized is not None:
                return crossing, self.run.shapes[crossing.number][1], self.resized.shapes[crossing.number][1]
        return None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Return the recorded and the other length of the inputs, and of what crosses the cut, where they vary."""
        if self.resized is None:
            return []
        numbers = [number for number, origin in enumerate(self.run.origins) if origin[0] == "input"]
        pairs = [(self.run.shapes[n], self.resized.shapes[n]) for n in numbers]
        found = [(mine[1], other[1]) for mine, other in pairs if len(mine) > 1 and mine[1] != other[1]][:1]
        return found if self.basis is None else [*found, self.basis[1:]]

    def growth(self, mine: int, larger: int, resized: int) -> Growth:
        """Return how a size grows that was recorded three times."""
        return growth((mine, larger, resized), (self.run.batch, self.other.batch))

    def ends_before(self, deeper: CutAnalysis) -> bool:
        """Return whether this cut is reached before another one of the same run."""
        if self.end != deeper.end:
            return self.end < deeper.end
        return self.cut_call > deeper.cut_call  # of two that end with one call, the outer one ends last

    @property
    def hookable(self) -> bool:
        """Return whether every crossing tensor can be picked up by a module hook."""
        return all(crossing.source is not None or crossing.carried for crossing in self.crossings)


def refs_in(tree: Any) -> list[int]:
    """Return the numbers of the tensors in a tree of arguments or results."""
    return [leaf.number for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Ref)]


def analyse(model: nn.Module, cut: str, runs: Runs) -> CutAnalysis:
    """Return what crosses the cut; raises :class:`SplitError` where caching there would be unsound."""
    run, other = runs.run, runs.larger
    cut_call = _last_call(run, cut)
    end = run.modules[cut_call].end
    _same_path(cut, run, other, end, "another batch size or other values")
    if runs.resized is not None:
        _same_path(cut, run, runs.resized, end, "another length")
    main = _main_inputs(model, run)
    inputs = {number for number, origin in enumerate(run.origins) if origin[0] == "input"}
    tainted = _tainted(run, end, main)
    _refuse_escapes(cut, run, end, tainted)
    needed = _needed(run, end, tainted)
    carried = sorted(needed & inputs - tainted)
    answered = _tainted(run, end, inputs - set(carried))
    crossing = _consumed_behind(run, end) & answered
    own = refs_in(run.modules[cut_call].outputs)
    ordered = sorted(crossing, key=lambda number: (number not in own, own.index(number) if number in own else number))
    names: set[str] = set()
    made = [_crossing(cut, runs, number, cut_call, number in carried, names) for number in (*ordered, *carried)]
    if not made:
        raise SplitError(
            f"nothing that depends on the input crosses the cut {cut!r}: what lies behind it does not use it."
        )
    open_calls = ancestors(run, cut_call)
    post = {call.name for position, call in enumerate(run.modules) if is_behind(run, position, cut_call)}
    pre = {call.name for call in run.modules} - post - {run.modules[position].name for position in open_calls}
    return CutAnalysis(
        cut,
        run,
        other,
        cut_call,
        end,
        frozenset(answered),
        tuple(made),
        frozenset(pre),
        frozenset(run.modules[position].name for position in open_calls),
        frozenset(_state_names(run, range(end))),
        frozenset(number for call in run.calls[end:] for number in call.writes),
        runs.resized,
    )


def _last_call(run: Run, cut: str) -> int:
    positions = [position for position, call in enumerate(run.modules) if call.name == cut]
    if not positions:
        raise SplitError(
            f"the module {cut!r} exists, but the model's forward does not call it. `featcache cuts` lists those that it calls."
        )
    return positions[-1]


def _same_path(cut: str, run: Run, other: Run, end: int, what: str) -> None:
    for position in range(end):
        theirs = other.calls[position] if position < len(other.calls) else None
        ours = run.calls[position]
        if theirs is None or theirs.name != ours.name or theirs.reads != ours.reads:
            raise SplitError(
                f"before the cut {cut!r} the model takes another path for {what} "
                f"({module_of(run, ours.parent)}: {ours.name})."
            )


def _main_inputs(model: nn.Module, run: Run) -> set[int]:
    """Return the inputs that the features are computed from: the main one, and every floating one."""
    args, kwargs = run.inputs
    inputs = refs_in((args, kwargs))
    if not inputs:
        raise SplitError("the model was given no tensor: example_inputs must hold at least one.")
    named = [kwargs.get(name) for name in _input_order(model)]
    main = next((each.number for each in named if isinstance(each, Ref)), inputs[0])
    if refs_in(args) and getattr(model, "main_input_name", None) not in kwargs:
        main = inputs[0]
    return {main} | {number for number in inputs if run.objects[number].is_floating_point()}


def _input_order(model: nn.Module) -> list[str]:
    """Return the names of a model's inputs, the main one first: as transformers names it, else as forward lists them."""
    declared = getattr(model, "main_input_name", None)
    try:
        listed = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        listed = []
    return [declared, *listed] if isinstance(declared, str) else listed


def _tainted(run: Run, end: int, seeds: set[int]) -> set[int]:
    """Return the objects before the cut whose content depends on the seeds."""
    tainted = set(seeds)
    while True:
        before = len(tainted)
        for call in run.calls[:end]:
            if tainted.intersection(call.reads):
                tainted.update(call.makes, call.writes)
            elif tainted.intersection(call.writes):
                tainted.update(call.makes)
        if len(tainted) == before:
            return tainted


def _refuse_escapes(cut: str, run: Run, end: int, tainted: set[int]) -> None:
    for position, call in enumerate(run.calls[:end]):
        where = f"before the cut {cut!r}, in {module_of(run, call.parent)}"
        if call.draws and _is_used(run, position):
            raise SplitError(
                f"{where}, the model draws random numbers in evaluation mode ({call.name}): its rows are not a function "
                "of the input."
            )
        if not tainted.intersection(call.reads):
            continue
        if call.escapes:
            raise SplitError(
                f"{where}, a Python value is taken from a tensor that depends on the input ({call.name}): it depends on "
                "the whole batch, so rows cannot be cached."
            )
        if any(run.origins[number][0] in ("state", "constant") for number in call.writes):
            raise SplitError(
                f"{where}, the model writes into its own state ({call.name}): its rows depend on what was run before."
            )


def _is_used(run: Run, position: int) -> bool:
    # Some models draw a number for every layer, and use it in training mode only.
    call = run.calls[position]
    made = {*call.makes, *call.writes}
    return not made.isdisjoint(run.returned) or any(
        made.intersection(later.reads) for later in run.calls[position + 1 :]
    )


def _consumed_behind(run: Run, end: int) -> set[int]:
    consumed = set(run.returned)
    for call in run.calls[end:]:
        consumed.update(call.reads)
    return consumed


def _needed(run: Run, end: int, tainted: set[int]) -> set[int]:
    """Return the untainted objects that must be had, or computed again, behind the cut."""
    needed = _consumed_behind(run, end) - tainted
    for call in run.calls[:end]:
        if call.escapes:
            needed.update(number for number in call.reads if number not in tainted)
    for call in reversed(run.calls[:end]):
        if needed.intersection((*call.makes, *call.writes)) and not tainted.intersection(call.reads):
            needed.update(call.reads)
    return needed


def _crossing(cut: str, runs: Runs, number: int, cut_call: int, carried: bool, names: set[str]) -> Crossing:
    run, other = runs.run, runs.larger
    tensor, origin = run.objects[number], run.origins[number]
    source = _source(run, number, cut_call)
    if origin[0] == "input":
        name = _input_name(run, number)
    elif source is not None:
        name = source[0] if source[2] == 0 else f"{source[0]}.{source[2]}"
    else:
        call = run.calls[origin[1]]
        inside = run.modules[call.parent].name if call.parent >= 0 else ""
        name = f"{inside}.{call.name.rpartition('.')[2].strip('_')}".lstrip(".")
    unique, copy = name, 1
    while unique in names:
        copy += 1
        unique = f"{name}:{copy}"
    names.add(unique)
    mine, theirs = run.shapes[number], other.shapes[number]
    rows = mine[0] // run.batch if mine and origin[0] != "input" else 1
    if not (mine and rows) or (mine[0], theirs[0]) != (rows * run.batch, rows * other.batch) or mine[1:] != theirs[1:]:
        raise SplitError(
            f"{unique!r}, which crosses the cut {cut!r}, has shape {list(mine)} for a batch of {run.batch} and "
            f"{list(theirs)} for {other.batch}: its first dimension is not the batch."
        )
    shape: list[int | None] = list(mine[1:])
    if runs.resized is not None:
        sized = runs.resized.shapes[number]
        varying = [place for place, (a, b) in enumerate(zip(mine, sized, strict=False)) if a != b]
        if len(mine) != len(sized) or varying not in ([], [1]) or (varying and rows > 1):
            raise SplitError(
                f"{unique!r}, which crosses the cut {cut!r}, has shape {list(mine)} and, for samples of another length, "
                f"{list(sized)}: only what varies in its first dimension behind the batch can be stored without padding."
            )
        if varying:
            shape[0] = None
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Crossing(
        number,
        TensorSpec(unique, (*((rows,) if rows > 1 else ()), *shape), dtype),
        None if origin[0] == "input" else source,
        carried or origin[0] == "input",
        rows,
    )


def _source(run: Run, number: int, cut_call: int) -> tuple[str, int, int] | None:
    """Return the module output that an object is: the cut's own if it is that, else the first."""
    still_open = ancestors(run, cut_call)
    for position in (cut_call, *range(len(run.modules))):
        call = run.modules[position]
        if call.end > run.modules[cut_call].end or position in still_open:
            continue
        for leaf, value in enumerate(pytree.tree_leaves(call.outputs)):
            if isinstance(value, Ref) and value.number == number:
                return call.name, call.nth, leaf
    return None


def _input_name(run: Run, number: int) -> str:
    args, kwargs = run.inputs
    for name, value in kwargs.items():
        if isinstance(value, Ref) and value.number == number:
            return str(name)
    position = refs_in((args, kwargs)).index(number)
    return "input" if position == 0 else f"input_{position}"


def ancestors(run: Run, position: int) -> set[int]:
    """Return the positions of the module calls within which a module call ran."""
    found = set()
    position = run.modules[position].parent
    while position >= 0:
        found.add(position)
        position = run.modules[position].parent
    return found


def is_behind(run: Run, position: int, cut_call: int) -> bool:
    """Return whether a module call begins after a cut."""
    return position > cut_call and cut_call not in ancestors(run, position)


def behind(run: Run, cut_call: int) -> list[tuple[int, ModuleCall]]:
    """Return the topmost module calls behind the cut: those whose parent was running at the cut."""
    above = ancestors(run, cut_call)
    return [
        (position, call)
        for position, call in enumerate(run.modules)
        if is_behind(run, position, cut_call) and call.parent in above
    ]


def _state_names(run: Run, calls: range) -> set[str]:
    return {
        str(run.origins[number][1])
        for position in calls
        for number in run.calls[position].reads
        if run.origins[number][0] == "state"
    }


def state_behind(analysis: CutAnalysis) -> set[str]:
    """Return the names of the parameters and buffers that calls behind the cut use."""
    run = analysis.run
    return _state_names(run, range(analysis.end, len(run.calls)))


def module_of(run: Run, position: int) -> str:
    """Return the name of a module call in words."""
    return (run.modules[position].name or "the model itself") if position >= 0 else "the model itself"
