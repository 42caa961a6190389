"""``featcache sweep``: which boundary is best, found by training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..errors import MissingDependencyError
from .options import command, cut_option, on_error_option, project_options, split_options, stored_options, the_project
from .output import (
    count,
    duration,
    print_json,
    print_left_out,
    print_line,
    print_notes,
    print_skipped,
    print_table,
    print_text,
    progress_bar,
    size,
    write_text,
)

if TYPE_CHECKING:
    from ..advise import SweepResult


@command("sweep")
@project_options
@cut_option
@click.option("--head", default="suffix", show_default=True, help="suffix, linear, or sklearn:NAME.")
@click.option("--task", help="single_label, multi_label, regression or dense.  [default: follows from the targets]")
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Epochs per training.  [default: 4; linear heads are solved]"
)
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Trainings per cut.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first seed.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=100, max_open=True),
    default=0.5,
    show_default=True,
    help="Recommend the deepest cut that is at most this many points below the best.",
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Stop after this many cuts in a row that cannot be better by more than the tolerance.",
)
@click.option("--all-cuts", is_flag=True, help="Train after every cut, whatever the results so far.")
@click.option(
    "--learning-rate", type=float, multiple=True, help="Repeat the option to try several at each cut.  [default: one]"
)
@click.option("--confidence", type=float, default=0.9, show_default=True, help="Confidence level of the intervals.")
@click.option(
    "--validation",
    type=float,
    default=0.5,
    show_default=True,
    help="Share of the training rows that a seed judges by, if the data have no validation split; consecutive seeds take "
    "different rows.",
)
@split_options
@click.option(
    "--train-batch-size", type=click.IntRange(min=1), help="[default: 64; less if there are few rows, for more steps]"
)
@on_error_option
@click.option("--halving", is_flag=True, help="First drop the worse half of the cuts, judged on few rows.")
@click.option("--plot", metavar="FILE", help="Plot score and cost at each cut into this SVG file.")
def sweep_command(as_json: bool, cut: tuple[str, ...], plot: str | None, all_cuts: bool, **options: Any) -> None:
    """Train after candidate cuts and recommend one.

    Runs a race of short trainings with equal budgets, from the deepest cut up. By default, each of two seeds trains on
    one half of the training rows and judges by the other. The recommended cut is the deepest one whose mean score is
    within the tolerance of the best. The race stops after two cuts in a row that cannot be better by more than that. Test
    rows are not used. Without --cut, tries the boundaries worth comparing. More --epochs and --seeds give a more certain
    answer.

    \b
    featcache sweep --epochs 10 --seeds 3
    featcache sweep --head linear --cut layer2 --cut layer3 --cut layer4
    """
    if plot is not None:
        _need_matplotlib()
    project = the_project(options)
    from ..advise import save_advice, sweep

    training = {
        key: options[key]
        for key in (
            "head", "task", "epochs", "seeds", "seed", "confidence", "validation", "train_batch_size", "halving", "device",
            "batch_size", "codec", "store_budget", "train_splits", "validation_splits", "test_splits", "on_error",
        )
    }  # fmt: skip
    with progress_bar() as progress:
        found = sweep(
            project.backbone.model,
            project.samples,
            project.store,
            cut or None,
            patience=None if all_cuts else options["patience"],
            tolerance=options["tolerance"] / 100,
            learning_rates=options["learning_rate"] or None,
            progress=progress,
            **training,
            **stored_options(options),
        )
    save_advice(project.store, project.settings.backbone, "sweep", found)
    if plot is not None:
        from ..advise import sweep_plot

        write_text(plot, sweep_plot(found.rows, found.recommended, found.score).decode())
    if as_json:
        print_json(found)
    else:
        _describe(found)
    print_notes(project.notes)
    if plot is not None:
        print_line(f"plot: {plot}")


def _describe(found: SweepResult) -> None:
    trained = count(found.epochs, "epoch") if found.epochs else "solved"
    print_line(
        f"{count(found.samples, 'sample')} of {found.dataset}, {found.head} head, {trained}, "
        f"{count(found.seeds, 'seed')}, intervals of {100 * found.confidence:.0f} %:"
    )
    print_table(
        ["cut", "FLOPs before", found.score, f"to {found.recommended}", "extract", "train", "disk"],
        [
            [
                row.cut,
                f"{100 * row.flops_share:.1f} %",
                f"{100 * row.score:.1f} ± {100 * row.score_half_width:.1f} %",
                ""
                if row.difference is None
                else f"{100 * row.difference:+.1f} ± {100 * (row.difference_half_width or 0.0):.1f}",
                duration(row.extract_s),
                duration(row.train_s),
                size(row.disk_bytes),
            ]
            for row in found.rows
        ],
    )
    print_text(f"recommended: {found.recommended}")
    print_line(f"{found.reason}.")
    if found.untried:
        print_line(f"not tried: {', '.join(found.untried)}; --all-cuts or a larger --patience tries them.")
    if found.dropped:
        print_line(f"dropped on few rows: {', '.join(found.dropped)}.")
    print_left_out(found.left_out)
    print_skipped(found.skipped_samples)
    print_line(f"{duration(found.elapsed_s)} in all.")


def _need_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingDependencyError("--plot needs matplotlib: pip install 'featcache[plot]'.")
