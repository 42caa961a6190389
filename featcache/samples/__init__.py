"""One view of any dataset: its ids, names, targets, transforms and random views, and the snapshot of them that a store keeps.

It reads samples and never runs a network on them."""

from __future__ import annotations

from .augment import load_augment
from .columns import CodedColumn, TextColumn
from .file_memo import FileMemo
from .random_check import refuse_random
from .reading import Changed, Unreadable, is_turned, private_copy
from .samples import Samples
from .scaling import AskedScale
from .snapshot import Snapshot, read_snapshot, write_snapshot
from .splits import TEST, TRAIN, UNLABELLED, VALIDATION, name_without_number, split_in_name, split_name, split_role
from .stacking import TARGET_PADDING, length_of, pieces, stack_inputs
from .transforms import apply, load_transform

__all__ = [
    "TARGET_PADDING",
    "TEST",
    "TRAIN",
    "UNLABELLED",
    "VALIDATION",
    "AskedScale",
    "Changed",
    "CodedColumn",
    "FileMemo",
    "Samples",
    "Snapshot",
    "TextColumn",
    "Unreadable",
    "apply",
    "is_turned",
    "length_of",
    "load_augment",
    "load_transform",
    "name_without_number",
    "pieces",
    "private_copy",
    "read_snapshot",
    "refuse_random",
    "split_in_name",
    "split_name",
    "split_role",
    "stack_inputs",
    "write_snapshot",
]
