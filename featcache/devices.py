"""The one place that knows about accelerators: choosing a device, overlapping transfers, numerics, memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import TypeVar, cast

import torch

from .errors import UsageError

__all__ = [
    "HostCopy",
    "available_memory_bytes",
    "exact_numerics",
    "is_out_of_memory",
    "on_device",
    "pick_device",
    "to_device",
    "transferred",
]

Batch = TypeVar("Batch")


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called ``name``, or the best there is; raises :class:`UsageError` if it is not here."""
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
    """Tensors on their way to host memory: the copy starts at once, :meth:`result` waits for it."""

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


def available_memory_bytes() -> int:
    """Return the host memory that is free for use now, the page cache included; 4 GiB where that is unknown."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as lines:  # noqa: PTH123
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 4 << 30
