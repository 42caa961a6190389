"""Computing the rows that are missing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .codecs import load_codec
from .engines import load_engine
from .errors import StoreError, UsageError
from .progress import ProgressCallback, ProgressEvent, silent
from .recipe import Recipe
from .request import Request, example_inputs, make_request, remember_files, save_example
from .samples import Samples, Unreadable
from .snapshot import Snapshot
from .store import FeatureSet, StoreFiles, check_name, row_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from .features import Features
    from .split import Split

__all__ = ["DEFAULT_SHARD_BYTES", "ExtractReport", "extract", "report_if_complete"]

DEFAULT_SHARD_BYTES = 128 << 20
MAX_SHARD_ROWS = 4096  # also bounds what a kill can lose where rows are small and slow to compute


@dataclass
class ExtractReport:
    """What an extraction did: counts of samples, bytes written, seconds, and the fingerprint of the recipe.

    ``computed`` rows are new, ``reused`` ones were there, ``derived`` ones came from a shallower set, ``skipped`` ones
    could not be read. Equal samples share a row, so the counts are of samples, not of rows.
    """

    cut: str
    dataset: str
    recipe: str
    snapshot: str
    samples: int
    computed: int = 0
    reused: int = 0
    derived: int = 0
    skipped: int = 0
    size_bytes: int = 0
    elapsed_s: float = 0.0
    device: str | None = None
    skipped_samples: list[Unreadable] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def extract(
    model: torch.nn.Module | Split,
    dataset: Any,
    store: StoreFiles | str,
    *,
    cut: str | None = None,
    transform: Callable[[Any], Any] | None = None,
    batch_size: int = 64,
    device: str | None = None,
    dtype: str = "float32",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    engine: str = "local",
    workers: int | None = None,
    on_error: str = "raise",
    name: str | None = None,
    progress: ProgressCallback = silent,
) -> Features:
    """Return the features of every sample of a dataset at a cut, computing only the rows that the store lacks.

    ``model`` is a whole network with ``cut``, or a :func:`featcache.split`. ``dataset`` is a map-style dataset of
    (input, target), or a specification such as ``"folder:photos"``. ``dtype`` is the stored precision, ``workers`` the
    number of decoding processes (default: by need), ``on_error`` what to do with a sample that cannot be read:
    ``"raise"`` or ``"skip"``. ``name`` names the dataset's snapshots. ``features.report`` says what was done.

    Raises :class:`DataError`, :class:`SplitError`, :class:`FingerprintError`, :class:`StoreError` or
    :class:`UsageError`; whatever was computed before is committed and used by the next call.
    """
    from .devices import pick_device
    from .features import Features

    started_s = time.perf_counter()
    _check_options(batch_size, shard_bytes, on_error, workers)
    load_engine(engine)
    pick_device(device)
    if name is not None:
        check_name(name, "dataset")
    files = store if isinstance(store, StoreFiles) else StoreFiles(store)
    request = make_request(
        model,
        dataset,
        files,
        cut=cut,
        transform=transform,
        dtype=dtype,
        name=name,
        skip_unreadable=on_error == "skip",
        progress=progress,
    )
    files.create()
    remember_files(request.samples, files)
    feature_set = files.set(request.recipe)
    report = run(
        request,
        feature_set,
        batch_size=batch_size,
        device=device,
        shard_bytes=shard_bytes,
        engine=engine,
        workers=workers,
        skip=on_error == "skip",
        progress=progress,
    )
    files.save_snapshot(request.snapshot)
    report.elapsed_s = time.perf_counter() - started_s
    return Features.join(feature_set, request.snapshot, report)


def report_if_complete(samples: Samples, feature_set: FeatureSet, *, retry_skipped: bool) -> ExtractReport | None:
    """Return the report of an extraction that has nothing to do, or None if there is something; loads no torch."""
    complete = not len(_missing(samples.snapshot(), feature_set, retry_skipped))
    return _report(samples, feature_set) if complete else None


def run(
    request: Request,
    feature_set: FeatureSet,
    *,
    batch_size: int,
    device: str | None,
    shard_bytes: int,
    engine: str,
    workers: int | None,
    skip: bool,
    progress: ProgressCallback,
) -> ExtractReport:
    """Return the report of computing the rows of a snapshot that a set lacks, after having computed them."""
    snapshot = request.snapshot
    missing = _missing(snapshot, feature_set, retry_skipped=not skip)
    before = len(missing)
    if not before:
        return _report(request.samples, feature_set)
    from .batches import default_workers
    from .devices import pick_device
    from .job import ExtractJob, Task

    where = pick_device(device)
    row_bytes = stored_row_bytes(feature_set.recipe)
    _check_free_space(feature_set, before * row_bytes)
    rows = max(1, min(shard_bytes // max(1, row_bytes), MAX_SHARD_ROWS) // batch_size) * batch_size
    starts = range(0, before, rows)
    tasks = [Task(number, missing[start : start + rows]) for number, start in enumerate(starts)]
    feature_set.storage.sweep(feature_set.path)
    feature_set.declare()
    save_example(feature_set, example_inputs(request.samples))
    job = ExtractJob(
        request.split,
        request.samples,
        snapshot,
        feature_set,
        where,
        batch_size=batch_size,
        workers=default_workers(request.samples, before, where) if workers is None else workers,
        skip_unreadable=skip,
    )
    done = written = 0
    progress(ProgressEvent("extract", 0, before, "samples"))
    for receipt in load_engine(engine).run(job, tasks):
        done += receipt.computed + len(receipt.skipped)
        written += receipt.size_bytes
        progress(ProgressEvent("extract", done, before, "samples"))
    report = _report(request.samples, feature_set)
    computed = _samples_among(snapshot, missing, feature_set)
    report.computed, report.reused = computed, report.samples - report.skipped - computed
    report.size_bytes, report.device, report.notes = written, str(where), job.notes
    return report


def stored_row_bytes(recipe: Recipe) -> int:
    """Return the bytes that one row of a set takes on disk."""
    codec = load_codec(recipe.dtype)
    return sum(int(np.prod(spec.shape)) * codec.storage_dtype(spec.dtype).itemsize for spec in recipe.frontier)


def _missing(snapshot: Snapshot, feature_set: FeatureSet, retry_skipped: bool) -> np.ndarray[Any, Any]:
    missing = feature_set.missing(snapshot.ids)
    if retry_skipped or not len(missing):
        return missing
    skipped = feature_set.skipped()
    keep = [snapshot.ids[position].tobytes().hex() not in skipped for position in missing.tolist()]
    chosen: np.ndarray[Any, Any] = missing[np.array(keep, dtype=bool)]
    return chosen


def _report(samples: Samples, feature_set: FeatureSet) -> ExtractReport:
    snapshot = samples.snapshot()
    present = feature_set.present(snapshot.ids)
    recipe = feature_set.recipe
    count = len(snapshot) + len(samples.unreadable)
    report = ExtractReport(recipe.cut, snapshot.dataset, recipe.fingerprint, snapshot.digest, count)
    report.reused = int(present.sum())
    reasons = feature_set.skipped() if not present.all() else {}
    for position in np.flatnonzero(~present).tolist():
        _, reason = reasons.get(snapshot.ids[position].tobytes().hex(), ("", "it could not be read"))
        report.skipped_samples.append(Unreadable(position, snapshot.names[position], reason))
    report.skipped_samples += samples.unreadable
    report.skipped = len(report.skipped_samples)
    return report


def _samples_among(snapshot: Snapshot, positions: np.ndarray[Any, Any], feature_set: FeatureSet) -> int:
    """Return how many samples, equal ones counted each, got their row from the given positions."""
    chosen = np.isin(row_keys(snapshot.ids), row_keys(snapshot.ids[positions]))
    return int((chosen & feature_set.present(snapshot.ids)).sum())


def _check_free_space(feature_set: FeatureSet, needed_bytes: int) -> None:
    free = feature_set.storage.free_bytes()
    if free is not None and needed_bytes > free:
        raise StoreError(
            f"the features need {needed_bytes / 1e9:.1f} GB, but {feature_set.storage.url} has {free / 1e9:.1f} GB free. "
            "Choose a deeper --cut or --dtype float16, free some space, or another --store."
        )


def _check_options(batch_size: int, shard_bytes: int, on_error: str, workers: int | None) -> None:
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, not {batch_size}.")
    if shard_bytes < 1:
        raise UsageError(f"shard_bytes must be at least 1, not {shard_bytes}.")
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, not {workers}.")
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
