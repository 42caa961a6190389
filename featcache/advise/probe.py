"""``probe``: how well the features at each cut transfer, by scores that need no training of a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..catalog import FeatureStore
from ..codecs import Stored, takes_stored
from ..errors import DataError, UsageError
from ..extraction import extract, refuse_changed
from ..features import Features
from ..machine import on_device, pick_device
from ..progress import ProgressCallback, ProgressEvent, silent
from ..samples import Unreadable
from ..tables import Tabular
from ..training import TrainOptions, divide, find_task, row_uses
from . import transferability as scores
from .shift import LOOKED_AT, describe_shift, source_shift
from .subject import Subject, subject

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

    from ..codecs import StoredOptions

__all__ = ["SCORES", "ProbeResult", "ProbeRow", "probe"]

SCORES = ("logme", "h_score", "ridge_loo_accuracy", "knn_accuracy", "probe_accuracy")


@dataclass(frozen=True)
class ProbeRow:
    """How well the pooled features at one cut tell the classes apart. For each score, higher is better.

    Attributes
    ----------
    cut : str
        The cut.
    width : int
        The length of the pooled vectors.
    logme : float
        The LogME score. It compares cuts and has no unit.
    h_score : float
        The shrinkage H-score. It compares cuts and has no unit.
    ridge_loo_accuracy : float
        The accuracy of ridge regression with each row left out, from 0 to 1.
    knn_accuracy : float
        The accuracy of the nearest neighbours with each row left out, from 0 to 1.
    probe_accuracy : float
        The accuracy of logistic regression under cross-validation, from 0 to 1.
    probe_error : float
        The standard error of ``probe_accuracy``.
    cka_before : float or None
        The similarity to the features of the cut before; 1 is the same up to rotation. None for the first cut.
    shift : float or None
        How far the inputs of the BatchNorm layers between the two cuts have moved from the data that the network was
        trained on. None if there are no such layers.
    """

    cut: str
    width: int
    logme: float
    h_score: float
    ridge_loo_accuracy: float
    knn_accuracy: float
    probe_accuracy: float
    probe_error: float
    cka_before: float | None
    shift: float | None


@dataclass(frozen=True)
class ProbeResult(Tabular):
    """How well the features at each cut transfer.

    Attributes
    ----------
    dataset : str
        The name of the dataset.
    samples : int
        The number of rows that were scored.
    classes : int
        The number of classes.
    rows : tuple of ProbeRow
        One row for each cut, the shallowest first.
    best : dict of str to str
        The best cut by each score.
    source_shift : float or None
        The mean shift over all BatchNorm layers. None if there are none.
    summary : str
        What follows, in words.
    elapsed_s : float
        The seconds that it took.
    left_out : dict of str to int
        The rows that are neither trained on, nor validated by, nor tested on, by the name of their split.
    skipped_samples : tuple of Unreadable
        The samples that could not be read and are left out.
    """

    dataset: str
    samples: int
    classes: int
    rows: tuple[ProbeRow, ...]
    best: dict[str, str]
    source_shift: float | None
    summary: str
    elapsed_s: float
    left_out: dict[str, int] = field(default_factory=dict)
    skipped_samples: tuple[Unreadable, ...] = ()


@takes_stored
def probe(
    model: nn.Module,
    dataset: Any,
    store: FeatureStore | str,
    cuts: Sequence[str] | None = None,
    *,
    transform: Callable[[Any], Any] | None = None,
    most_samples: int = 2000,
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
) -> ProbeResult:
    """Score how well the features at each cut transfer, without training a network.

    All cuts are extracted in one pass over the data and cached. Features are pooled to one vector per sample. Rows of
    the test split are left out. The scores of a cut say how well a *linear* head on it would do; whether training the
    layers after an earlier cut does better is a question for ``featcache.sweep``.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    dataset : Any
        The dataset or its specification, as for ``featcache.extract``. The targets must be single classes.
    store : FeatureStore or str
        The store, or its path or URL.
    cuts : sequence of str, optional
        The cuts to compare. By default the boundaries worth comparing.
    transform : callable, optional
        The transform from an item of the dataset to the network's input.
    most_samples : int, default 2000
        The number of rows to score, at least 10. If there are more, a stratified and seeded choice is scored.
    batch_size : int, default 64
        The samples per forward pass.
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
        The seed of the chosen rows and of the cross-validation.
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
    pool : str, default "auto"
        How one vector is made of a map or of tokens, as for ``featcache.extract``.
    views : int, default 1
        Random views are not scored.
    augment : callable or str, optional
        Random views are not scored.
    view_seed : int, default 0
        Random views are not scored.
    from_lossy : bool, default False
        Derive the rows from a rounded set at a shallower cut. That makes another recipe.

    Returns
    -------
    ProbeResult
        The scores of each cut, and what follows from them.

    Raises
    ------
    UsageError
        If an option is not valid, the network cannot be cut at one of the cuts, or the name of a split does not say what
        its rows are for.
    DataError
        If the dataset cannot be used, or has too few rows outside of its test split.
    SplitError
        If the network cannot be recorded.

    Notes
    -----
    - LogME: You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021, by the
      fixed point iteration of the long version (JMLR 2022).
    - H-score: Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer Learning", ICIP 2019,
      with the shrinkage of Ibrahim et al., "Newer is not always better: Rethinking transferability metrics", ECML-PKDD
      2022.
    - Leave-one-out ridge regression: the closed form of Allen (1974) and Golub, Heath and Wahba (Technometrics, 1979).
    - Logistic regression: scikit-learn.
    - CKA: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    - Shift: the Fréchet distance of Dowson and Landau (1982), as in Heusel et al. (2017), with diagonal covariances,
      squared and in units of the source's variance. 0 is data like the source's, 1 a shift by one standard deviation.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> probed = featcache.probe(network, samples, "features", ["0", "1"])
    >>> [(row.cut, row.width) for row in probed.rows]
    [('0', 4), ('1', 4)]
    >>> sorted(probed.best)
    ['h_score', 'knn_accuracy', 'logme', 'probe_accuracy', 'ridge_loo_accuracy']
    """
    started_s = time.perf_counter()
    if most_samples < 10:
        raise UsageError(f"most_samples must be at least 10, not {most_samples}.")
    files = store if isinstance(store, FeatureStore) else FeatureStore(store)
    asked = Stored.of(stored)
    chosen = replace(asked, pool=asked.pool or "auto", views=1, augment=None)  # random views are not scored
    about = subject(model, dataset, transform, name, asked, progress)
    names = [cut.name for cut in about.find(cuts)]
    made = extract(
        model, about.samples.augmented(None), files, cut=names, batch_size=batch_size, device=device, codec=codec,
        store_budget=store_budget, engine=engine, workers=workers, on_error=on_error, progress=progress,
        **chosen.options(),
    )  # fmt: skip
    refuse_changed(features.report for features in made.values())
    splits = TrainOptions(
        validation=0.0, train_splits=train_splits, validation_splits=validation_splits, test_splits=test_splits
    )
    rows_of = chosen_rows(made[names[0]], most_samples, seed, splits)
    left_out = made[names[0]].subset(row_uses(made[names[0]], splits).left_out).split_counts
    skipped = tuple(made[names[0]].report.skipped_samples)
    shifts = _shifts(about, skipped, batch_size, device)
    found: list[ProbeRow] = []
    before: np.ndarray[Any, Any] | None = None
    for number, cut in enumerate(names):
        values, targets = made[cut].subset(rows_of).numpy()
        between = _between(about, shifts, names, number)
        found.append(_row(cut, values, targets, before, between, seed))
        before = values
        progress(ProgressEvent("score", number + 1, len(names), "cuts"))
    best = {score: max(found, key=lambda row: getattr(row, score)).cut for score in SCORES}
    summary = f"{_best_words(found)}; {describe_shift(shifts)}"
    mean_shift = float(np.mean(list(shifts.values()))) if shifts else None
    classes = len(find_task(made[names[0]], "single_label").classes)
    elapsed_s = time.perf_counter() - started_s
    return ProbeResult(
        about.samples.name,
        len(rows_of),
        classes,
        tuple(found),
        best,
        mean_shift,
        summary,
        elapsed_s,
        left_out,
        skipped,
    )


def chosen_rows(features: Features, most: int, seed: int, splits: TrainOptions) -> np.ndarray[Any, Any]:
    """Return which rows are scored: those to train on or validate by, of classes of two rows at least, up to ``most``."""
    division = divide(features, splits, find_task(features, "single_label"))
    outside = row_uses(features, splits).seen
    targets = features.targets[outside]
    numbers, counts = np.unique(targets, return_counts=True)
    outside = outside[np.isin(targets, numbers[counts >= 2])]
    if len(outside) < 10 or len(np.unique(features.targets[outside])) < 2:
        raise DataError(
            f"{features.dataset!r} has {len(division.train)} rows outside of its test split: scores need ten at least, and "
            "two rows of each of two classes."
        )
    if len(outside) <= most:
        return outside
    from sklearn.model_selection import train_test_split

    kept, _ = train_test_split(outside, train_size=most, stratify=features.targets[outside], random_state=seed)
    return np.sort(kept)


def _row(
    cut: str,
    values: np.ndarray[Any, Any],
    targets: np.ndarray[Any, Any],
    before: np.ndarray[Any, Any] | None,
    shift: float | None,
    seed: int,
) -> ProbeRow:
    accuracy, error = scores.linear_probe(values, targets, seed)
    return ProbeRow(
        cut,
        values.shape[1],
        scores.logme(values, targets),
        scores.h_score(values, targets),
        scores.ridge_loo_accuracy(values, targets),
        scores.knn_accuracy(values, targets),
        accuracy,
        error,
        None if before is None else scores.linear_cka(before, values),
        shift,
    )


def _shifts(about: Subject, skipped: Sequence[Unreadable], batch_size: int, device: str | None) -> dict[str, float]:
    where = pick_device(device)
    readable = np.setdiff1d(np.arange(len(about.samples.dataset)), [each.position for each in skipped])
    places = np.unique(np.linspace(0, len(readable) - 1, min(LOOKED_AT, len(readable))).astype(int))
    positions = readable[places].tolist()
    with on_device(about.model, where):
        return source_shift(about.model, about.samples, positions, batch_size, where)


def _between(about: Subject, shifts: dict[str, float], names: Sequence[str], number: int) -> float | None:
    """Return the mean shift of the layers that belong to the candidates after the cut before, up to this one."""
    order = [cut.name for cut in about.candidates]
    last = order.index(names[number])
    first = order.index(names[number - 1]) + 1 if number else 0
    parts = order[first : last + 1]
    found = [
        shift for name, shift in shifts.items() if any(name == each or name.startswith(f"{each}.") for each in parts)
    ]
    return float(np.mean(found)) if found else None


def _best_words(rows: Sequence[ProbeRow]) -> str:
    """Say which cuts are best by most scores; cuts whose values look the same to the reader are level."""
    shown = [[round(getattr(row, score), 3) for row in rows] for score in SCORES]
    votes = [sum(values[number] == max(values) for values in shown) for number in range(len(rows))]
    leaders = [row for row, count in zip(rows, votes, strict=True) if count == max(votes)]
    names = " and ".join(row.cut for row in leaders)
    accuracies = " and ".join(f"{100 * row.probe_accuracy:.1f} %" for row in leaders)
    alike = "" if len(leaders) == 1 else f"; {names} are alike"
    return (
        f"features at {names} tell the classes apart best by {max(votes)} of {len(SCORES)} scores "
        f"(logistic regression: {accuracies}){alike}"
    )
