"""What ``train-head`` trains: one head after one cut, or a schedule of stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..errors import DataError, DataNotFoundError, StaleError, UnknownCutError, UsageError, one_line
from ..progress import ProgressEvent

if TYPE_CHECKING:
    import numpy as np

    from ..heads import TrainedHead
    from ..project import Project

__all__ = ["read_sample_weights", "train_all_layers", "train_one", "train_stages"]

ALIKE = (
    "optimizer", "learning_rate", "weight_decay", "lr_schedule", "warmup_epochs", "label_smoothing", "class_weights",
    "validation", "patience", "seed", "device", "task", "metric", "ignore_index", "clip_norm", "average",
    "mixed_precision",
    "train_splits", "validation_splits", "test_splits",
)  # fmt: skip
DECIDED = ("cut", "epochs", "head", "head_param", "trainable", "learning_rates")  # by the schedule

Show = Callable[[ProgressEvent], None]


def train_all_layers(
    project: Project, cuts: Sequence[str], options: dict[str, Any], progress: Show
) -> tuple[TrainedHead, int]:
    """Return a head on the features of several cuts, by default the boundaries worth comparing, and the number of its rows."""
    chosen = list(dict.fromkeys(cuts)) or project.boundaries()
    if len(chosen) < 2:
        raise UsageError("--head all-layers reads the features of two cuts or more: give --cut for each of them.")
    splits = project.splits(chosen)
    try:
        features = {cut: project.features(cut) for cut in chosen}
    except StaleError as error:
        named = " ".join(f"--cut {cut}" for cut in chosen)
        raise StaleError(
            f"{str(error).partition(' Run `')[0]} Run `featcache extract --pool {project.settings.pool} {named}` first."
        ) from error
    from ..heads import train_head

    trained = train_head(
        splits, features, head=options["head"], epochs=options["epochs"], pool=str(project.settings.pool),
        trainable=options["trainable"] or None, learning_rates=options["learning_rates"], progress=progress,
        **_alike(options),
    )  # fmt: skip
    return trained, len(features[chosen[0]])


def train_one(
    project: Project, cut: str | None, parameters: dict[str, Any], options: dict[str, Any], progress: Show
) -> tuple[TrainedHead, int]:
    """Return a head after one cut, the one extracted last by default, and the number of its rows."""
    chosen = cut or project.last_cut()
    if chosen is None:
        raise UsageError(
            "no cut was given and none was extracted last: use --cut layer4; `featcache ls` shows what is stored."
        )
    try:
        features = project.features(chosen)
        split = project.split(chosen)
    except UnknownCutError as error:
        if cut is not None:
            raise
        raise UsageError(
            f"no cut was given, and {chosen!r}, the cut extracted last, is one of another backbone: use --cut; `featcache cuts` "
            "lists the candidates."
        ) from error
    from ..heads import train_head

    trained = train_head(
        split,
        features,
        head=options["head"],
        epochs=options["epochs"],
        trainable=options["trainable"] or None,
        learning_rates=options["learning_rates"],
        parameters=parameters,
        progress=progress,
        **_alike(options),
    )
    return trained, len(features)


def train_stages(project: Project, options: dict[str, Any], progress: Show) -> tuple[TrainedHead, int]:
    """Return the head of a schedule and the number of its rows; raises ``UsageError`` for options that do not fit."""
    unfreezing, freezing = options["schedule"], options["freeze_schedule"]
    if unfreezing and freezing:
        raise UsageError("--schedule unfreezes and --freeze-schedule freezes: give one of them.")
    context = click.get_current_context()
    for name in DECIDED:
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} does not go with a schedule, which says what is trained and for how long.")
    from ..heads import parse_schedule, train_freezing, train_unfreezing

    if unfreezing:
        cuts = [stage.cut for stage in parse_schedule(unfreezing)]
        features = {cut: project.features(cut) for cut in cuts}
        trained = train_unfreezing(project.split(cuts[0]), features, unfreezing, progress=progress, **_alike(options))
        return trained, len(features[cuts[0]])
    first = parse_schedule(freezing, freezing=True)[0].cut
    rows = project.features(first)
    trained = train_freezing(
        project.split(first), rows, freezing, project.samples, project.store,
        extraction={"batch_size": project.settings.batch_size, "views": project.settings.views}, progress=progress,
        **_alike(options),
    )  # fmt: skip
    return trained, len(rows)


def _alike(options: dict[str, Any]) -> dict[str, Any]:
    """Return what one head and a schedule take alike."""
    return {
        **{name: options[name] for name in ALIKE},
        "batch_size": options["train_batch_size"],
        "sample_weights": read_sample_weights(options["sample_weights"]),
    }


def read_sample_weights(path: str | None) -> np.ndarray[Any, Any] | None:
    """Return the numbers in a file, .npy or text with one per line; raises ``DataError`` where it holds none."""
    if path is None:
        return None
    import numpy as np

    try:
        found: np.ndarray[Any, Any] = np.load(path, allow_pickle=False) if path.endswith(".npy") else np.loadtxt(path)
    except FileNotFoundError:
        raise DataNotFoundError(f"there is no file {Path(path)} of sample weights.") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} holds no sample weights ({one_line(error)}): give .npy, or text with one number per line."
        ) from error
    return found
