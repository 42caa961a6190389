"""``extract``: computing the rows that are missing."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from ..codecs import takes_stored
from ..errors import UsageError
from ..progress import ProgressCallback, silent
from ..quantity import parse_size
from ..store import StoreFiles, check_name
from .fill import DEFAULT_SHARD_BYTES, FillOptions, fill, missing_tasks as tasks_of
from .missing import ExtractReport, changed_in_words
from .request import forget_changed, make_request, remember_files, samples_of, stored_from
from .slices import MissingTask, TaskSlice

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from ..codecs import StoredOptions
    from ..features import Features
    from ..splitting import Split

__all__ = ["ExtractReport", "MissingTask", "extract", "missing_tasks"]


@overload
def extract(
    model: Any, dataset: Any, store: StoreFiles | str, *, cut: list[str], **options: Any
) -> dict[str, Features]: ...
@overload
def extract(model: Sequence[Split], dataset: Any, store: StoreFiles | str, **options: Any) -> dict[str, Features]: ...
@overload
def extract(
    model: Any, dataset: Any, store: StoreFiles | str, *, cut: str | None = None, **options: Any
) -> Features: ...
@takes_stored  # type: ignore[misc]  # the overloads stand for the options by one word
def extract(
    model: torch.nn.Module | Split | Sequence[Split],
    dataset: Any,
    store: StoreFiles | str,
    *,
    cut: str | Sequence[str] | None = None,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    device: str | None = None,
    codec: str | None = None,
    seed: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    engine: str = "local",
    workers: int | None = None,
    on_error: str = "raise",
    name: str | None = None,
    store_budget: str | int | None = None,
    task: str | None = None,
    progress: ProgressCallback = silent,
    **stored: Unpack[StoredOptions],
) -> Any:
    """Return the features of every sample of a dataset at a cut, computing only the rows that the store lacks.

    Everything that was computed before an error is committed, and the next call uses it. Rows that another process is
    computing are not computed here too. Rows are derived from a cached set at a shallower cut where that gives the same
    values and is not slower.

    Parameters
    ----------
    model : torch.nn.Module, Split or sequence of Split
        A whole network with ``cut``, or what ``featcache.split`` returned. Several splits must come from one call of
        ``featcache.splitting.split_at``.
    dataset : Any
        A map-style dataset of (input, target), or a specification such as ``"folder:photos"``.
    store : FeatureStore or str
        The store, or its path or URL.
    cut : str or sequence of str, optional
        The module to cut after. Several cuts are computed in one pass over the data.
    transform : callable, optional
        The transform from an item of the dataset to the network's input. It must be deterministic.
    batch_size : int, default 64
        The samples per forward pass.
    device : str, optional
        The device to run on. By default the best one there is.
    codec : str, optional
        ``"zstd"`` compresses without loss. It does not change the recipe, so it makes no other set.
    seed : int, optional
        A shorter name of ``view_seed``.
    shard_bytes : int, default 128 MiB
        How large the files of the set may get, in bytes of their rows before compression. A file holds whole batches,
        at least one, and at most 4096 rows unless a batch is larger.
    engine : str, default "local"
        Who computes: ``"local"``, ``"processes"`` or ``"ray"``, the latter two also with a number of workers, as in
        ``"processes:4"``.
    workers : int, optional
        The number of decoding processes. By default as many as are needed.
    on_error : str, default "raise"
        What to do with a sample that cannot be read: ``"raise"`` or ``"skip"``.
    name : str, optional
        The name of the dataset's snapshots. By default the dataset's own name.
    store_budget : str or int, optional
        The size that the store may grow to, such as ``"50 GB"`` or a number of bytes.
    task : str, optional
        A part of the work, such as ``"3/16"`` for the third of sixteen. Only that part is computed, whatever the others
        do meanwhile. See ``featcache.missing_tasks``.
    progress : callable, optional
        Called with a ``ProgressEvent`` as the work proceeds.
    dtype : str, default "float32"
        The stored precision: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"float8_e4m3"``, ``"float8_e5m2"``,
        ``"int8"`` or ``"int4"``.
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
    Features or dict of str to Features
        The features, in the dataset's order. With a list of cuts or several splits, a dict of features by cut.
        ``Features.report`` says what was done. A sample that changed after it was listed has no row: the report counts
        it, and a warning names it.

    Raises
    ------
    DataError
        If the dataset cannot be used, a sample cannot be read, or its features are NaN or infinite.
    SplitError
        If caching at the cut is unsound or does not reproduce the model.
    FingerprintError
        If the transform or the dataset has no deterministic identity.
    StoreError
        If the store cannot be used, or has no room.
    StaleError
        If ``from_lossy`` finds no rounded set to derive from.
    UsageError
        If an option is not valid.
    MissingDependencyError
        If an option needs a package that is not installed.

    Notes
    -----
    ``"trivial"`` also applies one random operation of TrivialAugment (Müller and Hutter, 2021). ``"int8"`` and
    ``"int4"`` have a step and a zero for each channel, and hold zero exactly (Jacob et al., 2018).

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(30)]
    >>> features = featcache.extract(network, samples[:20], "features", cut="1")
    >>> features.report.computed
    20
    >>> features = featcache.extract(network, samples, "features", cut="1")
    >>> features.report.computed, features.report.reused
    (10, 20)
    >>> values, target = features[0]
    >>> torch.allclose(values, network[:2](samples[0][0]))
    True
    >>> list(featcache.extract(network, samples, "features", cut=["0", "1"]))
    ['0', '1']
    """
    from ..features import Features
    from ..machine import pick_device

    started_s = time.perf_counter()
    options = FillOptions(
        device=pick_device(device),
        batch_size=batch_size,
        shard_bytes=shard_bytes,
        engine=engine,
        workers=workers,
        skip_unreadable=_skips(on_error),
        codec=codec,
        store_budget_bytes=None if store_budget is None else parse_size(store_budget),
        task=None if task is None else TaskSlice.parse(task),
        progress=progress,
    )
    chosen, files = stored_from(stored, seed), _files_of(store, name)
    samples = samples_of(dataset, transform, name, chosen)
    request = make_request(
        model, samples, files, chosen, cut=cut, skip_unreadable=options.skip_unreadable, progress=progress
    )
    files.create()
    remember_files(request.samples, files)
    filled = fill(request, files, options)
    files.save_snapshot(request.snapshot)
    made = {}
    for recipe, (report, sets) in zip(request.recipes, filled, strict=True):
        report.elapsed_s = time.perf_counter() - started_s
        made[recipe.cut] = Features.join(
            sets[0], request.snapshot, report, sets[1] if request.views else None, request.views
        )
    changed = [each for report, _ in filled for each in report.changed_samples]
    if changed:
        forget_changed(request, files, changed)
        warnings.warn(changed_in_words(changed), stacklevel=2)
    several = isinstance(model, Sequence) or not (cut is None or isinstance(cut, str))
    return made if several else next(iter(made.values()))


@takes_stored
def missing_tasks(
    model: torch.nn.Module | Split,
    dataset: Any,
    store: StoreFiles | str,
    *,
    cut: str | Sequence[str] | None = None,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    seed: int | None = None,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_error: str = "raise",
    name: str | None = None,
    **stored: Unpack[StoredOptions],
) -> list[MissingTask]:
    """List the tasks of an extraction that are not done.

    ``featcache.extract(…, task=…)`` carries one out. Which rows belong to a task depends only on the dataset and the
    options: tasks can run anywhere, in any order, at once and more than once. Nothing is written.

    Parameters
    ----------
    model : torch.nn.Module or Split
        The network or its split, as for ``featcache.extract``.
    dataset : Any
        The dataset or its specification, as for ``featcache.extract``.
    store : FeatureStore or str
        The store, or its path or URL.
    cut : str or sequence of str, optional
        The module to cut after. Several cuts are computed in one pass over the data.
    transform : callable, optional
        The transform from an item of the dataset to the network's input. It must be deterministic.
    batch_size : int, default 64
        As for ``featcache.extract``.
    seed : int, optional
        A shorter name of ``view_seed``.
    shard_bytes : int, default 128 MiB
        As for ``featcache.extract``. It decides how many rows a task has.
    on_error : str, default "raise"
        As for ``featcache.extract``. With ``"skip"``, samples that could not be read before are not missing.
    name : str, optional
        The name of the dataset's snapshots. By default the dataset's own name.
    dtype : str, default "float32"
        The stored precision: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"float8_e4m3"``, ``"float8_e5m2"``,
        ``"int8"`` or ``"int4"``.
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
        As for ``featcache.extract``.

    Returns
    -------
    list of MissingTask
        The tasks. Empty if everything is there.

    Raises
    ------
    DataError
        If the dataset cannot be used.
    SplitError
        If caching at the cut is unsound.
    FingerprintError
        If the transform or the dataset has no deterministic identity.
    StaleError
        If ``from_lossy`` finds no rounded set to derive from.
    UsageError
        If an option is not valid.

    Examples
    --------
    >>> import torch
    >>> import featcache
    >>> network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    >>> samples = [(torch.randn(8), number % 3) for number in range(100)]
    >>> featcache.missing_tasks(network, samples, "features", cut="1", shard_bytes=1024)
    [MissingTask(task='1/2', cuts=('1',), rows=64), MissingTask(task='2/2', cuts=('1',), rows=36)]
    >>> part = featcache.extract(network, samples, "features", cut="1", shard_bytes=1024, task="1/2")
    >>> part.report.computed, part.report.remaining
    (64, 36)
    >>> featcache.missing_tasks(network, samples, "features", cut="1", shard_bytes=1024)
    [MissingTask(task='2/2', cuts=('1',), rows=36)]
    """
    from ..machine import pick_device

    options = FillOptions(
        device=pick_device("cpu"), batch_size=batch_size, shard_bytes=shard_bytes, skip_unreadable=_skips(on_error)
    )
    chosen, files = stored_from(stored, seed), _files_of(store, name)
    samples = samples_of(dataset, transform, name, chosen)
    request = make_request(model, samples, files, chosen, cut=cut, skip_unreadable=options.skip_unreadable)
    return tasks_of(request, files, options)


def _files_of(store: StoreFiles | str, name: str | None) -> StoreFiles:
    """Return the files of a store in which a dataset may be kept under a name; raises ``UsageError`` if not."""
    if name is not None:
        check_name(name, "dataset")
    return store if isinstance(store, StoreFiles) else StoreFiles(store)


def _skips(on_error: str) -> bool:
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    return on_error == "skip"
