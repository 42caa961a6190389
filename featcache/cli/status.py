"""``featcache status`` and ``featcache explain``: is it fresh, and why."""

from __future__ import annotations

from typing import Any

from .options import command, cut_option, project_options, stored_cuts, the_project
from .output import print_json, print_notes, print_table, print_text, size

STALE = 3


@command("status")
@project_options
@cut_option
def status_command(as_json: bool, cut: tuple[str, ...], **options: Any) -> int:
    """Say whether the features are fresh; exit 3 if not.

    Without --cut, checks every cut that has features in the store. Opens only the images that changed.

    \b
    featcache status
    featcache status --cut layer4 || featcache extract --cut layer4
    """
    project = the_project(options)
    states = [project.status(name) for name in stored_cuts(project, cut)]
    print_notes(project.notes)
    if as_json:
        print_json(states)
    else:
        print_table(
            ["cut", "state", "samples", "cached", "missing", "skipped", "size", "set"],
            [
                [
                    state.cut,
                    state.state,
                    f"{state.samples:,}",
                    f"{state.present:,}",
                    f"{state.missing:,}",
                    f"{state.skipped:,}",
                    size(state.size_bytes),
                    state.recipe,
                ]
                for state in states
            ],
        )
    return 0 if all(state.fresh for state in states) else STALE


@command("explain")
@project_options
@cut_option
def explain_command(as_json: bool, cut: tuple[str, ...], **options: Any) -> int:
    """Explain why the features are fresh or not; exit 3 if not.

    Names the recipe fields, the weights and the samples that changed.

    \b
    featcache explain
    featcache explain --cut layer4 --json
    """
    project = the_project(options)
    explanations = [project.explain(name) for name in stored_cuts(project, cut)]
    print_notes(project.notes)
    if as_json:
        print_json(explanations)
    else:
        for explanation in explanations:
            for line in explanation.lines():
                print_text(line)
    return 0 if all(explanation.status.fresh for explanation in explanations) else STALE
