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
@click.option("--seed", type=int, help="The same as --view-seed.")
def extract_command(
    as_json: bool, cut: tuple[str, ...], workers: int | None, on_error: str, seed: int | None, **options: Any
) -> None:
    """Compute the features that are missing, and store them.

    Rows that are there are reused; an extraction that was killed goes on at its last whole shard. With several --cut
    each makes its own set, in one pass over the data. What can be derived from a cached set at a shallower cut is.
    """
    if seed is not None:
        options["view_seed"] = seed
    project = the_project(options)
    with progress_bar() as progress:
        reports = project.extract_cuts(configured_cuts(cut), workers=workers, on_error=on_error, progress=progress)
    for report in reports:
        _describe(report, options["store"])
    for note in project.notes:
        tell(f"note: {note}.")
    if as_json:
        document(reports)


def _describe(report: ExtractReport, store: str) -> None:
    what = count(report.samples, "sample") + (f" and {count(report.views, 'view')} of each" if report.views else "")
    done = f"{report.cut}: {what}, {report.computed:,} computed, {report.reused:,} reused"
    if report.derived:
        done += f", {report.derived:,} derived"
    if report.skipped:
        done += f", {report.skipped:,} skipped"
    if report.computed or report.derived:
        rate = (report.computed + report.derived) / max(report.elapsed_s, 1e-9)
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
