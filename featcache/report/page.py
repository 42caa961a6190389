"""``html_report``: the sections of the page, put into its template."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..advise import load_advice
from ..errors import MissingDependencyError, StaleError, printable
from ..identity import versions
from ..quantity import duration_in_words as duration, size_in_words as size
from .wording import percent, points, recipe_words

if TYPE_CHECKING:
    from ..heads import TrainedHead
    from ..project import Project

__all__ = ["html_report"]


def html_report(project: Project, trained: TrainedHead | None = None) -> str:
    """Return the page about a project, and about a head that was trained on its features, if one is given.

    It holds what is at hand: data and class balance; the answers of plan, probe and sweep that the store keeps; learning
    curves, confusion matrix and worst mistakes with thumbnails; a plane of the features; provenance. It needs no network and
    runs no script. Raises ``MissingDependencyError`` where the ``report`` extra is not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"a report needs {error.name}, which is not installed: pip install 'featcache[report]'."
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(duration=duration, percent=percent, points=points, size=size)
    template = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return printable(template.render(_sections(project, trained)))


def _sections(project: Project, trained: TrainedHead | None) -> dict[str, Any]:
    from . import pictures

    snapshot = project.snapshot
    notes: list[str] = []
    advice = load_advice(project.store, project.settings.backbone, snapshot.dataset)
    sections: dict[str, Any] = {
        "settings": project.settings,
        "snapshot": snapshot,
        "balance": pictures.balance_picture(snapshot),
        "plan": advice.get("plan"),
        "probe": advice.get("probe"),
        "sweep": advice.get("sweep"),
        "sweep_picture": None,
        "plan_picture": None,
        "sets": project.store.sets(),
        "head": None,
        "curves": None,
        "confusion": None,
        "mistakes": [],
        "plane": None,
        "recipe": None,
        "recipe_words": [],
        "versions": versions("featcache", "torch", "torchvision", "scikit-learn", "numpy"),
        "notes": notes,
    }
    if sections["sweep"]:
        sections["sweep_picture"] = pictures.sweep_picture(sections["sweep"])
    if sections["plan"]:
        sections["plan_picture"] = pictures.plan_picture(sections["plan"])
    if trained is not None:
        _add_head(sections, project, trained)
    else:
        notes.append("no head has been trained yet: `featcache train-head` adds curves, confusion matrix and mistakes")
    missing = [question for question in ("plan", "probe", "sweep") if not sections[question]]
    if missing:
        notes.append(f"`featcache {missing[0]}` adds a section here" + _also(missing[1:]))
    notes += project.notes
    return sections


def _also(commands: list[str]) -> str:
    return (
        ""
        if not commands
        else "; so " + ("does " if len(commands) == 1 else "do ") + " and ".join(f"`{name}`" for name in commands)
    )


def _add_head(sections: dict[str, Any], project: Project, trained: TrainedHead) -> None:
    from ..training import Metrics
    from . import pictures
    from .mistakes import judged_rows, worst_mistakes

    sections["head"] = trained
    sections["recipe"] = trained.recipe
    sections["recipe_words"] = recipe_words(trained.recipe, project.settings.backbone)
    if trained.history:
        sections["curves"] = pictures.curves_picture(trained.history)
    if isinstance(trained.metrics, Metrics):
        sections["confusion"] = pictures.confusion_picture(trained.metrics, trained.classes)
    if trained.task.kind != "single_label":
        sections["notes"].append(
            f"confusion matrix, mistakes and the plane are shown for classes; this head is {trained.task.kind}"
        )
        return
    try:
        features = project.features(trained.recipe.cut)
    except StaleError as error:
        sections["notes"].append(f"mistakes and the plane of the features are left out: {error}")
        return
    judged = judged_rows(trained, features)
    sections["mistakes"] = worst_mistakes(project, trained, judged)
    sections["plane"] = pictures.plane_picture(judged, trained.classes)
