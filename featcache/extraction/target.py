"""A set that an extraction fills, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..machine import Timings
from ..samples import Changed, Samples
from ..store import FeatureSet
from .missing import ExtractReport, describe, missing_rows, samples_among
from .request import Request, views_recipe

if TYPE_CHECKING:
    from ..splitting import Split
    from ..store import StoreFiles

__all__ = ["NO_ROWS", "CutTargets", "Target", "targets_of"]

Array = np.ndarray[Any, Any]
NO_ROWS: Array = np.empty((0, 2), dtype=np.int32)


@dataclass(eq=False)
class Target:
    """One set that is filled: the rows (position, view) that it lacks, and those that it got.

    ``cut_number`` is the place of its cut in the request. ``made`` are the rows that this process added, ``derived`` those
    of them that came from another cached set.
    """

    cut_number: int
    feature_set: FeatureSet
    missing: Array
    made: Array = field(default_factory=lambda: NO_ROWS)
    derived: Array = field(default_factory=lambda: NO_ROWS)
    size_bytes: int = 0
    shards: list[str] = field(default_factory=list)

    def add_made(self, rows: Array) -> None:
        """Note rows that were added."""
        self.made = np.concatenate([self.made, rows]) if len(self.made) else rows

    def add_shard(self, name: str | None, size_bytes: int) -> None:
        """Note a shard that was committed; None is one of which no sample could be read."""
        self.shards += [] if name is None else [name]
        self.size_bytes += size_bytes


@dataclass(eq=False)
class CutTargets:
    """The sets of one cut: that of the plain samples, and that of their random views, if there are any."""

    split: Split
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    turned: int = 0  # images that lie otherwise than their EXIF orientation says
    changed: dict[bytes, Changed] = field(default_factory=dict)  # by the id that they had when they were listed

    @property
    def sets(self) -> list[FeatureSet]:
        """Return the sets, the plain one first."""
        return [each.feature_set for each in self.targets]

    def note(self, *notes: str) -> None:
        """Keep what the caller should be told, each sentence once."""
        self.notes += [each for each in dict.fromkeys(notes) if each not in self.notes]

    def report(self, samples: Samples, views: int, device: str) -> ExtractReport:
        """Return what was done at this cut."""
        sets, snapshot = self.sets, samples.snapshot()
        report = describe(samples, sets[0], sets[1] if len(sets) > 1 else None, views, self.changed)
        for target in self.targets:
            new = samples_among(snapshot, target.made, target.feature_set)
            derived = samples_among(snapshot, target.derived, target.feature_set)
            report.derived += derived
            report.computed += new - derived
            report.reused -= new
            report.size_bytes += target.size_bytes
            report.shards += [f"{target.feature_set.path}/{shard}" for shard in target.shards]
            if len(target.made):
                report.device = device
        report.notes, report.timings = [*samples.notes, *self.notes], self.timings
        if self.turned:
            report.notes.append(
                f"{self.turned:,} {'image has' if self.turned == 1 else 'images have'} an EXIF rotation that is not applied, as "
                "in torchvision; --exif apply turns them"
            )
        return report


def targets_of(request: Request, store: StoreFiles, *, retry_skipped: bool) -> list[CutTargets]:
    """Return for each cut of a request the sets to be filled, with the rows that they lack."""
    made = []
    for number, (split, recipe) in enumerate(zip(request.splits, request.recipes, strict=True)):
        cut = CutTargets(split)
        recipes = [recipe, views_recipe(recipe, request.samples)] if request.views else [recipe]
        for each in recipes:
            feature_set = store.set(each)
            missing = missing_rows(request.snapshot, feature_set, request.views, retry_skipped)
            cut.targets.append(Target(number, feature_set, missing))
        made.append(cut)
    return made
