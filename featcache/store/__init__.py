"""What lies on disk: sets, their shards and index, snapshots, and who is writing or using them.

It knows rows by sample id and view. It never opens a sample or runs a network, and deletes nothing by itself but what dead
writers left."""

from __future__ import annotations

from .claims import claim, claimed_sets
from .files import FeatureSet, StoreFiles, check_name
from .row_index import RowIndex, claim_keys, row_keys
from .seal import SEAL, check_seal, seal
from .shard import Ragged, Shard
from .uses import hold, in_use, keep_alive, last_uses

__all__ = [
    "SEAL",
    "FeatureSet",
    "Ragged",
    "RowIndex",
    "Shard",
    "StoreFiles",
    "check_name",
    "check_seal",
    "claim",
    "claim_keys",
    "claimed_sets",
    "hold",
    "in_use",
    "keep_alive",
    "last_uses",
    "row_keys",
    "seal",
]
