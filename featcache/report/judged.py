"""The rows that a head is judged by, and what it predicts of them: one pass, which all sections of the page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StaleError
from ..training import divide

if TYPE_CHECKING:
    from ..features import Features
    from ..heads import TrainedHead

__all__ = ["Judged", "judge"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Judged:
    """Rows with the head's predictions, in the form of the targets.

    ``split`` names the rows. ``probabilities`` is None for tasks that have none.
    """

    split: str
    features: Features
    targets: Array
    predicted: Array
    probabilities: Array | None


def judge(trained: TrainedHead, features: Features) -> Judged:
    """Return the rows that the head's metrics are on: the test split, else the validation rows, else those trained on.

    Raises ``StaleError`` where the data changed since the training, as it is not known then which rows it was trained on.
    """
    if features.snapshot != trained.snapshot:
        raise StaleError("the data changed since the head was trained. Run `featcache train-head` again")
    division = divide(features, trained.options, trained.task)
    named = {"test": division.test, "validation": division.validation, "training": division.train}
    split, rows = next((name, rows) for name, rows in named.items() if rows is not None)
    outputs = trained.outputs(rows)
    task = trained.task
    probable = task.probabilities(outputs) if task.kind in ("single_label", "multi_label") else None
    return Judged(split, rows, rows.targets, task.decoded(outputs), probable)
