"""The engine that runs all tasks in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .engine import Job

__all__ = ["LocalEngine", "local_engine"]


class LocalEngine:
    """Carries out the tasks one after another, with one pool of image-decoding workers for all of them."""

    def run(self, job: Job, tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield the receipts in the order of the tasks."""
        yield from job.run(tasks)


local_engine = LocalEngine()
