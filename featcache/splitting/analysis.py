"""What a recorded run says about a cut: which calls lie before it, and which tensors cross it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..errors import SplitError
from .crossings import Crossing, ancestors, crossing_of, input_name, refs_in
from .following import Path, path_of
from .inputs import main_input
from .names import is_comparison
from .nested import refuse_inside_nested
from .runs import Call, ModuleCall, Ref, Run, Runs
from .sizes import Growth, growth

__all__ = ["CutAnalysis", "analyse"]


@dataclass(frozen=True)
class CutAnalysis:
    """Everything about a cut that splitting needs; ``end`` is the number of recorded calls before the cut."""

    cut: str
    runs: Runs
    cut_call: int
    end: int
    answered: frozenset[int]  # objects that are not computed after the cut
    crossings: tuple[Crossing, ...]
    before: frozenset[str]  # modules that run before the cut only
    open: frozenset[str]  # modules that are still running at the cut
    state_before: frozenset[str]
    overwritten: frozenset[int]  # crossing tensors that what comes after the cut changes in place
    guards: tuple[str, ...]  # inputs whose content decides on the path, or on a size: beside the main one, masks mostly
    paths: tuple[Path, ...]  # that were recorded before the cut, where the inputs or their length may decide on it
    writes_state: bool  # whether the model may write into buffers, or tensors of its own, before the cut
    overwrites_inputs: bool  # whether it changes what it is given before the cut
    training_only: frozenset[str] = frozenset()  # modules that run in training mode only
    training_inputs: frozenset[int] = frozenset()  # inputs that are used after the cut in training mode only
    training_guards: bool = False  # whether content decides on the path in training mode only

    @property
    def run(self) -> Run:
        """Return the recorded pass."""
        return self.runs.run

    @property
    def other(self) -> Run:
        """Return the same with a batch of another size."""
        return self.runs.larger

    @property
    def resized(self) -> Run | None:
        """Return the same with samples of another length, None where they do not vary in it."""
        return self.runs.resized

    @property
    def basis(self) -> tuple[Crossing, int, int] | None:
        """Return a crossing tensor that varies in length, with its recorded and its other length."""
        for crossing in self.crossings:
            if crossing.spec.ragged and self.resized is not None:
                place = crossing.layout.length_dim
                sizes = (run.shapes[crossing.number][place] for run in (self.run, self.resized))
                return crossing, *sizes  # type: ignore[return-value]
        return None

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Return the recorded and the other length of the inputs, and of what crosses the cut, where they vary."""
        if self.resized is None:
            return []
        pairs = [(self.run.shapes[n], self.resized.shapes[n]) for n in self.run.input_numbers]
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


def analyse(model: nn.Module, cut: str, runs: Runs, also: frozenset[int] = frozenset()) -> CutAnalysis:
    """Return what crosses the cut; raises ``SplitError`` where caching there would be unsound.

    Of the inputs beside the main one, those in ``also`` cross, too.
    """
    run, other = runs.run, runs.larger
    cut_call = _last_call(run, cut)
    end = run.modules[cut_call].end
    _same_path(cut, run, other, end, "another batch size or other values")
    if runs.resized is not None:
        _same_path(cut, run, runs.resized, end, "another length")
    refuse_inside_nested(model, run, cut, cut_call)
    inputs = set(run.input_numbers)
    seeds = _seeds(run, end, _main_inputs(model, run, end), inputs)
    tainted = _tainted(run, end, seeds)
    _refuse_escapes(cut, run, end, tainted)
    needed = _needed(run, end, tainted)
    carried = sorted((needed | also) & inputs - tainted)
    answered = _tainted(run, end, seeds | inputs - set(carried))
    crossing = _consumed_behind(run, end) & answered
    own = refs_in(run.modules[cut_call].outputs)
    ordered = sorted(crossing, key=lambda number: (number not in own, own.index(number) if number in own else number))
    names: set[str] = set()
    made = [crossing_of(cut, runs, number, cut_call, number in carried, names) for number in (*ordered, *carried)]
    if not made:
        raise SplitError(
            f"nothing that depends on the input crosses the cut {cut!r}: what comes after it does not use it."
        )
    open_calls = ancestors(run, cut_call)
    post = {call.name for position, call in enumerate(run.modules) if is_behind(run, position, cut_call)}
    pre = {call.name for call in run.modules} - post - {run.modules[position].name for position in open_calls}
    guards = _guards(run, end, inputs)
    paths: tuple[Path, ...] = ()
    states = _state_names(run, range(end))
    as_they_are = {crossing.number for crossing in made if crossing.carried}
    if guards or runs.resized is not None:
        paths = (path_of(run, [other, runs.changed, *([runs.resized] if runs.resized else [])], end, as_they_are),)
    for alone in runs.alone if guards else ():
        found = max((call.end for call in alone.modules if call.name == cut), default=0)
        paths += (path_of(alone, [], found, as_they_are),)
        states |= _state_names(alone, range(found))
    return CutAnalysis(
        cut,
        runs,
        cut_call,
        end,
        frozenset(answered),
        tuple(made),
        frozenset(pre),
        frozenset(run.modules[position].name for position in open_calls),
        frozenset(states),
        frozenset(number for call in run.calls[end:] for number in call.writes),
        guards,
        paths,
        bool(paths) or any(run.origins[n][0] in ("state", "constant") for call in run.calls[:end] for n in call.writes),
        any(inputs.intersection(call.writes) for call in run.calls[:end]),
    )


def _last_call(run: Run, cut: str) -> int:
    positions = [position for position, call in enumerate(run.modules) if call.name == cut]
    if not positions:
        raise SplitError(
            f"the module {cut!r} exists, but the model's forward does not call it on the example. `featcache cuts` lists those "
            "that it calls."
        )
    return positions[-1]


def _same_path(cut: str, run: Run, other: Run, end: int, what: str) -> None:
    for position in range(end):
        theirs = other.calls[position] if position < len(other.calls) else None
        ours = run.calls[position]
        if theirs is None or theirs.name != ours.name or theirs.reads != ours.reads:
            one_by_one = ours.escapes or (theirs is not None and theirs.escapes)
            raise SplitError(
                f"before the cut {cut!r} the model takes another path for {what} "
                f"({module_of(run, ours.parent)}: {ours.name})."
                + (" If it takes values from a tensor one by one, take them all by tolist()." if one_by_one else "")
            )


def _main_inputs(model: nn.Module, run: Run, end: int) -> set[int]:
    """Return the inputs that the features are computed from: the main one, and every floating one.

    Token ids that decide on the path, as where a mask is made of them and asked whether it masks anything, are a side
    input: what is cached is what weights make of them.
    """
    args, kwargs = run.inputs
    inputs = refs_in((args, kwargs))
    if not inputs:
        raise SplitError("the model was given no tensor: example_inputs must hold at least one.")
    named = {input_name(run, number): number for number in inputs}
    main = named.get(
        main_input(model, [(name, run.objects[number]) for name, number in named.items()]) or "", inputs[0]
    )
    if any(isinstance(each, Ref) for each in args) and getattr(model, "main_input_name", None) not in kwargs:
        main = inputs[0]
    floating = {number for number in inputs if run.objects[number].is_floating_point()}
    return floating if main not in floating and _decides(run, end, main) else {main} | floating


def _decides(run: Run, end: int, number: int) -> bool:
    """Return whether a Python value, or a size, comes of comparing an input with a number, and none of it in another way.

    For such comparisons the example is made canonical; others would depend on the values that it happens to have.
    """
    plain, compared, found = {number}, set[int](), False
    for call in run.calls[:end]:
        is_plain = not plain.isdisjoint(call.content_reads)
        if run.is_weighted(call) or not (is_plain or compared.intersection(call.content_reads)):
            continue
        compares = is_comparison(call.name)
        if call.decides and is_plain and not compares:
            return False
        found |= call.decides
        (plain if is_plain and not compares else compared).update(call.makes, call.writes)
    return found


def _seeds(run: Run, end: int, main: set[int], inputs: set[int]) -> set[int]:
    """Return what is cached, if not itself then what comes of it: the main inputs, and what weights make of the others.

    An embedding of other ids, or a second tower, is no less work than the first.
    """
    fed = _tainted(run, end, inputs)
    seeds = set(main)
    for call in run.calls[:end]:
        if run.is_weighted(call) and fed.intersection(call.reads):
            seeds.update(call.makes, call.writes)
    return seeds


def fed_by_inputs(run: Run, end: int) -> set[int]:
    """Return the objects before the cut that depend on any input."""
    return _tainted(run, end, set(run.input_numbers))


def _guards(run: Run, end: int, inputs: set[int]) -> tuple[str, ...]:
    """Return the names of the inputs whose content a Python value, or a size, before the cut depends on."""
    deciding = [call for call in run.calls[:end] if call.decides]
    if not deciding:
        return ()
    fed = {number: _tainted(run, end, {number}) for number in sorted(inputs)}
    return tuple(
        input_name(run, number)
        for number, reached in fed.items()
        if any(reached.intersection(call.reads) for call in deciding)
    )


def _tainted(run: Run, end: int, seeds: set[int]) -> set[int]:
    """Return the objects before the cut whose content depends on the seeds."""
    tainted = set(seeds)
    while True:
        before = len(tainted)
        for call in run.calls[:end]:
            if tainted.intersection(call.content_reads):
                tainted.update(_touched(call, tainted), call.writes)
            elif tainted.intersection(call.writes):
                tainted.update(call.makes)
        if len(tainted) == before:
            return tainted


def _touched(call: Call, tainted: set[int]) -> tuple[int, ...]:
    """Return what of the results depends on tainted arguments: how many steps are packed, lengths alone decide."""
    packs = call.name.endswith("_pack_padded_sequence") and len(call.makes) == 2
    return call.makes[:1] if packs and tainted.isdisjoint(call.content_reads[1:]) else call.makes


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
    """Return the untainted objects that must be had, or computed again, after the cut."""
    needed = _consumed_behind(run, end) - tainted
    for call in run.calls[:end]:
        if call.escapes:
            needed.update(number for number in call.reads if number not in tainted)
    for call in reversed(run.calls[:end]):
        if needed.intersection((*call.makes, *call.writes)) and not tainted.intersection(call.content_reads):
            needed.update(call.content_reads)
    return needed


def is_behind(run: Run, position: int, cut_call: int) -> bool:
    """Return whether a module call begins after a cut."""
    return position > cut_call and cut_call not in ancestors(run, position)


def behind(run: Run, cut_call: int) -> list[tuple[int, ModuleCall]]:
    """Return the topmost module calls after the cut: those whose parent was running at the cut."""
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
    """Return the names of the parameters and buffers that calls after the cut use."""
    run = analysis.run
    return _state_names(run, range(analysis.end, len(run.calls)))


def module_of(run: Run, position: int) -> str:
    """Return the name of a module call in words."""
    return (run.modules[position].name or "the model itself") if position >= 0 else "the model itself"
