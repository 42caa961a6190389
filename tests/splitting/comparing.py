"""What tests of set-ups share: the comparison with the network, and texts."""

from __future__ import annotations

import torch
from torch import nn

import featcache


def check(model: nn.Module, cut: str, given: object, other: object = None) -> featcache.Split:
    """Cut a network, and compare suffix(prefix(x)) with it on the example and, if there is one, on another batch."""
    made = featcache.split(model, cut, given)
    for each in (given, given if other is None else other):
        assert (made.check(**each) if isinstance(each, dict) else made.check(*each)) <= 1e-6
    return made


def rows_of(made: featcache.Split, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors that cross a cut."""
    found = made.prefix(*inputs)
    return list(found.values()) if isinstance(found, dict) else [found]


def texts(count: int, padded: int) -> torch.Tensor:
    ids = torch.randint(2, 30, (count, 6), generator=torch.Generator().manual_seed(count))
    ids[:padded, 4:] = 1
    return ids
