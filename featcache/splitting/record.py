"""One recorded run of a model: every torch call and every module call, in order, with where its tensors came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .clone import skeleton
from .names import ESCAPES, call_name, is_metadata, is_sized_by_content
from .randomness import generators, quiet
from .trees import tensors_in

__all__ = ["Call", "ModuleCall", "Ref", "Run", "Runs", "StopAtCutError", "record"]


class StopAtCutError(Exception):
    """Ends a forward pass at the cut; never leaves this package."""


@dataclass(frozen=True)
class Ref:
    """A tensor of a run, by the number of the object that it is."""

    number: int


@dataclass
class Call:
    """One torch call: its arguments and results, tensors replaced by references."""

    function: Callable[..., Any]
    name: str
    args: Any
    kwargs: Any
    outputs: Any
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    writes: tuple[int, ...]  # what it changed in place: arguments, and all that share memory with them
    parent: int  # the innermost module call that it ran in, by position; -1 outside of all
    time: int
    draws: bool = False  # random numbers
    sized: bool = False  # the size of the result may depend on the content of an argument
    context: tuple[Any, ...] = ()  # what an enclosing autocast or inference mode of the model does

    @property
    def switches_gradients(self) -> bool:
        """Return whether the model turns gradients on or off here."""
        return self.name.endswith("_set_grad_enabled")

    @property
    def escapes(self) -> bool:
        """Return whether a Python value that depends on the content of a tensor came out."""
        return self.name.rpartition(".")[2] in ESCAPES and bool(self.reads)

    @property
    def decides(self) -> bool:
        """Return whether a Python value, or a size, came out that depends on the content of a tensor."""
        return self.escapes or self.sized


@dataclass
class ModuleCall:
    """One call of a module: the range of torch calls that ran in it, its arguments and results."""

    name: str
    begin: int
    parent: int  # position in the run's list, -1 for the model itself
    args: Any
    kwargs: Any
    end: int = -1
    outputs: Any = None
    nth: int = 0
    time: int = 0
    context: tuple[Any, ...] = ()


@dataclass
class Run:
    """What a forward pass did. Objects are numbered in the order in which they were first seen."""

    batch: int
    inputs: Any  # (args, kwargs) with references
    calls: list[Call] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    outputs: Any = None
    returned: frozenset[int] = frozenset()  # also those inside of objects that are not containers
    objects: list[torch.Tensor] = field(default_factory=list)
    origins: list[tuple[Any, ...]] = field(
        default_factory=list
    )  # ("input", n) ("state", name) ("constant",) ("call", n, leaf)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def release(self) -> None:
        """Let go of all tensors but constants; what is still needed of the others is their dtype and shape."""
        for number, origin in enumerate(self.origins):
            if origin[0] != "constant":
                self.objects[number] = torch.empty(0, dtype=self.objects[number].dtype, device="meta")


@dataclass(frozen=True)
class Runs:
    """The recorded runs of one model: the example, a larger batch, other values, and another length where samples vary in it."""

    run: Run
    larger: Run
    changed: Run
    resized: Run | None = None
    warm: nn.Module | None = None  # what was run before and recorded then

    def __post_init__(self) -> None:
        # Other threads may draw meanwhile; a call that draws does so in every run.
        for mine, larger, changed in zip(self.run.calls, self.larger.calls, self.changed.calls, strict=False):
            mine.draws &= larger.draws and changed.draws

    def release(self) -> None:
        """Let go of all tensors but constants."""
        object.__setattr__(self, "warm", None)
        for each in (self.run, self.larger, self.changed, self.resized):
            if each is not None:
                each.release()


class _Recorder(TorchFunctionMode):
    def __init__(self, run: Run, state: dict[int, str]) -> None:
        super().__init__()
        self.run = run
        self.state = state
        self.numbers: dict[int, int] = {}
        self.open: list[int] = []
        self.time = 0
        self.counts: Counter[str] = Counter()
        self.memories: dict[int, list[int]] = {}  # objects by the memory that they are views of
        self.nesting = _autocast_nesting()
        self.generators = generators()

    def number(self, tensor: torch.Tensor, origin: tuple[Any, ...] | None = None) -> int:
        known = self.numbers.get(id(tensor))
        if known is None:
            known = self.numbers[id(tensor)] = len(self.run.objects)
            if origin is None:
                name = self.state.get(id(tensor))
                origin = ("constant",) if name is None else ("state", name)
            self.run.objects.append(tensor)  # also keeps its id from being used again
            self.run.origins.append(origin)
            self.run.shapes.append(tuple(tensor.shape))
            self.memories.setdefault(_memory(tensor), []).append(known)
        return known

    def referred(self, tree: Any, origin: tuple[Any, ...] | None = None) -> tuple[Any, tuple[int, ...]]:
        leaves, spec = pytree.tree_flatten(tree)
        numbers: list[int] = []
        found: list[Any] = []
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                number = self.number(leaf, None if origin is None else (*origin, position))
                numbers.append(number)
                found.append(Ref(number))
            elif isinstance(leaf, slice):  # which is a leaf to pytree, though a tensor may be one of its ends
                ends, inside = self.referred((leaf.start, leaf.stop, leaf.step))
                numbers.extend(inside)
                found.append(slice(*ends))
            else:
                found.append(leaf)
        return pytree.tree_unflatten(found, spec), tuple(numbers)

    def __torch_function__(
        self, func: Callable[..., Any], kinds: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = call_name(func)
        if is_metadata(name):
            return func(*args, **kwargs)
        (args_tree, kwargs_tree), reads = self.referred((args, kwargs))
        versions = [_version(self.run.objects[number]) for number in reads]
        states = [generator.get_state() for generator in self.generators]
        position = len(self.run.calls)
        context = self.context(reads)
        result = func(*args, **kwargs)
        draws = any(
            not torch.equal(generator.get_state(), state)
            for generator, state in zip(self.generators, states, strict=True)
        )
        changed = [
            number
            for number, before in zip(reads, versions, strict=True)
            if _version(self.run.objects[number]) != before
        ]
        # A view shows what is written through another one: all objects in that memory count as changed.
        shared = (self.memories[_memory(self.run.objects[number])] for number in changed)
        writes = tuple(dict.fromkeys([*changed, *(number for numbers in shared for number in numbers)]))
        outputs, made = self.referred(result, ("call", position))
        makes = tuple(number for number in made if self.run.origins[number][:2] == ("call", position))
        self.time += 1
        parent = self.open[-1] if self.open else -1
        self.run.calls.append(
            Call(
                func, name, args_tree, kwargs_tree, outputs, reads, makes, writes, parent, self.time, draws,
                is_sized_by_content(name, args, kwargs), context,
            )
        )  # fmt: skip
        return result

    def context(self, reads: tuple[int, ...] = ()) -> tuple[Any, ...]:
        found: tuple[Any, ...] = ("inference",) if torch.is_inference_mode_enabled() else ()
        if _autocast_nesting() > self.nesting:
            kind = self.run.objects[reads[0]].device.type if reads else "cpu"
            enabled = torch.is_autocast_enabled(kind)
            found += ("autocast", str(torch.get_autocast_dtype(kind)) if enabled else "off")
        return found

    def enter(self, name: str, args: Any, kwargs: Any) -> None:
        (args_tree, kwargs_tree), _ = self.referred((args, kwargs))
        parent = self.open[-1] if self.open else -1
        self.time += 1
        made = ModuleCall(
            name,
            len(self.run.calls),
            parent,
            args_tree,
            kwargs_tree,
            nth=self.counts[name],
            time=self.time,
            context=self.context(),
        )
        self.counts[name] += 1
        self.open.append(len(self.run.modules))
        self.run.modules.append(made)

    def leave(self, outputs: Any) -> None:
        call = self.run.modules[self.open.pop()]
        call.outputs, _ = self.referred(outputs)
        call.end = len(self.run.calls)


def _version(tensor: torch.Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # inference tensors count no versions
        return 0


def _memory(tensor: torch.Tensor) -> int:
    try:
        with torch._C.DisableTorchFunction():  # a recorder must not record itself
            return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse tensors have no storage
        return -id(tensor)


def _autocast_nesting() -> int:
    # torch tells the depth only when it changes.
    depth: int = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return depth


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    modes: Mapping[str, bool] | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Run:
    """Return what a pass of ``model`` does, run without gradients on a skeleton of it.

    It is in evaluation mode, but for the modules that ``modes`` names; ``prepare`` is called with the skeleton.
    """
    kwargs = dict(sorted(kwargs.items()))  # inputs are numbered; the order of keywords must not matter
    running = skeleton(model, own_buffers=True)
    for name, training in (modes or {}).items():
        running.get_submodule(name).training = training
    state = dict(_state(running))
    run = Run(batch, None)
    recorder = _Recorder(run, state)
    for position, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
        if isinstance(leaf, torch.Tensor):
            recorder.number(leaf, ("input", position))
    run.inputs, _ = recorder.referred((args, kwargs))
    for name, module in running.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _watch(module, name, recorder)
    if prepare is not None:
        prepare(running)
    with torch.no_grad(), quiet(), recorder:
        outputs = running(*args, **kwargs)
    run.outputs, _ = recorder.referred(outputs)
    run.returned = frozenset(recorder.number(tensor) for tensor in tensors_in(outputs))
    return run


def _watch(module: nn.Module, name: str, recorder: _Recorder) -> None:
    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.enter(name, args, kwargs)

    def leave(_: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        recorder.leave(outputs)

    module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    module.register_forward_hook(leave, with_kwargs=True)


def _state(model: nn.Module) -> Iterator[tuple[int, str]]:
    # Reversed, so that of a shared tensor's names the first one stays.
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for name, tensor in reversed(named):
        yield id(tensor), name
