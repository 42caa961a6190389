"""The tensors that cross a cut: what each is, where it is picked up, and how it is laid out as rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from ..errors import SplitError
from ..tensorspec import TensorSpec
from .layout import Layout, layout_of
from .runs import Ref, Run, Runs

STORED = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")

__all__ = ["Crossing", "ancestors", "crossing_of", "input_name", "refs_in"]


@dataclass(frozen=True)
class Crossing:
    """A tensor that crosses the cut: the number of its object, and the module output that it is, if it is one.

    ``carried`` ones are inputs of the model, such as masks, that the suffix needs as they are. ``layout`` tells where its
    rows are in a run; stored is one row per sample.
    """

    number: int
    spec: TensorSpec
    source: tuple[str, int, int] | None  # (module, which call of it, leaf of its output)
    carried: bool
    layout: Layout


def refs_in(tree: Any) -> list[int]:
    """Return the numbers of the tensors in a tree of arguments or results."""
    return [leaf.number for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Ref)]


def crossing_of(cut: str, runs: Runs, number: int, cut_call: int, carried: bool, names: set[str]) -> Crossing:
    """Return what an object is that crosses the cut; raises ``SplitError`` where it cannot be laid out as rows."""
    run, other = runs.run, runs.larger
    tensor, origin = run.objects[number], run.origins[number]
    source = _source(run, number, cut_call)
    if origin[0] == "input":
        name = input_name(run, number)
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
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in STORED:
        raise SplitError(
            f"{unique!r}, which crosses the cut {cut!r}, holds {dtype} numbers, which are not stored. Cut before what makes "
            "them, or behind what turns them into plain ones."
        )
    layout = layout_of(runs, number)
    if layout is None or (origin[0] == "input" and layout != Layout()):
        raise SplitError(
            f"{unique!r}, which crosses the cut {cut!r}, has shape {list(mine)} for a batch of {run.batch} and "
            f"{list(theirs)} for {other.batch}: no dimension of it is the batch."
        )
    shape: list[int | None] = [size for dim, size in enumerate(mine) if dim != layout.dim]
    if runs.resized is not None:
        sized = runs.resized.shapes[number]
        varying = [place for place, (a, b) in enumerate(zip(mine, sized, strict=False)) if a != b]
        if len(mine) != len(sized) or varying not in ([], [layout.length_dim]) or (varying and layout.rows > 1):
            raise SplitError(
                f"{unique!r}, which crosses the cut {cut!r}, has shape {list(mine)} and, for samples of another length, "
                f"{list(sized)}: only what varies in its first dimension beside the batch can be stored without padding."
            )
        if varying:
            shape[0] = None
    return Crossing(
        number,
        TensorSpec(unique, (*((layout.rows,) if layout.rows > 1 else ()), *shape), dtype),
        None if origin[0] == "input" else source,
        carried or origin[0] == "input",
        layout,
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


def input_name(run: Run, number: int) -> str:
    """Return what an input is called in words and as a tensor that crosses: its name or key, else its place."""
    for path, value in pytree.tree_flatten_with_path(run.inputs)[0]:
        if isinstance(value, Ref) and value.number == number and isinstance(path[-1], pytree.MappingKey):
            return str(path[-1].key)
    position = refs_in(run.inputs).index(number)
    return "input" if position == 0 else f"input_{position}"


def ancestors(run: Run, position: int) -> set[int]:
    """Return the positions of the module calls within which a module call ran."""
    found = set()
    position = run.modules[position].parent
    while position >= 0:
        found.add(position)
        position = run.modules[position].parent
    return found
