"""What the page shows of a head: its figures, pictures, mistakes and label suspects, each where it can be had."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import FeatCacheError
from ..training import Metrics
from . import pictures
from .by_class import ClassFigures, class_figures
from .intervals import bootstrap_intervals, wilson_intervals
from .judged import judge
from .mistakes import Cell, Mistake, confused_cells, worst_mistakes
from .suspects import SHOWN, Suspect, Suspects, label_suspects
from .wording import interval_words, option_rows, recipe_rows

if TYPE_CHECKING:
    from ..features import Features
    from ..heads import TrainedHead
    from ..project import Project
    from .thumbnails import Thumbnails

__all__ = ["HeadSections", "head_sections"]

MOST_CELLS_A_SIDE = 30  # of a confusion matrix as a table


@dataclass
class HeadSections:
    """What the template needs of a head; what cannot be had stays empty.

    ``figures`` are (name, value, interval in words or ""), ``suspect_rows`` the suspects that are shown, with pictures.
    """

    figures: list[tuple[str, str, str]] = field(default_factory=list)
    judged_by: str = ""
    options: list[tuple[str, str, bool]] = field(default_factory=list)
    provenance: list[tuple[str, str]] = field(default_factory=list)
    curves: Any = None
    confusion: Any = None
    matrix: list[list[int]] | None = None
    cells: dict[tuple[int, int], Cell] = field(default_factory=dict)
    by_class: list[ClassFigures] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    suspects: Suspects | None = None
    suspect_rows: list[tuple[Suspect, str | None]] = field(default_factory=list)
    plane: pictures.Plane | None = None


def head_sections(project: Project, trained: TrainedHead, thumbnails: Thumbnails, notes: list[str]) -> HeadSections:
    """Return what there is to show of a head; what cannot be had is added to the notes."""
    found = HeadSections(
        options=option_rows(trained.options), provenance=recipe_rows(trained.recipe, project.settings.backbone)
    )
    if trained.history:
        found.curves = pictures.curves_picture(trained.history)
    metrics = trained.metrics
    if isinstance(metrics, Metrics):
        if len(trained.classes) <= MOST_CELLS_A_SIDE:
            found.matrix = metrics.confusion_matrix
        else:
            found.confusion = pictures.confusion_picture(metrics, trained.classes)
    intervals = {} if metrics is None else wilson_intervals(metrics)
    if trained.task.kind == "output":
        notes.append("a head with a loss of its own has no figures but its losses")
    else:
        try:
            features = trained.own_features({cut: project.features(cut) for cut in trained.cuts})
            intervals |= _add_judged(found, trained, features, thumbnails)
            if trained.task.kind == "single_label":
                _add_suspects(found, trained, features, thumbnails, notes)
        except FeatCacheError as error:
            notes.append(f"what needs the features of the head is left out: {str(error).rstrip('.')}")
    if metrics is not None:
        found.judged_by = f"{metrics.samples:,} {metrics.split} rows"
        found.figures = [
            (name, value, interval_words(value, intervals[name]) if name in intervals else "")
            for name, value in metrics.figures.items()
        ]
    return found


def _add_judged(
    found: HeadSections, trained: TrainedHead, features: Features, thumbnails: Thumbnails
) -> dict[str, tuple[float, float]]:
    """Add what is computed from the rows that the head is judged by, and return the intervals of its figures."""
    judged = judge(trained, features)
    found.judged_by = f"{len(judged.targets):,} {judged.split} rows"
    found.by_class = class_figures(trained.task, judged)
    if trained.task.kind == "single_label":
        found.mistakes = worst_mistakes(judged, trained.classes, thumbnails)
        cells = [] if found.matrix is None else confused_cells(judged, trained.classes, thumbnails)
        found.cells = {(cell.true, cell.predicted): cell for cell in cells}
        found.plane = pictures.feature_plane(judged.features, trained.classes)
    return bootstrap_intervals(trained.task, judged)


def _add_suspects(
    found: HeadSections, trained: TrainedHead, features: Features, thumbnails: Thumbnails, notes: list[str]
) -> None:
    suspects = label_suspects(features, trained.classes)
    notes += suspects.notes
    if suspects.looked_at:
        found.suspects = suspects
        found.suspect_rows = [(each, thumbnails(each.sample_id)) for each in suspects.rows[:SHOWN]]
