"""What is known of the rows of features beside their values: ids, names, targets and splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..samples import CodedColumn, Snapshot, TextColumn

__all__ = ["RowLabels"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class RowLabels:
    """The name, target and split of each row, and the dataset that they come from.

    Parameters
    ----------
    dataset : str
        The name of the dataset.
    snapshot : str
        The digest of the dataset's snapshot.
    ids : numpy.ndarray, shape (samples, 16), uint8
        The content ids of the samples.
    targets : numpy.ndarray, shape (samples, …)
        The targets.
    names : TextColumn
        The names of the samples.
    splits : CodedColumn
        The split names of the samples.
    classes : sequence of str, or None
        The names of the classes.
    """

    dataset: str
    snapshot: str
    ids: Array
    targets: Array
    names: TextColumn
    splits: CodedColumn
    classes: Sequence[str] | None

    @classmethod
    def of(cls, snapshot: Snapshot) -> RowLabels:
        """Return the labels of the samples in a snapshot."""
        names, splits = TextColumn.of(snapshot.names), CodedColumn.of(snapshot.splits)
        return cls(snapshot.dataset, snapshot.digest, snapshot.ids, snapshot.targets, names, splits, snapshot.classes)

    def take(self, positions: Array) -> RowLabels:
        """Return the labels of the rows at some positions, in that order."""
        return replace(
            self,
            ids=self.ids[positions],
            targets=self.targets[positions],
            names=self.names.take(positions),
            splits=self.splits.take(positions),
        )
