"""``extract``: computing the rows that are missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, overload

from ..codecs import takes_stored
from ..errors import UsageError
from ..progress import ProgressCallback, silent
from ..quantity import parse_size
from ..store import StoreFiles, check_name
from .fill import DEFAULT_SHARD_BYTES, FillOptions, fill, missing_tasks as tasks_of
from .missing import ExtractReport
from .request import make_request, remember_files, samples_of, stored_from
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
    """Return the tasks of an extraction that are not done, each of which ``extract(…, task=…)`` carries out.

    ``options`` are those of :func:`extract` that say what is asked for. Which rows belong to a task depends on the dataset
    and the options alone: tasks can be run anywhere, in any order, at once and more than once. Nothing is written.
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
    """Return the files of a store in which a dataset may be kept under a name; raises :class:`UsageError` if not."""
    if name is not None:
        check_name(name, "dataset")
    return store if isinstance(store, StoreFiles) else StoreFiles(store)


def _skips(on_error: str) -> bool:
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
    return on_error == "skip"
