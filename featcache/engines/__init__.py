"""Who runs the tasks of an extraction: a small protocol, its registry, and ``load_engine``.

A job is split into tasks, one shard each. A task can run anywhere and any number of times: rows that are computed
twice are equal, and equal shards have equal names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..registry import Registry

__all__ = ["Engine", "Job", "engines", "load_engine"]


class Job(Protocol):
    """What an engine runs: the model, the samples and the set, which know how to carry out tasks."""

    def run(self, tasks: Sequence[Any]) -> Iterator[Any]:
        """Carry out tasks in order in this process, yielding a receipt for each once its shard is committed."""


class Engine(Protocol):
    """Carries out the tasks of a job, here or elsewhere."""

    def run(self, job: Job, tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield a receipt for each task, in any order, as soon as its shard is committed."""


engines: Registry[Engine] = Registry("featcache.engines", "engine", {"local": "featcache.engines.local:local_engine"})


def load_engine(name: str) -> Engine:
    """Return the engine called ``name``."""
    return engines.get(name)
