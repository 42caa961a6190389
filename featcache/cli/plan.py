"""``featcache plan``: what caching will cost at each cut, and when it pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..quantity import parse_duration, parse_size
from .options import command, cut_option, project_options, quantity, stored_options, the_project
from .output import count, duration, print_json, print_line, print_notes, print_table, progress_bar, size

if TYPE_CHECKING:
    from ..advise import PlanResult


@command("plan")
@project_options
@cut_option
@click.option(
    "--epochs", type=click.IntRange(min=1), default=20, show_default=True, help="Epochs that you want to train."
)
@click.option(
    "--disk-budget",
    metavar="SIZE",
    callback=quantity(parse_size),
    help="Disk space that features may take, such as 500MB or 20GB.",
)
@click.option(
    "--time-budget",
    metavar="TIME",
    callback=quantity(parse_duration),
    help="Time that you can spend, such as 90s, 20min or 2h.",
)
def plan_command(
    as_json: bool,
    cut: tuple[str, ...],
    epochs: int,
    disk_budget: int | None,
    time_budget: float | None,
    **options: Any,
) -> None:
    """Predict what caching at each cut costs, and when it pays.

    Measures one batch: decoding, the network before and after each cut, and the disk. Stores no features. Without --cut,
    the plan covers the boundaries worth comparing.

    \b
    featcache plan --epochs 30
    featcache plan --cut layer3 --cut layer4 --disk-budget 20GB --time-budget 1h
    """
    project = the_project(options)
    from ..advise import plan, save_advice

    with progress_bar() as progress:
        found = plan(
            project.backbone.model,
            project.samples,
            project.store,
            cut or None,
            epochs=epochs,
            device=options["device"],
            batch_size=options["batch_size"],
            **stored_options(options),
            disk_budget_bytes=disk_budget,
            time_budget_s=time_budget,
            progress=progress,
        )
    save_advice(project.store, project.settings.backbone, "plan", found)
    if as_json:
        print_json(found)
    else:
        _describe(found)
        print_notes(project.notes)


def _describe(found: PlanResult) -> None:
    print_line(
        f"{count(found.samples, 'sample')} of {found.dataset}, {count(found.epochs, 'epoch')}, on {found.device}:"
    )
    print_table(
        ["cut", "FLOPs before", "disk", "extract", "epoch cached", "epoch without", "pays from", "verdict"],
        [
            [
                row.cut,
                f"{100 * row.flops_share:.1f} %",
                size(row.disk_bytes),
                duration(row.extract_s),
                duration(row.cached_epoch_s),
                duration(row.plain_epoch_s),
                "-" if row.break_even_epoch is None else f"{row.break_even_epoch} epochs",
                row.verdict,
            ]
            for row in found.rows
        ],
    )
    print_line(
        f"a sweep over these cuts, {count(found.epochs, 'epoch')} each: {duration(found.sweep_s)} with "
        f"{', '.join(found.store_cuts) or 'nothing'} stored, {duration(found.plain_sweep_s)} without a cache"
    )
    print_notes(found.notes)
