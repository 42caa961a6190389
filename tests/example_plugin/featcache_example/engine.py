"""``--engine backwards``: the tasks in this process, last one first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from featcache.engines import Job


class Backwards:
    def run(self, job: Job, tasks: Sequence[Any]) -> Iterator[Any]:
        yield from job.run(list(tasks)[::-1])


backwards = Backwards()
