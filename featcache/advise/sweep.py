"""``sweep``: which boundary is best, found by training behind candidate cuts from the cache, from the deepest up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..catalog import FeatureStore
from ..errors import UsageError
from ..progress import ProgressCallback, silent
from .compare import Gain, mean_interval, paired_gain
from .halving import keep_best
from .subject import subject
from .trials import Trained, Trials

if TYPE_CHECKING:
    from torch import nn

__all__ = ["SweepResult", "SweepRow", "sweep"]


@dataclass(frozen=True)
class SweepRow:
    """What training behind one cut gave: mean validation accuracy over the seeds with its interval, and what it cost.

    ``gain`` is the paired difference to the best deeper cut with its interval, None for the first. ``extract_s`` and
    ``train_s`` are the seconds that it took, the latter over all trainings; ``learning_rate`` is the best of those tried,
    None for the default one.
    """

    cut: str
    flops_share: float
    parameters_share: float
    accuracy: float
    accuracy_half_width: float
    gain: float | None
    gain_half_width: float | None
    test_accuracy: float | None
    learning_rate: float | None
    extract_s: float
    train_s: float
    trainings: int
    disk_bytes: int


@dataclass(frozen=True)
class SweepResult:
    """A row for each cut that was trained, in the order of training, the cut that is recommended, and why.

    ``untried`` are shallower candidates that were not computed, because the ones before them did not help; ``dropped`` are
    those that successive halving left behind.
    """

    dataset: str
    samples: int
    head: str
    epochs: int
    seeds: int
    confidence: float
    rows: tuple[SweepRow, ...]
    recommended: str
    reason: str
    untried: tuple[str, ...]
    dropped: tuple[str, ...]
    elapsed_s: float


def sweep(
    model: nn.Module,
    dataset: Any,
    store: FeatureStore | str,
    cuts: Sequence[str] | None = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    head: str = "suffix",
    epochs: int = 20,
    seeds: int = 3,
    patience: int | None = 2,
    learning_rates: Sequence[float] | None = None,
    confidence: float = 0.9,
    validation: float = 0.2,
    train_batch_size: int = 64,
    halving: bool = False,
    batch_size: int = 64,
    device: str | None = None,
    dtype: str = "float32",
    seed: int = 0,
    name: str | None = None,
    progress: ProgressCallback = silent,
    **stored: Any,
) -> SweepResult:
    """Return how well training behind each cut does, from the deepest up, and which boundary to choose.

    A shallower cut is extracted only while that helps: after ``patience`` cuts whose paired gain does not lie beyond noise,
    the sweep ends (None: all cuts are trained). Budgets are equal: the same rows, epochs, ``seeds`` and number
    of ``learning_rates`` at each cut; of several rates the one with the least validation loss under the first seed is used
    for all. With ``halving``, all cuts are extracted at once and trained on a fraction of the rows first; the worse half is
    dropped, the rows are doubled, and so on (successive halving, Jamieson and Talwalkar, AISTATS 2016), before the rest is
    compared on all rows. ``stored`` are further options of :func:`featcache.extract` that say what is stored, such as
    ``numerics``, ``codec`` and ``views``.

    Raises :class:`UsageError`, :class:`DataError`, :class:`SplitError` or :class:`HeadError`.
    """
    started_s = time.perf_counter()
    _check_options(seeds, patience, confidence, validation, learning_rates)
    files = store if isinstance(store, FeatureStore) else FeatureStore(store)
    about = subject(model, dataset, transform, name)
    found = about.find(cuts)
    trials = Trials(
        about, files, head, epochs, tuple(range(seed, seed + seeds)), tuple(learning_rates or (None,)), validation,
        train_batch_size, device, progress, {"batch_size": batch_size, "dtype": dtype, **stored},
    )  # fmt: skip
    order = [cut.name for cut in reversed(found)]
    kept = keep_best(trials, order) if halving else order
    trained: list[Trained] = []
    gains: dict[str, Gain] = {}
    best: Trained | None = None
    unhelpful = 0
    for cut in kept:
        each = trials.at(cut)
        trained.append(each)
        if best is not None:
            gains[cut] = paired_gain(each.trials, best.trials, confidence)
        if best is None or gains[cut].beyond_noise:
            best, unhelpful = each, 0
        else:
            unhelpful += 1
        if patience is not None and unhelpful >= patience:
            break
    assert best is not None
    by_name = {cut.name: cut for cut in found}
    rows = []
    for each in trained:
        accuracy, half_width = mean_interval(each.trials, confidence)
        gain = gains.get(each.cut)
        rows.append(
            SweepRow(
                each.cut, by_name[each.cut].flops_share, by_name[each.cut].parameters_share, accuracy, half_width,
                None if gain is None else gain.mean, None if gain is None else gain.half_width, each.test_accuracy,
                each.learning_rate, each.extract_s, each.train_s, each.trainings, each.disk_bytes,
            )
        )  # fmt: skip
    tried = {row.cut for row in rows}
    return SweepResult(
        about.samples.name,
        trials.samples,
        head,
        epochs,
        seeds,
        confidence,
        tuple(rows),
        best.cut,
        _reason(rows, best.cut),
        tuple(cut for cut in kept if cut not in tried),
        tuple(cut for cut in order if cut not in kept),
        time.perf_counter() - started_s,
    )


def _check_options(
    seeds: int, patience: int | None, confidence: float, validation: float, learning_rates: Sequence[float] | None
) -> None:
    if seeds < 1:
        raise UsageError(f"seeds must be at least 1, not {seeds}.")
    if patience is not None and patience < 1:
        raise UsageError(f"patience must be at least 1 cut, not {patience}.")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must be between 0 and 1, not {confidence}.")
    if not 0 < validation < 1:
        raise UsageError(f"validation must be between 0 and 1, not {validation}: cuts are compared on those rows.")
    if learning_rates is not None and (not learning_rates or not all(rate > 0 for rate in learning_rates)):
        raise UsageError(f"learning_rates must be numbers above 0, not {list(learning_rates)}.")


def _reason(rows: Sequence[SweepRow], recommended: str) -> str:
    """Return in words why a cut is recommended: what it gained over the deeper one, and what the others did not."""
    parts = []
    place = next(number for number, row in enumerate(rows) if row.cut == recommended)
    chosen = rows[place]
    if place == 0:
        parts.append(f"{recommended}: {_points(chosen.accuracy)[1:]} % (± {100 * chosen.accuracy_half_width:.1f})")
    else:
        before = _base(rows, place)
        times = chosen.train_s / max(before.train_s, 1e-9)
        parts.append(
            f"{recommended}: {_points(chosen.gain or 0.0)} ± {100 * (chosen.gain_half_width or 0.0):.1f} points over "
            f"{before.cut} for {times:.1f} × the training time"
        )
    for row in rows[place + 1 :]:
        gained = f"{_points(row.gain or 0.0)} ± {100 * (row.gain_half_width or 0.0):.1f} points"
        if (row.gain or 0.0) + (row.gain_half_width or 0.0) < 0:
            parts.append(f"{row.cut} is worse ({gained})")
        else:
            parts.append(f"{row.cut} adds nothing beyond noise ({gained})")
    return "; ".join(parts)


def _base(rows: Sequence[SweepRow], place: int) -> SweepRow:
    """Return the row that a cut was compared with: the last deeper one that had helped."""
    for row in reversed(rows[:place]):
        if row.gain is None or row.gain - (row.gain_half_width or 0.0) > 0:
            return row
    return rows[0]


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
