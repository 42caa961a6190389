"""The engine that runs tasks in several processes of this machine, each on a device of its own where there are several."""

from __future__ import annotations

import contextlib
import multiprocessing
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from ..errors import FeatCacheError, StoreError
from ..machine import keep_freed_memory, usable_cores
from .engine import Job
from .packing import pack, unpack

__all__ = ["ProcessesEngine", "processes_engine"]

TRIES = 3


class ProcessesEngine:
    """Gives tasks one by one to worker processes; a task whose worker dies is given to a new one."""

    def __init__(self, workers: int | None = None, devices: Sequence[str] = ()) -> None:
        self.workers = workers
        self.devices = devices

    def sized(self, workers: int) -> ProcessesEngine:
        """Return the engine with that many workers."""
        return ProcessesEngine(workers, self.devices)

    def run(self, job: Job, tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield the receipts in the order in which tasks end.

        Raises what a task raised, and ``StoreError`` where the workers of one task died several times.
        """
        devices = list(self.devices) or _devices(job)
        pool = _Pool(job, min(self.workers or _default_workers(devices), len(tasks)), devices)
        waiting, tries = list(enumerate(tasks))[::-1], [0] * len(tasks)
        try:
            while waiting or pool.busy:
                while waiting and pool.idle():
                    number, task = waiting.pop()
                    tries[number] += 1
                    pool.give(number, task)
                for number, answer in pool.answers():
                    if answer is None:
                        if tries[number] == TRIES:
                            raise StoreError(
                                f"the worker of task {number + 1} of {len(tasks)} died {TRIES} times: is there enough memory "
                                "for so many workers? Everything committed so far is kept."
                            )
                        waiting.append((number, tasks[number]))
                    elif isinstance(answer, BaseException):
                        raise answer
                    else:
                        yield answer
        finally:
            pool.close()


class _Pool:
    """Worker processes, and which task each has in hand."""

    def __init__(self, job: Job, size: int, devices: list[str]) -> None:
        import torch

        self.size, self.busy = size, dict[Connection, int]()
        self._free: list[Connection] = []
        self._processes: dict[Connection, Any] = {}
        self._devices = devices
        self._device_of: dict[Connection, str] = {}
        self._content = pack(job)
        threads = torch.get_num_threads()
        self._threads = max(1, threads // size) if job.device.type == "cpu" else threads
        self._context = multiprocessing.get_context("spawn")

    def idle(self) -> bool:
        return len(self.busy) < self.size

    def give(self, number: int, task: Any) -> None:
        connection = self._free.pop() if self._free else self._start()
        self.busy[connection] = number
        with contextlib.suppress(OSError):  # of a dead one, which the next look at the answers finds
            connection.send(task)

    def answers(self) -> list[tuple[int, Any]]:
        """Wait for an answer; return for each task that ended its receipt or error, None where its worker died."""
        found = []
        for connection in wait(list(self.busy)):
            assert isinstance(connection, Connection)
            number = self.busy.pop(connection)
            try:
                answer = connection.recv()
                self._free.append(connection)
            except (EOFError, OSError):
                answer = None
                connection.close()
                self._processes.pop(connection).join()
                del self._device_of[connection]
            found.append((number, answer))
        return found

    def close(self) -> None:
        """End the workers: those at work finish the batch in hand first, and drop what they have not committed."""
        for connection, process in self._processes.items():
            if connection in self.busy:
                process.terminate()
            connection.close()
            process.join()

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        taken = list(self._device_of.values())
        device = min(self._devices, key=taken.count)  # that of a worker that died, where one did
        process = self._context.Process(target=_work, args=(theirs, self._content, device, self._threads))
        process.start()
        theirs.close()  # so that the end of the process is seen as the end of the pipe
        self._processes[ours], self._device_of[ours] = process, device
        return ours


def _work(connection: Connection, content: bytes, device: str, threads: int) -> None:
    import torch

    keep_freed_memory()
    torch.set_num_threads(threads)
    try:
        job = unpack(content).moved(device)
    except BaseException as error:
        connection.recv()
        connection.send(_sendable(error))
        return
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return
        try:
            (answer,) = job.run([task])
        except KeyboardInterrupt:
            return
        except BaseException as error:
            answer = _sendable(error)
        connection.send(answer)


def _sendable(error: BaseException) -> BaseException:
    if isinstance(error, FeatCacheError):
        return error
    return RuntimeError("a worker failed:\n" + "".join(traceback.format_exception(error)))


def _devices(job: Job) -> list[str]:
    """Return the devices to run on: all of the kind, unless a certain one was asked for."""
    if job.device.type == "cuda" and job.device.index is None:
        import torch

        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [str(job.device)]


def _default_workers(devices: list[str]) -> int:
    if devices != ["cpu"]:
        return len(devices)
    return usable_cores()


processes_engine = ProcessesEngine()
