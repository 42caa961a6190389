"""The one place that knows about accelerators: choosing a device, overlapping transfers, numerics, memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import torch

from ..errors import UsageError
from .timings import Timings

__all__ = [
    "DeviceClock",
    "Flight",
    "HostCopy",
    "available_memory_bytes",
    "exact_numerics",
    "free_memory_bytes",
    "is_out_of_memory",
    "on_device",
    "pick_device",
    "to_device",
    "transferred",
]

Batch = TypeVar("Batch")


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called ``name``, or the best there is; raises ``UsageError`` if it is not here."""
    if name in (None, "", "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise UsageError(f"unknown device {name!r}: use cpu, cuda, cuda:1, mps or auto.") from error
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not here.get(device.type, False):
        raise UsageError(
            f"device {name!r} was asked for, but torch {torch.__version__} finds none here. "
            "Use --device cpu, or install a torch build for your accelerator."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {name!r} was asked for, but there are {torch.cuda.device_count()} CUDA devices here.")
    return device


def to_device(batch: Batch, device: torch.device, *, non_blocking: bool = False) -> Batch:
    """Return a tensor, or a nested tuple, list or dict of tensors, with every tensor on ``device``."""
    if isinstance(batch, torch.Tensor):
        return cast(Batch, batch.to(device, non_blocking=non_blocking))
    if isinstance(batch, dict):
        moved = {name: to_device(value, device, non_blocking=non_blocking) for name, value in batch.items()}
        return cast(Batch, moved)
    if isinstance(batch, (tuple, list)):
        return cast(Batch, type(batch)(to_device(value, device, non_blocking=non_blocking) for value in batch))
    return batch


def transferred(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield each batch on ``device``; on CUDA the next transfer runs on its own stream beside the computation.

    The batches should lie in pinned memory, as a DataLoader with ``pin_memory=True`` gives them.
    """
    if device.type == "cpu":
        yield from batches
        return
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: list[Batch] = []
    for batch in batches:
        with torch.cuda.stream(stream):
            waiting.append(to_device(batch, device, non_blocking=True))
        if len(waiting) == 2:
            yield _received(waiting.pop(0), stream, device)
    for batch in waiting:
        yield _received(batch, stream, device)


def _received(batch: Batch, stream: torch.cuda.Stream, device: torch.device) -> Batch:
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in _tensors(batch):
        tensor.record_stream(current)  # its memory must not be reused before this stream is done with it
    return batch


def _tensors(batch: object) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, dict):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (tuple, list)):
        for value in batch:
            yield from _tensors(value)


class HostCopy:
    """Tensors on their way to host memory: the copy starts at once, ``result`` waits for it."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._event: torch.cuda.Event | None = None
        self._host = {}
        for name, tensor in tensors.items():
            if tensor.device.type == "cuda":
                pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                self._host[name] = pinned.copy_(tensor, non_blocking=True)
            else:
                self._host[name] = tensor.cpu()
        if any(tensor.device.type == "cuda" for tensor in tensors.values()):
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def result(self) -> dict[str, torch.Tensor]:
        """Return the tensors in host memory, once they are all there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


class DeviceClock:
    """Measures what a device computes between its making and ``stop``; on a GPU by events, which do not wait."""

    def __init__(self, device: torch.device) -> None:
        self._started_s = time.perf_counter()
        self._elapsed_s = 0.0
        self._events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None
        if device.type == "cuda":
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            self._events = (events[0], events[1])
            self._events[0].record()

    @property
    def on_host(self) -> bool:
        """Return whether the device computes before it returns, as a CPU does."""
        return self._events is None

    def stop(self) -> None:
        """Note that all was given to the device."""
        self._elapsed_s = time.perf_counter() - self._started_s
        if self._events is not None:
            self._events[1].record()

    def seconds(self) -> float:
        """Return the seconds of computation, waiting for its end."""
        if self._events is None:
            return self._elapsed_s
        self._events[1].synchronize()
        return max(self._elapsed_s, float(self._events[0].elapsed_time(self._events[1])) / 1000)


class Flight:
    """A batch whose results are on their way from the device."""

    def __init__(self, batch: Any, results: list[dict[str, torch.Tensor]], clock: DeviceClock) -> None:
        self.batch, self._clock = batch, clock
        clock.stop()
        started_s = time.perf_counter()
        self._copies = [HostCopy(each) for each in results]
        self._copying_s = time.perf_counter() - started_s

    def land(self, took: Timings) -> list[dict[str, torch.Tensor]]:
        """Return the results in host memory, and count the seconds."""
        started_s = time.perf_counter()
        results = [each.result() for each in self._copies]
        waited_s, forward_s = self._copying_s + time.perf_counter() - started_s, self._clock.seconds()
        took.forward_s += forward_s
        # A GPU is waited for here: for what it still computes, and for the copy.
        took.transfer_s += waited_s if self._clock.on_host else max(0.0, waited_s - forward_s)
        return results


@contextlib.contextmanager
def exact_numerics() -> Iterator[None]:
    """Compute in the model's own precision for a while: no autocast, no TF32; the caller's settings come back."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


@contextlib.contextmanager
def on_device(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Lend a model to ``device`` and bring it back to where it was."""
    home = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), device)
    if home == device or (home.type == device.type and device.index is None):
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(home)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
    )


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory of a device that is free for use now; on the host, see ``available_memory_bytes``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "mps":
        return max(0, torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return available_memory_bytes()


def available_memory_bytes() -> int:
    """Return the host memory that is free for use now, the page cache included; 4 GiB where that is unknown."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30
