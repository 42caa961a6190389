"""The public names, once: ``__init__.py`` loads them from here on first use, and editors and mypy read them here."""

from . import errors as errors
from .advise import (
    PlanResult as PlanResult,
    PlanRow as PlanRow,
    ProbeResult as ProbeResult,
    ProbeRow as ProbeRow,
    SweepResult as SweepResult,
    SweepRow as SweepRow,
    plan as plan,
    probe as probe,
    sweep as sweep,
)
from .backbones import load_backbone as load_backbone
from .catalog import (
    Damage as Damage,
    Explanation as Explanation,
    FeatureStore as FeatureStore,
    Garbage as Garbage,
    GcReport as GcReport,
    Kept as Kept,
    Pin as Pin,
    Recomputed as Recomputed,
    SetInfo as SetInfo,
    SetStatus as SetStatus,
    VerifyReport as VerifyReport,
)
from .datasets import open_dataset as open_dataset
from .errors import FeatCacheError as FeatCacheError
from .export import ExportReport as ExportReport, export_features as export_features, export_head as export_head
from .extraction import (
    ExtractReport as ExtractReport,
    MissingTask as MissingTask,
    extract as extract,
    missing_tasks as missing_tasks,
)
from .features import FeatureLoader as FeatureLoader, Features as Features
from .heads import (
    Predictions as Predictions,
    TrainedHead as TrainedHead,
    merge as merge,
    predict as predict,
    train_freezing as train_freezing,
    train_head as train_head,
    train_heads as train_heads,
    train_unfreezing as train_unfreezing,
)
from .identity import Recipe as Recipe
from .integrations import FrozenDetector as FrozenDetector, FrozenFeatures as FrozenFeatures
from .machine import Bound as Bound, Timings as Timings
from .progress import ProgressEvent as ProgressEvent
from .project import Project as Project, Settings as Settings, load_head as load_head
from .splitting import Cut as Cut, Split as Split, cuts as cuts, split as split
from .tensorspec import TensorSpec as TensorSpec
from .training import (
    DenseMetrics as DenseMetrics,
    Metrics as Metrics,
    MultiLabelMetrics as MultiLabelMetrics,
    RegressionMetrics as RegressionMetrics,
    Task as Task,
    TokenMetrics as TokenMetrics,
)

__version__: str
