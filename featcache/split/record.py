"""One recorded run of a model: every torch call and every module call, in order, with where its tensors came from."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .clone import skeleton

__all__ = ["Call", "ModuleCall", "Ref", "Run", "StopAtCutError", "call_name", "is_metadata", "record"]

# What these return says how a tensor is laid out, not what is in it.
METADATA = {
    "shape", "size", "dim", "ndim", "ndimension", "dtype", "device", "layout", "is_cuda", "is_cpu", "is_meta", "is_mps",
    "is_sparse", "is_quantized", "is_floating_point", "is_complex", "is_contiguous", "requires_grad", "requires_grad_",
    "is_leaf", "numel", "nelement", "stride", "element_size", "itemsize", "nbytes", "storage_offset", "get_device", "type_as_",
    "__len__", "is_inference", "grad_fn", "names", "is_nested", "is_signed", "is_conj", "is_neg", "output_nr", "_version",
    "is_mkldnn", "is_xpu",
     "is_vulkan", "is_tensor", "__hash__", "is_same_size", "has_names", "grad", "_is_view", "__dir__", "__format__", "__repr__",
}  # fmt: skip
# What these return is a Python value that depends on the content.
ESCAPES = {
    "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__", "__array__", "__contains__", "__complex__",
    "equal", "allclose", "is_nonzero", "data_ptr", "untyped_storage", "storage", "__dlpack__",
}  # fmt: skip


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
    writes: tuple[int, ...]  # arguments that it changed in place
    parent: int  # the innermost module call that it ran in, by position; -1 outside of all
    time: int

    @property
    def escapes(self) -> bool:
        """Return whether a Python value that depends on the content of a tensor came out."""
        return self.name.rpartition(".")[2] in ESCAPES and bool(self.reads)


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


@dataclass
class Run:
    """What a forward pass did. Objects are numbered in the order in which they were first seen."""

    batch: int
    inputs: Any  # (args, kwargs) with references
    calls: list[Call] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    outputs: Any = None
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


def call_name(function: Callable[..., Any]) -> str:
    """Return the name of a torch function, the same in every process."""
    owner = getattr(function, "__self__", None)
    if getattr(function, "__name__", "") in ("__get__", "__set__") and owner is not None:
        return f"Tensor.{'' if function.__name__ == '__get__' else 'set_'}{getattr(owner, '__name__', '?')}"
    qualified = str(getattr(function, "__qualname__", None) or getattr(function, "__name__", type(function)))
    module = getattr(function, "__module__", None) or "torch"
    # One function is reached through several private classes, whose names differ between versions.
    short = qualified.replace("_TensorBase.", "Tensor.").replace("TensorBase.", "Tensor.")
    short = short.replace("_VariableFunctionsClass.", "torch.").replace("_VariableFunctions.", "torch.")
    return short if short != qualified or isinstance(function, types.MethodDescriptorType) else f"{module}.{qualified}"


def is_metadata(name: str) -> bool:
    """Return whether a call only asks how a tensor is laid out."""
    return name.rpartition(".")[2] in METADATA


class _Recorder(TorchFunctionMode):
    def __init__(self, run: Run, state: dict[int, str]) -> None:
        super().__init__()
        self.run = run
        self.state = state
        self.numbers: dict[int, int] = {}
        self.open: list[int] = []
        self.time = 0
        self.counts: Counter[str] = Counter()

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
        return known

    def referred(self, tree: Any, origin: tuple[Any, ...] | None = None) -> tuple[Any, tuple[int, ...]]:
        leaves, spec = pytree.tree_flatten(tree)
        numbers, found = [], []
        for position, leaf in enumerate(leaves):
            if isinstance(leaf, torch.Tensor):
                number = self.number(leaf, None if origin is None else (*origin, position))
                numbers.append(number)
                found.append(Ref(number))
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
        position = len(self.run.calls)
        result = func(*args, **kwargs)
        writes = tuple(
            number
            for number, before in zip(reads, versions, strict=True)
            if _version(self.run.objects[number]) != before
        )
        outputs, made = self.referred(result, ("call", position))
        makes = tuple(number for number in made if self.run.origins[number][:2] == ("call", position))
        self.time += 1
        parent = self.open[-1] if self.open else -1
        self.run.calls.append(
            Call(func, name, args_tree, kwargs_tree, outputs, reads, makes, writes, parent, self.time)
        )
        return result

    def enter(self, name: str, args: Any, kwargs: Any) -> None:
        (args_tree, kwargs_tree), _ = self.referred((args, kwargs))
        parent = self.open[-1] if self.open else -1
        self.time += 1
        made = ModuleCall(
            name, len(self.run.calls), parent, args_tree, kwargs_tree, nth=self.counts[name], time=self.time
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


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch: int,
    training: Collection[str] = (),
) -> Run:
    """Return what a pass of ``model`` does, run without gradients on a skeleton of it.

    All modules are in evaluation mode, but those that ``training`` names.
    """
    running = skeleton(model, own_buffers=bool(training))
    for name in training:
        running.get_submodule(name).training = True
    state = dict(_state(model))
    run = Run(batch, None)
    recorder = _Recorder(run, state)
    for position, leaf in enumerate(pytree.tree_leaves((args, kwargs))):
        if isinstance(leaf, torch.Tensor):
            recorder.number(leaf, ("input", position))
    run.inputs, _ = recorder.referred((args, kwargs))
    for name, module in running.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):
            _watch(module, name, recorder)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), recorder:
        outputs = running(*args, **kwargs)
    run.outputs, _ = recorder.referred(outputs)
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
