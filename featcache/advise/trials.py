"""The trainings of a sweep: extracting cuts when it is their turn, and training after them with each seed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..catalog import FeatureStore
from ..codecs import Stored
from ..extraction import extract, refuse_changed, stored_row_bytes
from ..features import Features
from ..heads import fit_head, train_heads
from ..machine import pick_device
from ..progress import ProgressCallback, ProgressEvent
from ..samples import Unreadable
from ..splitting import Cut, Split, split_at
from ..training import TrainOptions, plain_loss, row_uses
from .compare import Trial
from .folds import some_rows, validation_rows
from .judge import Judge, judge_of
from .subject import Subject

if TYPE_CHECKING:
    from ..heads import TrainedHead

__all__ = ["Trained", "Trials"]

Array = np.ndarray[Any, Any]

TOGETHER_BYTES = 2 << 30  # of features that one pass computes, whether or not all of them turn out to be needed
SOLVED_OUTPUTS = 900_000  # rows × outputs of a linear head that is solved, however wide its features are
LEAST_STEPS = 40  # of a training: BatchNorm's statistics and AdamW's moments need some, however few the rows
BATCHES = (64, 16)  # the usual size of a batch, and the smallest that those steps may ask for


@dataclass
class Trained:
    """What the trainings after one cut gave and took."""

    cut: str
    trials: list[Trial] = field(default_factory=list)
    learning_rate: float | None = None
    extract_s: float = 0.0
    train_s: float = 0.0
    trainings: int = 0
    disk_bytes: int = 0

    @property
    def mean(self) -> float:
        """Return the mean score over the trials."""
        return float(np.mean([trial.mean for trial in self.trials]))


@dataclass
class Trials:
    """Trains after cuts with equal budgets; see ``featcache.sweep``.

    ``solves`` says whether linear heads may be solved, ``extraction`` are further options of extract, ``splits`` options that say
    what the splits are for.
    """

    subject: Subject
    store: FeatureStore
    head: str
    solves: bool
    epochs: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float | None, ...]
    validation: float
    train_batch_size: int | None
    task: str | None
    device: str | None
    progress: ProgressCallback
    stored: Stored
    extraction: dict[str, Any]
    splits: TrainOptions
    samples: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    skipped_samples: tuple[Unreadable, ...] = ()
    judge: Judge | None = None
    trained: dict[str, Trained] = field(default_factory=dict)
    _extracted: dict[str, tuple[Split, Features]] = field(default_factory=dict)
    _groups: list[list[str]] = field(default_factory=list)

    def plan_passes(self, order: Sequence[Cut]) -> None:
        """Decide which cuts are extracted together: neighbours whose features are small."""
        samples = self.subject.samples
        rows = len(samples.dataset) * (1 if samples.augment is None else 1 + self.stored.views)
        size_bytes = 0
        for cut in order:
            if not self._groups or size_bytes + cut.size_bytes * rows > TOGETHER_BYTES:
                self._groups.append([])
                size_bytes = 0
            self._groups[-1].append(cut.name)
            size_bytes += cut.size_bytes * rows

    def at(self, cut: str) -> Trained:
        """Return what training after a cut gives, with each seed."""
        self.features(cut)
        found = self.trained[cut]
        for number, seed in enumerate(self.seeds):
            found.trials.append(
                self._trial(found, seed, self.learning_rates if number == 0 else (found.learning_rate,))
            )
            words = f"{cut}: {100 * found.mean:.1f} %"
            self.progress(ProgressEvent("sweep", number + 1, len(self.seeds), "trainings", words))
        return found

    def on_few_rows(self, cut: str, share: float) -> float:
        """Return the mean score under the first seed with a share of the training rows."""
        self.features(cut)
        return self._trial(self.trained[cut], self.seeds[0], self.learning_rates, share).mean

    def _trial(self, found: Trained, seed: int, rates: Sequence[float | None], share: float = 1.0) -> Trial:
        """Train with one seed at each rate, note the best rate and what it took, and return how it did on the rows kept apart."""
        made, features = self.features(found.cut)
        judge = self.judge_of(features)
        started_s = time.perf_counter()
        uses = row_uses(features, self.splits)
        judged_by = validation_rows(features, uses, self.validation, seed, judge)
        training = np.setdiff1d(uses.train, judged_by)
        if share < 1:
            training = some_rows(features, training, share, seed, judge)
        judged, trained_on = features.subset(judged_by), features.subset(training).with_splits([""] * len(training))
        trained_on.classes = list(judge.task.classes)  # also those of which no row happens to be trained on
        tried: list[tuple[float, float | None, Array]] = []
        for rate, head in self._heads(made, trained_on, rates, seed):
            outputs = head.outputs(judged, self.device)
            scores = judge.scores(judged.targets, outputs)
            tried.append((_loss(judge, judged, outputs, scores), rate, scores))
        _, found.learning_rate, scores = min(tried, key=lambda each: each[0])
        found.train_s += time.perf_counter() - started_s
        found.trainings += len(rates)
        return Trial(seed, judged_by, scores)

    def judge_of(self, features: Features) -> Judge:
        """Return the judge of the rows outside of the test split, the same for all cuts."""
        if self.judge is None:
            uses = row_uses(features, self.splits)
            self.left_out = features.subset(uses.left_out).split_counts
            self.judge = judge_of(features.subset(uses.seen), self.task)
        return self.judge

    def features(self, cut: str) -> tuple[Split, Features]:
        """Return the network split at a cut, and its features; extracted, with their group, when first asked for."""
        if cut not in self._extracted:
            (group,) = (each for each in self._groups if cut in each)
            about, started_s = self.subject, time.perf_counter()
            splits = split_at(about.model, group, about.example.inputs, about.example.other_length)
            made = extract(
                splits, about.samples, self.store, device=self.device, progress=self.progress, **self.extraction,
                **self.stored.options(),
            )  # fmt: skip
            refuse_changed(features.report for features in made.values())
            each_s = (time.perf_counter() - started_s) / len(group)
            for name, split in zip(group, splits, strict=True):
                features = made[name]
                self._extracted[name] = split, features
                disk_bytes = len(features) * stored_row_bytes(features.recipe)
                self.trained[name] = Trained(name, extract_s=each_s, disk_bytes=disk_bytes)
                self.samples = len(features)
                self.skipped_samples = tuple(features.report.skipped_samples)
        return self._extracted[cut]

    def _heads(
        self, made: Split, training: Features, rates: Sequence[float | None], seed: int
    ) -> Iterator[tuple[float | None, TrainedHead]]:
        """Yield a head for each learning rate; several linear ones of classes are trained in one pass."""
        shared: dict[str, Any] = {
            "epochs": self.epochs, "batch_size": self._batch_size(len(training)), "validation": 0.0, "seed": seed,
            "task": self.task,
            "optimizer": None if self._solves(training) else "adamw",
        }  # fmt: skip
        options: list[dict[str, Any]] = [{} if rate is None else {"learning_rate": rate} for rate in rates]
        if self.head == "linear" and len(rates) > 1 and self.judge_of(training).task.kind == "single_label":
            yield from zip(rates, train_heads(made, training, options, device=self.device, **shared), strict=True)
            return
        for rate, each in zip(rates, options, strict=True):
            chosen = TrainOptions(head=self.head, **shared, **each)
            yield rate, fit_head(made, training, chosen, pick_device(self.device))

    def _solves(self, training: Features) -> bool:
        """Return whether linear layers are solved: at all cuts, or at none, since a race of both would be unfair.

        A suffix of one linear layer is not: others are trained for a few epochs.
        """
        task = self.judge_of(training).task
        self.solves = self.solves and not task.places and len(training) * task.outputs <= SOLVED_OUTPUTS
        return self.solves

    def _batch_size(self, rows: int) -> int:
        """Return the size of a batch: what was asked for, or 64, halved until an equal budget is steps enough."""
        if self.train_batch_size is not None:
            return self.train_batch_size
        size, least = BATCHES
        while size > least and self.epochs * -(-rows // size) < LEAST_STEPS:
            size //= 2
        while rows > size and rows % size == 1:  # a last batch of one row, which BatchNorm cannot be trained on
            size += 1
        return size


def _loss(judge: Judge, judged: Features, outputs: torch.Tensor, scores: Array) -> float:
    """Return what learning rates are compared by: the loss, or of pixels and tokens, kept as classes, the error."""
    if judge.task.places:
        return -float(scores.mean())
    return float(plain_loss(judge.task, outputs, torch.from_numpy(judged.targets))) / len(judged)
