"""Who runs the tasks of an extraction: a small protocol, its registry, and ``load_engine``.

A job is split into tasks, one shard each. A task can run anywhere and any number of times: rows that are computed
twice are equal, and equal shards have equal names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..errors import UsageError
from ..registry import Registry

__all__ = ["Engine", "Job", "engines", "load_engine"]


class Job(Protocol):
    """What an engine runs: the model, the samples and the set, which know how to carry out tasks.

    It can be pickled.

    Attributes
    ----------
    device : torch.device
        The device that the job runs on.
    """

    device: Any

    def run(self, tasks: Sequence[Any]) -> Iterator[Any]:
        """Carry out tasks in order in this process.

        Parameters
        ----------
        tasks : sequence of Any
            The tasks.

        Yields
        ------
        Any
            A receipt for each task, once its shard is committed.
        """

    def moved(self, device: str) -> Job:
        """Return the same job, to be run on another device.

        Parameters
        ----------
        device : str
            The name of the device, such as ``"cuda:1"``.

        Returns
        -------
        Job
            The job.
        """


class Engine(Protocol):
    """Carries out the tasks of a job, here or elsewhere.

    Register an instance in ``featcache.engines.engines``, and ``engine="name"`` finds it. An engine with a method
    ``sized(workers)`` can be named with a number, as in ``"processes:4"``.
    """

    def run(self, job: Job, tasks: Sequence[Any]) -> Iterator[Any]:
        """Carry out the tasks of a job, in any order.

        Parameters
        ----------
        job : Job
            The job.
        tasks : sequence of Any
            The tasks. Each may run anywhere, and more than once.

        Yields
        ------
        Any
            A receipt for each task, as soon as its shard is committed.
        """


engines: Registry[Engine] = Registry(
    "featcache.engines",
    "engine",
    {
        "local": "featcache.engines.local:local_engine",
        "processes": "featcache.engines.processes:processes_engine",
        "ray": "featcache.engines.ray:ray_engine",
    },
)


def load_engine(spec: str) -> Engine:
    """Return the engine that ``NAME`` or ``NAME:WORKERS`` names, as in ``processes:4``.

    Raises ``UnknownNameError`` where there is none, ``UsageError`` where it has no workers to count.
    """
    name, separator, count = spec.partition(":")
    engine = engines.get(name)
    if not separator:
        return engine
    sized = getattr(engine, "sized", None)
    if sized is None or not count.isdecimal() or int(count) < 1:
        raise UsageError(
            f"an engine is NAME or NAME:WORKERS, such as processes:4, not {spec!r}; local takes no workers."
        )
    return sized(int(count))  # type: ignore[no-any-return]
