"""What a store contains and how it stands: ls, status, explain, verify, gc and pins, after ``FeatureStore``.

It compares and reports. Of features, only ``gc`` and ``verify`` with ``repair`` remove any, and only what they name."""

from __future__ import annotations

from .explain import Explanation, explain
from .feature_store import FeatureStore
from .gc import Garbage, GcReport, Kept
from .ls import SetInfo
from .pins import Pin
from .recompute import Recomputed
from .status import SetStatus, set_status
from .verify import Damage, VerifyReport

__all__ = [
    "Damage",
    "Explanation",
    "FeatureStore",
    "Garbage",
    "GcReport",
    "Kept",
    "Pin",
    "Recomputed",
    "SetInfo",
    "SetStatus",
    "VerifyReport",
    "explain",
    "set_status",
]
