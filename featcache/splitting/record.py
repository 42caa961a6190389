"""One recorded run of a model: every torch call and every module call, in order, with where its tensors came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..errors import SplitError
from .clone import skeleton
from .eager import eager
from .names import call_name, is_metadata, is_sized_by_content
from .randomness import generators, quiet
from .runs import Call, Listed, ModuleCall, Ref, Run
from .trees import Lists, named_state, ordered, tensors_in, unmapped, unpacked

__all__ = ["record"]


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
        self.versions: dict[int, int] = {}  # of each object, behind the last call that was seen
        self.fed: set[int] = set()  # objects that depend on an input
        self.nesting = _autocast_nesting()
        self.generators = generators()
        self.lists = Lists()

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
            self.run.orders.append(_order(tensor))
            self.memories.setdefault(_memory(tensor), []).append(known)
            if origin[0] == "input":
                self.fed.add(known)
            elif origin[0] == "constant":
                self.refuse_mapped(tensor)
            self.versions[known] = _version(tensor)
        return known

    def refuse_mapped(self, tensor: torch.Tensor) -> None:
        """Raise ``SplitError`` where a tensor is what ``torch.vmap`` makes of one that depends on an input."""
        whole = unmapped(tensor)
        if whole is not tensor and self.fed.intersection(self.memories.get(_memory(whole), ())):
            raise SplitError(
                "the model maps a function over what depends on its input by torch.vmap, or derives it by torch.func, whose "
                "calls cannot be followed: write it for a batch."
            )

    def referred(self, tree: Any, origin: tuple[Any, ...] | None = None) -> tuple[Any, tuple[int, ...]]:
        leaves, spec = pytree.tree_flatten(unpacked(self.lists.replaced(tree)))
        numbers: list[int] = []
        found: list[Any] = []
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                number = self.number(leaf, None if origin is None else (*origin, position))
                numbers.append(number)
                found.append(Ref(number))
            elif isinstance(leaf, Listed):
                numbers.append(leaf.number)
                found.append(leaf)
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
        versions = [self.version(number) for number in reads]
        # Also one that lies in a global variable: what it draws is not in the name of a set.
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Generator)]
        states = [(generator, generator.get_state()) for generator in (*self.generators, *given)]
        position = len(self.run.calls)
        context = self.context(reads)
        result = func(*args, **kwargs)
        draws = any(not torch.equal(generator.get_state(), state) for generator, state in states)
        changed = [
            number
            for number, before in zip(reads, versions, strict=True)
            if _version(self.run.objects[number]) != before
        ]
        # A view shows what is written through another one: all objects in that memory count as changed.
        shared = (self.memories[_memory(self.run.objects[number])] for number in changed)
        writes = tuple(dict.fromkeys([*changed, *(number for numbers in shared for number in numbers)]))
        outputs, made = self.referred(result, ("call", position))
        if reads:
            self.lists.note(name, result, Listed(reads[0], position))
        self.versions.update((number, _version(self.run.objects[number])) for number in (*reads, *writes))
        if self.fed.intersection(reads):
            self.fed.update((*made, *writes))
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

    def version(self, number: int) -> int:
        """Return the version of an object; raises ``SplitError`` where it was changed by a call that was not seen."""
        found = _version(self.run.objects[number])
        if found != self.versions[number]:
            raise SplitError(
                "the model changes a tensor in code that torch does not show (a function that is compiled by torch.jit, or an "
                "extension): what it computes has no fingerprint, so its features cannot be cached. Use the Python function."
            )
        return found

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


def _order(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the order in which the dimensions of a dense tensor lie in memory, if it is not the usual one."""
    with torch._C.DisableTorchFunction():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.dim() < 3 or tensor.is_contiguous():
            return ()
        strides = tensor.stride()
        order = tuple(sorted(range(tensor.dim()), key=lambda place: -strides[place]))
        return order if order[0] == 0 and tensor.permute(order).is_contiguous() else ()


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
    args, kwargs = ordered((args, kwargs))
    running = skeleton(model, own_buffers=True)
    for name, training in (modes or {}).items():
        running.get_submodule(name).training = training
    kept = named_state(running)  # the tensors, too, so that none that replaces one gets its identity
    state = {id(tensor): name for name, tensor in kept}
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
    with torch.no_grad(), quiet(), eager(), recorder:
        outputs = running(*args, **kwargs)
    run.outputs, _ = recorder.referred(outputs)
    for number in range(len(run.objects)):
        recorder.version(number)
    run.returned = frozenset(recorder.number(tensor) for tensor in tensors_in(outputs))
    return run


def _watch(module: nn.Module, name: str, recorder: _Recorder) -> None:
    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        recorder.enter(name, args, kwargs)

    def leave(_: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
        recorder.leave(outputs)

    module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True)
    module.register_forward_hook(leave, with_kwargs=True, always_call=True)  # also where the model catches an error
