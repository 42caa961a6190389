"""Recording a network on its example: several runs, from which everything about a cut is read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from ..errors import SplitError, UsageError, one_line
from .clone import skeleton
from .compare import compare
from .examples import Examples
from .layout import apart
from .randomness import quiet, seeded
from .record import record
from .runs import Run, Runs
from .trial import refuse_changing_modes, refuse_lazy, refuse_unseen

__all__ = ["recorded"]


def recorded(model: nn.Module, given: Examples) -> Runs:
    """Return recorded runs: the example with a batch of two, of three, of two with other values, and at another length.

    Raises ``SplitError`` where the model fails, or gives another output for equal input.
    """
    refuse_unseen(model)
    refuse_lazy(model)
    if given.two[1].get("use_cache"):
        raise SplitError("the model is asked for a key-value cache, which is not stored: leave use_cache out.")
    refuse_changing_modes(model)
    # Recorded is what a warmed up network does: some make tables when they are first needed.
    running = skeleton(model, own_buffers=True)
    try:
        with torch.no_grad(), quiet():
            first, second = (seeded(running, *args, **kwargs) for args, kwargs in (given.two, given.two))
            for call in (given.three, given.resized):
                if call is not None:
                    running(*call[0], **call[1])
        run = record(running, *given.two, 2)
        runs = Runs(
            run,
            record(running, *given.three, 3),
            record(running, *given.other, 2),
            None if given.resized is None else record(running, *given.resized, 2),
            _alone(running, given) if any(call.decides for call in run.calls) else (),
            running,
        )
    except (SplitError, UsageError):
        raise
    except Exception as error:
        raise SplitError(
            f"the model cannot be run on the example input, its rows in another order or one row more: {type(error).__name__}: "
            f"{one_line(error, 200)}. Check that the transform fits the model."
        ) from error
    difference = compare(first, second, "a second evaluation pass", refuse=False)
    if difference:
        raise SplitError(
            f"the model gives another output for equal input in evaluation mode (relative difference {difference:.1e}), also "
            "with equal random numbers: it keeps state, or draws from a generator that cannot be seeded for it (one of numpy or "
            "Python, or in a global variable), so its features cannot be cached. Have it draw from torch's own generator, or "
            "from a torch.Generator that is an attribute of it."
        )
    return replace(runs, apart=apart(runs, given.again))


def _alone(running: nn.Module, given: Examples) -> tuple[Run, ...]:
    """Return a recorded run of each row alone: where all of a batch is full, or masked, another path may be taken."""
    found = []
    for row in (0, 1):
        with suppress(Exception):  # some networks need several rows
            found.append(record(running, *given.one(row), 1))
    return tuple(found)
