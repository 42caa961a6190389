"""``featcache extract``: compute the features that are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..machine import DECODING
from .logs import log_as_json
from .options import command, configured_cuts, cut_option, on_error_option, project_options, the_project
from .output import (
    count,
    duration,
    print_json,
    print_line,
    print_notes,
    print_skipped,
    print_table,
    progress_bar,
    short_id,
    size,
)
from .status import STALE

if TYPE_CHECKING:
    from ..extraction import ExtractReport, MissingTask
    from ..project import Project


@command("extract")
@project_options
@cut_option
@click.option("--workers", type=click.IntRange(min=0), help="Processes that decode images.  [default: as needed]")
@on_error_option
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="NAME[:WORKERS]",
    help="What runs the tasks: local, processes (one per device) or ray; for example processes:4.",
)
@click.option("--task", metavar="K/N", help="Compute only part K of N; the parts may run in any order.")
@click.option("--plan-only", is_flag=True, help="List the tasks that are not done, and compute nothing.")
@click.option(
    "--log-json", is_flag=True, help="Write events as JSON lines to stderr, instead of messages and progress."
)
@click.option("--seed", type=int, help="The same as --view-seed.")
def extract_command(
    as_json: bool,
    cut: tuple[str, ...],
    on_error: str,
    plan_only: bool,
    log_json: bool,
    seed: int | None,
    workers: int | None,
    engine: str,
    task: str | None,
    **options: Any,
) -> int:
    """Compute and store the features that are missing.

    Reuses the rows that are already stored. After a kill, the next extraction continues after the last complete shard.
    Several --cut options each make their own set, in one pass over the data. Rows are derived from a cached set at a
    shallower cut where possible. Exits 3 if samples changed in the meantime.

    \b
    featcache extract --cut layer4
    featcache extract --backbone torchvision:resnet50 --data folder:photos --cut layer3 --cut layer4
    """
    if seed is not None:
        options["view_seed"] = seed
    project = the_project(options)
    cuts = configured_cuts(cut)
    if log_json:
        log_as_json()
    if plan_only:
        _list_tasks(project.missing_tasks(cuts, on_error=on_error), as_json)
        return 0
    with progress_bar() as progress:
        reports = project.extract_cuts(
            cuts, workers=workers, on_error=on_error, engine=engine, task=task, progress=progress
        )
    for report in reports:
        _describe(report, options["store"], project.notes)
    print_notes(project.notes)
    bound = next((report.timings.bound() for report in reports if report.timings.bound()), None)
    if bound is not None:
        faster = _decoded_faster(project) if bound.part == DECODING else ""
        print_line(f"bound by: {bound.part} ({100 * bound.share:.0f} %). To go faster, {faster}{bound.advice}.")
    if as_json:
        print_json(reports)
    return STALE if any(report.changed for report in reports) else 0


def _decoded_faster(project: Project) -> str:
    """Return the advice to decode images only as large as the network sees them, where that pays."""
    from ..extraction import WORTH_SCALING, scaling_gain

    gain = scaling_gain(project.samples)
    return f"use --decoding scaled ({gain:.1f} × faster here), " if gain >= WORTH_SCALING else ""


def _list_tasks(tasks: list[MissingTask], as_json: bool) -> None:
    if as_json:
        print_json(tasks)
    elif tasks:
        print_table(("task", "cuts", "rows"), [(each.task, ", ".join(each.cuts), f"{each.rows:,}") for each in tasks])
    else:
        print_line("nothing to compute.")


def _describe(report: ExtractReport, store: str, said: list[str]) -> None:
    what = count(report.samples, "sample") + (f" and {count(report.views, 'view')} of each" if report.views else "")
    done = f"{report.cut}: {what}, {report.computed:,} computed, {report.reused:,} reused"
    if report.derived:
        done += f", {report.derived:,} derived"
    if report.remaining:
        done += f", {report.remaining:,} left to other tasks than {report.task}"
    if report.skipped:
        done += f", {report.skipped:,} skipped"
    if report.changed:
        done += f", {report.changed:,} changed"
    if report.computed or report.derived:
        rate = (report.computed + report.derived) / max(report.elapsed_s, 1e-9)
        done += f" in {duration(report.elapsed_s)} on {report.device} ({rate:,.0f} samples/s, {size(report.size_bytes)} written)"
    else:
        done += f" in {duration(report.elapsed_s)}: nothing {'stored' if report.changed else 'to compute'}"
    print_line(f"{done}. Set {short_id(report.recipe)} in {store}.")
    print_notes(note for note in report.notes if note not in said)
    print_skipped(report.skipped_samples)
