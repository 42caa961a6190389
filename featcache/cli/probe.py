"""``featcache probe``: how well the features at each cut transfer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

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
    progress_bar,
)

if TYPE_CHECKING:
    from ..advise import ProbeResult


@command("probe")
@project_options
@cut_option
@click.option(
    "--most-samples", type=click.IntRange(min=10), default=2000, show_default=True, help="Score at most this many rows."
)
@split_options
@on_error_option
@click.option("--seed", type=int, default=0, show_default=True)
def probe_command(as_json: bool, cut: tuple[str, ...], most_samples: int, seed: int, **options: Any) -> None:
    """Score how well features at each cut tell the classes apart.

    Trains no network. The scores are LogME, H-score, ridge regression and nearest neighbours with each row left out, and
    cross-validated logistic regression, on pooled features of all cuts from one pass over the data.

    \b
    featcache probe
    featcache probe --cut layer2 --cut layer3 --cut layer4 --most-samples 5000
    """
    project = the_project(options)
    from ..advise import probe, save_advice

    with progress_bar() as progress:
        found = probe(
            project.backbone.model,
            project.samples,
            project.store,
            cut or None,
            most_samples=most_samples,
            batch_size=options["batch_size"],
            device=options["device"],
            codec=options["codec"],
            store_budget=options["store_budget"],
            on_error=options["on_error"],
            **stored_options(options),
            seed=seed,
            train_splits=options["train_splits"],
            validation_splits=options["validation_splits"],
            test_splits=options["test_splits"],
            progress=progress,
        )
    save_advice(project.store, project.settings.backbone, "probe", found)
    if as_json:
        print_json(found)
    else:
        _describe(found)
    print_notes(project.notes)


def _describe(found: ProbeResult) -> None:
    print_table(
        ["cut", "width", "LogME", "H-score", "ridge", "neighbours", "linear probe", "CKA to last", "shift"],
        [
            [
                row.cut,
                f"{row.width}",
                f"{row.logme:.3f}",
                f"{row.h_score:.3f}",
                f"{100 * row.ridge_loo_accuracy:.1f} %",
                f"{100 * row.knn_accuracy:.1f} %",
                f"{100 * row.probe_accuracy:.1f} ± {100 * row.probe_error:.1f} %",
                "-" if row.cka_before is None else f"{row.cka_before:.2f}",
                "-" if row.shift is None else f"{row.shift:.2f}",
            ]
            for row in found.rows
        ],
    )
    print_line(
        f"{count(found.samples, 'sample')} of {found.dataset}, {found.classes} classes, in {duration(found.elapsed_s)}."
    )
    print_left_out(found.left_out)
    print_skipped(found.skipped_samples)
    print_line(f"{found.summary}.")
