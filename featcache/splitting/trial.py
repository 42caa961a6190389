"""Trial runs that prove a split: the truly frozen reference in training mode, and what is refused before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import SplitError
from .analysis import CutAnalysis
from .clone import skeleton
from .compare import compare
from .examples import Call
from .prefix import at_end_of_call, run_prefix
from .randomness import quiet, seed_all
from .trees import tensors_in

__all__ = [
    "Step",
    "frozen_reference",
    "refuse_mixed_rows",
    "refuse_scripted",
    "seeded_step",
]

SEED = 20240229


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step gives: output, gradients and buffers by name; ``failure`` where the model cannot do one."""

    output: Any
    gradients: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    failure: Exception | None = None


def seeded_step(run: Callable[[], Any], parameters: dict[str, nn.Parameter], buffers: dict[str, torch.Tensor]) -> Step:
    """Return what ``run`` gives under a fixed seed with gradients, the caller's random state left alone."""
    with torch.inference_mode(False), torch.enable_grad(), quiet():
        seed_all(SEED)
        output = run()
        found = [tensor for tensor in tensors_in(output) if tensor.requires_grad and tensor.is_floating_point()]
        wanted = {name: each for name, each in parameters.items() if each.requires_grad}
        gradients: dict[str, torch.Tensor] = {}
        if found and wanted:
            # Squared, so that the gradient depends on the output; its mean, so that its scale does not.
            loss = torch.stack([tensor.double().square().mean() for tensor in found]).sum()
            made = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            gradients = {name: each for name, each in zip(wanted, made, strict=True) if each is not None}
    return Step(output, gradients, buffers)


def frozen_reference(model: nn.Module, analysis: CutAnalysis, call: Call, names: set[str]) -> Step:
    """Return a training step of the whole model with a truly frozen prefix.

    Until the cut everything is in evaluation mode and without gradients (with them, torch chooses other kernels, which
    round in another way); from there on, what does not run before the cut only is in training mode. The gradients are
    those of all parameters that are used behind the cut only; ``names`` are those that are expected to be.
    """
    trained = {name for name, _ in model.named_parameters()} - analysis.state_before
    step = _frozen_step(model, analysis, call, trained, frozen=True)
    # torch refuses to change a view in place behind the cut that was made without gradients before it.
    return step if step.failure is None else _frozen_step(model, analysis, call, names, frozen=False)


def _frozen_step(model: nn.Module, analysis: CutAnalysis, call: Call, names: set[str], frozen: bool) -> Step:
    running = skeleton(model, own_buffers=True)
    last = analysis.run.modules[analysis.cut_call]

    def change_over() -> None:
        for name, module in running.named_modules():
            if name not in analysis.before:
                module.training = True
        torch.set_grad_enabled(True)

    at_end_of_call(running, last.name, last.nth, change_over)

    def run() -> Any:
        with torch.set_grad_enabled(not frozen):
            return running(*call[0], **call[1])

    parameters = {name: each for name, each in running.named_parameters() if name in names}
    try:
        return seeded_step(run, parameters, dict(running.named_buffers()))
    except Exception as error:
        return Step(None, {}, {}, error)


def refuse_scripted(model: nn.Module) -> None:
    """Raise ``SplitError`` where a part of the model is TorchScript, whose calls cannot be seen."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise SplitError(
                f"{name or 'the model'!r} is compiled by torch.jit: what it computes cannot be seen, so its features have no "
                "fingerprint. Give the module that it was compiled from."
            )


def refuse_mixed_rows(model: nn.Module, analysis: CutAnalysis, call: Call, other_row: Call) -> None:
    """Raise ``SplitError`` where a row's features depend on the other rows of its batch.

    ``other_row`` is ``call`` with other values in its second row; the first row of what crosses must not change.
    """
    found = [run_prefix(skeleton(model), analysis, *each) for each in (call, other_row)]
    for crossing in analysis.crossings:
        mine, theirs = (each[crossing.spec.name] for each in found)
        if crossing.carried:
            continue
        if mine.shape != theirs.shape or compare(mine[:1], theirs[:1], "a row", refuse=False) > 1e-6:
            raise SplitError(
                f"{crossing.spec.name!r}, which crosses the cut {analysis.cut!r}, holds rows that depend on the other rows "
                "of their batch (a mean over the batch, or a normalisation by it): rows cannot be cached."
            )
