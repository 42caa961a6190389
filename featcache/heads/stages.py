"""Progressive unfreezing and freezing: training in stages between which the freeze boundary moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..machine import pick_device
from ..progress import ProgressCallback, silent

if TYPE_CHECKING:
    from ..features import Features
    from ..splitting import Split
    from ..store import StoreFiles
    from .schedule import Stage
    from .trained import TrainedHead

__all__ = ["train_freezing", "train_unfreezing"]


def train_unfreezing(
    split: Split,
    features: Mapping[str, Features],
    schedule: str,
    *,
    device: str | None = None,
    sample_weights: Any = None,
    progress: ProgressCallback = silent,
    **options: Any,
) -> TrainedHead:
    """Return a head trained top down, in stages: ``"layer4:3,layer3:5"`` trains what lies behind layer4 for 3 epochs, then
    what lies behind layer3 for 5.

    ``split`` is a split of the network at any cut, ``features`` holds the features by cut: those of the network as it
    came, since what lies up to a cut has not changed when its stage begins. ``"head:5,layer4:3"`` trains the new last
    layer alone first (LP-FT: Kumar et al., 2022). ``options`` are those of :func:`train_head`, the same in every stage.

    Stage k equals the usual loop over the whole network as :func:`train_head` says, with the seed ``seed + k``, a fresh
    optimizer and learning-rate schedule, from the weights of the stage before (its best ones, where rows are validated by).
    The head that is returned belongs behind the earliest cut. Raises as :func:`train_head` does.
    """
    from .schedule import parse_schedule, run_stages, schedule_options

    stages = parse_schedule(schedule)
    missing = [stage.cut for stage in stages if stage.cut not in features]
    if missing:
        raise UsageError(f"the schedule {schedule!r} needs features at {missing[0]!r}: extract them, then train.")
    _check_order(schedule, stages, [set(features[stage.cut].recipe.weights) for stage in stages], deeper_first=True)
    splits = {split.cut: split}

    def prepared(stage: Stage, _: TrainedHead | None) -> tuple[Split, Features]:
        if stage.cut not in splits:
            splits[stage.cut] = _at(split, stage.cut)
        return splits[stage.cut], features[stage.cut]

    chosen = schedule_options(options)
    trained = run_stages(stages, prepared, chosen, pick_device(device), sample_weights, progress)
    trained.options = replace(trained.options, schedule=schedule)
    return trained


def train_freezing(
    split: Split,
    features: Features,
    schedule: str,
    dataset: Any,
    store: StoreFiles | str,
    *,
    device: str | None = None,
    extraction: Mapping[str, Any] | None = None,
    sample_weights: Any = None,
    progress: ProgressCallback = silent,
    **options: Any,
) -> TrainedHead:
    """Return a head trained bottom up, in stages: ``"layer2:3,layer3:5"`` trains what lies behind layer2 for 3 epochs, then
    freezes all up to layer3 as it is trained by then, and trains the rest for 5.

    ``features`` are those of ``split``, at the first cut. Before each further stage, the features of the trained prefix are
    extracted from ``dataset`` into ``store``: a recipe of their own, since the weights are others. ``extraction`` holds
    options of :func:`extract` such as ``transform`` and ``batch_size``. A last stage ``head:5`` trains the new last layer
    alone. For the rest see :func:`train_unfreezing`. The head that is returned belongs behind the first cut, so that it
    holds all that was trained.
    """
    from ..extraction import extract
    from .schedule import behind, parse_schedule, run_stages, schedule_options

    stages = parse_schedule(schedule, freezing=True)
    first = stages[0].cut
    if first not in (split.cut, features.recipe.cut) or split.cut != features.recipe.cut:
        raise UsageError(f"the schedule {schedule!r} begins at {first!r}: give the split and the features at that cut.")
    splits = {stage.cut: split if stage.cut == first else _at(split, stage.cut) for stage in stages}
    _check_order(schedule, stages, [set(splits[stage.cut].weights) for stage in stages], deeper_first=False)
    settings = {"dtype": features.recipe.dtype, "device": device, "progress": progress, **(extraction or {})}
    made = {first: (split, features)}

    def prepared(stage: Stage, before: TrainedHead | None) -> tuple[Split, Features]:
        if stage.cut not in made:
            assert before is not None
            trained = splits[stage.cut].rebind(before.model)
            made[stage.cut] = trained, extract(trained, dataset, store, **settings)
        return made[stage.cut]

    chosen = schedule_options(options)
    trained = run_stages(stages, prepared, chosen, pick_device(device), sample_weights, progress)
    trained = behind(trained, split, features)
    trained.options = replace(trained.options, freeze_schedule=schedule)
    return trained


def _at(split: Split, cut: str) -> Split:
    from ..splitting import split as split_at

    return split_at(split.model, cut, split.example_inputs, split.other_length)


def _check_order(schedule: str, stages: Any, frozen: list[set[str]], *, deeper_first: bool) -> None:
    """Raise :class:`UsageError` unless each stage freezes less than the one before, or more when freezing."""
    for number in range(1, len(stages)):
        before, after = frozen[number - 1], frozen[number]
        if stages[number].cut == stages[number - 1].cut:
            continue
        if not (after <= before if deeper_first else before <= after):
            way = (
                "unfreezes from the top down: deeper cuts come first" if deeper_first else "freezes from the bottom up"
            )
            raise UsageError(
                f"the schedule {schedule!r} {way}, but {stages[number].cut!r} does not lie "
                f"{'before' if deeper_first else 'behind'} {stages[number - 1].cut!r}: change the order."
            )
