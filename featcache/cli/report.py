"""``featcache report``: one self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import DataNotFoundError
from .options import command, project_options, the_project
from .output import print_json, print_line, size, write_text

if TYPE_CHECKING:
    from ..heads import TrainedHead
    from ..project import Project


@command("report")
@project_options
@click.option("--head", metavar="NAME|FOLDER", help="The head to report on.  [default: the one trained last]")
@click.option("--out", default="report.html", show_default=True, help="The page to write.")
def report_command(as_json: bool, head: str | None, out: str, **options: Any) -> None:
    """Write one self-contained HTML page about data, cuts and head.

    Shows class balance, the stored answers of plan, probe and sweep, learning curves, the confusion matrix, the worst
    mistakes with thumbnails, the features projected onto a plane, and what all of this was computed from.

    \b
    featcache report
    featcache report --head mine --out mine.html
    """
    project, trained = _subject(head, options)
    from ..report import html_report

    page = html_report(project, trained)
    write_text(out, page)
    size_bytes = len(page.encode())
    print_line(f"wrote {out} ({size(size_bytes)})")
    if as_json:
        print_json({"out": out, "size_bytes": size_bytes, "head": None if trained is None else trained.head})


def _subject(head: str | None, options: dict[str, Any]) -> tuple[Project, TrainedHead | None]:
    """Return the project and the head to report on; without a head, the project that the options describe."""
    from ..project import load_saved_head

    try:
        trained, _, project = load_saved_head(options["store"], head)
    except DataNotFoundError:
        if head is not None:
            raise
        return the_project(options), None
    return project, trained
