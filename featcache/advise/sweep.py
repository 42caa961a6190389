"""``sweep``: which boundary is best, found by training behind candidate cuts from the cache, from the deepest up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..catalog import FeatureStore
from ..codecs import Stored, takes_stored
from ..errors import UsageError
from ..progress import ProgressCallback, silent
from ..splitting import Cut
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
class SweepResult:
    """A row for each cut that was trained, in the order of training, the cut that is recommended, and why.

    ``score`` names what is compared. ``untried`` are shallower candidates that were not trained, because the ones before
    them did not help; ``dropped`` are those that successive halving left behind.
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
    seed: int = 0,
    name: str | None = None,
    progress: ProgressCallback = silent,
    **stored: Unpack[StoredOptions],
) -> SweepResult:
    """Return how well training behind each cut does, from the deepest up, and which boundary to choose.

    That is the deepest cut whose mean score is within ``tolerance`` of the best one's; intervals of ``confidence`` say what
    lies beyond noise. By default it is a race of short trainings: two seeds, which each train on one half of the training
    rows and judge by the other, so that every row judges once; 4 epochs, or 40 of a linear head. More of both make it
    surer. Budgets are equal: the same rows, epochs, ``seeds`` and number of
    ``learning_rates`` at each cut; of several rates the one with the least validation loss under the first seed is used for
    all. ``train_batch_size`` is 64 by default, less where that would be too few steps. The race ends after ``patience``
    cuts in a row whose interval leaves no room for a gain above the tolerance (None: all cuts are trained). Rows of the test
    split are not looked at.

    Neighbouring cuts whose features are small are extracted in one pass over the data, large ones when it is their turn.
    With ``halving``, all cuts are trained on a fraction of the rows first; the worse half is dropped, the
    rows are doubled, and so on (successive halving, Jamieson and Talwalkar, AISTATS 2016), before the rest is compared on all
    rows.

    The score is the accuracy of classes, the mean F1 of a sample's labels, R2 of values, or the pixel accuracy of dense
    targets; ``task`` is as for :func:`featcache.train_head`. ``stored`` are further options of :func:`featcache.extract`
    that say what is stored, such as ``numerics``, ``codec`` and ``views``.

    Raises :class:`UsageError`, :class:`DataError`, :class:`SplitError` or :class:`HeadError`.
    """
    started_s = time.perf_counter()
    _check_options(seeds, patience, tolerance, confidence, validation, learning_rates)
    files = store if isinstance(store, FeatureStore) else FeatureStore(store)
    chosen = Stored(**stored)
    about = subject(model, dataset, transform, name, chosen)
    found = about.find(cuts)
    if epochs is None:
        epochs = LINEAR_EPOCHS if head == "linear" else EPOCHS
    trials = Trials(
        about, files, head, epochs, tuple(range(seed, seed + seeds)), tuple(learning_rates or (None,)), validation,
        train_batch_size, task, device, progress, chosen,
        {"batch_size": batch_size, "codec": codec, "store_budget": store_budget},
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
        epochs,
        seeds,
        confidence,
        tolerance,
        rows,
        recommended,
        reason(rows, recommended, tolerance),
        tuple(cut for cut in kept if cut not in tried),
        tuple(cut for cut in order if cut not in kept),
        time.perf_counter() - started_s,
    )


def _race(
    trials: Trials, order: Sequence[str], patience: int | None, tolerance: float, confidence: float
) -> list[Trained]:
    """Return what training gave behind each cut, in the order given, until so many in a row could not be better.

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
