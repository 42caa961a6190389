"""``featcache report``: one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DataNotFoundError
from .options import command, project_options, the_project
from .output import count, print_json, print_line, size, write_text

if TYPE_CHECKING:
    from ..heads import TrainedHead
    from ..project import Project
    from ..report import Suspects


@command("report")
@project_options
@click.option("--head", metavar="NAME|FOLDER", help="The head to report on.  [default: the one trained last]")
@click.option("--out", default="report.html", show_default=True, help="The page to write.")
def report_command(as_json: bool, head: str | None, out: str, **options: Any) -> None:
    """Write one self-contained HTML page about data, cuts and head.

    Shows class balance and samples; the stored answers of plan, probe and sweep; the head's figures with 95 % intervals,
    also of each class; learning curves, the confusion matrix and the worst mistakes with thumbnails; the features projected
    onto a plane; all heads of the store; and what all of this was computed from. For classes, it lists rows whose label the
    features contradict, and writes all of them to NAME.suspects.csv beside the page.

    \b
    featcache report
    featcache report --head mine --out mine.html
    """
    project, trained = _subject(head, options)
    from ..report import make_report

    report = make_report(project, trained)
    write_text(out, report.html)
    size_bytes = len(report.html.encode())
    print_line(f"wrote {out} ({size(size_bytes)})")
    suspects_out = _write_suspects(out, report.suspects)
    if as_json:
        print_json(
            {
                "out": out,
                "size_bytes": size_bytes,
                "head": None if trained is None else trained.head,
                "suspects_out": suspects_out,
                "suspects": None if report.suspects is None else len(report.suspects.rows),
            }
        )


def _write_suspects(out: str, suspects: Suspects | None) -> str | None:
    """Write the label suspects beside the page, and return where; None where there is no place beside it, or none to write."""
    from ..identity import is_special

    if is_special(Path(out)):
        return None
    beside = str(Path(out).with_suffix(".suspects.csv"))
    if suspects is None:
        if Path(beside).exists():
            print_line(f"note: {beside} is of an earlier report; this one looked for no label suspects.")
        return None
    write_text(beside, suspects.to_csv())
    print_line(f"wrote {beside}: {count(len(suspects.rows), 'label suspect')} among {count(suspects.looked_at, 'row')}")
    return beside


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
