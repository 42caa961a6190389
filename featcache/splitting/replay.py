"""The replay suffix: the model's own forward, with the calls before the cut answered instead of executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils import _pytree as pytree

from ..errors import SplitError
from .analysis import CutAnalysis, state_behind
from .clone import own_modes, skeleton
from .crossings import refs_in
from .eager import eager
from .layout import applied
from .modes import set_mode
from .names import call_name, is_content_free, is_metadata
from .owned import attach, behind_only, never_run
from .prefix import around, at_end_of_call, matching_call, pick_up, taken
from .runs import Call, Ref, StopAtCutError
from .stubs import stub
from .trees import tensors_in

__all__ = ["ReplaySuffix"]

# A placeholder is on the device meta; the model must be told where the tensor would be.
PLACES = {"Tensor.device", "Tensor.is_cuda", "Tensor.is_cpu", "Tensor.is_meta", "Tensor.is_mps", "Tensor.get_device"}


class ReplaySuffix(nn.Module):
    """What comes after a cut, run by the model's own forward.

    Calls before the cut that depend on what is cached are answered: with the frontier's tensors where they cross the
    cut, else with tensors on the ``meta`` device that have the right shape and no content. Calls that do not depend on
    it run for real. From the cut on the model runs as it is, with gradients and modes as the caller has set them.
    """

    def __init__(self, model: nn.Module, analysis: CutAnalysis) -> None:
        super().__init__()
        self.__dict__["_model"] = model  # not a child: only what comes after the cut is this module's own
        self.__dict__["_analysis"] = analysis
        self.__dict__["_modes"] = own_modes(model)
        self.training = model.training
        for name in [*behind_only(analysis), *never_run(model, analysis)]:
            attach(self, name, model.get_submodule(name))
        for name in sorted(state_behind(analysis)):
            owner, _, leaf = name.rpartition(".")
            if owner in analysis.open and name not in analysis.state_before:
                attach(self, name, getattr(model.get_submodule(owner), leaf))

    def train(self, mode: bool = True) -> ReplaySuffix:
        """Set the mode, as the model's own ``train`` does."""
        super().train(mode)
        self.__dict__["_modes"].apply(self, mode)
        return self

    def forward(self, frontier: torch.Tensor | Mapping[str, torch.Tensor]) -> Any:
        """Return the model's output from the frontier."""
        output = self._run(frontier)
        if any(tensor.is_meta for tensor in tensors_in(output)):
            cut = self.__dict__["_analysis"].cut
            raise SplitError(f"the output depends on a tensor before the cut {cut!r} that was not recorded.")
        return output

    def section(
        self, deeper: CutAnalysis, frontier: torch.Tensor | Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return what crosses a deeper cut of the same recording, each of which is a module's output."""
        found: dict[int, torch.Tensor] = {}
        with suppress(StopAtCutError):
            self._run(frontier, partial(pick_up, deeper, found))
        return taken(deeper, found)

    def _run(
        self,
        frontier: torch.Tensor | Mapping[str, torch.Tensor],
        prepare: Callable[[nn.Module, dict[int, torch.Tensor]], None] | None = None,
    ) -> Any:
        analysis: CutAnalysis = self.__dict__["_analysis"]
        names = [crossing.spec.name for crossing in analysis.crossings]
        given = {names[0]: frontier} if isinstance(frontier, torch.Tensor) else dict(frontier)
        missing = [name for name in names if name not in given]
        if missing:
            raise SplitError(f"the frontier lacks {', '.join(missing)}; it needs {', '.join(names)}.")
        tensors = {}
        for crossing in analysis.crossings:
            tensor = applied(crossing.layout.from_rows(), given[crossing.spec.name])
            # The caller's tensor may be a cached row: what is changed in place must be a copy.
            tensors[crossing.number] = tensor.clone() if crossing.number in analysis.overwritten else tensor
        # What the model keeps in buffers after the cut is kept, also where it puts another tensor in a buffer's place.
        running = skeleton(self.__dict__["_model"], None, shares_objects=True, lasting=True)
        answers = _Answers(analysis, tensors, len(given[names[0]]))
        self._set_modes(running, analysis, answers)
        stub(running, analysis, answers)
        for crossing in analysis.crossings:
            if crossing.source is not None:
                name, nth, leaf = crossing.source
                around(running, name, {nth: partial(_given, leaf, tensors[crossing.number])})
        if prepare is not None:
            prepare(running, tensors)
        args, kwargs = answers.inputs()
        try:
            with eager(), answers:
                return running(*args, **kwargs)
        except RuntimeError as error:
            if "meta" not in str(error):  # what torch says where a placeholder meets a tensor with content
                raise
            raise SplitError(
                f"after the cut {analysis.cut!r} the model uses a tensor from before it that was not recorded: for this batch it "
                "takes another path than for the example."
            ) from error

    def _set_modes(self, running: nn.Module, analysis: CutAnalysis, answers: _Answers) -> None:
        """Set evaluation mode for everything until the cut, then the caller's for what runs after it."""
        later = []
        for name, module in running.named_modules():
            if name in analysis.open:
                later.append((module, self._open_mode(name)))
            elif name not in analysis.before:
                later.append((module, module.training))
        set_mode(running, False)

        def at_cut() -> None:
            for module, training in later:
                module.training = training
            answers.leave()

        last = analysis.run.modules[analysis.cut_call]
        at_end_of_call(running, last.name, last.nth, at_cut)

    def _open_mode(self, name: str) -> bool:
        module: nn.Module = self
        for part in name.split(".") if name else ():
            module = module._modules.get(part) or self
            if module is self:
                return bool(self.__dict__["_modes"].get(name, self.training))
        return module.training


class _Answers(TorchFunctionMode):
    def __init__(self, analysis: CutAnalysis, tensors: dict[int, torch.Tensor], batch: int) -> None:
        super().__init__()
        self.analysis, self.tensors = analysis, tensors
        self.batch, self.device = batch, next(iter(tensors.values())).device
        self.basis = analysis.basis
        self.position = 0
        self.on_stack = self.passing = self.strayed = self.astray = False
        carried = {crossing.number for crossing in analysis.crossings if crossing.carried}
        self.cached = {id(tensor) for number, tensor in tensors.items() if number not in carried}
        self.made: dict[int, torch.Tensor] = dict(tensors)

    def __enter__(self) -> _Answers:
        super().__enter__()  # type: ignore[no-untyped-call]
        self.on_stack = True
        return self

    def __exit__(self, *error: Any) -> None:
        if self.on_stack:
            super().__exit__(*error)  # type: ignore[no-untyped-call]
            self.on_stack = False

    def leave(self) -> None:
        """From here on everything runs as it is; a mode on the stack would switch off torch's fast paths."""
        self.passing = True
        if _get_current_function_mode() is self:  # type: ignore[no-untyped-call]
            self.__exit__(None, None, None)

    def inputs(self) -> Any:
        """Return the arguments of the model: what the frontier carries, and placeholders for the rest."""
        return pytree.tree_map_only(Ref, lambda ref: self.answer(ref.number), self.analysis.run.inputs)

    def answer(self, number: int) -> torch.Tensor:
        if number not in self.made:
            run = self.analysis.run
            shape = [self._size(number, place) for place in range(len(run.shapes[number]))]
            self.made[number] = torch.empty(shape, dtype=run.objects[number].dtype, device="meta")
        return self.made[number]

    def _size(self, number: int, place: int) -> int:
        analysis = self.analysis
        mine, larger = analysis.run.shapes[number][place], analysis.other.shapes[number][place]
        resized = mine if analysis.resized is None else analysis.resized.shapes[number][place]
        grown = analysis.growth(mine, larger, resized)
        if grown.lengths is None or self.basis is None:
            return grown.batch_slope * self.batch + grown.rest
        crossing, recorded, other = self.basis
        slope, rest = grown.at_length(recorded, other)
        # A size that does not follow the length exactly, as behind strided convolutions, has no content to be wrong about.
        steps = int(slope * self.tensors[crossing.number].shape[crossing.layout.length_dim] + rest)
        return steps * self.batch if grown.each else steps

    def results(self, outputs: Any) -> Any:
        """Return recorded results with the tensors of this run in them."""
        return pytree.tree_map_only(Ref, lambda ref: self.answer(ref.number), outputs)

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = call_name(func)
        if name in PLACES and args[0].is_meta:
            return func(torch.empty(0, device=self.device))
        if self.passing or is_metadata(name):
            return func(*args, **kwargs)
        if is_content_free(name) and args and args[0].is_meta:
            args = (torch.empty_like(args[0], device=self.device), *args[1:])  # the model may keep what it makes
        given = args[1:] if is_content_free(name) else args
        cached = any(tensor.is_meta or id(tensor) in self.cached for tensor in tensors_in((given, kwargs)))
        call = self._next(name, cached)
        if call is None and cached:
            return self._placeholders(func, name, args, kwargs)
        if call is None or call.switches_gradients:
            return func(*args, **kwargs)
        with torch.no_grad():
            # What it returns may also be an answered tensor itself: a `.to()` that had nothing to do.
            if self.analysis.answered.intersection((*refs_in(call.outputs), *call.writes)):
                known = set(call.makes) - self.analysis.answered
                if known:  # how many steps are packed: lengths alone decide, whatever the steps are
                    real = pytree.tree_map_only(torch.Tensor, self._with_any_content, (args, kwargs))
                    self._keep(call, self._run(func, name, *real), known)
                return self.results(call.outputs)
            result = func(*args, **kwargs)
        if not self.strayed:
            self._keep(call, result, set(refs_in(call.outputs)))
        return result

    def _keep(self, call: Call, result: Any, numbers: set[int]) -> None:
        """Keep what a call gave for the numbered objects."""
        for leaf, value in zip(pytree.tree_leaves(call.outputs), pytree.tree_leaves(result), strict=False):
            if isinstance(leaf, Ref) and leaf.number in numbers and isinstance(value, torch.Tensor):
                self.made.setdefault(leaf.number, value)

    def _with_any_content(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(tensor, device=self.device) if tensor.is_meta else tensor

    def _placeholders(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Return results without content of a call on what is cached: on this path it takes the place of recorded ones."""
        if name.endswith("_") and not name.endswith("__"):
            return args[0]  # what was cached was read after it
        with torch.no_grad():
            return self._run(func, name, *pytree.tree_map_only(torch.Tensor, _without_content, (args, kwargs)))

    def _run(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Return what a call gives for placeholders; raises ``SplitError`` where sizes depend on the content or do not fit."""
        try:
            return func(*args, **kwargs)
        except (RuntimeError, ValueError, IndexError) as error:
            raise SplitError(
                f"before the cut {self.analysis.cut!r} the model takes another path for this batch than the recorded ones, "
                f"and calls {name} there, whose result depends on what is not cached."
            ) from error

    def _next(self, name: str, cached: bool) -> Call | None:
        try:
            position = matching_call(self.analysis, self.position, name, cached)
        except SplitError:
            if not self.analysis.hookable:
                raise
            position = None  # modules tell what crosses, whatever is computed between them
            self.astray = True
        if cached and self.astray:
            return None
        # Once calls of side inputs did differ, what these lead to is no longer known by its number.
        self.strayed |= position != self.position
        if position is None:
            return None
        self.position = position + 1
        return self.analysis.run.calls[position]


def _given(leaf: int, tensor: torch.Tensor, run: Callable[[], Any]) -> Any:
    """Return what a module gives, with what crosses in its place: on another path, no call of the module's gives it."""
    leaves, spec = pytree.tree_flatten(run())
    if leaf < len(leaves) and isinstance(leaves[leaf], torch.Tensor) and leaves[leaf].is_meta:
        leaves[leaf] = tensor
    return pytree.tree_unflatten(leaves, spec)


def _without_content(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")
