"""Rows that show what the data and a head are like: some of each class, the worst mistakes, and those of confused classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..samples import Snapshot
    from .judged import Judged
    from .thumbnails import Thumbnails

__all__ = ["Cell", "ClassSamples", "Mistake", "class_samples", "confused_cells", "worst_mistakes"]

Array = np.ndarray[Any, Any]

MOST_MISTAKES = 24
MOST_CLASSES, OF_A_CLASS = 20, 5
MOST_CELLS, OF_A_CELL = 40, 4


@dataclass(frozen=True)
class Mistake:
    """A row that the head gets wrong; ``picture`` is a data URL, None where there is none."""

    name: str
    true: str
    predicted: str
    confidence: float
    picture: str | None


@dataclass(frozen=True)
class ClassSamples:
    """Some samples of a class: name and picture of each."""

    name: str
    samples: list[tuple[str, str]]


@dataclass(frozen=True)
class Cell:
    """Rows of one class that are taken for another one: the most confident ones."""

    true: int
    predicted: int
    count: int
    mistakes: list[Mistake]


def worst_mistakes(judged: Judged, classes: list[str], pictures: Thumbnails) -> list[Mistake]:
    """Return the rows that the head gets wrong, the most confident ones first."""
    wrong = _wrong(judged)[:MOST_MISTAKES]
    return [_mistake(judged, row, classes, pictures) for row in wrong.tolist()]


def confused_cells(judged: Judged, classes: list[str], pictures: Thumbnails) -> list[Cell]:
    """Return the cells of the confusion matrix with the most mistakes, those off its diagonal, with some rows of each."""
    wrong = _wrong(judged)
    cells: dict[tuple[int, int], list[int]] = {}
    for row in wrong.tolist():
        cells.setdefault((int(judged.targets[row]), int(judged.predicted[row])), []).append(row)
    largest = sorted(cells.items(), key=lambda cell: -len(cell[1]))[:MOST_CELLS]
    return [
        Cell(*place, len(rows), [_mistake(judged, row, classes, pictures) for row in rows[:OF_A_CELL]])
        for place, rows in largest
    ]


def class_samples(snapshot: Snapshot, labels: Array, classes: list[str], pictures: Thumbnails) -> list[ClassSamples]:
    """Return samples of the first classes, spread over each; a class without pictures is left out.

    ``labels`` are class numbers, negative where there is none.
    """
    found = []
    for number in np.unique(labels[labels >= 0])[:MOST_CLASSES].tolist():
        rows = np.flatnonzero(labels == number)
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(OF_A_CLASS, len(rows))).astype(int))]
        shown = [(snapshot.names[row], pictures(snapshot.ids[row])) for row in rows.tolist()]
        samples = [(name, picture) for name, picture in shown if picture is not None]
        if samples:
            found.append(ClassSamples(classes[number], samples))
    return found


def _wrong(judged: Judged) -> Array:
    wrong = np.flatnonzero(judged.predicted != judged.targets)
    return wrong[np.argsort(-_confidence(judged, wrong), kind="stable")]


def _confidence(judged: Judged, rows: Any) -> Any:
    """Return the probability of the predicted class of one row or of several."""
    assert judged.probabilities is not None
    return judged.probabilities[rows, judged.predicted[rows]]


def _mistake(judged: Judged, row: int, classes: list[str], pictures: Thumbnails) -> Mistake:
    return Mistake(
        judged.features.names[row],
        classes[int(judged.targets[row])],
        classes[int(judged.predicted[row])],
        float(_confidence(judged, row)),
        pictures(judged.features.sample_ids[row]),
    )
