"""The read side: cached rows as a map-style dataset, as arrays, and as batches for training.

It joins rows to targets and reads them as fast as the machine can. It never computes a feature, and writes nothing to a store
but that a set is in use."""

from __future__ import annotations

from .features import FeatureLoader, Features
from .shard_rows import ShardRows
from .side_by_side import side_by_side

__all__ = ["FeatureLoader", "Features", "ShardRows", "side_by_side"]
