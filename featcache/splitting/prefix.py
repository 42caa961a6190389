"""The prefix run: the model's own forward, stopped at the cut, with what crosses it picked up on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from ..errors import SplitError
from .analysis import CutAnalysis
from .crossings import Crossing, refs_in
from .eager import eager
from .following import Follower
from .inputs import copied
from .layout import applied
from .names import call_name, is_content_free, is_metadata
from .runs import ModuleCall, StopAtCutError
from .trees import TensorSet, ordered, tensors_in, unpacked

__all__ = [
    "OtherSizeError",
    "around",
    "at_end_of_call",
    "matching_call",
    "pick_up",
    "run_prefix",
    "run_prefixes",
    "taken",
]


class OtherSizeError(SplitError):
    """Rows that cross a cut have another size than the recorded ones, in as many dimensions."""


def run_prefix(
    running: nn.Module, analysis: CutAnalysis, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the tensors that cross the cut, by name; ``running`` is a fresh skeleton in evaluation mode."""
    return run_prefixes(running, [analysis], args, kwargs)[0]


def run_prefixes(
    running: nn.Module,
    analyses: Sequence[CutAnalysis],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    follow: bool = False,
) -> list[dict[str, torch.Tensor]]:
    """Return what crosses each of several cuts of one recorded model, from a single run up to the last of them.

    With ``follow``, ``SplitError`` is raised where the run takes a path that was not recorded.
    """
    if any(each.overwrites_inputs for each in analyses):
        args, kwargs = copied((args, kwargs))
    found: dict[int, torch.Tensor] = {}
    reached: dict[str, dict[str, torch.Tensor]] = {}
    given = _numbered(analyses[0], (args, kwargs))
    for crossing in (crossing for each in analyses for crossing in each.crossings if crossing.carried):
        place = analyses[0].run.origins[crossing.number][1]
        if isinstance(given[place], torch.Tensor):
            found[crossing.number] = given[place]

    def reach(analysis: CutAnalysis) -> None:
        with torch._C.DisableTorchFunction():  # what is done to store a row is no call of the model
            reached[analysis.cut] = taken(analysis, found, keep=len(reached) + 1 < len(analyses))
        if len(reached) == len(analyses):
            raise StopAtCutError

    for analysis in analyses:
        pick_up(analysis, found, running, {}, partial(reach, analysis))
    follower = _follower(running, analyses, given) if follow else nullcontext()
    try:
        with torch.no_grad(), eager(), follower:
            if all(analysis.hookable for analysis in analyses):
                running(*args, **kwargs)
            else:
                capture = _Capture(analyses, found, given)
                capture.leave_alone(running)
                with capture:
                    running(*args, **kwargs)
    except StopAtCutError:
        pass
    if isinstance(follower, Follower):
        follower.check()
    # A cut that was not reached has no entry: what it lacks is named.
    return [reached.get(analysis.cut) or taken(analysis, {}) for analysis in analyses]


def _numbered(analysis: CutAnalysis, call: Any) -> list[Any]:
    """Return the inputs of a call as they are numbered in the recording: by their names, whatever else a dict holds."""
    leaves = {pytree.keystr(path): leaf for path, leaf in pytree.tree_flatten_with_path(ordered(call))[0]}
    return [leaves.get(name) for name in analysis.run.input_paths]


def _follower(running: nn.Module, analyses: Sequence[CutAnalysis], given: list[Any]) -> Any:
    deepest = max(analyses, key=lambda each: each.end)
    if not deepest.paths:
        return nullcontext()
    fed = [each for each in given if isinstance(each, torch.Tensor)]
    return Follower(running, deepest.cut, deepest.paths, _cached_inputs(deepest, given), fed)


def _cached_inputs(analysis: CutAnalysis, given: list[Any]) -> list[torch.Tensor]:
    """Return the inputs that what is cached is made of: those that do not cross the cut as they are."""
    carried = {analysis.run.origins[each.number][1] for each in analysis.crossings if each.carried}
    return [each for place, each in enumerate(given) if isinstance(each, torch.Tensor) and place not in carried]


def taken(analysis: CutAnalysis, found: dict[int, torch.Tensor], keep: bool = False) -> dict[str, torch.Tensor]:
    """Return what crosses a cut that was just reached; ``keep`` where more is computed, which may overwrite it.

    Raises ``SplitError`` where it is not all there, or a row has another shape than the recorded one.
    """
    missing = [crossing.spec.name for crossing in analysis.crossings if crossing.number not in found]
    if missing:
        raise SplitError(
            f"the cut {analysis.cut!r} was not reached as it was recorded ({', '.join(missing)} missing): give the inputs "
            "as the example gave them; if they are so, the model took another path for this batch."
        )
    return {
        each.spec.name: _stored(analysis, each, found[each.number], keep and each.number in analysis.overwritten)
        for each in analysis.crossings
    }


def _stored(analysis: CutAnalysis, crossing: Crossing, tensor: torch.Tensor, clone: bool) -> torch.Tensor:
    """Return a tensor as a row a sample; a copy where what follows may overwrite it."""
    if tensor.is_nested:
        raise SplitError(f"{crossing.spec.name!r}, which crosses the cut {analysis.cut!r}, is a nested tensor.")
    try:
        rows = applied(crossing.layout.to_rows(), tensor)
    except (IndexError, RuntimeError):  # of too few dimensions, or of rows that are not whole samples
        rows = tensor
    shape = crossing.spec.shape
    if rows.dim() != len(shape) + 1 or any(a not in (b, None) for a, b in zip(shape, rows.shape[1:], strict=True)):
        kind = OtherSizeError if rows.dim() == len(shape) + 1 else SplitError
        raise kind(
            f"{crossing.spec.name!r}, which crosses the cut {analysis.cut!r}, has rows of shape {list(rows.shape[1:])} for "
            f"these inputs, where {list(shape)} was recorded: the size depends on the batch, or the inputs have another "
            "size than the example's."
        )
    # As a store gives it: what writes into a view of it would else do something else to stored rows.
    stored = rows.contiguous()
    return stored.clone() if clone and stored is rows else stored


def pick_up(
    analysis: CutAnalysis,
    found: dict[int, torch.Tensor],
    running: nn.Module,
    known: dict[int, torch.Tensor],
    then: Callable[[], None] | None = None,
) -> None:
    """Have a run note what crosses a cut where a module gives it, and call ``then`` at the cut (by default, stop there).

    What is in ``known`` already is not waited for.
    """
    last = analysis.run.modules[analysis.cut_call]
    for crossing in analysis.crossings:
        if crossing.number in known:
            found[crossing.number] = known[crossing.number]
        elif crossing.source is not None:
            name, nth, leaf = crossing.source

            def take(outputs: Any, number: int = crossing.number, leaf: int = leaf) -> None:
                found[number] = pytree.tree_leaves(unpacked(outputs))[leaf]

            if name == last.name:
                _at_end(running, name, nth, take)
            else:
                # Not a hook: torch's fast path of attention is not taken by a layer that has one.
                around(running, name, {nth: partial(_handing_on, take)})
    _at_end(running, last.name, last.nth, lambda _: _stop() if then is None else then())


def _stop() -> None:
    raise StopAtCutError


def at_end_of_call(running: nn.Module, name: str, nth: int, then: Callable[[], None]) -> RemovableHandle:
    """Run ``then`` at the end of the nth call of a module, behind all other hooks; return what removes it."""
    return _at_end(running, name, nth, lambda _: then())


def _at_end(running: nn.Module, name: str, nth: int, then: Callable[[Any], None]) -> RemovableHandle:
    seen = Counter[str]()

    def reached(_: nn.Module, args: Any, outputs: Any) -> None:
        seen[name] += 1
        if seen[name] == nth + 1:
            then(outputs)

    return running.get_submodule(name).register_forward_hook(reached)


def _handing_on(take: Callable[[Any], None], run: Callable[[], Any]) -> Any:
    outputs = run()
    take(outputs)
    return outputs


def around(running: nn.Module, name: str, wrappers: dict[int, Callable[[Callable[[], Any]], Any]]) -> None:
    """Have calls of a module, by their number, made by a wrapper, with the module's own hooks inside."""
    module, seen = running.get_submodule(name), Counter[str]()
    call = module._call_impl

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nth = seen[name]
        seen[name] += 1
        run = partial(call, *args, **kwargs)
        return wrappers[nth](run) if nth in wrappers else run()

    module.__dict__["_call_impl"] = wrapped


def matching_call(analysis: CutAnalysis, position: int, name: str, cached: bool) -> int | None:
    """Return the position of the recorded call that the next one is, None for one of side inputs alone that is not among them.

    Such calls may differ from batch to batch: models look whether a mask masks anything. Calls on what is ``cached`` may
    not; that raises ``SplitError``.
    """
    for place in range(position, analysis.end):
        call = analysis.run.calls[place]
        answered = not analysis.answered.isdisjoint(call.touches)
        if call.name == name and (answered or not cached):
            return place
        if answered:
            break  # these are never left out
    if not cached:
        return None
    raise SplitError(
        f"before the cut {analysis.cut!r} the model calls {name} where another call was recorded: its path depends on "
        "something that is not cached."
    )


class _Capture(TorchFunctionMode):
    """Keeps the results of recorded calls that cross the cut and are no module's output."""

    def __init__(self, analyses: Sequence[CutAnalysis], found: dict[int, torch.Tensor], given: list[Any]) -> None:
        super().__init__()
        self.analysis, self.found = max(analyses, key=lambda each: each.end), found
        self.wanted: dict[int, list[tuple[int, int]]] = {}
        for crossing in {each.number: each for analysis in analyses for each in analysis.crossings}.values():
            if crossing.source is None and not crossing.carried:
                _, call, leaf = self.analysis.run.origins[crossing.number]
                self.wanted.setdefault(call, []).append((leaf, crossing.number))
        self.position = 0
        self.cached = TensorSet(_cached_inputs(self.analysis, given))

    def leave_alone(self, running: nn.Module) -> None:
        """Be off in modules in which nothing is wanted: a mode on the stack switches off torch's fast paths."""
        run, wrappers = self.analysis.run, dict[str, dict[int, Callable[[Callable[[], Any]], Any]]]()
        wanted = {
            position
            for position, call in enumerate(run.modules)
            if call.end > self.analysis.end or any(call.begin <= each < call.end for each in self.wanted)
        }
        for position, call in enumerate(run.modules):
            if position not in wanted and (call.parent in wanted or call.parent < 0) and call.end > call.begin:
                wrappers.setdefault(call.name, {})[call.nth] = partial(self._off, call)
        for name, by_call in wrappers.items():
            if name:
                around(running, name, by_call)

    def _off(self, call: ModuleCall, run: Callable[[], Any]) -> Any:
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        try:
            outputs = run()
        finally:
            self.__enter__()  # type: ignore[no-untyped-call]
        self.position = call.end
        if not self.analysis.answered.isdisjoint(refs_in(call.outputs)):
            self.cached.add(tensors_in(outputs))
        return outputs

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = call_name(func)
        if is_metadata(name):
            return result
        given = args[1:] if is_content_free(name) else args
        cached = self.cached.meets(tensors_in((given, kwargs)))
        if cached:
            self.cached.add(tensors_in(result))
        if self.position < self.analysis.end:
            place = matching_call(self.analysis, self.position, name, cached)
            if place is not None:
                for leaf, number in self.wanted.get(place, ()):
                    self.found[number] = pytree.tree_leaves(unpacked(result))[leaf]
                self.position = place + 1
        return result
