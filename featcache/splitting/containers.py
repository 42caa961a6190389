"""Containers in a flat graph: what a torch.fx node may hold as it is, and a node that builds the rest."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

__all__ = ["PLAIN", "NotFlatError", "held"]

PLAIN = (
    bool,
    int,
    float,
    str,
    complex,
    type(None),
    type(Ellipsis),
    torch.dtype,
    torch.memory_format,
    torch.layout,
)


class NotFlatError(Exception):
    """What comes after the cut cannot be written as a flat graph."""


def held(graph: fx.Graph, value: Any) -> Any:
    """Return a value whose leaves are nodes and constants in a form that a node's arguments may hold.

    Plain containers stay; named tuples, ordered dictionaries and the output classes of transformers become a node that
    makes one of the same class. Raises ``NotFlatError`` for any other.
    """
    kind = type(value)
    if isinstance(value, torch.Size) or kind is tuple:
        return tuple(held(graph, part) for part in value)
    if kind is list:
        return [held(graph, part) for part in value]
    if kind is dict:
        return {key: held(graph, part) for key, part in value.items()}
    if kind is OrderedDict:
        return graph.call_function(OrderedDict, ([(key, held(graph, part)) for key, part in value.items()],))
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return graph.call_function(kind, tuple(held(graph, part) for part in value))
    if isinstance(value, Mapping) and dataclasses.is_dataclass(kind):
        return graph.call_function(kind, (), {str(key): held(graph, part) for key, part in value.items()})
    if isinstance(value, (fx.Node, slice, PLAIN)):
        return value
    raise NotFlatError(f"an argument or result is {kind.__name__}")
