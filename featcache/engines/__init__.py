"""Who runs the tasks of an extraction: this process, several processes, or Ray, one file per kind.

An engine hands out tasks and collects receipts. It never sees a sample or a feature."""

from __future__ import annotations

from .engine import Engine, Job, engines, load_engine

__all__ = ["Engine", "Job", "engines", "load_engine"]
