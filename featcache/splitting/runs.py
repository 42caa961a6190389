"""What a recorded run of a model consists of: torch calls, module calls, and the tensors that they read and make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .names import ESCAPES, is_content_free

__all__ = ["Call", "Listed", "ModuleCall", "Ref", "Run", "Runs", "StopAtCutError"]


class StopAtCutError(Exception):
    """Ends a forward pass at the cut; never leaves this package."""


@dataclass(frozen=True)
class Ref:
    """A tensor of a run, by the number of the object that it is."""

    number: int


@dataclass(frozen=True)
class Listed:
    """A list that ``tolist`` gave of an object, by the object's number and the position of that call."""

    number: int
    call: int


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
    def content_reads(self) -> tuple[int, ...]:
        """Return what it reads the content of; of some only the size and the type matter."""
        return self.reads[1:] if is_content_free(self.name) else self.reads

    @property
    def touches(self) -> tuple[int, ...]:
        """Return what it reads the content of, makes or changes."""
        return (*self.content_reads, *self.makes, *self.writes)

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
    orders: list[tuple[int, ...]] = field(
        default_factory=list
    )  # of dimensions in memory, the batch first; () for the usual

    @property
    def input_numbers(self) -> list[int]:
        """Return the numbers of the tensors that the run was given."""
        return [number for number, origin in enumerate(self.origins) if origin[0] == "input"]

    @cached_property
    def input_paths(self) -> list[str]:
        """Return where in the arguments each input stands, in the order in which they are numbered."""
        return [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(self.inputs)[0]]

    def is_weight(self, number: int) -> bool:
        """Return whether an object is a parameter or buffer of floating numbers."""
        return self.origins[number][0] == "state" and self.objects[number].is_floating_point()

    def is_weighted(self, call: Call) -> bool:
        """Return whether a call reads a weight."""
        return any(map(self.is_weight, call.reads))

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
    alone: tuple[Run, ...] = ()  # each row by itself, where the content of an input may decide on the path
    warm: nn.Module | None = None  # what was run before and recorded then
    apart: frozenset[int] = frozenset()  # objects in which the rows of a sample lie a batch apart

    def __post_init__(self) -> None:
        # Other threads may draw meanwhile; a call that draws does so in every run.
        for mine, larger, changed in zip(self.run.calls, self.larger.calls, self.changed.calls, strict=False):
            mine.draws &= larger.draws and changed.draws

    def release(self) -> None:
        """Let go of all tensors but constants."""
        object.__setattr__(self, "warm", None)
        for each in (self.run, self.larger, self.changed, self.resized, *self.alone):
            if each is not None:
                each.release()
