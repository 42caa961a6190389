"""featcache inside other libraries, one file per library.

Each speaks the other library's own protocol and holds no logic of its own beyond that."""

from __future__ import annotations

from .sklearn import FrozenFeatures
from .torchvision import FrozenDetector

__all__ = ["FrozenDetector", "FrozenFeatures"]
