"""Trial runs that prove a split: the truly frozen reference in training mode, and what is refused before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import SplitError
from .analysis import CutAnalysis
from .clone import own_modes, skeleton
from .compare import TOLERANCE, compare, difference, rounding
from .examples import Examples
from .inputs import Call, copied
from .modes import Modes, may_change_weights, set_mode
from .nested import REMEDY, has_nested_encoder
from .prefix import OtherSizeError, at_end_of_call, run_prefix
from .randomness import quiet, seeded
from .trees import named_state, tensors_in

__all__ = [
    "Step",
    "frozen_reference",
    "keeping_state",
    "refuse_changing_modes",
    "refuse_lazy",
    "refuse_mixed_rows",
    "refuse_unseen",
    "seeded_step",
]


@dataclasses.dataclass(frozen=True)
class Step:
    """What a training step gives: output, gradients and buffers by name; ``failure`` where the model cannot do one."""

    output: Any
    gradients: dict[str, torch.Tensor]
    buffers: dict[str, torch.Tensor]
    failure: Exception | None = None


def seeded_step(run: Callable[[], Any], parameters: dict[str, nn.Parameter], model: nn.Module) -> Step:
    """Return what ``run`` gives under a fixed seed with gradients, and the model's buffers then."""
    with torch.inference_mode(False), torch.enable_grad(), quiet():
        output = seeded(run)
        found = [tensor for tensor in tensors_in(output) if tensor.requires_grad and tensor.is_floating_point()]
        wanted = {name: each for name, each in parameters.items() if each.requires_grad}
        gradients: dict[str, torch.Tensor] = {}
        if found and wanted:
            # Squared, so that the gradient depends on the output; its mean, so that its scale does not.
            loss = torch.stack([tensor.double().square().mean() for tensor in found]).sum()
            made = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            gradients = {name: each for name, each in zip(wanted, made, strict=True) if each is not None}
    return Step(output, gradients, dict(model.named_buffers()))


def frozen_reference(model: nn.Module, analysis: CutAnalysis, call: Call, names: set[str]) -> Step:
    """Return a training step of the whole model with a truly frozen prefix.

    Until the cut everything is in evaluation mode and without gradients (with them, torch chooses other kernels, which
    round in another way); from there on, what does not run before the cut only is in training mode. The gradients are
    those of all parameters that are used after the cut only; ``names`` are those that are expected to be.
    """
    trained = {name for name, _ in model.named_parameters()} - analysis.state_before
    step = _frozen_step(model, analysis, call, trained, frozen=True)
    # torch refuses to change a view in place after the cut that was made without gradients before it.
    return step if step.failure is None else _frozen_step(model, analysis, call, names, frozen=False)


def _frozen_step(model: nn.Module, analysis: CutAnalysis, call: Call, names: set[str], frozen: bool) -> Step:
    return _step(skeleton(model, own_buffers=True), own_modes(model), analysis, call, names, frozen)


def _step(running: nn.Module, own: Modes, analysis: CutAnalysis, call: Call, names: set[str], frozen: bool) -> Step:
    last = analysis.run.modules[analysis.cut_call]

    def change_over() -> None:
        for name, module in running.named_modules():
            if name not in analysis.before:
                module.training = own.get(name, True)
        torch.set_grad_enabled(True)

    hook = at_end_of_call(running, last.name, last.nth, change_over)

    def run() -> Any:
        with torch.set_grad_enabled(not frozen):
            args, kwargs = copied(call)
            return running(*args, **kwargs)

    parameters = {name: each for name, each in running.named_parameters() if name in names}
    try:
        return seeded_step(run, parameters, running)
    except Exception as error:
        return Step(None, {}, {}, error)
    finally:
        hook.remove()  # else a copy of what ran would copy all that it refers to


def keeping_state(model: nn.Module, analysis: CutAnalysis, call: Call) -> set[str]:
    """Return the modules not before the cut that keep something from one training step to the next, buffers aside.

    That is a number that a step changes, or anything that changes the output of a second step on equal input; then what
    keeps it is not known, and all modules that are open at the cut are returned.
    """
    own, running = own_modes(model), skeleton(model, own_buffers=True)
    before = _numbers(running)
    first = _step(running, own, analysis, call, set(), frozen=True)
    found = {
        name for name, values in _numbers(running).items() if values != before.get(name) and name not in analysis.before
    }
    again, buffers = skeleton(running, own_buffers=True), dict(model.named_buffers())
    with torch.no_grad():
        for name, buffer in again.named_buffers():
            if name in buffers and buffers[name].shape == buffer.shape:
                buffer.copy_(buffers[name])
    second = _step(again, own, analysis, call, set(), frozen=True)
    if first.failure is not None or second.failure is not None:
        return set()
    differs = compare(first.output, second.output, "a second training step", refuse=False) > TOLERANCE
    return found | analysis.open if differs else found


def _numbers(model: nn.Module) -> dict[str, dict[str, Any]]:
    kinds = (bool, int, float)
    return {
        name: {key: value for key, value in vars(module).items() if type(value) in kinds and key != "training"}
        for name, module in model.named_modules()
    }


def refuse_unseen(model: nn.Module) -> None:
    """Raise ``SplitError`` where a part of the model is TorchScript or of Keras, whose calls or layers cannot be seen.

    A detector of torchvision takes its batch apart into images, and is cut by its own class.
    """
    for name, module in model.named_modules():
        if type(module).__name__ == "GeneralizedRCNNTransform":
            raise SplitError(
                f"{name!r} takes a list of images and resizes each of them: a detector of torchvision is cut as "
                "featcache.FrozenDetector(model, cut, images)."
            )
        if type(module).__module__.partition(".")[0] == "keras":
            raise SplitError(
                f"{name or 'the model'!r} is a network of Keras, whose layers are no modules of torch, so that none can be cut "
                "behind. Build the network of torch modules, and copy the weights."
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise SplitError(
                f"{name or 'the model'!r} is compiled by torch.jit: what it computes cannot be seen, so its features have no "
                "fingerprint. Give the module that it was compiled from."
            )


def refuse_lazy(model: nn.Module) -> None:
    """Raise ``SplitError`` where parameters get their shape, and their random values, in the first forward pass."""
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise SplitError(
            f"the parameter {lazy[0]!r} gets its shape and its values in the first forward pass: run the model once on a "
            "batch, then split it."
        )


def refuse_changing_modes(model: nn.Module) -> None:
    """Raise ``SplitError`` where ``train`` or ``eval`` changes weights: adapters that are merged into them do that."""
    if not may_change_weights(model):
        return
    own = skeleton(model, None, own_buffers=True, own_parameters=True)
    before = dict(named_state(model))
    for training in (False, True):
        set_mode(own, training)
        for name, tensor in named_state(own):
            if name in before and not torch.allclose(tensor, before[name], rtol=0, atol=0, equal_nan=True):
                raise SplitError(
                    f"the model's own {'train' if training else 'eval'}() changes {name!r}: its weights depend on the mode, as "
                    "those of an adapter that is merged in evaluation mode do. Merge it for good, or not at all."
                )


def refuse_mixed_rows(model: nn.Module, analysis: CutAnalysis, given: Examples) -> None:
    """Raise ``SplitError`` where a row's features depend on the other rows of its batch, or on how many there are.

    Both rows of the example are computed together, alone, and in another order between rows with quite other values.
    """

    def computed(call: Call) -> dict[str, torch.Tensor]:
        return run_prefix(skeleton(model, own_buffers=True), analysis, *call)

    together, between = computed(given.two), computed(given.company)
    _refuse_unlike(model, analysis, together, between, given.places)
    for row in (0, 1):
        try:
            alone = computed(given.one(row))
        except OtherSizeError:
            raise _other_size(analysis) from None
        except Exception:  # a network may need several rows: each is asked beside two different ones
            alone = computed(given.one(row, beside=row))
        _refuse_unlike(model, analysis, together, alone, {row: 0})


def _other_size(analysis: CutAnalysis) -> SplitError:
    return SplitError(
        f"what crosses the cut {analysis.cut!r} has another size where a sample is alone than in a batch: the model crops or "
        "pads it to the longest sample of the batch, so rows cannot be cached. Leave the crop out of forward (masks and lengths "
        "leave out what is padded), and give pad_packed_sequence its total_length."
    )


def _way_out(model: nn.Module, analysis: CutAnalysis) -> str:
    """Return what helps against known reasons for rows that depend on each other, after a space; "" for others."""
    if any("_dynamic" in call.name for call in analysis.run.calls[: analysis.end]):
        return " Dynamic quantisation takes its scale from the whole batch: quantise what comes after the cut only."
    return REMEDY if has_nested_encoder(model, analysis.run, analysis.end) else ""


def _refuse_unlike(
    model: nn.Module,
    analysis: CutAnalysis,
    mine: dict[str, torch.Tensor],
    theirs: dict[str, torch.Tensor],
    places: dict[int, int],
) -> None:
    for crossing in analysis.crossings:
        if crossing.carried:
            continue
        one, other = mine[crossing.spec.name], theirs[crossing.spec.name]
        if one.shape[1:] != other.shape[1:]:
            raise _other_size(analysis)
        for row, place in places.items():
            found = difference(one[row], other[place])
            if found > rounding(one.dtype):
                raise SplitError(
                    f"{crossing.spec.name!r}, which crosses the cut {analysis.cut!r}, holds rows that depend on the other rows "
                    f"of their batch, or on how many there are (by {found:.1e} of their scale; a mean over the batch, or a "
                    f"normalisation by it, does that): rows cannot be cached.{_way_out(model, analysis)}"
                )
