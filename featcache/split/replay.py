"""The replay suffix and the prefix run: the model's own code, with the calls before the cut answered or stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import SplitError
from .analysis import CutAnalysis, affine, refs_in, state_behind
from .clone import skeleton
from .record import Call, Ref, StopAtCutError, call_name, is_metadata

__all__ = ["ReplaySuffix", "run_prefix"]

Tensors = dict[str, torch.Tensor]


def run_prefix(running: nn.Module, analysis: CutAnalysis, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensors:
    """Return the tensors that cross the cut, by name; ``running`` is a fresh skeleton in evaluation mode."""
    found: dict[int, torch.Tensor] = {}
    given = pytree.tree_leaves((args, kwargs))
    for crossing in analysis.crossings:
        if crossing.carried:
            found[crossing.number] = given[analysis.run.origins[crossing.number][1]]
    for crossing in analysis.crossings:
        if crossing.source is not None:
            _pick_up(running, crossing.source, crossing.number, found)
    last = analysis.run.modules[analysis.cut_call]
    _stop_after(running, last.name, last.nth)
    mode = None if analysis.hookable else _Capture(analysis, found)
    try:
        with torch.no_grad():
            if mode is None:
                running(*args, **kwargs)
            else:
                with mode:
                    running(*args, **kwargs)
    except StopAtCutError:
        pass
    missing = [crossing.spec.name for crossing in analysis.crossings if crossing.number not in found]
    if missing:
        raise SplitError(
            f"the cut {analysis.cut!r} was not reached as it was recorded ({', '.join(missing)} missing): "
            "the model took another path for this batch."
        )
    return {crossing.spec.name: found[crossing.number] for crossing in analysis.crossings}


def _pick_up(running: nn.Module, source: tuple[str, int, int], number: int, found: dict[int, torch.Tensor]) -> None:
    name, nth, leaf = source
    seen = Counter[str]()

    def take(_: nn.Module, args: Any, outputs: Any) -> None:
        if seen[name] == nth:
            found[number] = pytree.tree_leaves(outputs)[leaf]
        seen[name] += 1

    running.get_submodule(name).register_forward_hook(take)


def _stop_after(running: nn.Module, name: str, nth: int, then: Callable[[], None] | None = None) -> None:
    seen = Counter[str]()

    def stop(_: nn.Module, args: Any, outputs: Any) -> None:
        reached = seen[name] == nth
        seen[name] += 1
        if reached:
            if then is None:
                raise StopAtCutError
            then()

    running.get_submodule(name).register_forward_hook(stop)


class _Capture(TorchFunctionMode):
    """Keeps the results of recorded calls that cross the cut and are no module's output."""

    def __init__(self, analysis: CutAnalysis, found: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.found = found
        self.wanted: dict[int, list[tuple[int, int]]] = {}
        for crossing in analysis.crossings:
            kind, *where = analysis.run.origins[crossing.number]
            if kind == "call":
                self.wanted.setdefault(where[0], []).append((where[1], crossing.number))
        self.position = 0

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not is_metadata(call_name(func)):
            for leaf, number in self.wanted.get(self.position, ()):
                self.found[number] = pytree.tree_leaves(result)[leaf]
            self.position += 1
        return result


class ReplaySuffix(nn.Module):
    """What lies behind a cut, run by the model's own forward.

    Calls before the cut that depend on what is cached are answered: with the frontier's tensors where they cross the
    cut, else with tensors on the ``meta`` device that have the right shape and no content. Calls that do not depend on
    it run for real. From the cut on the model runs as it is, with gradients and modes as the caller has set them.
    """

    def __init__(self, model: nn.Module, analysis: CutAnalysis) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not a child: only what lies behind the cut is this module's own
        self.__dict__["_analysis"] = analysis
        self.training = model.training
        for name in _behind_only(analysis):
            _attach(self, name, model.get_submodule(name))
        for name in sorted(state_behind(analysis)):
            owner, _, leaf = name.rpartition(".")
            if owner in analysis.open and name not in analysis.state_before:
                _attach(self, name, getattr(model.get_submodule(owner), leaf))

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> Any:
        """Return the model's output from the frontier."""
        analysis: CutAnalysis = self.__dict__["_analysis"]
        names = [crossing.spec.name for crossing in analysis.crossings]
        given = {names[0]: frontier} if isinstance(frontier, torch.Tensor) else dict(frontier)
        missing = [name for name in names if name not in given]
        if missing:
            raise SplitError(f"the frontier lacks {', '.join(missing)}; it needs {', '.join(names)}.")
        changed = {number for call in analysis.run.calls[analysis.end :] for number in call.writes}
        tensors = {
            crossing.number: given[crossing.spec.name].clone()
            if crossing.number in changed
            else given[crossing.spec.name]
            for crossing in analysis.crossings
        }
        running = skeleton(self.__dict__["_model"], None)
        answers = _Answers(analysis, tensors, torch.is_grad_enabled())
        self._set_modes(running, analysis, answers)
        _stub(running, analysis, answers)
        args, kwargs = answers.inputs()
        with torch.set_grad_enabled(False), answers:
            output = running(*args, **kwargs)
        if any(isinstance(leaf, torch.Tensor) and leaf.is_meta for leaf in pytree.tree_leaves(output)):
            raise SplitError(f"the output depends on a tensor before the cut {analysis.cut!r} that was not recorded.")
        return output

    def _set_modes(self, running: nn.Module, analysis: CutAnalysis, answers: _Answers) -> None:
        opened = []
        for name, module in running.named_modules():
            if name in analysis.open:
                opened.append((module, self._open_mode(name)))
                module.training = False
            elif name in analysis.before:
                module.training = False

        def at_cut() -> None:
            for module, training in opened:
                module.training = training
            answers.pass_through()

        last = analysis.run.modules[analysis.cut_call]
        _stop_after(running, last.name, last.nth, at_cut)

    def _open_mode(self, name: str) -> bool:
        module: nn.Module = self
        for part in name.split(".") if name else ():
            module = module._modules.get(part) or self
            if module is self:
                break
        return module.training


class _Answers(TorchFunctionMode):
    def __init__(self, analysis: CutAnalysis, tensors: dict[int, torch.Tensor], gradients: bool) -> None:
        super().__init__()
        self.analysis, self.tensors, self.gradients = analysis, tensors, gradients
        first = next(iter(tensors.values()))
        self.batch, self.device = len(first), first.device
        self.position = 0
        self.passing = False
        self.made: dict[int, torch.Tensor] = dict(tensors)

    def inputs(self) -> Any:
        """Return the arguments of the model: what the frontier carries, and placeholders for the rest."""
        return pytree.tree_map_only(Ref, lambda ref: self.answer(ref.number), self.analysis.run.inputs)

    def pass_through(self) -> None:
        """From here on everything runs as it is."""
        self.passing = True
        torch.set_grad_enabled(self.gradients)

    def answer(self, number: int) -> torch.Tensor:
        if number not in self.made:
            run, other = self.analysis.run, self.analysis.other
            shape = []
            for mine, theirs in zip(run.shapes[number], other.shapes[number], strict=True):
                slope, rest = affine(mine, theirs, run.batch, other.batch)
                shape.append(slope * self.batch + rest)
            self.made[number] = torch.empty(shape, dtype=run.objects[number].dtype, device="meta")
        return self.made[number]

    def results(self, outputs: Any) -> Any:
        """Return recorded results with the tensors of this run in them."""
        return pytree.tree_map_only(Ref, lambda ref: self.answer(ref.number), outputs)

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = call_name(func)
        if name == "Tensor.device" and args[0].is_meta:
            return self.device
        if self.passing or is_metadata(name):
            return func(*args, **kwargs)
        call = self._next(name)
        if self.analysis.answered.intersection((*call.makes, *call.writes)):
            return self.results(call.outputs)
        result = func(*args, **kwargs)
        for leaf, value in zip(pytree.tree_leaves(call.outputs), pytree.tree_leaves(result), strict=False):
            if isinstance(leaf, Ref) and isinstance(value, torch.Tensor):
                self.made.setdefault(leaf.number, value)
        return result

    def _next(self, name: str) -> Call:
        if self.position < self.analysis.end:
            call = self.analysis.run.calls[self.position]
            if call.name == name:
                self.position += 1
                return call
        raise SplitError(
            f"before the cut {self.analysis.cut!r} the model calls {name} where another call was recorded: its path "
            "depends on something that is not cached."
        )


def _stub(running: nn.Module, analysis: CutAnalysis, answers: _Answers) -> None:
    """Replace the topmost modules before the cut, so that not even their Python code runs."""
    run = analysis.run
    above = {position for position, call in enumerate(run.modules) if call.name in analysis.open}
    calls: dict[str, dict[int, Any]] = {}
    for position, call in enumerate(run.modules):
        if (
            position == analysis.cut_call
            or call.end > analysis.end
            or call.parent not in above
            or call.begin == call.end
        ):
            continue
        if call.name in analysis.before and position < analysis.cut_call:
            results = refs_in(call.outputs)
            if results and analysis.answered.issuperset(results):
                calls.setdefault(call.name, {})[call.nth] = call
    for name, recorded in calls.items():
        module = running.get_submodule(name)
        if len(recorded) == sum(call.name == name for call in run.modules):
            _stub_one(module, recorded, answers)
    cut = run.modules[analysis.cut_call]
    once = sum(call.name == cut.name for call in run.modules) == 1
    if once and cut.end > cut.begin and analysis.answered.issuperset(refs_in(cut.outputs)):
        _stub_one(running.get_submodule(cut.name), {0: cut}, answers, keep_last_hook=True)


def _stub_one(module: nn.Module, recorded: dict[int, Any], answers: _Answers, keep_last_hook: bool = False) -> None:
    seen = Counter[str]()

    def stub(*args: Any, **kwargs: Any) -> Any:
        call = recorded[seen["calls"]]
        seen["calls"] += 1
        answers.position = call.end
        with torch._C.DisableTorchFunction():
            return answers.results(call.outputs)

    module.forward = stub
    module._forward_pre_hooks.clear()
    if keep_last_hook:
        for key in list(module._forward_hooks)[:-1]:
            del module._forward_hooks[key]
    else:
        module._forward_hooks.clear()


def _behind_only(analysis: CutAnalysis) -> list[str]:
    """Return the topmost modules that run behind the cut."""
    names = {
        call.name
        for call in analysis.run.modules[analysis.cut_call + 1 :]
        if call.name not in analysis.open and call.name not in analysis.before
    }
    return sorted(name for name in names if not any(name.startswith(f"{other}.") for other in names))


def _attach(root: nn.Module, path: str, value: Any) -> None:
    *owners, name = path.split(".")
    for owner in owners:
        if owner not in root._modules:
            between = nn.Module()
            between.training = root.training
            root.add_module(owner, between)
        root = root._modules[owner]  # type: ignore[assignment]
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    else:
        root.register_buffer(name, value)
