"""Schedules that move the freeze boundary while training: their notation, and running their stages one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from ..errors import HeadError, UsageError, near_names
from ..features import Features
from ..progress import ProgressCallback
from ..splitting import Split
from ..tables import Records
from ..training import LR_SCHEDULES, EpochRecord, TrainOptions, find_task
from .kinds import built_suffix
from .network import last_layers
from .train import fit_head
from .trained import TrainedHead

__all__ = ["HEAD", "Stage", "behind", "parse_schedule", "run_stages", "schedule_options"]

HEAD = "head"
FIXED = ("head", "epochs", "trainable", "learning_rates", "schedule", "freeze_schedule", "parameters", "pool")


@dataclass(frozen=True)
class Stage:
    """Some epochs of training all that comes after ``cut``, or with ``head_only`` the new last layer alone."""

    cut: str
    epochs: int
    head_only: bool = False

    @property
    def name(self) -> str:
        """Return the name of the stage as a schedule writes it."""
        return HEAD if self.head_only else self.cut


def parse_schedule(text: str, *, freezing: bool = False) -> tuple[Stage, ...]:
    """Return the stages of ``"layer4:3,layer3:5"``: cuts with the epochs for which what comes after them is trained.

    ``head`` stands for the new last layer alone, trained from the deepest cut of the schedule: the first stage of a
    schedule that unfreezes, the last one of a schedule that freezes. Raises ``UsageError`` for anything else.
    """
    named: list[tuple[str, int]] = []
    for part in text.split(","):
        cut, separator, epochs = part.strip().rpartition(":")
        if not separator or not cut.strip() or not epochs.strip().isdigit() or int(epochs) < 1:
            meant = " The schedule of learning rates is --lr-schedule." if part.strip() in LR_SCHEDULES else ""
            raise UsageError(
                f"a schedule is CUT:EPOCHS,CUT:EPOCHS,… such as layer4:3,layer3:5; {part.strip()!r} is not.{meant}"
            )
        named.append((cut.strip(), int(epochs)))
    cuts = [cut for cut, _ in named if cut != HEAD]
    if not cuts:
        raise UsageError(f"the schedule {text!r} names no cut: add one, such as head:5,layer4:3.")
    if len(set(cuts)) < len(cuts):
        raise UsageError(f"the schedule {text!r} names a cut twice: give it all its epochs at once.")
    place = len(named) - 1 if freezing else 0
    for number, (cut, _) in enumerate(named):
        if cut == HEAD and number != place:
            where = "last when freezing" if freezing else "first when unfreezing"
            raise UsageError(f"in the schedule {text!r} the stage {HEAD!r} must come {where}.")
    deepest = cuts[-1] if freezing else cuts[0]
    return tuple(Stage(deepest if cut == HEAD else cut, epochs, cut == HEAD) for cut, epochs in named)


def schedule_options(given: Mapping[str, Any]) -> TrainOptions:
    """Return the options of all stages; raises ``UsageError`` for those that a schedule decides, or unknown ones."""
    known = [each.name for each in fields(TrainOptions) if each.name not in FIXED]
    for name in given:
        if name not in known:
            raise UsageError(
                f"a schedule takes no option {name!r}.{near_names(name, known)} It takes: {', '.join(known)}."
            )
    if given.get("optimizer") == "lbfgs":
        raise UsageError("the stages of a schedule take steps, and lbfgs takes none: use another --optimizer.")
    return TrainOptions(**{name: value for name, value in given.items() if value is not None}).for_steps()


def run_stages(
    stages: Sequence[Stage],
    prepared: Callable[[Stage, TrainedHead | None], tuple[Split, Features]],
    options: TrainOptions,
    device: torch.device,
    sample_weights: Any,
    progress: ProgressCallback,
) -> TrainedHead:
    """Return the head of the last stage, its history that of all stages.

    ``prepared`` gives split and features of a stage, given the head of the stage before. Stage k is ``train_head``
    with the seed ``options.seed + k`` and a fresh optimizer, from the weights that stage k - 1 ended with; rows to validate
    by are the same in all of them.
    """
    trained: TrainedHead | None = None
    history = Records[EpochRecord]()
    elapsed_s, rows = 0.0, 0
    for number, stage in enumerate(stages):
        split, features = prepared(stage, trained)
        if trained is not None and (features.snapshot != trained.snapshot or len(features) != rows):
            raise HeadError(
                f"the features at {stage.cut!r} are of other samples than those of the stage before: extract both cuts of the "
                "same data."
            )
        rows = len(features)
        alone: tuple[str, ...] | None = None
        if stage.head_only:
            task = find_task(features, options.task, options.ignore_index)
            if task.kind == "output":
                raise UsageError("a stage 'head' trains the new last layer, but task='output' keeps the network's own.")
            alone = last_layers(split, task.outputs)
        trained = fit_head(
            split,
            features,
            replace(options, epochs=stage.epochs, seed=options.seed + number, trainable=alone),
            device,
            start=None if trained is None else trained.model.state_dict(),
            division_seed=options.seed,
            sample_weights=sample_weights,
            progress=progress,
        )
        for record in trained.history:
            history.append(replace(record, epoch=len(history) + 1, stage=stage.name))
        elapsed_s += trained.elapsed_s
    assert trained is not None
    trained.history, trained.elapsed_s = history, elapsed_s
    trained.options = replace(
        options, epochs=sum(stage.epochs for stage in stages), learning_rate=trained.options.learning_rate
    )
    return trained


def behind(trained: TrainedHead, split: Split, features: Features) -> TrainedHead:
    """Return the same trained network as a head after an earlier cut, whose prefix no stage has changed."""
    network = split.rebind(trained.model)
    if network.weights != dict(features.recipe.weights):
        raise HeadError(f"training changed weights up to {split.cut!r}, which this cut should have kept.")
    return replace(trained, built=built_suffix(network), recipe=features.recipe)
