"""Cutting a network in two by recording what it does: prefix, suffix, frontier, candidate cuts."""

from __future__ import annotations

from ..tensorspec import TensorSpec
from .candidates import Cut, cuts
from .fold import fold
from .middle import middle
from .splitting import Split, prefixes, split, split_at

__all__ = ["Cut", "Split", "TensorSpec", "cuts", "fold", "middle", "prefixes", "split", "split_at"]
