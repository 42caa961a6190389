"""``featcache sweep``: which boundary is best, found by training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import MissingDependencyError
from .options import STORED, command, cut_option, project_options, the_project
from .output import count, document, duration, progress_bar, size, table, tell

if TYPE_CHECKING:
    from ..advise import SweepResult


@command("sweep")
@project_options
@cut_option
@click.option("--head", default="suffix", show_default=True, help="suffix, linear, or sklearn:NAME.")
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Trainings at each cut.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first of the seeds.")
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Stop after so many cuts that did not help.",
)
@click.option("--all-cuts", is_flag=True, help="Train behind every cut, whether or not the last one helped.")
@click.option("--learning-rate", type=float, multiple=True, help="Several are tried at each cut.  [default: one]")
@click.option("--confidence", type=float, default=0.9, show_default=True, help="Of the intervals.")
@click.option(
    "--validation", type=float, default=0.2, show_default=True, help="Share of rows that cuts are compared by."
)
@click.option("--train-batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--halving", is_flag=True, help="For large data: drop the worse half of the cuts on few rows first.")
@click.option("--plot", metavar="FILE", help="Write score and cost against the boundary as SVG.")
def sweep_command(as_json: bool, cut: tuple[str, ...], plot: str | None, all_cuts: bool, **options: Any) -> None:
    """Train behind candidate cuts, from the deepest up, and recommend one.

    Shallower cuts are extracted only while that helps beyond noise. Budgets are equal: the same rows, epochs and
    number of trainings at each cut. Without --cut, the boundaries worth comparing are tried.
    """
    if plot is not None:
        _need_matplotlib()
    project = the_project(options)
    from ..advise import sweep
    from ..advise.saved import save_advice

    training = {
        key: options[key]
        for key in (
            "head", "epochs", "seeds", "seed", "confidence", "validation", "train_batch_size", "halving", "device",
            *STORED, "codec", "store_budget", "from_lossy",
        )
    }  # fmt: skip
    with progress_bar() as progress:
        found = sweep(
            project.backbone.model,
            project.samples,
            project.store,
            cut or None,
            patience=None if all_cuts else options["patience"],
            learning_rates=options["learning_rate"] or None,
            progress=progress,
            **training,
        )
    save_advice(project.store, project.settings.backbone, "sweep", found)
    if plot is not None:
        from ..advise.plots import sweep_plot

        Path(plot).write_bytes(sweep_plot(found.rows, found.recommended))
    if as_json:
        document(found)
    else:
        _describe(found)
    if plot is not None:
        tell(f"plot: {plot}")


def _describe(found: SweepResult) -> None:
    tell(
        f"{count(found.samples, 'sample')} of {found.dataset}, {found.head} head, {count(found.epochs, 'epoch')}, "
        f"{count(found.seeds, 'seed')}, intervals of {100 * found.confidence:.0f} %:"
    )
    table(
        ["cut", "FLOPs before", "accuracy", "gain", "test", "extract", "train", "disk"],
        [
            [
                row.cut,
                f"{100 * row.flops_share:.1f} %",
                f"{100 * row.accuracy:.1f} ± {100 * row.accuracy_half_width:.1f} %",
                "" if row.gain is None else f"{100 * row.gain:+.1f} ± {100 * (row.gain_half_width or 0.0):.1f}",
                "-" if row.test_accuracy is None else f"{100 * row.test_accuracy:.1f} %",
                duration(row.extract_s),
                duration(row.train_s),
                size(row.disk_bytes),
            ]
            for row in found.rows
        ],
    )
    click.echo(f"recommended: {found.recommended}")
    tell(f"{found.reason}.")
    if found.untried:
        tell(f"not tried: {', '.join(found.untried)}; --all-cuts or a larger --patience tries them.")
    if found.dropped:
        tell(f"dropped on few rows: {', '.join(found.dropped)}.")
    tell(f"{duration(found.elapsed_s)} in all.")


def _need_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingDependencyError("--plot needs matplotlib: pip install 'featcache[plot]'.")
