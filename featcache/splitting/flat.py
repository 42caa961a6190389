"""The flat suffix: an ordinary torch.fx graph of what comes after the cut.

Its nodes are the topmost module calls after the cut, whole, and the torch calls between them, so it costs next to
nothing beyond them, and torch.compile, export and vmap apply to it. It is used only where it proves equal to the
model; a path or a size that depends on values needs the replay.
"""

from __future__ import annotations

import builtins
import copy
import enum
import operator
import types
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ..errors import SplitError
from ..tensorspec import TensorSpec
from .analysis import CutAnalysis, behind, fed_by_inputs, is_behind
from .clone import own_modes
from .containers import PLAIN, NotFlatError, held
from .crossings import Crossing, ancestors
from .layout import Steps
from .runs import Call, ModuleCall, Ref

__all__ = ["FRONTIER", "FlatSuffix", "NotFlatError", "Program", "build_flat", "flat_graph", "guard_graph"]

FRONTIER = "frontier"
Program = tuple[fx.Graph, dict[str, torch.Tensor]]  # a graph and its constants
DROPOUTS = {
    f"torch.nn.functional.{name}"
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
}


class FlatSuffix(fx.GraphModule):
    """A flat suffix; ``train`` and ``eval`` leave its modules in the modes in which the model's own would."""

    def train(self, mode: bool = True) -> FlatSuffix:
        """Set the mode, as the model's own ``train`` does."""
        super().train(mode)
        self.meta["modes"].apply(self, mode)
        return self


def build_flat(model: nn.Module, program: Program, frontier: tuple[TensorSpec, ...]) -> FlatSuffix:
    """Return a copy of the graph as a module that shares the modules, parameters and buffers of ``model``."""
    graph, constants = copy.deepcopy(program[0]), program[1]
    root: dict[str, Any] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            root[node.target] = model.get_submodule(node.target)
        elif node.op == "get_attr":
            owner, _, name = node.target.rpartition(".")
            found = constants.get(node.target)
            root[node.target] = getattr(model.get_submodule(owner), name) if found is None else found
    made = FlatSuffix(root, graph, class_name="Suffix")
    made._non_persistent_buffers_set.update(constants)
    for name in root:
        owner, _, leaf = name.rpartition(".")
        if name not in constants and leaf in model.get_submodule(owner)._non_persistent_buffers_set:
            made.get_submodule(owner)._non_persistent_buffers_set.add(leaf)
    made.training = model.training
    # Folding tries rows of this form, to see that a row's value does not depend on the others.
    made.meta["frontier"] = frontier
    made.meta["modes"] = own_modes(model)
    return made


def guard_graph(analysis: CutAnalysis) -> tuple[Program, tuple[Any, ...]]:
    """Return the graph that gives the values of the guards from the frontier, and the recorded ones.

    Raises ``NotFlatError`` where they cannot be given.
    """
    return _Builder(analysis, None).guards()


def flat_graph(analysis: CutAnalysis, until: CutAnalysis | None = None) -> Program:
    """Return the graph after a cut and the constants that it uses; raises ``NotFlatError`` where there is none.

    With ``until``, a deeper cut of the same recording, it is the section between the two, whose outputs are what
    crosses the deeper one, by name.
    """
    return _Builder(analysis, until).build()


class _Builder:
    def __init__(self, analysis: CutAnalysis, until: CutAnalysis | None) -> None:
        self.analysis, self.until = analysis, until
        self.run, self.other = analysis.run, analysis.other
        self.graph = fx.Graph()
        self.nodes: dict[int, fx.Node] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.batch: fx.Node | None = None
        self.device: fx.Node | None = None

    def guards(self) -> tuple[Program, tuple[Any, ...]]:
        """Return the graph of the Python values that the network makes of its side inputs, and what these were."""
        self._frontier()
        fed = fed_by_inputs(self.run, self.analysis.end)
        nodes, values = [], []
        for mine, other in zip(self.run.calls[: self.analysis.end], self.other.calls, strict=False):
            if not mine.decides or not fed.intersection(mine.reads):
                continue
            if mine.sized or not isinstance(mine.outputs, PLAIN) or mine.outputs != other.outputs:
                raise NotFlatError(f"what comes of {mine.name} differs from batch to batch")
            nodes.append(self._node(mine, other))
            values.append(mine.outputs)
        self.graph.output(tuple(nodes))
        self._clear()
        return (self.graph, self.constants), tuple(values)

    def build(self) -> Program:
        if self.until is None and self.analysis.training_guards:
            raise NotFlatError("the path in training mode depends on content")
        if self.until is not None and self.until.guards:
            raise NotFlatError(f"the path depends on the content of {', '.join(self.until.guards)}")
        if self.analysis.resized is not None:
            raise NotFlatError("the path may depend on the length")
        events, others = self._events(self.run), self._events(self.other)
        if [event.name for event in events] != [event.name for event in others]:
            raise NotFlatError("the path after the cut depends on the batch")
        for event in events:  # inside of a module that is called whole, its own code does that
            if event.context:
                raise NotFlatError(f"the model itself enters {' '.join(event.context)}")
        if any(isinstance(event, Call) and event.switches_gradients for event in events):
            raise NotFlatError("the model itself switches gradients")
        fed = fed_by_inputs(self.run, len(self.run.calls))
        behind_the_cut = self.run.calls[self.analysis.end : self.until.end if self.until else None]
        if any(call.decides and fed.intersection(call.reads) for call in behind_the_cut):
            # Also inside of a module that is called whole: it may keep the value, and another one may look at it there.
            raise NotFlatError("a value after the cut depends on content")
        self._frontier()
        for mine, other in zip(events, others, strict=True):
            (self._module if isinstance(mine, ModuleCall) else self._call)(mine, other)
        if self.until is None:
            self.graph.output(self._tree(self.run.outputs, self.other.outputs))
        else:
            self.graph.output({each.spec.name: self._rows(each) for each in self.until.crossings})
        self._clear()
        return self.graph, self.constants

    def _clear(self) -> None:
        for node in (self.batch, self.device):
            if node is not None and not node.users:
                self.graph.erase_node(node)

    def _events(self, run: Any) -> list[Any]:
        cut_call, until = self.analysis.cut_call, self.until
        above = ancestors(run, cut_call) | {-1}
        if until is None:
            calls = [call for call in run.calls[self.analysis.end :] if call.parent in above]
            modules = [call for _, call in behind(run, cut_call)]
        else:
            # What is still running at the deeper cut is entered; its calls up to there count one by one.
            still_open = ancestors(run, until.cut_call)
            above |= still_open
            calls = [call for call in run.calls[self.analysis.end : until.end] if call.parent in above]
            modules = [
                call
                for position, call in enumerate(run.modules)
                if position not in still_open
                and call.parent in above
                and is_behind(run, position, cut_call)
                and not is_behind(run, position, until.cut_call)
            ]
        return sorted([*calls, *modules], key=lambda event: event.time)

    def _frontier(self) -> None:
        given = self.graph.placeholder(FRONTIER)
        for crossing in self.analysis.crossings:
            node = given
            if len(self.analysis.crossings) > 1:
                node = self.graph.call_function(operator.getitem, (given, crossing.spec.name))
            self.batch = self.batch or self.graph.call_method("size", (node, 0))
            self.device = self.device or self.graph.call_function(builtins.getattr, (node, "device"))
            node = self._stepped(node, crossing.layout.from_rows())
            if crossing.number in self.analysis.overwritten:
                # The caller's tensor may be a cached row: what is changed in place must be a copy.
                node = self.graph.call_method("clone", (node,))
            self.nodes[crossing.number] = node

    def _rows(self, crossing: Crossing) -> Any:
        """Return what crosses the deeper cut as a row a sample."""
        return self._stepped(self._tensor(crossing.number), crossing.layout.to_rows())

    def _stepped(self, node: Any, steps: Steps) -> Any:
        for name, args in steps:
            node = self.graph.call_method(name, (node, *args))
        return node

    def _module(self, mine: ModuleCall, other: ModuleCall) -> None:
        if any(call.decides for call in self.run.calls[mine.begin : mine.end]) and not _is_fixed(mine.outputs):
            raise NotFlatError(f"what {mine.name} returns may depend on content")
        args, kwargs = self._tree((mine.args, mine.kwargs), (other.args, other.kwargs))
        node = self.graph.call_module(mine.name, args, kwargs)
        self._results(node, mine.outputs)

    def _call(self, mine: Call, other: Call) -> None:
        if mine.decides:
            raise NotFlatError(f"what comes of {mine.name} depends on content")
        self._results(self._node(mine, other), mine.outputs)

    def _node(self, mine: Call, other: Call) -> fx.Node:
        first = mine.reads[0] if mine.reads else -1
        if mine.name.startswith("Tensor.new_") and first in self.analysis.answered and first not in self.nodes:
            # Only the type and the device of that tensor matter.
            type_of: dict[str, Any] = {"dtype": self.run.objects[first].dtype, "device": self.device}
            self.nodes[first] = self.graph.call_function(torch.empty, (0,), type_of)
            made = self._node(mine, other)
            del self.nodes[first]
            return made
        args, kwargs = self._tree((mine.args, mine.kwargs), (other.args, other.kwargs))
        if mine.name in DROPOUTS and kwargs.get("training") is False:
            # It was recorded in evaluation mode, and most likely asked the module; the trial in training mode tells.
            inside = self.run.modules[mine.parent].name if mine.parent >= 0 else ""
            kwargs["training"] = self.graph.create_node("get_attr", f"{inside}.training".lstrip("."))
        function: Any = mine.function
        owner: Any = getattr(function, "__self__", None)
        if getattr(function, "__name__", "") == "__get__":
            return self.graph.call_function(builtins.getattr, (args[0], owner.__name__))
        if isinstance(function, (types.MethodDescriptorType, types.WrapperDescriptorType)) or (
            getattr(function, "__qualname__", "").startswith("Tensor.")
        ):
            return self.graph.call_method(function.__name__, args, kwargs)
        return self.graph.call_function(function, args, kwargs)

    def _results(self, node: fx.Node, outputs: Any) -> None:
        paths: Any = pytree.tree_flatten_with_path(outputs)[0]
        for path, leaf in paths:
            if not isinstance(leaf, Ref):
                continue
            part = node
            for key in path:
                if isinstance(key, pytree.GetAttrKey):
                    part = self.graph.call_function(builtins.getattr, (part, key.name))
                else:
                    index = key.idx if isinstance(key, pytree.SequenceKey) else key.key
                    part = self.graph.call_function(operator.getitem, (part, index))
            self.nodes[leaf.number] = part

    def _tree(self, mine: Any, other: Any) -> Any:
        leaves, spec = pytree.tree_flatten(mine)
        others = pytree.tree_leaves(other)
        if len(leaves) != len(others):
            raise NotFlatError("arguments depend on the batch")
        made = pytree.tree_unflatten([self._leaf(*each) for each in zip(leaves, others, strict=True)], spec)
        return held(self.graph, made)

    def _leaf(self, mine: Any, other: Any) -> Any:
        if isinstance(mine, Ref):
            return self._tensor(mine.number)
        if isinstance(mine, int) and not isinstance(mine, (bool, enum.Enum)) and mine != other:
            return self._size(mine, other)
        if isinstance(mine, float) and mine != other:
            raise NotFlatError("a number depends on the batch")
        if isinstance(mine, torch.device):
            return self.device
        if isinstance(mine, slice):
            ends = ((mine.start, other.start), (mine.stop, other.stop), (mine.step, other.step))
            return slice(*(self._leaf(*each) for each in ends))
        if not isinstance(mine, PLAIN):
            raise NotFlatError(f"an argument is {type(mine).__name__}")
        return mine

    def _size(self, mine: int, larger: Any) -> Any:
        try:
            grown = self.analysis.growth(mine, int(larger), mine)
        except (SplitError, TypeError) as error:
            raise NotFlatError("a size does not grow with the batch") from error
        slope, rest = grown.batch_slope, grown.rest
        scaled = self.batch if slope == 1 else self.graph.call_function(operator.mul, (self.batch, slope))
        return self.graph.call_function(operator.add, (scaled, rest)) if rest else scaled

    def _tensor(self, number: int) -> Any:
        if number in self.nodes:
            return self.nodes[number]
        kind, *where = self.run.origins[number]
        if kind == "state":
            node = self.graph.get_attr(where[0])
        elif kind == "constant":
            name = f"_constant_{len(self.constants)}"
            self.constants[name] = self.run.objects[number]
            node = self.graph.create_node("get_attr", name)
        elif kind == "call" and where[0] < self.analysis.end and number not in self.analysis.answered:
            self._untainted(where[0])
            return self.nodes[number]
        else:
            raise NotFlatError("a tensor reaches the suffix on a way that was not recorded")
        self.nodes[number] = node
        return node

    def _untainted(self, position: int) -> None:
        """Write down a call before the cut that does not depend on what is cached."""
        mine, other = self.run.calls[position], self.other.calls[position]
        writers = [call for call in self.run.calls[: self.analysis.end] if set(call.writes) & set(mine.makes)]
        if writers:
            raise NotFlatError("a side input is changed in place")
        self._call(mine, other)


def _is_fixed(outputs: Any) -> bool:
    """Return whether outputs are tensors, or tuples of them: of anything else a recording tells one case only."""
    return isinstance(outputs, Ref) or (isinstance(outputs, tuple) and all(map(_is_fixed, outputs)))
