"""Proving that a suffix is what comes after the cut: as a flat graph if it can be, else as a replay, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import SplitError, one_line
from .analysis import CutAnalysis
from .clone import skeleton
from .compare import compare
from .examples import Examples
from .flat import Program, flat_graph
from .inputs import copied
from .randomness import quiet, seeded
from .trial import frozen_reference, keeping_state, seeded_step

__all__ = ["proven"]

Make = Callable[[nn.Module, CutAnalysis, Program | None], Any]  # of a Split
TRIES = 3
MANY = 9  # rows: more than a network looks at one by one
GRADIENT_TOLERANCE = 1e-3  # sums over a batch, in an order that threads may change
GRADIENT_FLOOR = 1e-4


def proven(make: Make, model: nn.Module, analysis: CutAnalysis, given: Examples) -> Any:
    """Return the analysis with what a trial adds to it, and the flat graph if that equals the model, None if the replay does.

    Raises ``SplitError`` where neither does.
    """
    keeping = keeping_state(model, analysis, given.two)
    # The graph keeps what modules keep that run as a whole; the replay runs copies of all.
    lost = keeping if analysis.guards else keeping & analysis.open
    if lost:
        raise _kept(analysis, lost)
    trials = _trials(make(model, analysis, None), given)
    if analysis.guards:  # where they do not hold, it is the replay that runs
        analysis, _ = _replay_proven(make, model, analysis, given, trials)
    try:
        return _prove(make, model, analysis, given, trials, flat=True)
    except Exception:  # any failure only means that the graph is not the model
        pass
    if keeping:
        raise _kept(analysis, keeping)
    if analysis.guards:
        return analysis, None
    return _replay_proven(make, model, analysis, given, trials)


def _trials(made: Any, given: Examples) -> list[tuple[Any, Any]]:
    """Return what the model gives, and what crosses the cut, for each variant of the example.

    All go through the prefix before any goes through a suffix, which may not go by what the last batch left behind.
    """
    found = []
    with torch.no_grad(), quiet():
        for args, kwargs in given.trials():
            mine, named = copied((args, kwargs))
            whole = seeded(skeleton(made.model, own_buffers=True), *mine, **named)
            found.append((whole, made.prefix(*args, **kwargs)))
    return found


def _kept(analysis: CutAnalysis, names: set[str]) -> SplitError:
    where = ", ".join(name or "the model itself" for name in sorted(names)[:3])
    return SplitError(
        f"after the cut {analysis.cut!r}, the model keeps something from one training step to the next ({where}: a counter, or "
        "the last batch), which a suffix would lose. Keep it in a buffer, or in a module that runs after the cut as a whole."
    )


def _replay_proven(make: Make, model: nn.Module, analysis: CutAnalysis, given: Examples, trials: list[Any]) -> Any:
    try:
        return _prove(make, model, analysis, given, trials, flat=False)
    except SplitError:
        raise
    except Exception as error:
        raise SplitError(
            f"the suffix after {analysis.cut!r} cannot be run: {type(error).__name__}: {one_line(error, 200)}."
        ) from error


def _prove(make: Make, model: nn.Module, analysis: CutAnalysis, given: Examples, trials: list[Any], flat: bool) -> Any:
    """Compare suffix(prefix(x)) with the model at several batch sizes in evaluation mode, and once in training mode."""
    graph = flat_graph(analysis) if flat else None
    made = make(skeleton(model, own_buffers=True), analysis, graph)
    suffix = made.rebind(skeleton(model, own_buffers=True)).suffix.eval()
    with torch.no_grad(), quiet():
        for whole, frontier in trials:
            compare(whole, seeded(suffix, frontier), f"suffix(prefix(x)) at the cut {analysis.cut!r}")
        if flat:
            replay = made.replayed().suffix.eval()
            _compare_sizes(replay, suffix, trials[0][1])
    for attempt in range(TRIES):
        try:
            overwritten = _prove_training(made, given)
            break
        except SplitError:
            # Another thread may have drawn from torch's one generator meanwhile; a real difference comes every time.
            if attempt == TRIES - 1:
                raise
    if overwritten - analysis.overwritten:
        # What is written in place in training mode only (an in-place dropout) must be a copy, too.
        again = dataclasses.replace(analysis, overwritten=analysis.overwritten | overwritten)
        return _prove(make, model, again, given, trials, flat)
    return analysis, graph


def _compare_sizes(replay: nn.Module, suffix: nn.Module, frontier: Any) -> None:
    """Compare a flat suffix with the replay on one row and on many: its sizes were read from batches of two and three."""
    for count in (1, MANY):

        def rows(tensor: torch.Tensor, count: int = count) -> torch.Tensor:
            return tensor[[number * len(tensor) // count for number in range(count)]]

        batch = {name: rows(each) for name, each in frontier.items()} if isinstance(frontier, dict) else rows(frontier)
        try:
            expected = seeded(replay, batch)
        except Exception:  # some networks need several rows
            continue
        compare(expected, seeded(suffix, batch), f"the suffix in a batch of {count}")


def _prove_training(made: Any, given: Examples) -> set[int]:
    """Compare a training step with that of the model; return the crossing tensors that it changed in place."""
    analysis, call = made._analysis, given.three
    trial = made.rebind(skeleton(made.model, own_buffers=True))
    trial.suffix.train()
    parameters = dict(trial.suffix.named_parameters())
    frontier = trial.prefix(*call[0], **call[1])
    expected = frozen_reference(made.model, analysis, call, set(parameters))
    if expected.failure is not None:
        return set()  # the model itself cannot be trained on this example
    tensors = list(frontier.values()) if isinstance(frontier, dict) else [frontier]
    before = [tensor.clone() for tensor in tensors]
    found = seeded_step(lambda: trial.suffix(frontier), parameters, trial.model)
    compare(expected.output, found.output, f"the suffix after {made.cut!r} in training mode")
    if set(expected.gradients) != set(found.gradients):
        raise SplitError(f"the suffix after {made.cut!r} trains other parameters than the whole model does.")
    # Some gradients are zero but for rounding (the bias of a key in attention): these count against the largest.
    floor = GRADIENT_FLOOR * max(
        (float(each.abs().max()) for each in expected.gradients.values() if each.numel()), default=0.0
    )
    for name, gradient in expected.gradients.items():
        what = f"the gradient of {name!r} after {made.cut!r}"
        compare(gradient, found.gradients[name], what, tolerance=GRADIENT_TOLERANCE, floor=floor)
    for name, buffer in expected.buffers.items():
        if buffer.numel():
            compare(buffer, found.buffers[name], f"the buffer {name!r} after {made.cut!r} after a training step")
    originals = dict(made.model.named_buffers())
    for name in sorted(analysis.state_before & set(originals)):
        if not torch.equal(originals[name], found.buffers[name]):
            raise SplitError(
                f"the buffer {name!r} is used before the cut {made.cut!r} and changed by training after it: what is cached "
                "would not stay true. Give each side a module of its own, or choose another cut."
            )
    return {
        crossing.number
        for crossing, tensor, copy_ in zip(analysis.crossings, tensors, before, strict=True)
        if not torch.equal(tensor, copy_)
    }
