"""``featcache extract``: compute the features that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import command, configured_cuts, cut_option, project_options, the_project
from .output import count, document, duration, progress_bar, size, tell

if TYPE_CHECKING:
    from ..extract import ExtractReport

SHOWN = 5


@command("extract")
@project_options
@cut_option
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode images.  [default: by need]")
@click.option(
    "--on-error",
    type=click.Choice(["raise", "skip"]),
    default="raise",
    show_default=True,
    help="What to do with a sample that cannot be read.",
)
def extract_command(as_json: bool, cut: tuple[str, ...], workers: int | None, on_error: str, **options: Any) -> None:
    """Compute the features that are missing, and store them.

    Rows that are there are reused; an extraction that was killed goes on at its last whole shard. With several --cut
    each makes its own set.
    """
    project = the_project(options)
    reports = []
    for name in configured_cuts(cut):
        with progress_bar() as progress:
            report = project.extract(name, workers=workers, on_error=on_error, progress=progress)
        _describe(report, options["store"])
        reports.append(report)
    for note in project.notes:
        tell(f"note: {note}.")
    if as_json:
        document(reports)


def _describe(report: ExtractReport, store: str) -> None:
    done = f"{report.cut}: {count(report.samples, 'sample')}, {report.computed:,} computed, {report.reused:,} reused"
    if report.derived:
        done += f", {report.derived:,} derived"
    if report.skipped:
        done += f", {report.skipped:,} skipped"
    if report.computed:
        rate = report.computed / max(report.elapsed_s, 1e-9)
        done += f" in {duration(report.elapsed_s)} on {report.device} ({rate:,.0f} samples/s, {size(report.size_bytes)} written)"
    else:
        done += f" in {duration(report.elapsed_s)}: nothing to compute"
    tell(f"{done}. Set {report.recipe} in {store}.")
    for note in report.notes:
        tell(f"note: {note}.")
    for bad in report.skipped_samples[:SHOWN]:
        tell(f"skipped {bad.name}: {bad.reason}")
    if report.skipped > SHOWN:
        tell(f"skipped {report.skipped - SHOWN} more; --json lists them all.")
