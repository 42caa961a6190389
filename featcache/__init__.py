"""featcache: run the frozen layers of a network once, train the rest from the cache, never use a stale feature."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .advise import PlanResult, PlanRow, ProbeResult, ProbeRow, SweepResult, SweepRow, plan, probe, sweep
    from .catalog import (
        Damage,
        Explanation,
        FeatureStore,
        Garbage,
        GcReport,
        Kept,
        Pin,
        SetInfo,
        SetStatus,
        VerifyReport,
    )
    from .config import Settings
    from .errors import (
        ConfigError,
        CorruptError,
        DataError,
        DataNotFoundError,
        FeatCacheError,
        FingerprintError,
        HeadError,
        MissingDependencyError,
        NonFiniteError,
        NotAStoreError,
        SplitError,
        StaleError,
        StoreError,
        StoreFormatError,
        StorePermissionError,
        UnknownCutError,
        UnknownNameError,
        UnreadableSampleError,
        UsageError,
    )
    from .export import ExportReport, export_features, export_head
    from .extract import ExtractReport, MissingTask, extract, missing_tasks
    from .features import FeatureLoader, Features
    from .frozen import FrozenFeatures
    from .heads import (
        DenseMetrics,
        Metrics,
        MultiLabelMetrics,
        Predictions,
        RegressionMetrics,
        Task,
        TrainedHead,
        load_head,
        merge,
        predict,
        train_head,
        train_heads,
    )
    from .progress import ProgressEvent
    from .project import Project
    from .recipe import Recipe
    from .recompute import Recomputed
    from .schedules import train_freezing, train_unfreezing
    from .split import Cut, Split, cuts, split
    from .tensorspec import TensorSpec
    from .timings import Bound, Timings

__all__ = [
    "Bound",
    "ConfigError",
    "CorruptError",
    "Cut",
    "Damage",
    "DataError",
    "DataNotFoundError",
    "DenseMetrics",
    "Explanation",
    "ExportReport",
    "ExtractReport",
    "FeatCacheError",
    "FeatureLoader",
    "FeatureStore",
    "Features",
    "FingerprintError",
    "FrozenFeatures",
    "Garbage",
    "GcReport",
    "HeadError",
    "Kept",
    "Metrics",
    "MissingDependencyError",
    "MissingTask",
    "MultiLabelMetrics",
    "NonFiniteError",
    "NotAStoreError",
    "Pin",
    "PlanResult",
    "PlanRow",
    "Predictions",
    "ProbeResult",
    "ProbeRow",
    "ProgressEvent",
    "Project",
    "Recipe",
    "Recomputed",
    "RegressionMetrics",
    "SetInfo",
    "SetStatus",
    "Settings",
    "Split",
    "SplitError",
    "StaleError",
    "StoreError",
    "StoreFormatError",
    "StorePermissionError",
    "SweepResult",
    "SweepRow",
    "Task",
    "TensorSpec",
    "Timings",
    "TrainedHead",
    "UnknownCutError",
    "UnknownNameError",
    "UnreadableSampleError",
    "UsageError",
    "VerifyReport",
    "__version__",
    "cuts",
    "export_features",
    "export_head",
    "extract",
    "load_head",
    "merge",
    "missing_tasks",
    "plan",
    "predict",
    "probe",
    "split",
    "sweep",
    "train_freezing",
    "train_head",
    "train_heads",
    "train_unfreezing",
]

# Loaded on first use: importing featcache must cost nothing, and torch takes seconds.
_HOMES = {
    "advise": ("PlanResult", "PlanRow", "ProbeResult", "ProbeRow", "SweepResult", "SweepRow", "plan", "probe", "sweep"),
    "catalog": (
        "Damage",
        "Explanation",
        "FeatureStore",
        "Garbage",
        "GcReport",
        "Kept",
        "Pin",
        "SetInfo",
        "SetStatus",
        "VerifyReport",
    ),
    "config": ("Settings",),
    "errors": tuple(name for name in __all__ if name.endswith("Error")),
    "export": ("ExportReport", "export_features", "export_head"),
    "extract": ("ExtractReport", "MissingTask", "extract", "missing_tasks"),
    "features": ("FeatureLoader", "Features"),
    "heads": (
        "DenseMetrics",
        "Metrics",
        "MultiLabelMetrics",
        "Predictions",
        "RegressionMetrics",
        "Task",
        "TrainedHead",
        "load_head",
        "merge",
        "predict",
        "train_head",
        "train_heads",
    ),
    "frozen": ("FrozenFeatures",),
    "progress": ("ProgressEvent",),
    "project": ("Project",),
    "recipe": ("Recipe",),
    "schedules": ("train_freezing", "train_unfreezing"),
    "recompute": ("Recomputed",),
    "split": ("Cut", "Split", "cuts", "split"),
    "tensorspec": ("TensorSpec",),
    "timings": ("Bound", "Timings"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


class _Package(ModuleType):
    """Keeps ``featcache.extract`` and ``featcache.split`` the functions: importing the modules would put them there."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("featcache")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'featcache' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return list(__all__)
