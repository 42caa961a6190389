"""What the rows of a dataset are used for, by the names of their splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import UsageError
from ..features import Features
from ..samples import TEST, TRAIN, UNLABELLED, VALIDATION, split_name, split_role
from .options import SPLIT_OPTIONS, TrainOptions

__all__ = ["RowUses", "UsedRows", "labelled", "row_uses", "words_of_splits"]

Array = np.ndarray[Any, Any]
ROLES = (TRAIN, VALIDATION, TEST)
SHOWN = 6


@dataclass(frozen=True)
class RowUses:
    """The numbers of the rows that are trained on, validated by and tested on, and of those that are left out."""

    train: Array
    validation: Array
    test: Array
    left_out: Array

    @property
    def seen(self) -> Array:
        """Return the rows that may be looked at before the test: those to train on and to validate by."""
        return np.sort(np.concatenate([self.train, self.validation]))


@dataclass(frozen=True)
class UsedRows:
    """How many rows of which split a head was trained on and judged by.

    Attributes
    ----------
    train, validation, test, left_out : dict of str to int
        The number of rows by the name of their split, ``""`` for rows without one.
    is_share : bool
        Whether the validation rows are a share of the training rows, and not a split of their own.
    repeated : int
        How many of the validation and test rows hold a sample that a training row holds, too.
    untrained : list of str
        The classes and labels that rows have, but no training row.
    """

    train: Mapping[str, int]
    validation: Mapping[str, int]
    test: Mapping[str, int]
    left_out: Mapping[str, int]
    is_share: bool
    repeated: int = 0
    untrained: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        share = " (a share of the training rows)" if self.is_share else ""
        said = (
            f"trained on {words_of_splits(self.train)}, validated by {words_of_splits(self.validation)}{share}, "
            f"tested on {words_of_splits(self.test)}"
        )
        said += f", left out {words_of_splits(self.left_out)}" if self.left_out else ""
        if self.repeated:
            said += f"; {self.repeated:,} of the rows to validate by or test on hold samples that are trained on, too"
        if not self.untrained:
            return said
        more = len(self.untrained) - SHOWN
        names = ", ".join(self.untrained[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")
        return f"{said}; no training row of the class{'' if len(self.untrained) == 1 else 'es'} {names}"


def row_uses(features: Features, options: TrainOptions) -> RowUses:
    """Return what each row is used for: what the options say of its split, else what the split's name says.

    Where an option names splits, no others are used so. Raises ``UsageError`` for splits of unknown names that nobody names,
    unless ``train_splits`` says what is trained on, and for a name that no row has.
    """
    counts = features.split_counts
    asked = [getattr(options, option) for option in SPLIT_OPTIONS]
    named = {name: role for role, names in zip(ROLES, asked, strict=True) for name in names or ()}
    there = {split_name(split) for split in counts}
    missing = next((name for name in named if name not in there), None)
    if missing is not None:
        raise UsageError(
            f"{features.dataset!r} has no split {missing!r}; it has {', '.join(map(repr, sorted(counts)))}."
        )
    said = {role for role, names in zip(ROLES, asked, strict=True) if names is not None}
    role_of: dict[str, str | None] = {}
    for split in counts:
        role = split_role(split)
        role_of[split] = named.get(split_name(split)) or (None if role in said else role)
    unknown = {split: counts[split] for split in counts if split_role(split) is None and role_of[split] is None}
    if unknown and TRAIN not in said:
        first = next(iter(unknown))
        raise UsageError(
            f"{features.dataset!r} has {words_of_splits(unknown)}, and the name does not say what these rows are for. Say so: "
            f"--test-splits {first}, --validation-splits {first} or --train-splits NAMES, which leaves out what is not named."
        )
    of_rows = {role: [split for split in counts if role_of[split] == role] for role in ROLES}
    train, validation, test = (np.flatnonzero(features.in_splits(*of_rows[role])) for role in ROLES)
    used = [split for splits in of_rows.values() for split in splits]
    return RowUses(train, validation, test, np.flatnonzero(~features.in_splits(*used)))


def labelled(features: Features) -> Features:
    """Return the rows that have a label."""
    without = [split for split in features.split_counts if split_role(split) == UNLABELLED]
    return features.subset(~features.in_splits(*without)) if without else features


def words_of_splits(counts: Mapping[str, int]) -> str:
    """Return how many rows there are of which split, in words."""
    total = sum(counts.values())
    said = f"{total:,} row{'' if total == 1 else 's'}" if total else "no rows"
    if len(counts) == 1:
        return "".join([said, *(f" of {split}" for split in counts if split)])
    parts = [f"{count:,} of {split or 'no split'}" for split, count in counts.items()]
    parts = parts[:SHOWN] + ([f"the rest of {len(parts) - SHOWN} others"] if len(parts) > SHOWN else [])
    return f"{said} ({', '.join(parts)})" if parts else said
