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
    """Train a head top down, in stages that unfreeze more and more layers.

    ``"layer4:3,layer3:5"`` trains what comes after layer4 for 3 epochs, then what comes after layer3 for 5.
    ``"head:5,layer4:3"`` trains the new last layer alone first.

    Parameters
    ----------
    split : Split
        A split of the network at any cut.
    features : mapping of str to Features
        The features by cut, for every cut in the schedule. They are those of the network as it came, because what lies
        up to a cut has not changed when its stage begins.
    schedule : str
        ``"CUT:EPOCHS,CUT:EPOCHS,…"``, the deepest cut first. ``head:EPOCHS`` may come first and trains the new last
        layer alone.
    device : str, optional
        The device to train on. By default the best one there is.
    sample_weights : sequence of float or numpy.ndarray, shape (rows,), optional
        One loss weight per row of the features.
    progress : callable, optional
        Called with a ``ProgressEvent`` after each epoch.
    **options : Any
        The options of ``featcache.train_head``, the same in every stage, except ``head``, ``epochs``, ``trainable``,
        ``parameters`` and ``pool``.

    Returns
    -------
    TrainedHead
        The head after the earliest cut of the schedule. Its history is that of all stages.

    Raises
    ------
    UsageError
        If the schedule is malformed, its cuts are not in order, features are missing for a cut, or an option is
        unknown.
    HeadError
        If the features of two cuts come from different samples, or as in ``featcache.train_head``.
    DataError
        If the targets do not fit the task.
    StaleError
        If the features belong to another network.

    Notes
    -----
    Stage k equals the usual loop over the whole network as ``featcache.train_head`` describes it, with the seed ``seed
    + k`` and a fresh optimizer and learning-rate schedule. It starts from the weights of the stage before, the best
    ones if rows are validated by. Training the new last layer first is LP-FT (Kumar et al., 2022).

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> from torch.nn import Linear, ReLU
    >>> network = torch.nn.Sequential(Linear(8, 4), ReLU(), Linear(4, 4), ReLU(), Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(network, samples, "features", cut=["1", "3"])
    >>> head = featcache.train_unfreezing(cut, features, "3:1,1:2")
    >>> [epoch.stage for epoch in head.history]
    ['3', '1', '1']
    >>> head.split.cut
    '1'
    """
    from ..splitting import as_now
    from .schedule import parse_schedule, run_stages, schedule_options

    stages = parse_schedule(schedule)
    missing = [stage.cut for stage in stages if stage.cut not in features]
    if missing:
        raise UsageError(f"the schedule {schedule!r} needs features at {missing[0]!r}: extract them, then train.")
    _check_order(schedule, stages, [set(features[stage.cut].recipe.weights) for stage in stages], deeper_first=True)
    (split,) = as_now([split])
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
    """Train a head bottom up, in stages that freeze more and more layers.

    ``"layer2:3,layer3:5"`` trains what comes after layer2 for 3 epochs, then freezes everything up to layer3 as it is
    trained by then, and trains the rest for 5.

    Before each further stage, the features of the trained prefix are extracted from ``dataset`` into ``store``. They
    have a recipe of their own, because the weights differ.

    Parameters
    ----------
    split : Split
        The network, cut at the first cut of the schedule.
    features : Features
        The features at that cut.
    schedule : str
        ``"CUT:EPOCHS,CUT:EPOCHS,…"``, the shallowest cut first. ``head:EPOCHS`` may come last and trains the new last
        layer alone.
    dataset : Any
        The dataset of the features, as for ``featcache.extract``.
    store : FeatureStore or str
        The store for the features of the further stages.
    device : str, optional
        The device to train and extract on. By default the best one there is.
    extraction : mapping of str to Any, optional
        Options of ``featcache.extract`` such as ``transform`` and ``batch_size``. By default ``dtype`` is that of
        ``features``, and ``device`` and ``progress`` are those given here.
    sample_weights : sequence of float or numpy.ndarray, shape (rows,), optional
        One loss weight per row of the features.
    progress : callable, optional
        Called with a ``ProgressEvent`` after each epoch.
    **options : Any
        The options of ``featcache.train_head``, the same in every stage, except ``head``, ``epochs``, ``trainable``,
        ``parameters`` and ``pool``.

    Returns
    -------
    TrainedHead
        The head after the first cut, so that it holds everything that was trained. Its history is that of all stages.

    Raises
    ------
    UsageError
        If the schedule is malformed, its cuts are not in order, it does not begin at the cut of the split, or an option
        is unknown.
    HeadError
        If the dataset no longer holds the samples of the features, or as in ``featcache.train_head``.
    DataError
        If the targets do not fit the task, or as in ``featcache.extract``.
    StaleError
        If the features belong to another network.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> from torch.nn import Linear, ReLU
    >>> network = torch.nn.Sequential(Linear(8, 4), ReLU(), Linear(4, 4), ReLU(), Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> cut = featcache.split(network, "1", (torch.zeros(2, 8),))
    >>> features = featcache.extract(cut, samples, "features")
    >>> head = featcache.train_freezing(cut, features, "1:1,3:2", samples, "features")
    >>> [epoch.stage for epoch in head.history]
    ['1', '3', '3']
    >>> head.split.cut
    '1'
    """
    from ..extraction import extract, refuse_changed
    from ..splitting import as_now
    from .schedule import behind, parse_schedule, run_stages, schedule_options

    stages = parse_schedule(schedule, freezing=True)
    first = stages[0].cut
    if first not in (split.cut, features.recipe.cut) or split.cut != features.recipe.cut:
        raise UsageError(f"the schedule {schedule!r} begins at {first!r}: give the split and the features at that cut.")
    (split,) = as_now([split])
    splits = {stage.cut: split if stage.cut == first else _at(split, stage.cut) for stage in stages}
    _check_order(schedule, stages, [set(splits[stage.cut].weights) for stage in stages], deeper_first=False)
    settings = {"dtype": features.recipe.dtype, "device": device, "progress": progress, **(extraction or {})}
    made = {first: (split, features)}

    def prepared(stage: Stage, before: TrainedHead | None) -> tuple[Split, Features]:
        if stage.cut not in made:
            assert before is not None
            trained = splits[stage.cut].rebind(before.model)
            extracted = extract(trained, dataset, store, **settings)
            refuse_changed([extracted.report])
            made[stage.cut] = trained, extracted
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
    """Raise ``UsageError`` unless each stage freezes less than the one before, or more when freezing."""
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
