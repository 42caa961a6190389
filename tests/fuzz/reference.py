"""What a network does by itself: plain hooks, plain loops, no featcache. ``p`` is the module of a program."""

from __future__ import annotations

import copy
import dataclasses
import random
from types import ModuleType
from typing import Any

import torch
from torch import nn

__all__ = [
    "Truth", "WrongError", "at_the_cut", "batch", "behaviour", "call", "chaotic", "companies", "edited", "far",
    "fresh", "frozen_steps", "state_of", "tensors", "tolerance", "truth",
]  # fmt: skip


class WrongError(AssertionError):
    """A silent difference."""


def tolerance(p: ModuleType) -> float:
    return 5e-2 if p.ROUGH else 3e-5


def fresh(p: ModuleType) -> nn.Module:
    """A new network, in the mode in which its user has it."""
    net = p.make()
    if p.MODE != "eval":
        net.train()
    if p.MODE == "some":
        for module in list(net.modules())[::2]:
            module.training = False
    return net


def tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors of an output, in order."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if dataclasses.is_dataclass(tree):
        tree = vars(tree)
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (tuple, list)) else ()
    return [each for part in parts for each in tensors(part)]


def batch(rows: list[Any], numbers: Any) -> Any:
    """Some samples, padded with zeros to the longest: a tuple of positional or a dict of keyword inputs."""
    items = [rows[number][0] for number in numbers]
    pad = lambda parts: nn.utils.rnn.pad_sequence(parts, batch_first=True) if parts[0].dim() else torch.stack(parts)  # noqa: E731
    if isinstance(items[0], dict):
        return {name: pad([each[name] for each in items]) for name in items[0]}
    return tuple(map(pad, zip(*items, strict=True))) if isinstance(items[0], tuple) else (pad(items),)


def call(net: Any, inputs: Any) -> Any:
    """What a network gives for inputs of its own, into which it may write."""
    if isinstance(inputs, dict):
        return net(**{name: each.clone() for name, each in inputs.items()})
    return net(*(each.clone() for each in inputs))


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the scale of the second."""
    if one.numel() != other.numel():
        return float("inf")
    one, other = one.detach().double().flatten(), other.detach().double().flatten()
    if not torch.equal(one.isfinite(), other.isfinite()):
        return float("inf")
    one, other = one[one.isfinite()], other[other.isfinite()]
    return float((one - other).abs().max() / other.abs().max().clamp(min=1e-3)) if len(one) else 0.0


def at_the_cut(net: nn.Module, cut: str, inputs: Any) -> tuple[list[torch.Tensor], Any]:
    """What the last call of the cut gives, as it is then, and the network's output."""
    found: list[list[torch.Tensor]] = []
    hook = net.get_submodule(cut).register_forward_hook(
        lambda module, args, output: found.append([each.clone() for each in tensors(output)])
    )
    with torch.no_grad():
        output = call(net, inputs)
    hook.remove()
    return found[-1], output


def companies(count: int, seed: int) -> list[list[int]]:
    """Batches of all kinds: all, reversed, few, shuffled, each alone at the ends."""
    everything = list(range(count))
    mixed = random.Random(seed).sample(everything, count)
    return [everything, everything[::-1], [1, 0], mixed[:3], mixed[3:8], [count - 1], mixed]


@dataclasses.dataclass
class Truth:
    """What each sample alone gives at the cut, whether company changes it, and whether it does so where there is padding."""

    alone: list[torch.Tensor]
    lengths: list[int | None]
    mixed: bool = False
    garbage: bool = False
    writes: bool = False  # it changes its input

    def differs(self, number: int, found: torch.Tensor, most: float, own: bool = False) -> float:
        """How far a row is from that of the sample alone, 0 if it is near enough; ``own`` without its padding."""
        expected, length = self.alone[number], self.lengths[number]
        padded = (
            length is not None
            and expected.dim() > 0
            and found.dim() > 0
            and found.shape[0] >= length <= expected.shape[0]
        )
        if padded and (own or found.shape[0] != expected.shape[0]) and expected.shape[0] > 1:
            found, expected = found[:length], expected[:length]
        distance = far(found, expected)
        return distance if distance > most else 0.0


def truth(p: ModuleType) -> Truth:
    rows = p.data()
    made = Truth([], [])
    for number, (item, _) in enumerate(rows):
        given, inputs = tensors(batch(rows, [number])), batch(rows, [number])
        found, _ = at_the_cut(p.make(), p.CUT, inputs)
        made.writes |= not all(map(torch.equal, given, tensors(inputs)))
        made.alone.append(_row(found[0], 1, 0))
        named = item if isinstance(item, dict) else {}
        if isinstance(item, tuple) and p.NAMES[1] in ("mask", "lengths"):
            named = dict(zip(p.NAMES, item, strict=True))
        counted = named.get("lengths", named.get("mask"))
        made.lengths.append(None if counted is None else int(counted.sum()))
    for numbers in companies(len(rows), p.SEED):
        found, _ = at_the_cut(p.make(), p.CUT, batch(rows, numbers))
        for place, number in enumerate(numbers):
            row = _row(found[0], len(numbers), place)
            made.garbage |= made.differs(number, row, tolerance(p)) > 0
            made.mixed |= made.differs(number, row, tolerance(p), own=True) > 0
    return made


def _row(found: torch.Tensor, count: int, place: int) -> torch.Tensor:
    return found[place] if len(found) == count else found.reshape(count, -1, *found.shape[1:])[place]


def chaotic(p: ModuleType) -> bool:
    """Whether rounding alone moves what the network gives: near a tie of a sort, say, or between two steps of a scale."""
    rows = p.data()
    plain, shaken = p.make(), p.make()
    draw = torch.Generator().manual_seed(p.SEED)
    with torch.no_grad():
        for each in shaken.parameters():
            each.mul_(1 + 3e-7 * torch.randn(each.shape, generator=draw))
    found = [at_the_cut(net, p.CUT, batch(rows, range(len(rows)))) for net in (plain, shaken)]
    one, other = ([*rows, *tensors(output)] for rows, output in found)
    return max(map(far, one, other)) > tolerance(p)


def behaviour(net: nn.Module, p: ModuleType) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What a network gives at the cut and at its end for all samples, in evaluation mode."""
    rows = p.data()
    found, output = at_the_cut(net.eval(), p.CUT, batch(rows, range(len(rows))))
    return found, tensors(output)


def edited(net: nn.Module, statement: str, p: ModuleType) -> None:
    """Change a network by a statement."""
    with torch.no_grad():
        exec(statement, {**vars(p), "net": net})


def frozen_steps(p: ModuleType, batches: list[Any], rate: float) -> list[tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Steps of the whole network: without gradients and in its own evaluation mode up to the cut, in training mode behind.

    Gives outputs, gradients and buffers of each. Raises what the network raises where it cannot be trained.
    """
    net, done = p.make(), []
    named = list(net.named_parameters(remove_duplicate=False))
    frozen = {id(each) for name, each in named if any(f"{name}.".startswith(f"{part}.") for part in p.FROZEN)}
    trained = {name: each for name, each in net.named_parameters() if id(each) not in frozen}
    calls = [0]
    count = net.get_submodule(p.CUT).register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        call(copy.deepcopy(net), batches[0])
        calls.clear()
        call(net, batches[0])
    count.remove()
    last = len(calls)
    for seed, inputs in enumerate(batches):
        net.eval()
        left = [last]

        def change(*_: Any, left: list[int] = left, seed: int = seed) -> None:
            left[0] -= 1
            if left[0] == 0:
                net.train()
                for name in p.BEFORE:
                    net.get_submodule(name).eval()
                torch.set_grad_enabled(True)
                torch.manual_seed(seed)

        hook = net.get_submodule(p.CUT).register_forward_hook(change)
        with torch.no_grad():
            output = call(net, inputs)
        hook.remove()
        gradients = step(output, trained, rate)
        done.append((output, gradients, {name: each.clone() for name, each in net.named_buffers()}))
    return done


def step(output: Any, trained: dict[str, Any], rate: float) -> dict[str, Any]:
    """Take a step downhill on the mean square of an output; return the gradients."""
    found = [each for each in tensors(output) if each.requires_grad]
    if not found or not trained:
        return {}
    loss = sum(each.double().square().mean() for each in found)
    made = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(trained.values(), made, strict=True):
            if gradient is not None:
                parameter -= rate * gradient
    return {name: each for name, each in zip(trained, made, strict=True) if each is not None}


def state_of(net: nn.Module) -> dict[str, Any]:
    """All that can be seen of a network: modes, weights, gradients, hooks and attributes."""
    found: dict[str, Any] = {}
    for name, module in net.named_modules():
        for key, value in vars(module).items():
            found[f"{name}.{key}"] = _seen(value)
    for name, each in net.named_parameters():
        found[f"{name} needs gradients"] = each.requires_grad
        found[f"{name} gradient"] = _seen(each.grad)
    return found


def _seen(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.tolist())
    if isinstance(value, dict):
        return {str(key): _seen(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_seen(part) for part in value]
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)
