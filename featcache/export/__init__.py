"""What was trained or cached, in the formats of other tools."""

from __future__ import annotations

from .features import export_features
from .formats import FEATURE_FORMATS, HEAD_FORMATS, ExportReport, find_format
from .network import export_head

__all__ = ["FEATURE_FORMATS", "HEAD_FORMATS", "ExportReport", "export_features", "export_head", "find_format"]
