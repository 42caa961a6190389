"""``featcache train-head``: train what comes after the cut from the cache."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import UsageError
from ..quantity import short_id
from .options import command, project_options, split_options, the_project
from .output import count, duration, print_json, print_line, print_notes, print_text, progress_bar
from .training import train_all_layers, train_one, train_stages

if TYPE_CHECKING:
    from ..heads import TrainedHead


LONG_NAME = 40  # of several cuts, which a head is called by


@command("train-head")
@project_options
@click.option(
    "--cut",
    multiple=True,
    metavar="MODULE",
    help="Train from the features at this cut; several for all-layers.  [default: the one extracted last; for all-layers the "
    "boundaries worth comparing]",
)
@click.option(
    "--head",
    metavar="suffix|linear|all-layers|sklearn:NAME",
    default="suffix",
    show_default=True,
    help="What to train: all layers after the cut, a linear layer on its pooled features, a linear layer on those of several "
    "cuts together, or a scikit-learn estimator.",
)
@click.option("--head-param", multiple=True, metavar="NAME=VALUE", help="A parameter of a scikit-learn head.")
@click.option(
    "--trainable",
    multiple=True,
    metavar="NAME",
    help="Train only these modules or parameters, by name or pattern (layer4.*).  [default: all after the cut]",
)
@click.option("--epochs", type=click.IntRange(min=1), help="[default: 20]")
@click.option("--train-batch-size", type=click.IntRange(min=1), help="Rows per training step.  [default: 64]")
@click.option(
    "--optimizer",
    metavar="adamw|adam|sgd|lbfgs",
    help="[default: lbfgs if only one linear layer is trained and no option for steps, such as --epochs, is given; "
    "otherwise adamw]",
)
@click.option("--learning-rate", type=float, help="[default: 1e-2 for a single linear layer, otherwise 1e-3]")
@click.option(
    "--learning-rates",
    multiple=True,
    metavar="NAME=RATE",
    help="Learning rate of these modules or parameters, by name or pattern (layer4.*=1e-4); the first match wins.",
)
@click.option(
    "--weight-decay", type=float, help="[default: 0.01; for a solved head, the penalty that is best on validation rows]"
)
@click.option("--lr-schedule", metavar="cosine|constant", help="[default: cosine]")
@click.option(
    "--schedule", metavar="CUT:EPOCHS,...", help="Unfreeze top down: layer4:3,layer3:5. LP-FT: head:5,layer4:3."
)
@click.option("--freeze-schedule", metavar="CUT:EPOCHS,...", help="Freeze bottom up while training: layer2:3,layer3:5.")
@click.option("--warmup-epochs", type=float, help="[default: 0]")
@click.option("--clip-norm", type=float, help="Scale gradients down to this norm.")
@click.option("--average", metavar="KIND", help="Average of the weights to keep: ema, ema:DECAY or swa.")
@click.option("--mixed-precision", is_flag=True, help="Train in bfloat16 where torch's autocast does; for GPUs.")
@click.option("--label-smoothing", type=float, default=0.0, show_default=True)
@click.option("--class-weights", help="'balanced', or one number per class, separated by commas.")
@click.option("--sample-weights", metavar="FILE", help="Weights of the samples, in their order: .npy, or one per line.")
@click.option(
    "--task", help="single_label, multi_label, regression, dense or token.  [default: follows from the targets]"
)
@click.option(
    "--metric", metavar="SCORER", help="scikit-learn scorer that chooses the best epoch.  [default: the loss]"
)
@click.option("--ignore-index", type=int, help="Target value to ignore.  [default: 255 for pixels, -100 for tokens]")
@click.option(
    "--validation", type=float, default=0.2, show_default=True, help="Share of the training rows to validate by."
)
@split_options
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    help="Stop after this many epochs without a better validation loss or metric.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--name", help="Name of the head folder in the store.  [default: data, cut and head]")
@click.option("--force", is_flag=True, help="Replace a head that is called --name.")
def train_head_command(
    as_json: bool, cut: tuple[str, ...], head_param: tuple[str, ...], name: str | None, force: bool, **options: Any
) -> None:
    """Train a head from cached features, without opening an image.

    By default, the head is everything after the cut, with a new last layer for the data's classes. The head folder in the
    store holds its weights, metrics, curves and configuration. The task (a class, several labels, values, or a class for
    every pixel or token) follows from the targets. Without --name, the head replaces the last one of the same data, cut and
    kind.

    \b
    featcache train-head --cut layer4
    featcache train-head --cut layer3 --head linear --name linear
    featcache train-head --head all-layers
    """
    options["class_weights"] = _class_weights(options["class_weights"])
    options["learning_rates"] = _rates(options["learning_rates"])
    parameters = dict(_parameter(given) for given in head_param)
    from ..project import has_head

    together = options["head"] == "all-layers"
    typed = click.get_current_context().get_parameter_source("cut") == ParameterSource.COMMANDLINE
    if not typed and together != (len(cut) > 1):
        cut = ()  # a featcache.toml gives one to heads that read several, or several, of which the one extracted last counts
    if together:
        options["pool"] = options["pool"] or "auto"
    project = the_project(options)
    if name is not None and not force and has_head(options["store"], name):
        raise UsageError(f"{options['store']} holds a head {name!r}: give another --name, or replace it with --force.")
    with progress_bar() as progress:
        if options["schedule"] or options["freeze_schedule"]:
            trained, rows = train_stages(project, options, progress)
        elif together:
            trained, rows = train_all_layers(project, cut, options, progress)
        else:
            if len(cut) > 1:
                raise UsageError(
                    f"a {options['head']} head is trained after one cut: give one --cut, or use --head all-layers."
                )
            trained, rows = train_one(project, next(iter(cut), None), parameters, options, progress)
    folder = project.save_head(trained, name or _default_name(trained))
    judged = trained.metrics
    if judged is not None and judged.trivial:
        project.notes.append(f"on the {judged.split} rows, the head is no better than {judged.trivial}")
    print_notes(project.notes)
    if as_json:
        print_json({"folder": str(folder), **_summary(trained)})
    else:
        _describe(trained, rows, folder)


def _describe(trained: TrainedHead, rows: int, folder: Path) -> None:
    print_line(
        f"trained {trained.head} after {trained.recipe.cut} from {count(rows, 'cached sample')} of {trained.dataset} "
        f"in {duration(trained.elapsed_s)}{_way(trained)}"
    )
    if trained.rows is not None:
        print_line(f"rows: {trained.rows}")
    judged = {each.split: each for each in (trained.validation_metrics, trained.metrics) if each is not None}
    for found in judged.values():
        named = "".join(f", {name} {value:.4f}" for name, value in found.scores.items())
        print_text(f"{found.split}: {found}{named} ({count(found.samples, 'sample')})")
    print_line(f"head: {folder}")


def _way(trained: TrainedHead) -> str:
    """Return how a head was fitted, in words."""
    if trained.options.optimizer == "lbfgs":
        return f", solved with a penalty of {trained.options.weight_decay:g}"
    return f", {count(len(trained.history), 'epoch')}" if trained.history else ""


def _summary(trained: TrainedHead) -> dict[str, Any]:
    return {
        "head": trained.head,
        "cut": trained.recipe.cut,
        "recipe": trained.recipe.fingerprint,
        "dataset": trained.dataset,
        "snapshot": trained.snapshot,
        "task": trained.task.kind,
        "classes": trained.classes,
        "rows": trained.rows,
        "metrics": trained.metrics,
        "validation_metrics": trained.validation_metrics,
        "history": trained.history,
        "elapsed_s": trained.elapsed_s,
    }


def _default_name(trained: TrainedHead) -> str:
    way = trained.options.schedule or trained.options.freeze_schedule or trained.recipe.cut
    if len(trained.cuts) > 1 and len(way) > LONG_NAME:
        way = f"{len(trained.cuts)}-cuts-{short_id(trained.recipe.fingerprint)}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{trained.dataset}-{way}-{trained.head}")[:100].strip("-.")


def _parameter(given: str) -> tuple[str, Any]:
    import json

    name, separator, value = given.partition("=")
    if not separator or not name:
        raise UsageError(f"--head-param takes NAME=VALUE, not {given!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, {"None": None, "True": True, "False": False}.get(value, value)


def _rates(given: tuple[str, ...]) -> dict[str, float] | None:
    rates: dict[str, float] = {}
    for each in given:
        name, _, rate = each.rpartition("=")
        try:
            value = float(rate)
        except ValueError:
            value = 0.0
        if not name or not 0 < value < math.inf:
            raise UsageError(
                f"--learning-rates takes NAME=RATE with a finite rate above 0, such as layer4.*=1e-4, not {each!r}."
            )
        if name in rates:
            raise UsageError(f"--learning-rates names {name!r} twice: give it one rate.")
        rates[name] = value
    return rates or None


def _class_weights(given: str | None) -> str | list[float] | None:
    if given is None or given == "balanced":
        return given
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise UsageError(f"--class-weights takes 'balanced' or numbers separated by commas, not {given!r}.") from None
