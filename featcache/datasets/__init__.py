"""Where samples come from: folders, tables, tars, hubs and Python factories, one file per kind.

A source lists samples and reads one at a time. It never applies a transform or a network."""

from __future__ import annotations

from .files import ImageFiles
from .pixels import Pixels
from .source import DatasetSource, SourceDataset, dataset_name, dataset_sources, open_dataset

__all__ = ["DatasetSource", "ImageFiles", "Pixels", "SourceDataset", "dataset_name", "dataset_sources", "open_dataset"]
