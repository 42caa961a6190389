"""The trainings of a sweep: extracting a cut when it is its turn, and training behind it with each seed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalog import FeatureStore
from ..errors import HeadError
from ..extract import extract
from ..features import Features
from ..heads import train_head, train_heads
from ..heads.metrics import Metrics
from ..heads.rows import VALIDATION
from ..heads.tasks import find_task
from ..progress import ProgressCallback, ProgressEvent
from ..space import stored_row_bytes
from ..split import Split, split
from .compare import Trial
from .subject import Subject

if TYPE_CHECKING:
    from ..heads import TrainedHead

__all__ = ["Trained", "Trials", "validation_rows"]

Array = np.ndarray[Any, Any]


@dataclass
class Trained:
    """What the trainings behind one cut gave and took."""

    cut: str
    trials: list[Trial] = field(default_factory=list)
    test_accuracy: float | None = None
    learning_rate: float | None = None
    extract_s: float = 0.0
    train_s: float = 0.0
    trainings: int = 0
    disk_bytes: int = 0


@dataclass
class Trials:
    """Trains behind cuts with equal budgets; see :func:`featcache.sweep`; ``stored`` are options of extract."""

    subject: Subject
    store: FeatureStore
    head: str
    epochs: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float | None, ...]
    validation: float
    train_batch_size: int
    device: str | None
    progress: ProgressCallback
    stored: dict[str, Any]
    samples: int = 0
    together_s: float = 0.0
    _extracted: dict[str, tuple[Split, Features]] = field(default_factory=dict)

    def features(self, cut: str) -> tuple[Split, Features]:
        """Return the network split at a cut, and its features, extracted when they are first asked for."""
        if cut not in self._extracted:
            made = split(self.subject.model, cut, self.subject.example.inputs, self.subject.example.other_length)
            features = extract(
                made, self.subject.samples, self.store, device=self.device, progress=self.progress, **self.stored
            )
            self._extracted[cut] = made, features
            self.samples = len(features)
        return self._extracted[cut]

    def extract_together(self, cuts: Sequence[str]) -> None:
        """Extract several cuts in one pass over the data; its time is shared out among them."""
        started_s = time.perf_counter()
        extract(
            self.subject.model, self.subject.samples, self.store, cut=list(cuts), device=self.device,
            progress=self.progress, **self.stored,
        )  # fmt: skip
        self.together_s = (time.perf_counter() - started_s) / len(cuts)

    def at(self, cut: str, share: float = 1.0, seeds: Sequence[int] | None = None) -> Trained:
        """Return the trainings behind a cut, on a stratified share of the training rows."""
        made, features = self.features(cut)
        found = Trained(cut, disk_bytes=len(features) * stored_row_bytes(features.recipe))
        found.extract_s = features.report.elapsed_s + self.together_s
        tests: list[float] = []
        used = self.seeds if seeds is None else tuple(seeds)
        for number, seed in enumerate(used):
            validation = validation_rows(features, self.validation, seed)
            divided = _divided(features, validation, share, seed)
            rates: Sequence[float | None] = self.learning_rates if number == 0 else (found.learning_rate,)
            heads = list(zip(rates, self._train(made, divided, rates, seed), strict=True))
            found.learning_rate, head = min(heads, key=lambda each: _loss(each[1]))
            found.train_s += sum(each.elapsed_s for _, each in heads)
            found.trainings += len(heads)
            judged = features.subset(validation)
            right = head.predict_proba(judged, self.device).argmax(axis=1) == judged.targets
            found.trials.append(Trial(seed, validation, right))
            if isinstance(head.metrics, Metrics) and head.metrics.split == "test":
                tests.append(head.metrics.accuracy)
            words = f"{cut}: {100 * np.mean([trial.accuracy for trial in found.trials]):.1f} %"
            self.progress(ProgressEvent("sweep", number + 1, len(used), "trainings", words))
        found.test_accuracy = float(np.mean(tests)) if tests else None
        return found

    def _train(self, made: Split, features: Features, rates: Sequence[float | None], seed: int) -> list[TrainedHead]:
        """Return a head for each learning rate; several linear ones are trained in one pass."""
        shared: dict[str, Any] = {
            "epochs": self.epochs, "batch_size": self.train_batch_size, "validation": self.validation, "seed": seed,
            "device": self.device,
        }  # fmt: skip
        if self.head == "linear" and len(rates) > 1:
            return train_heads(made, features, [{"learning_rate": rate} for rate in rates], **shared)
        options: list[dict[str, Any]] = [{} if rate is None else {"learning_rate": rate} for rate in rates]
        return [train_head(made, features, head=self.head, **shared, **each) for each in options]


def validation_rows(features: Features, share: float, seed: int) -> Array:
    """Return which rows cuts are compared by: the dataset's validation split, or a stratified share that a seed chooses.

    The same rows at every cut. Seeds that follow one another get shares without a row in common, as in cross-validation,
    until all rows have been used: so few rows tell most. Raises :class:`HeadError` where there are too few.
    """
    from sklearn.model_selection import StratifiedKFold

    find_task(features, "single_label")  # raises where the targets are no classes
    splits = features.splits
    own = np.flatnonzero(np.isin(splits, VALIDATION))
    if len(own):
        return own
    training = np.flatnonzero(splits != "test")
    targets = features.targets[training]
    numbers, counts = np.unique(targets, return_counts=True)
    several = np.isin(targets, numbers[counts >= 2])  # a single row of a class stays with those that are trained on
    folds = max(2, round(1 / share))
    if (counts >= 2).sum() < 2 or several.sum() < 2 * folds:
        raise HeadError(
            f"{len(training)} training rows of {len(numbers)} classes in {features.dataset!r} are too few to keep {share:.0%} "
            "of them apart: give a validation split, or more samples."
        )
    cut_up = StratifiedKFold(folds, shuffle=True, random_state=seed // folds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        parts = [part for _, part in cut_up.split(targets[several], targets[several])]
    rows: Array = training[several][np.sort(parts[seed % folds])]
    return rows


def _divided(features: Features, validation: Array, share: float, seed: int) -> Features:
    """Return the features with those rows as their validation split, and fewer training rows if ``share`` is below 1."""
    names = features.splits.astype(object)
    training = names != "test"
    training[validation] = False
    names[training], names[validation] = "train", "val"
    divided = features.with_splits(names)
    if share >= 1:
        return divided
    kept, _ = _stratified(features, np.flatnonzero(training), share, seed)
    return divided.subset(np.sort(np.concatenate([kept, np.flatnonzero(~training)])))


def _stratified(features: Features, rows: Array, share: float, seed: int) -> tuple[Array, Array]:
    """Return (chosen, others): a share of some rows with every class in proportion; single rows of a class are not chosen."""
    from sklearn.model_selection import train_test_split

    targets = features.targets[rows]
    numbers, counts = np.unique(targets, return_counts=True)
    several = np.isin(targets, numbers[counts >= 2])
    classes = int((counts >= 2).sum())
    wanted = max(round(share * len(rows)), classes)
    if classes < 2 or several.sum() - wanted < classes:
        raise HeadError(
            f"{len(rows)} training rows of {len(numbers)} classes in {features.dataset!r} are too few to keep {share:.0%} of "
            "them apart: give a validation split, or more samples."
        )
    chosen, others = train_test_split(rows[several], train_size=wanted, stratify=targets[several], random_state=seed)
    return np.sort(chosen), np.sort(np.concatenate([others, rows[~several]]))


def _loss(head: TrainedHead) -> float:
    return head.validation_metrics.log_loss if isinstance(head.validation_metrics, Metrics) else float("inf")
