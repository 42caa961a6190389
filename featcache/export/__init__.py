"""What was trained or cached, in the formats of other tools: state_dict, torch.export, ONNX, npy, parquet, HDF5.

A file appears whole or not at all. Nothing is computed that the network or the cache does not hold."""

from __future__ import annotations

from .features import export_features
from .formats import FEATURE_FORMATS, ExportReport, find_format
from .network import export_head

__all__ = ["FEATURE_FORMATS", "ExportReport", "export_features", "export_head", "find_format"]
