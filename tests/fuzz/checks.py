"""What must hold of a program that is cached, by the public API and by the network itself. ``p`` is its module."""

from __future__ import annotations

import copy
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

import featcache

from .reference import (
    WrongError,
    batch,
    behaviour,
    call,
    companies,
    edited,
    far,
    fresh,
    frozen_steps,
    state_of,
    step,
    tensors,
    tolerance,
    truth,
)

__all__ = ["CHECKS", "check_elsewhere", "check_rows"]


def folder() -> str:
    return tempfile.mkdtemp(dir=tempfile.gettempdir())


def stored_row(features: featcache.Features, cut: str, number: int, expected: torch.Tensor) -> torch.Tensor | None:
    """What is stored of a sample at the cut, None where the cut's own output does not cross it."""
    frontier, _ = features[number]
    if not isinstance(frontier, dict):
        return frontier
    # What a module hands through, or gives in an object that torch does not know, has another name.
    alike = [each for each in frontier.values() if each.is_floating_point() and each.numel() == expected.numel()]
    return frontier.get(cut, min(alike, key=lambda each: far(each, expected), default=None))


def example(p: ModuleType, numbers: list[int]) -> tuple[Any, ...]:
    """An example for split, with another length where samples vary in it."""
    rows = p.data()
    if not p.RAGGED:
        return (batch(rows, numbers),)
    by_length = sorted(range(len(rows)), key=lambda number: len(rows[number][0]["ids"]))
    return batch(rows, [by_length[-1], numbers[0]]), batch(rows, by_length[:2])


def check_rows(p: ModuleType) -> None:
    """Every stored row is that of the sample alone, in whatever company it was computed; the suffix continues from it."""
    expected, rows, names = truth(p), p.data(), set()
    shuffled = random.Random(p.SEED).sample(range(len(rows)), len(rows))
    for order, size in ((list(range(len(rows))), 4), (shuffled, 3)):
        net = fresh(p)
        features = featcache.extract(net, [rows[number] for number in order], folder(), cut=p.CUT, batch_size=size)
        names.add(features.report.recipe)
        for place, number in enumerate(order):
            # What depends on a mask or a task alone is not stored, but computed from it after the cut.
            row = None if p.SIDE else stored_row(features, p.CUT, place, expected.alone[number])
            if row is not None and (off := expected.differs(number, row, tolerance(p), own=expected.garbage)):
                raise WrongError(f"the stored row of sample {number} is off by {off:.1e} (batches of {size})")
        if p.FACT == "mixed":
            continue
        split = featcache.split(net, p.CUT, *example(p, order[:2]))
        frontier, _ = features.batch(np.arange(len(rows)))
        if isinstance(frontier, dict) and len(split.frontier) == 1:  # a mask of the samples' own steps came with it
            frontier = frontier[split.frontier[0].name]
        with torch.no_grad():
            whole, again = call(p.make(), batch(rows, order)), split.suffix.eval()(frontier)
        same_trees(again, whole, p, "the suffix on stored rows")
    if len(names) > 1:
        raise WrongError("another order of the samples gives another name")


def same_trees(found: Any, expected: Any, p: ModuleType, what: str, factor: float = 1.0) -> None:
    one, other = tensors(found), tensors(expected)
    off = max(map(far, one, other)) if len(one) == len(other) else float("inf")
    if off > factor * tolerance(p):
        raise WrongError(f"{what} is off by {off:.1e}")


def check_suffix(p: ModuleType) -> None:
    """The suffix of the prefix is the network, on other data than the example."""
    net, rows, plain = fresh(p), p.data(), p.make()
    for numbers in ([0, 1], [2, len(rows) - 1, 3]):
        split = featcache.split(net, p.CUT, *example(p, numbers))
        split.suffix.eval()
        for company in companies(len(rows), p.SEED):
            inputs = batch(rows, company)
            with torch.no_grad():
                whole, again = call(plain, inputs), split.suffix(call(split.prefix, inputs))
            same_trees(again, whole, p, f"suffix(prefix(x)) of samples {company}, split on {numbers},")


def check_training(p: ModuleType) -> None:
    """Steps of the suffix are those of the truly frozen whole network: outputs, gradients, weights and buffers."""
    rows, rate = p.data(), 0.02
    batches = [batch(rows, numbers) for numbers in companies(len(rows), p.SEED + 1)[:5]]
    try:
        expected = frozen_steps(p, batches, rate)
    except RuntimeError:
        return  # the network itself cannot be trained so
    net = fresh(p)
    split = featcache.split(net, p.CUT, *example(p, [2, 1]))
    frontiers = [call(split.prefix, inputs) for inputs in batches]
    named = dict(split.suffix.named_parameters())
    for seed, (frontier, (output, gradients, buffers)) in enumerate(zip(frontiers, expected, strict=True)):
        split.suffix.train()
        torch.manual_seed(seed)
        found = split.suffix(frontier)
        same_trees(found, output, p, f"the output of training step {seed}", 10)
        mine = step(found, named, rate)
        floor = 1e-3 * max((float(each.abs().max()) for each in gradients.values()), default=0.0)
        for name in gradients.keys() | mine.keys():
            one, other = (each.get(name, torch.zeros(())) for each in (mine, gradients))
            off = float((one.double() - other.double()).abs().max()) / max(float(other.abs().max()), floor, 1e-6)
            if off > 100 * tolerance(p):
                raise WrongError(f"the gradient of {name!r} in training step {seed} is off by {off:.1e}")
        for name, buffer in net.named_buffers():
            if (off := far(buffer, buffers[name])) > 10 * tolerance(p):
                raise WrongError(f"the buffer {name!r} after training step {seed} is off by {off:.1e}")


def check_derived(p: ModuleType) -> None:
    """What is derived from a shallower cut, or computed beside it, is what a new store would hold, under the same name."""
    if not p.SHALLOWER:
        return
    rows, store = p.data(), folder()
    try:
        featcache.extract(fresh(p), rows, store, cut=p.SHALLOWER, batch_size=4)
    except featcache.FeatCacheError:
        return
    made = [featcache.extract(fresh(p), rows, store, cut=p.CUT, batch_size=4)]
    made.append(featcache.extract(fresh(p), rows, folder(), cut=p.CUT, batch_size=4))
    if p.SEED % 3 == 0:
        made.append(featcache.extract(fresh(p), rows, folder(), cut=[p.SHALLOWER, p.CUT], batch_size=4)[p.CUT])
    if len({each.report.recipe for each in made}) > 1:
        raise WrongError(f"derived from {p.SHALLOWER!r}, the set has another name")
    found = [tensors(each.batch(np.arange(len(rows)))[0]) for each in made]
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            if (off := far(one, other)) > tolerance(p):
                raise WrongError(f"rows derived from {p.SHALLOWER!r} ({made[0].report.derived}) are off by {off:.1e}")


def name_of(what: Any, rows: list[Any], cut: str | None = None) -> str:
    """The name of the set that extract would make."""
    return featcache.FeatureStore(folder()).status(what, rows, **({} if cut is None else {"cut": cut})).recipe


def check_names(p: ModuleType) -> None:
    """A set has one name, whatever the order of the samples, the instance, what ran before and the example."""
    rows, net = p.data(), fresh(p)
    name = name_of(net, rows, p.CUT)
    used = fresh(p)
    with torch.no_grad():
        call(used.eval(), batch(rows, [1, 2]))
    shuffled = random.Random(p.SEED).sample(rows, len(rows))
    others: dict[str, Callable[[], str]] = {
        "with the samples in another order": lambda: name_of(net, shuffled, p.CUT),
        "with other samples": lambda: name_of(net, rows[3:7], p.CUT) if not p.RAGGED else name,
        # In a deep copy, a closure still reaches the original's modules.
        "of a copy": lambda: name_of(fresh(p) if p.CLOSURES else copy.deepcopy(net), rows, p.CUT),
        "of the network after it has run": lambda: name_of(used, rows, p.CUT),
        "of a split on other samples": lambda: name_of(featcache.split(net, p.CUT, *example(p, [2, 4])), rows),
    }
    for what, other in others.items():
        if other() != name:
            raise WrongError(f"the set {what} has another name")


def check_edits(p: ModuleType) -> None:
    """An edit before the cut gives another name, also through a split that is held; one after it does not."""
    rows, rng = p.data(), random.Random(p.SEED)
    net, twin = fresh(p), p.make()
    split = featcache.split(net, p.CUT, *example(p, [0, 1]))
    held = name_of(split, rows)
    names = {"": held}
    weights = [each for each in p.EDITS if ".data" in each]
    kinds = (weights, [each for each in p.EDITS if each not in weights])
    before = [rng.choice(each) for each in kinds if each]
    behind = rng.sample(p.EDITS_BEHIND, min(2, len(p.EDITS_BEHIND)))
    for statement, is_before in [
        *((each, False) for each in behind[:1]),
        *((each, True) for each in before),
        *((each, False) for each in behind[1:]),
    ]:
        was = behaviour(twin, p)
        edited(net, statement, p)
        edited(twin, statement, p)
        try:
            now = behaviour(twin, p)
        except (RuntimeError, ValueError, TypeError):
            return  # the edit broke the network
        moved = [max(map(far, one, other)) > 1e-6 for one, other in zip(now, was, strict=True)]
        if any(not each.isfinite().all() for part in now for each in part):
            return
        held = name_of(split, rows)
        if is_before and any(moved) and held in names.values():
            raise WrongError(f"{statement!r} before the cut leaves the name as it was")
        if not is_before and not moved[0] and held != list(names.values())[-1]:
            raise WrongError(f"{statement!r} after the cut changes the name")
        names[statement] = held
    if name_of(net, rows, p.CUT) != held:
        raise WrongError(f"after {', '.join(names)} a split that is held and a new one have different names")


def check_left_alone(p: ModuleType) -> None:
    """The caller's network stays as it was, also where it is refused; the head is what was trained."""
    rows, net = p.data(), fresh(p)
    for number, each in enumerate(net.parameters()):
        if number % 2:
            each.grad = torch.full_like(each, 0.5)
    was, drawn = state_of(net), torch.get_rng_state()
    try:
        featcache.cuts(net, *example(p, [0, 1]))
        split = featcache.split(net, p.CUT, *example(p, [0, 1]))
        features = featcache.extract(net, rows, folder(), cut=p.CUT, batch_size=4)
        if p.FACT != "mixed" and p.SEED % 2 == 0:
            check_head(p, split, features)
    finally:
        now = state_of(net)
        changed = sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))
        if changed:
            raise WrongError(f"the caller's network is changed: {', '.join(changed[:4])}")
        if not torch.equal(drawn, torch.get_rng_state()) or not torch.is_grad_enabled():
            raise WrongError("the caller's random state or gradient mode is changed")


def check_head(p: ModuleType, split: featcache.Split, features: featcache.Features) -> None:
    """What a trained head predicts from stored rows is what its whole network predicts from the samples."""
    rows = p.data()
    if p.CUT == "head" or p.RAGGED:
        return  # there is no layer left to train, or a head may want the mask to cross the cut
    with torch.random.fork_rng():
        try:
            frozen_steps(p, [batch(rows, [0, 1, 2])], 0.01)
        except RuntimeError:
            return
        head = featcache.train_head(split, features, epochs=1, batch_size=4, validation=0)
        with torch.no_grad():
            whole = tensors(call(head.model, batch(rows, range(len(rows)))))[0]
        found = torch.from_numpy(head.predict_proba(features))
    same_trees(found, whole.softmax(-1), p, "what the head predicts from stored rows", 10)


def check_elsewhere(p: ModuleType) -> None:
    """Another process gives the same name."""
    code = (
        "import importlib.util, sys, torch\ntorch.set_num_threads(1)\n"
        "spec = importlib.util.spec_from_file_location('program', sys.argv[1])\np = importlib.util.module_from_spec(spec)\n"
        "sys.modules['program'] = p\nspec.loader.exec_module(p)\nimport featcache, tempfile\n"
        "print(featcache.FeatureStore(tempfile.mkdtemp()).status(p.make(), p.data(), cut=p.CUT).recipe)"
    )
    done = subprocess.run([sys.executable, "-c", code, p.__file__], capture_output=True, text=True, check=True)
    if done.stdout.split()[-1] != name_of(p.make(), p.data(), p.CUT):
        raise WrongError("the set has another name in another process")


CHECKS = (check_rows, check_suffix, check_training, check_derived, check_names, check_edits, check_left_alone)
