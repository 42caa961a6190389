"""Cutting a network in two by recording what it does: prefix, suffix, frontier and candidate cuts.

It proves that suffix(prefix(x)) is the whole network, or refuses the cut. It never sees a dataset or a store."""

from __future__ import annotations

from .blame import first_difference
from .candidates import Cut, cuts
from .clone import deep_copy, skeleton
from .compare import difference, rounding
from .fold import fold, lone_linear
from .inputs import as_call
from .middle import middle
from .padding import padding_difference
from .splitting import Split, as_now, check_all, prefixes, split, split_at
from .structure import weight_digests
from .wrappers import name_inside, unwrapped

__all__ = [
    "Cut",
    "Split",
    "as_call",
    "as_now",
    "check_all",
    "cuts",
    "deep_copy",
    "difference",
    "first_difference",
    "fold",
    "lone_linear",
    "middle",
    "name_inside",
    "padding_difference",
    "prefixes",
    "rounding",
    "skeleton",
    "split",
    "split_at",
    "unwrapped",
    "weight_digests",
]
