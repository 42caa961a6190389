"""``make_report``: the sections of the page, put into its template."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..advise import load_advice
from ..errors import MissingDependencyError, printable
from ..identity import versions
from ..quantity import duration_in_words as duration, size_in_words as size
from .wording import percent, points

if TYPE_CHECKING:
    from ..heads import TrainedHead
    from ..project import Project
    from .suspects import Suspects

__all__ = ["Report", "html_report", "make_report"]


@dataclass(frozen=True)
class Report:
    """The page as ``html``, and the label suspects on it; None where none were looked for."""

    html: str
    suspects: Suspects | None


def html_report(project: Project, trained: TrainedHead | None = None) -> str:
    """Return the page about a project, and about a head that was trained on its features, if one is given.

    As ``make_report``, without the label suspects as values.
    """
    return make_report(project, trained).html


def make_report(project: Project, trained: TrainedHead | None = None) -> Report:
    """Return the report about a project, and about a head that was trained on its features, if one is given.

    It holds what is at hand: data, class balance and samples; the answers of plan, probe and sweep that the store keeps; the
    head's figures with intervals, curves, confusion matrix and worst mistakes; label suspects; a plane of the features; all
    heads of the store; provenance. What cannot be shown is named in its notes. It needs no network, and its one script sorts
    tables. Raises ``MissingDependencyError`` where the ``report`` extra is not installed.
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
    sections = _sections(project, trained)
    return Report(printable(template.render(sections)), sections["of_head"].suspects)


def _sections(project: Project, trained: TrainedHead | None) -> dict[str, Any]:
    from ..project import saved_heads
    from . import pictures
    from .head import HeadSections, head_sections
    from .mistakes import class_samples
    from .thumbnails import Thumbnails

    snapshot = project.snapshot
    notes: list[str] = []
    advice = load_advice(project.store, project.settings.backbone, snapshot.dataset)
    thumbnails = Thumbnails(project)
    labels, classes = pictures.class_labels(snapshot)
    heads, damaged = saved_heads(project.settings.store)
    sections: dict[str, Any] = {
        "settings": project.settings,
        "snapshot": snapshot,
        "balance": pictures.balance_picture(snapshot),
        "samples": [] if labels is None else class_samples(snapshot, labels, classes, thumbnails),
        **{question: advice.get(question) for question in ("plan", "probe", "sweep")},
        "sweep_picture": None,
        "plan_picture": None,
        "sets": project.store.sets(),
        "heads": heads,
        "figure_names": list(dict.fromkeys(name for each in heads for name in each.figures)),
        "head": trained,
        "of_head": HeadSections(),
        "versions": versions("featcache", "torch", "torchvision", "scikit-learn", "numpy"),
        "notes": notes,
    }
    if sections["sweep"]:
        sections["sweep_picture"] = pictures.sweep_picture(sections["sweep"])
    if sections["plan"]:
        sections["plan_picture"] = pictures.plan_picture(sections["plan"])
    if trained is not None:
        sections["of_head"] = head_sections(project, trained, thumbnails, notes)
    else:
        notes.append("no head has been trained yet: `featcache train-head` adds its figures, curves and mistakes")
    missing = [question for question in ("plan", "probe", "sweep") if not sections[question]]
    if missing:
        notes.append(f"`featcache {missing[0]}` adds a section here" + _also(missing[1:]))
    notes += [words.rstrip(".") for words in damaged]
    notes += project.notes
    return sections


def _also(commands: list[str]) -> str:
    return (
        ""
        if not commands
        else "; so " + ("does " if len(commands) == 1 else "do ") + " and ".join(f"`{name}`" for name in commands)
    )
