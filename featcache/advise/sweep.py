"""``sweep``: which boundary is best, found by training after candidate cuts from the cache, from the deepest up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..catalog import FeatureStore
from ..codecs import Stored, takes_stored
from ..errors import UsageError
from ..progress import ProgressCallback, silent
from ..samples import Unreadable
from ..splitting import Cut
from ..tables import Tabular
from ..training import TrainOptions
from .choice import SweepRow, choose, reason
from .compare import mean_interval, paired_gain
from .halving import keep_best
from .subject import subject
from .trials import Trained, Trials

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

    from ..codecs import StoredOptions

__all__ = ["SweepResult", "sweep"]

EPOCHS = 4
LINEAR_EPOCHS = 40  # which cost next to nothing, and a linear layer is slow to converge


@dataclass(frozen=True)
class SweepResult(Tabular):
    """How well training after each cut does, and which cut is recommended.

    Attributes
    ----------
    dataset : str
        The name of the dataset.
    samples : int
        The number of samples.
    head : str
        The kind of head that was trained.
    task : str
        The kind of task.
    score : str
        What is compared, in words.
    epochs : int
        The epochs of each training. 0 if linear heads were solved.
    seeds : int
        The number of seeds.
    confidence : float
        The confidence of the intervals, between 0 and 1.
    tolerance : float
        The difference of the score that counts as a tie.
    rows : tuple of SweepRow
        One row for each cut that was trained, in the order of training.
    recommended : str
        The recommended cut.
    reason : str
        Why it is recommended, in words.
    untried : tuple of str
        Shallower candidates that were not trained, because the ones before them did not help.
    dropped : tuple of str
        Candidates that successive halving left behind.
    elapsed_s : float
        The seconds that it took.
    left_out : dict of str to int
        The rows that are neither trained on, nor validated by, nor tested on, by the name of their split.
    skipped_samples : tuple of Unreadable
        The samples that could not be read and are left out.
    """

    dataset: str
    samples: int
    head: str
    task: str
    score: str
    epochs: int
    seeds: int
    confidence: float
    tolerance: float
    rows: tuple[SweepRow, ...]
    recommended: str
    reason: str
    untried: tuple[str, ...]
    dropped: tuple[str, ...]
    elapsed_s: float
    left_out: dict[str, int] = field(default_factory=dict)
    skipped_samples: tuple[Unreadable, ...] = ()


@takes_stored
def sweep(
    model: nn.Module,
    dataset: Any,
    store: FeatureStore | str,
    cuts: Sequence[str] | None = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    head: str = "suffix",
    task: str | None = None,
    epochs: int | None = None,
    seeds: int = 2,
    tolerance: float = 0.005,
    patience: int | None = 2,
    learning_rates: Sequence[float] | None = None,
    confidence: float = 0.9,
    validation: float = 0.5,
    train_batch_size: int | None = None,
    halving: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    codec: str | None = None,
    store_budget: str | int | None = None,
    engine: str = "local",
    workers: int | None = None,
    on_error: str = "raise",
    seed: int = 0,
    name: str | None = None,
    train_splits: Sequence[str] | None = None,
    validation_splits: Sequence[str] | None = None,
    test_splits: Sequence[str] | None = None,
    progress: ProgressCallback = silent,
    **stored: Unpack[StoredOptions],
) -> SweepResult:
    """Train after each cut, from the deepest up, and recommend a boundary.

    The recommended cut is the deepest one whose mean score is within ``tolerance`` of the best. The score is the
    accuracy of classes, the mean F1 of a sample's labels, R2 of values, or the pixel accuracy of dense targets.
    Intervals of ``confidence`` say what lies beyond noise.

    By default this is a race of short trainings: two seeds, which each train on one half of the training rows and judge
    by the other, so that every row judges once. More epochs and seeds make the result surer. Budgets are equal: the
    same rows, epochs, ``seeds`` and number of ``learning_rates`` at each cut. Rows of the test split are not looked at.

    Neighbouring cuts whose features are small are extracted in one pass over the data, large ones when it is their
    turn.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    dataset : Any
        The dataset or its specification, as for ``featcache.extract``.
    store : FeatureStore or str
        The store, or its path or URL.
    cuts : sequence of str, optional
        The cuts to compare. By default the boundaries worth comparing.
    transform : callable, optional
        The transform from an item of the dataset to the network's input.
    head : str, default "suffix"
        What is trained, as for ``featcache.train_head``.
    task : str, optional
        What is learned, as for ``featcache.train_head``.
    epochs : int, optional
        The epochs of each training. By default linear heads are solved as ``featcache.train_head`` solves them, or trained
        for 40 epochs where they are many or not solved, and others are trained for 4.
    seeds : int, default 2
        The number of trainings at each cut.
    tolerance : float, default 0.005
        The difference of the score that counts as a tie, from 0 up to 1. 0.005 is half a point.
    patience : int or None, default 2
        Stop after this many cuts in a row whose interval leaves no room for a gain above ``tolerance``. None trains at
        all cuts.
    learning_rates : sequence of float, optional
        The learning rates to try. The one with the least validation loss under the first seed is used for all seeds. By
        default the one of ``featcache.train_head``.
    confidence : float, default 0.9
        The confidence of the intervals, between 0 and 1.
    validation : float, default 0.5
        The share of the training rows to judge by, between 0 and 1. It applies where the dataset has no validation
        split.
    train_batch_size : int, optional
        The rows per training step. By default 64, or less where that would be too few steps.
    halving : bool, default False
        Train at all cuts on a fraction of the rows first, drop the worse half, double the rows, and so on. The rest is
        compared on all rows.
    batch_size : int, default 64
        The samples per forward pass of the extraction.
    device : str, optional
        The device. By default the best one there is.
    codec : str, optional
        ``"zstd"`` compresses without loss. It does not change the recipe, so it makes no other set.
    store_budget : str or int, optional
        The size that the store may grow to, such as ``"50 GB"`` or a number of bytes.
    engine : str, default "local"
        Who computes: ``"local"``, ``"processes"`` or ``"ray"``, the latter two also with a number of workers, as in
        ``"processes:4"``.
    workers : int, optional
        The number of decoding processes. By default as many as are needed.
    on_error : str, default "raise"
        What to do with a sample that cannot be read: ``"raise"`` or ``"skip"``.
    seed : int, default 0
        The first of the seeds.
    name : str, optional
        The name of the dataset. By default its own.
    train_splits : sequence of str, optional
        The names of the splits to train on, as for ``featcache.train_head``.
    validation_splits : sequence of str, optional
        The names of the splits to validate by, as for ``featcache.train_head``.
    test_splits : sequence of str, optional
        The names of the splits that are not looked at, as for ``featcache.train_head``.
    progress : callable, optional
        Called with a ``ProgressEvent`` as the work proceeds.
    dtype : str, default "float32"
        The stored precision, as for ``featcache.extract``.
    numerics : str, default "exact"
        The way of computing: ``"exact"``, ``"fast"`` (the same within rounding) or ``"bf16"`` (autocast).
    pool : str, optional
        Store one vector per sample instead of maps or tokens: ``"auto"`` (averages), ``"channels_first"``,
        ``"channels_last"``, ``"first"`` or ``"flatten"``.
    views : int, default 1
        The number of random views of each sample that are stored beside the plain one, if there is an ``augment``.
    augment : callable or str, optional
        The random augmentation, applied to an item before the transform: a callable, ``"flip"``, ``"trivial"``,
        ``"FILE.py:factory"`` or ``"MODULE:factory"``.
    view_seed : int, default 0
        The seed of the random views.
    from_lossy : bool, default False
        Derive the rows from a rounded set at a shallower cut. That makes another recipe.

    Returns
    -------
    SweepResult
        What each training gave, and which cut is recommended.

    Raises
    ------
    UsageError
        If an option is not valid, the network cannot be cut at one of the cuts, or the name of a split does not say what
        its rows are for.
    DataError
        If the dataset cannot be used.
    SplitError
        If the network cannot be recorded.
    HeadError
        If there are too few rows, or a head cannot be trained.

    Notes
    -----
    ``halving`` is successive halving (Jamieson and Talwalkar, AISTATS 2016).

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> swept = featcache.sweep(network, samples, "features", ["0", "1"], epochs=1)
    >>> [(row.cut, row.trainings) for row in swept.rows]
    [('1', 2), ('0', 2)]
    >>> swept.recommended in ("0", "1")
    True
    """
    started_s = time.perf_counter()
    _check_options(seeds, patience, tolerance, confidence, validation, learning_rates)
    files = store if isinstance(store, FeatureStore) else FeatureStore(store)
    chosen = Stored.of(stored)
    about = subject(model, dataset, transform, name, chosen, progress)
    found = about.find(cuts)
    solves = head == "linear" and epochs is None and not learning_rates and train_batch_size is None
    if epochs is None:
        epochs = LINEAR_EPOCHS if head == "linear" else EPOCHS
    trials = Trials(
        about, files, head, solves, epochs, tuple(range(seed, seed + seeds)), tuple(learning_rates or (None,)), validation,
        train_batch_size, task, device, progress, chosen,
        {
            "batch_size": batch_size, "codec": codec, "store_budget": store_budget, "engine": engine, "workers": workers,
            "on_error": on_error,
        },
        TrainOptions(train_splits=train_splits, validation_splits=validation_splits, test_splits=test_splits),
    )  # fmt: skip
    trials.plan_passes(found[::-1])
    order = [cut.name for cut in reversed(found)]
    kept = keep_best(trials, order) if halving else order
    trained = _race(trials, kept, patience, tolerance, confidence)
    recommended = choose({each.cut: each.mean for each in trained}, tolerance)
    rows = _rows(trained, {cut.name: cut for cut in found}, recommended, confidence)
    tried = {row.cut for row in rows}
    assert trials.judge is not None  # at least one cut was judged
    return SweepResult(
        about.samples.name,
        trials.samples,
        head,
        trials.judge.task.kind,
        trials.judge.name,
        0 if trials.solves else epochs,
        seeds,
        confidence,
        tolerance,
        rows,
        recommended,
        reason(rows, recommended, tolerance),
        tuple(cut for cut in kept if cut not in tried),
        tuple(cut for cut in order if cut not in kept),
        time.perf_counter() - started_s,
        trials.left_out,
        trials.skipped_samples,
    )


def _race(
    trials: Trials, order: Sequence[str], patience: int | None, tolerance: float, confidence: float
) -> list[Trained]:
    """Return what training gave after each cut, in the order given, until so many in a row could not be better.

    That is where the interval of the difference to the best cut so far leaves no room for a gain above the tolerance.
    """
    trained: list[Trained] = []
    best: Trained | None = None
    unhelpful = 0
    for cut in order:
        each = trials.at(cut)
        trained.append(each)
        if best is not None:
            gain = paired_gain(each.trials, best.trials, confidence)
            unhelpful = 0 if gain.mean + gain.half_width > tolerance else unhelpful + 1
        if best is None or each.mean > best.mean:
            best = each
        if patience is not None and unhelpful >= patience:
            break
    return trained


def _rows(
    trained: Sequence[Trained], cuts: dict[str, Cut], recommended: str, confidence: float
) -> tuple[SweepRow, ...]:
    (base,) = (each for each in trained if each.cut == recommended)
    rows = []
    for each in trained:
        score, half_width = mean_interval(each.trials, confidence)
        gain = None if each is base else paired_gain(each.trials, base.trials, confidence)
        rows.append(
            SweepRow(
                each.cut, cuts[each.cut].flops_share, cuts[each.cut].parameters_share, score, half_width,
                None if gain is None else gain.mean, None if gain is None else gain.half_width, each.learning_rate,
                each.extract_s, each.train_s, each.trainings, each.disk_bytes,
            )
        )  # fmt: skip
    return tuple(rows)


def _check_options(
    seeds: int,
    patience: int | None,
    tolerance: float,
    confidence: float,
    validation: float,
    learning_rates: Sequence[float] | None,
) -> None:
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, not {seeds}.")
    if patience is not None and patience < 1:
        raise UsageError(f"patience must be at least 1 cut, not {patience}.")
    if not 0 <= tolerance < 1:
        raise UsageError(f"tolerance is a share from 0 up to 1 (0.005: half a point), not {tolerance}.")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must be between 0 and 1, not {confidence}.")
    if not 0 < validation < 1:
        raise UsageError(f"validation must be between 0 and 1, not {validation}: cuts are compared on those rows.")
    if learning_rates is not None and (not learning_rates or not all(rate > 0 for rate in learning_rates)):
        raise UsageError(f"learning_rates must be numbers above 0, not {list(learning_rates)}.")
