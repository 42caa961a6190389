"""``extract``: computing the rows that are missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from ..engines import load_engine
from ..errors import UsageError
from ..progress import ProgressCallback, silent
from ..quantity import parse_size
from ..samples import load_augment
from ..store import StoreFiles, check_name
from .missing import ExtractReport
from .request import make_request, remember_files
from .slices import MissingTask, TaskSlice

if TYPE_CHECKING:
    import torch

    from ..features import Features
    from ..splitting import Split
    from .fill import FillOptions
    from .request import Request

__all__ = ["DEFAULT_SHARD_BYTES", "ExtractReport", "MissingTask", "extract", "missing_tasks"]

DEFAULT_SHARD_BYTES = 128 << 20


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
def extract(  # type: ignore[misc]  # the overloads stand for the options by one word
    model: torch.nn.Module | Split | Sequence[Split],
    dataset: Any,
    store: StoreFiles | str,
    *,
    cut: str | Sequence[str] | None = None,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    device: str | None = None,
    dtype: str = "float32",
    codec: str | None = None,
    numerics: str = "exact",
    pool: str | None = None,
    views: int = 1,
    augment: Callable[[Any], Any] | str | None = None,
    seed: int = 0,
    from_lossy: bool = False,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    engine: str = "local",
    workers: int | None = None,
    on_error: str = "raise",
    name: str | None = None,
    store_budget: str | int | None = None,
    task: str | None = None,
    progress: ProgressCallback = silent,
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
        The module to cut behind. Several cuts are computed in one pass over the data.
    transform : callable, optional
        The transform from an item of the dataset to the network's input. It must be deterministic.
    batch_size : int, default 64
        The samples per forward pass.
    device : str, optional
        The device to run on. By default the best one there is.
    dtype : str, default "float32"
        The stored precision: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"float8_e4m3"``, ``"float8_e5m2"``,
        ``"int8"`` or ``"int4"``.
    codec : str, optional
        ``"zstd"`` compresses without loss. It does not change the recipe, so it makes no other set.
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
    seed : int, default 0
        The seed of the random views.
    from_lossy : bool, default False
        Derive the rows from a rounded set at a shallower cut. That makes another recipe.
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

    Returns
    -------
    Features or dict of str to Features
        The features, in the dataset's order. With a list of cuts or several splits, a dict of features by cut.
        ``Features.report`` says what was done.

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
    from .fill import fill

    started_s = time.perf_counter()
    part = None if task is None else TaskSlice.parse(task)
    load_engine(engine)
    budget_bytes = None if store_budget is None else parse_size(store_budget)
    options = _options(batch_size, device, shard_bytes, engine, workers, on_error, progress, part, budget_bytes, codec)
    request, files = _request(
        model,
        dataset,
        store,
        from_lossy,
        cut=cut,
        transform=transform,
        dtype=dtype,
        pool=pool,
        views=views,
        augment=augment,
        seed=seed,
        numerics=numerics,
        name=name,
        skip_unreadable=options.skip,
        progress=progress,
    )
    files.create()
    remember_files(request.samples, files)
    filled = fill(request, files, options)
    files.save_snapshot(request.snapshot)
    made = {}
    for recipe, (report, sets) in zip(request.recipes, filled, strict=True):
        report.elapsed_s = time.perf_counter() - started_s
        augmented = sets[1] if request.stored.views else None
        made[recipe.cut] = Features.join(sets[0], request.snapshot, report, augmented, request.stored.views)
    several = isinstance(model, Sequence) or not (cut is None or isinstance(cut, str))
    return made if several else next(iter(made.values()))


def missing_tasks(
    model: torch.nn.Module | Split,
    dataset: Any,
    store: StoreFiles | str,
    *,
    batch_size: int = 64,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    on_error: str = "raise",
    from_lossy: bool = False,
    **options: Any,
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
    batch_size : int, default 64
        As for ``featcache.extract``.
    shard_bytes : int, default 128 MiB
        As for ``featcache.extract``. It decides how many rows a task has.
    on_error : str, default "raise"
        As for ``featcache.extract``. With ``"skip"``, samples that could not be read before are not missing.
    from_lossy : bool, default False
        As for ``featcache.extract``.
    **options : Any
        The other options of ``featcache.extract`` that say what is asked for: ``cut``, ``transform``, ``dtype``,
        ``numerics``, ``pool``, ``views``, ``augment``, ``seed`` and ``name``.

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
    from .fill import missing_tasks as missing

    chosen = _options(batch_size, "cpu", shard_bytes, "local", None, on_error, silent, None)
    request, files = _request(model, dataset, store, from_lossy, skip_unreadable=chosen.skip, **options)
    return missing(request, files, chosen)


def _request(
    model: Any, dataset: Any, store: StoreFiles | str, from_lossy: bool, *, name: str | None = None, **options: Any
) -> tuple[Request, StoreFiles]:
    from .derive import lossy_recipe
    from .numerics import check_numerics

    check_numerics(options.get("numerics", "exact"))
    if name is not None:
        check_name(name, "dataset")
    files = store if isinstance(store, StoreFiles) else StoreFiles(store)
    augment = options.pop("augment", None)
    augment = load_augment(augment) if isinstance(augment, str) else augment
    request = make_request(model, dataset, files, name=name, augment=augment, **options)
    if from_lossy:
        request = replace(request, recipes=tuple(lossy_recipe(recipe, files) for recipe in request.recipes))
    return request, files


def _options(
    batch_size: int,
    device: str | None,
    shard_bytes: int,
    engine: str,
    workers: int | None,
    on_error: str,
    progress: ProgressCallback,
    task: TaskSlice | None,
    store_budget_bytes: int | None = None,
    codec: str | None = None,
) -> FillOptions:
    from ..hdf5 import check_compression
    from ..machine import pick_device
    from .fill import FillOptions

    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
    if shard_bytes < 1:
        raise UsageError(f"shard_bytes must be at least 1, not {shard_bytes}.")
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, not {workers}.")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    check_compression(codec)
    where = pick_device(device)
    skip = on_error == "skip"
    return FillOptions(batch_size, where, shard_bytes, engine, workers, skip, progress, codec, store_budget_bytes, task)
