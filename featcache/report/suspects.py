"""Label suspects: rows whose label the features contradict with confidence."""

from __future__ import annotations

import csv
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codecs import Pool, pooled_spec
from ..errors import printable
from ..training import labelled

if TYPE_CHECKING:
    from ..features import Features

__all__ = ["SHOWN", "Suspect", "Suspects", "label_suspects"]

Array = np.ndarray[Any, Any]

FOLDS = 5
SEED = 0
MOST_WORK = 200_000_000  # rows × classes × width: about half a minute on two cores
MOST_READ_BYTES = 4_000_000_000
LEAST_ROWS = 50  # of a subset that is worth it
SHOWN = 24  # suspects, on the page
NAMED = 5  # classes, in a note


@dataclass(frozen=True)
class Suspect:
    """A row whose label may be wrong, and the label that is suggested, with its out-of-fold probability."""

    name: str
    sample_id: bytes
    label: str
    suggested: str
    confidence: float


@dataclass(frozen=True)
class Suspects:
    """The suspects among some rows, the most confident ones first; ``notes`` say what was not looked at."""

    rows: list[Suspect]
    looked_at: int
    notes: list[str]

    def to_csv(self) -> str:
        """Return the suspects as CSV text with a header line."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["name", "label", "suggested_label", "confidence"])
        writer.writerows([each.name, each.label, each.suggested, f"{each.confidence:.4f}"] for each in self.rows)
        return printable(out.getvalue())


def label_suspects(features: Features, classes: list[str]) -> Suspects:
    """Return the rows off the diagonal of the confident joint (Northcutt, Jiang and Chuang 2021, Confident Learning).

    Probabilities are out of fold: those of a logistic regression on pooled, standardised features that has not seen the row.
    Too many rows are replaced by a random subset of them; ``looked_at`` is 0 where too few are left.
    """
    notes: list[str] = []
    features = labelled(features)
    most = _most_rows(features, len(classes))
    if len(features) > most:
        if most < LEAST_ROWS:
            return Suspects([], 0, ["label suspects are left out: there are too many classes and values a row"])
        notes.append(f"label suspects were looked for among {most:,} of {len(features):,} rows, drawn at random")
        features = features.subset(np.sort(np.random.default_rng(SEED).choice(len(features), most, replace=False)))
    targets = features.targets.astype(np.int64)
    counts = np.bincount(targets, minlength=len(classes))
    rare = np.flatnonzero((counts > 0) & (counts < FOLDS)).tolist()
    if (counts >= FOLDS).sum() < 2:
        return Suspects(
            [], 0, [*notes, f"label suspects are left out: fewer than two classes have {FOLDS} rows or more"]
        )
    if rare:
        names = ", ".join(repr(classes[number]) for number in rare[:NAMED]) + (", …" if len(rare) > NAMED else "")
        notes.append(f"label suspects were not looked for in classes of fewer than {FOLDS} rows ({len(rare)}): {names}")
        features = features.subset(~np.isin(targets, rare))
    numbers, coded = np.unique(features.targets.astype(np.int64), return_inverse=True)
    probabilities = _out_of_fold(features.map(Pool("auto", features.recipe.cut)).numpy()[0], coded)
    suggested = _confident_class(probabilities, coded)
    confidence = probabilities[np.arange(len(coded)), suggested]
    # Also likelier than the label, as in cleanlab: a row that is below its own class's threshold may still be of that class.
    suspects = np.flatnonzero((suggested >= 0) & (confidence > probabilities[np.arange(len(coded)), coded]))
    suspects = suspects[np.argsort(-confidence[suspects], kind="stable")]
    found = [
        Suspect(
            features.names[row],
            bytes(features.sample_ids[row]),
            classes[int(numbers[coded[row]])],
            classes[int(numbers[suggested[row]])],
            float(confidence[row]),
        )
        for row in suspects.tolist()
    ]
    return Suspects(found, len(features), notes)


def _most_rows(features: Features, classes: int) -> int:
    width = pooled_spec("auto", features.recipe.cut, features.frontier).shape[0] or 1
    row_bytes = max(1, features.size_bytes // max(1, len(features)))
    return min(MOST_WORK // (classes * width), MOST_READ_BYTES // row_bytes)


def _out_of_fold(values: Array, coded: Array) -> Array:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its ranking is good enough by then
        found: Array = cross_val_predict(model, values, coded, cv=folds, method="predict_proba")
    return found


def _confident_class(probabilities: Array, coded: Array) -> Array:
    """Return the column of the confident joint of each row, -1 where it is counted in none.

    A row counts for a class if its probability of it is at least the mean probability that rows labelled so have of it; for
    the likeliest of several such classes.
    """
    thresholds = np.array([probabilities[coded == number, number].mean() for number in range(probabilities.shape[1])])
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    chosen: Array = np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), -1)
    return chosen
