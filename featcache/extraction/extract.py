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

    ``model`` is a whole network with ``cut``, or a :func:`featcache.split`. With a list of cuts, or the splits that one call of
    :func:`featcache.splitting.split_at` gave, they are computed in one pass over the data, and ``{cut: Features}`` is
    returned. ``dataset`` is a map-style dataset of (input, target), or a
    specification such as ``"folder:photos"``. ``dtype`` is the stored precision: float32, float16, bfloat16, float8_e4m3,
    float8_e5m2, int8 or int4. ``codec="zstd"`` compresses without loss, which makes no other set. ``numerics`` is
    ``"exact"``, ``"fast"`` (the same within rounding) or ``"bf16"`` (autocast). ``pool`` stores one vector a sample
    instead of maps or tokens (``"auto"`` averages). With ``augment``, ``views`` random views of each sample are stored
    beside the plain one, drawn with ``seed``. ``workers`` is the number of decoding processes (default: by need),
    ``on_error`` what to do with a sample that cannot be read: ``"raise"`` or ``"skip"``. ``name`` names the dataset's
    snapshots. ``store_budget``, such as ``"50 GB"``, is what the store may grow to. ``engine`` is ``"local"``,
    ``"processes"`` or ``"ray"``, the latter two with a number of workers as in ``"processes:4"``. ``task``, such as
    ``"3/16"``, computes the third of sixteen parts only, whatever the others do meanwhile; see :func:`missing_tasks`. Rows
    are derived from a cached set at a shallower cut where that gives the same values and is not slower; ``from_lossy``
    derives from a rounded one, which makes another recipe. Rows that another process is computing are not computed here
    too. ``features.report`` says what was done.

    Raises :class:`DataError`, :class:`SplitError`, :class:`FingerprintError`, :class:`StoreError` or
    :class:`UsageError`; whatever was computed before is committed and used by the next call.
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
    """Return the tasks of an extraction that are not done, each of which ``extract(…, task=…)`` carries out.

    ``options`` are those of :func:`extract` that say what is asked for. Which rows belong to a task depends on the dataset
    and the options alone: tasks can be run anywhere, in any order, at once and more than once. Nothing is written.
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
