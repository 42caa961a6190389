"""``featcache plan``: what caching will cost at each cut, and when it pays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import command, cut_option, project_options, the_project
from .output import count, document, duration, progress_bar, size, table, tell

if TYPE_CHECKING:
    from ..advise import PlanResult

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
TIMES = {"s": 1.0, "min": 60.0, "h": 3600.0}


@command("plan")
@project_options
@cut_option
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True, help="Epochs to be trained.")
@click.option("--disk-budget", metavar="SIZE", help="Disk that features may take, such as 500MB or 20GB.")
@click.option("--time-budget", metavar="TIME", help="Time that may be spent, such as 90s, 20min or 2h.")
def plan_command(
    as_json: bool,
    cut: tuple[str, ...],
    epochs: int,
    disk_budget: str | None,
    time_budget: str | None,
    **options: Any,
) -> None:
    """Predict what caching costs at each cut, and from which epoch on it pays.

    Measures a batch: decoding, the network up to each cut and behind it, and the disk. No features are stored. Without --cut,
    the boundaries worth comparing are planned for.
    """
    disk_budget_bytes = None if disk_budget is None else int(_amount("--disk-budget", disk_budget, UNITS))
    time_budget_s = None if time_budget is None else _amount("--time-budget", time_budget, TIMES)
    project = the_project(options)
    from ..advise import plan
    from ..advise.saved import save_advice

    with progress_bar() as progress:
        found = plan(
            project.backbone.model,
            project.samples,
            project.store,
            cut or None,
            epochs=epochs,
            batch_size=options["batch_size"],
            device=options["device"],
            dtype=options["dtype"],
            disk_budget_bytes=disk_budget_bytes,
            time_budget_s=time_budget_s,
            progress=progress,
        )
    save_advice(project.store, project.settings.backbone, "plan", found)
    if as_json:
        document(found)
    else:
        _describe(found)


def _describe(found: PlanResult) -> None:
    tell(f"{count(found.samples, 'sample')} of {found.dataset}, {count(found.epochs, 'epoch')}, on {found.device}:")
    table(
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
                row.words,
            ]
            for row in found.rows
        ],
    )
    tell(
        f"a sweep over these cuts, {count(found.epochs, 'epoch')} each: {duration(found.sweep_s)} with "
        f"{', '.join(found.store_cuts) or 'nothing'} stored, {duration(found.plain_sweep_s)} without a cache"
    )
    for note in found.notes:
        tell(f"note: {note}.")


def _amount(option: str, given: str, units: dict[str, Any]) -> float:
    """Return a number with its unit as bytes or seconds; raises :class:`UsageError` for anything else."""
    text = given.strip()
    for unit in sorted(units, key=len, reverse=True):
        if text.lower().endswith(unit.lower()):
            try:
                value = float(text[: -len(unit)])
            except ValueError:
                break
            if 0 <= value < float("inf"):
                return value * float(units[unit])
            break
    raise UsageError(f"{option} takes a number with one of {', '.join(units)}, not {given!r}.")
