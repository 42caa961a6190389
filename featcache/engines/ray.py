"""The engine that runs tasks on a Ray cluster: actors load the prefix once, read samples, and write shards themselves."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import FeatCacheError, StoreError
from ..extras import need
from .engine import Job
from .packing import pack, unpack

__all__ = ["RayEngine", "ray_engine"]

PURPOSE = "the engine ray"


class RayEngine:
    """Maps tasks over a pool of actors with Ray Data, which starts an actor again, and its task again, when it dies.

    Only receipts travel through Ray: the store must be one that all nodes reach, and the samples likewise.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers

    def sized(self, workers: int) -> RayEngine:
        """Return the engine with that many actors."""
        return RayEngine(workers)

    def run(self, job: Job, tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield the receipts in the order in which tasks end; raises what a task raised.

        A cluster that the program is connected to, or that ``RAY_ADDRESS`` names, is used; otherwise one is started here.
        """
        ray = need("ray", "ray", PURPOSE)
        data = need("ray.data", "ray", PURPOSE)
        cloudpickle = need("ray.cloudpickle", "ray", PURPOSE)
        started_here = not ray.is_initialized()
        if started_here:
            ray.init(log_to_driver=False, logging_level="warning")
        try:
            yield from self._run(ray, data, pack(job, cloudpickle.dumps), job.device.type, tasks)
        finally:
            if started_here:
                ray.shutdown()

    def _run(self, ray: Any, data: Any, content: bytes, device: str, tasks: Sequence[Any]) -> Iterator[Any]:
        gpus = 1 if device == "cuda" else 0
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        packed = data.from_items([{"task": pickle.dumps(task)} for task in tasks], override_num_blocks=len(tasks))
        receipts = packed.map_batches(
            _Worker,
            fn_constructor_args=(ray.put(content), device),
            batch_size=1,
            concurrency=min(self.workers or _default_workers(ray, gpus), len(tasks)),
            num_gpus=gpus,
            num_cpus=1,
        )
        try:
            for row in receipts.iter_rows():
                answer = pickle.loads(row["receipt"])
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
        except ray.exceptions.RayError as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            said = lines[-1].strip() if lines else type(error).__name__
            raise StoreError(
                f"Ray could not carry out the tasks: {said}. Everything committed so far is kept."
            ) from error


class _Worker:
    """An actor: the job, unpacked once."""

    def __init__(self, content: Any, device: str) -> None:
        import ray

        self._job: Any = None
        self._error: FeatCacheError | None = None
        try:
            self._job = unpack(ray.get(content)).moved(device)
        except FeatCacheError as error:  # raised here, it would have the actor started again without end
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Return the receipt of each task of a batch."""
        if self._error is not None:
            return {"receipt": [pickle.dumps(self._error) for _ in batch["task"]]}
        try:
            return {"receipt": [pickle.dumps(each) for each in self._job.run([pickle.loads(t) for t in batch["task"]])]}
        except FeatCacheError as error:
            return {"receipt": [pickle.dumps(error)]}


def _default_workers(ray: Any, gpus: int) -> int:
    return max(1, int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1)))


ray_engine = RayEngine()
