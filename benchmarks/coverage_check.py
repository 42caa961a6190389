"""The strict check of one cut, which trusts nothing that featcache says of itself."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

import featcache

ROUNDING = 1e-5
GRADIENT_ROUNDING = 1e-3
SEED = 7


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give zero and constant parameters and BatchNorm statistics random values: a zero layer hides whatever comes in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and (parameter.numel() < 2 or float(parameter.float().std()) < 1e-8):
                parameter.copy_(torch.rand(parameter.shape, generator=generator) * 0.5 + 0.25)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
            elif name.endswith("running_var"):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def check_boundary(model: nn.Module, cut: str, example: Any, inputs: Any) -> dict[str, Any]:
    """Return what is found at a cut: ``eval`` and ``train`` (exact, rounding, wrong, refused, untrained), and why."""
    found: dict[str, Any] = {"cut": cut, "eval": "refused", "train": "refused", "flat": False, "refused": "", "why": ""}
    for name, module in model.named_modules():
        module.__dict__["_coverage_name"] = name  # which the suffix's modules have, too
    try:
        made = featcache.split(model, cut, example)
    except featcache.FeatCacheError as error:
        found["refused"] = str(error)
        return found
    found["flat"] = made.flat
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        found["eval"], why = _in_evaluation(model, cut, made, inputs)
        found["train"], more = _in_training(model, cut, made, inputs, kept)
        found["why"] = " ".join(part for part in (why, more) if part)
    finally:
        model.eval()
        _restore(model, kept)
    return found


def _in_evaluation(model: nn.Module, cut: str, made: featcache.Split, inputs: Any) -> tuple[str, str]:
    with torch.no_grad():
        whole = _run(model, inputs)
        frontier = _run(made.prefix, inputs)
        made.suffix.eval()
        forbidden = _prefix_modules(model, cut, inputs)
        with counted(model) as calls:
            again = _run(made.suffix, (frontier,))
        ran = sorted(forbidden & set(calls))
        if ran:
            return "wrong", f"the suffix runs {ran[0]}."
        verdict, why = _verdict(whole, again, ROUNDING)
        # A suffix that ignores its input equals the model, too, if it has remembered the output.
        changed = made.suffix(_perturbed(frontier))
        if _verdict(whole, changed, 0.0)[0] == "exact":
            return "wrong", "the output does not depend on the frontier."
    return verdict, why


def _in_training(
    model: nn.Module, cut: str, made: featcache.Split, inputs: Any, kept: dict[str, torch.Tensor]
) -> tuple[str, str]:
    try:
        expected = _frozen_step(model, cut, inputs)
    except RuntimeError:
        _restore(model, kept)
        try:  # torch refuses to change a view in place that was made without gradients
            expected = _frozen_step(model, cut, inputs, gradients=True)
        except Exception as error:
            return "untrained", f"The model itself cannot: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
    finally:
        model.eval()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    _restore(model, kept)
    frontier = _run(made.prefix, inputs)
    before = [tensor.clone() for tensor in leaves(frontier)]
    made.suffix.train()
    torch.manual_seed(SEED)
    output = made.suffix(frontier)
    gradients = _gradients(output, dict(made.suffix.named_parameters()))
    if any(not torch.equal(old, new) for old, new in zip(before, leaves(frontier), strict=True)):
        return "wrong", "the caller's cached tensor is changed in place."
    if set(gradients) != set(expected[1]):
        return "wrong", f"other parameters get gradients: {sorted(set(gradients) ^ set(expected[1]))[:3]}."
    after = dict(model.named_buffers())
    verdicts = [
        _verdict(expected[0], output, ROUNDING),
        _verdict(list(expected[1].values()), [gradients[name] for name in expected[1]], GRADIENT_ROUNDING, floor=1e-4),
        _verdict(list(buffers.values()), [after[name] for name in buffers], ROUNDING, finite=False),
    ]
    for worst in ("wrong", "rounding"):
        for what, (verdict, why) in zip(("output", "gradient", "buffer"), verdicts, strict=True):
            if verdict == worst:
                return worst, f"in training mode, {what}: {why}"
    return "exact", ""


def _frozen_step(
    model: nn.Module, cut: str, inputs: Any, gradients: bool = False
) -> tuple[Any, dict[str, torch.Tensor]]:
    """Return output and gradients of the whole model, everything up to the cut frozen and in evaluation mode.

    Frozen by ``torch.no_grad``, or, with ``gradients``, by parameters that require none until the cut.
    """
    before, ran = _ended_by(model, cut, inputs)
    # What the usual loop freezes it freezes everywhere: a weight that an embedding shares with the last layer, too.
    frozen = {id(each) for name in ran for each in model.get_submodule(name).parameters(recurse=False)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def require(yes: bool) -> None:
        for parameter in trained:
            parameter.requires_grad_(yes)

    def from_here_on(*_: Any) -> None:
        for name, module in model.named_modules():
            if name not in before:
                module.training = True
        require(True)
        torch.set_grad_enabled(True)

    model.eval()
    require(not gradients)
    handle = model.get_submodule(cut).register_forward_hook(from_here_on)
    torch.manual_seed(SEED)
    try:
        with torch.set_grad_enabled(gradients):
            output = _run(model, inputs)
        trained_behind = {name: each for name, each in model.named_parameters() if id(each) not in frozen}
        return output, _gradients(output, trained_behind)
    finally:
        handle.remove()
        require(True)


def _gradients(output: Any, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    with torch.enable_grad():
        tensors = [each for each in leaves(output) if each.requires_grad]
        parameters = {name: each for name, each in parameters.items() if each.requires_grad}
        if not tensors or not parameters:
            return {}
        loss = torch.stack([each.double().square().mean() for each in tensors]).sum()
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: each for name, each in zip(parameters, found, strict=True) if each is not None}


def _verdict(expected: Any, found: Any, rounding: float, finite: bool = True, floor: float = 0.0) -> tuple[str, str]:
    """Return exact, rounding or wrong, and why; NaN equals nothing."""
    mine, theirs = leaves(expected), leaves(found)
    if [each.shape for each in mine] != [each.shape for each in theirs]:
        return "wrong", f"shapes {[list(each.shape) for each in theirs]}, not {[list(each.shape) for each in mine]}."
    if finite and not all(bool(torch.isfinite(each).all()) for each in mine):
        return "wrong", "the model's own values are not finite, so nothing is proven."
    if all(map(torch.equal, mine, theirs)):
        return "exact", ""
    pairs = [(a.detach().double(), b.detach().double()) for a, b in zip(mine, theirs, strict=True) if a.numel()]
    # Some gradients are zero but for rounding (the bias of a key in attention): these count against the largest.
    largest = max(float(a.abs().max()) for a, _ in pairs)
    off = max(float((a - b).abs().max() / a.abs().max().clamp_min(largest * floor + 1e-30)) for a, b in pairs)
    return "rounding" if off <= rounding else "wrong", f"off by {off:.1e} of its scale."


def _perturbed(frontier: Any) -> Any:
    if isinstance(frontier, dict):
        return {name: _perturbed(value) for name, value in frontier.items()}
    return frontier * 1.5 + 0.25 if frontier.is_floating_point() else frontier


def _ended_by(
    model: nn.Module, cut: str, inputs: Any, outputs: dict[str, Any] | None = None
) -> tuple[set[str], set[str]]:
    """Return the names of the modules whose last call, and whose first, ends no later than the cut's.

    ``outputs`` gets what they gave.
    """
    ends: list[str] = []
    handles = [
        module.register_forward_hook(functools.partial(_ended, name, ends, {} if outputs is None else outputs))
        for name, module in model.named_modules()
    ]
    with torch.no_grad():
        _run(model, inputs)
    for handle in handles:
        handle.remove()
    last = len(ends) - 1 - ends[::-1].index(cut)
    return set(ends[: last + 1]) - set(ends[last + 1 :]), set(ends[: last + 1])


def _ended(name: str, ends: list[str], outputs: dict[str, Any], _: nn.Module, args: Any, output: Any) -> None:
    ends.append(name)
    # What hands its input on (Identity, stochastic depth in evaluation mode) computes nothing.
    outputs[name] = [] if args and output is args[0] else [tensor.clone() for tensor in leaves(output)]


def _prefix_modules(model: nn.Module, cut: str, inputs: Any) -> set[str]:
    """Return the modules before the cut that the suffix must not run: those whose output depends on the main input."""
    mine: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    before, _ = _ended_by(model, cut, inputs, mine)
    parts = list(inputs.items() if isinstance(inputs, dict) else enumerate(inputs))
    main = {key: _rolled(value) if number == 0 else value for number, (key, value) in enumerate(parts)}
    _ended_by(model, cut, main if isinstance(inputs, dict) else tuple(main.values()), theirs)
    return {name for name in before if not all(map(torch.equal, mine[name], theirs[name]))}


def _rolled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value.roll(1, -1)
    first = next(iter(value))
    return {**value, first: _rolled(value[first])}


@contextmanager
def counted(model: nn.Module) -> Iterator[Counter[str]]:
    """Count the forward calls of the model's modules, and of copies of them, which are marked; their classes are watched."""
    calls: Counter[str] = Counter()
    classes = {type(module) for module in model.modules()}
    originals = {kind: kind.forward for kind in classes}
    own = {kind for kind in classes if "forward" in vars(kind)}
    for kind in classes:
        kind.forward = _counting(originals[kind], calls)
    try:
        yield calls
    finally:
        for kind in classes:
            if kind in own:
                kind.forward = originals[kind]
            else:
                del kind.forward


def _counting(forward: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        calls[self.__dict__.get("_coverage_name", "")] += 1
        return forward(self, *args, **kwargs)

    return run


def leaves(tree: Any) -> list[torch.Tensor]:
    """Return the tensors in an output, in order, but for a key-value cache, which no suffix gives."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if type(tree).__name__.endswith("Cache"):
        return []
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [] if tree is None or not hasattr(tree, "__dict__") else leaves(vars(tree))


def _run(function: Callable[..., Any], inputs: Any) -> Any:
    inputs = copied(inputs)  # a network may write into a dict
    torch.manual_seed(SEED)  # some draw after the cut
    return function(**inputs) if isinstance(inputs, dict) else function(*inputs)


def copied(tree: Any) -> Any:
    """Return inputs in containers of their own."""
    if isinstance(tree, dict):
        return {name: copied(each) for name, each in tree.items()}
    return tuple(map(copied, tree)) if isinstance(tree, tuple) else tree


def _restore(model: nn.Module, kept: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
