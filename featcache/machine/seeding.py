"""Seeded random numbers, without disturbing the caller's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["seeded"]

CPU = torch.device("cpu")


@contextlib.contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's generators of the CPU and of ``device`` for a while; their former states come back.

    What is drawn meanwhile equals what is drawn after ``torch.manual_seed(seed)``. That function itself is not called,
    because it reseeds every accelerator, also those whose state is not restored here.
    """
    with contextlib.ExitStack() as undo:
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            undo.enter_context(torch.random.fork_rng(devices=[index]))
            with torch.cuda.device(index):
                torch.cuda.manual_seed(seed)
        else:
            undo.enter_context(torch.random.fork_rng(devices=[]))
        if device.type == "mps":
            undo.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
            torch.mps.manual_seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
