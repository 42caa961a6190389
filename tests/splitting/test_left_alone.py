"""The caller's network is left as it was, whatever is done with it, also when that is refused."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import featcache
from featcache.errors import FeatCacheError, SplitError
from featcache.splitting import deep_copy, skeleton


class Remembering(nn.Module):
    """Has everything that a forward pass can change: buffers, plain tensors, tables, objects, lists and hooks."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.drop, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))
        self.plain, self.table, self.tables, self.notes = torch.zeros(4), None, {}, []
        self.box, self.kind = Box(), kind
        norm = self.norm
        self.through = lambda x: norm(x)
        self.a.register_forward_hook(lambda module, args, output: output * 1.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        if self.kind == "counts":
            self.calls += 1
        if self.kind == "running mean":
            self.mean.mul_(0.9).add_(x.detach().mean(0) * 0.1)
        if self.kind == "plain tensor":
            self.plain += 1
        if self.kind == "tables":
            self.table = torch.linspace(0, 1, x.shape[1]) if self.table is None else self.table
            self.tables.setdefault(x.shape[1], self.table)
            self.box.last = self.table
            x = x + self.table
        if self.kind == "notes":
            self.notes.append(x.shape)
            self.box.count += 1
        return self.b(self.drop((self.through(x) if self.kind == "closure" else self.norm(x)).relu()))


class Box:
    def __init__(self) -> None:
        self.count, self.last = 0, None


KINDS = ["usual", "counts", "running mean", "plain tensor", "tables", "notes", "closure"]


def state_of(model: Remembering) -> dict[str, Any]:
    tensors = {name: each.clone() for name, each in model.state_dict().items()}
    return {
        **tensors,
        "plain": model.plain.clone(),
        "modes": [module.training for module in model.modules()],
        "hooks": [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "trained": [parameter.requires_grad for parameter in model.parameters()],
        "others": (model.table, dict(model.tables), list(model.notes), model.box.count, model.box.last),
        "names": [sorted(vars(module)) for module in model.modules()],
        "classes": [type(module) for module in model.modules()],
    }


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def data() -> list[Any]:
    values = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    return [(value, row % 3) for row, value in enumerate(values)]


def x() -> tuple[torch.Tensor]:
    return (torch.stack([value for value, _ in data()[:4]]),)


def trained(model: nn.Module, store: str) -> None:
    features = featcache.extract(model, data(), store, cut="a", batch_size=4)
    featcache.train_head(featcache.split(model, "a", x()), features, epochs=1, batch_size=4)


WAYS: dict[str, Callable[[nn.Module, str], Any]] = {
    "cuts": lambda model, store: featcache.cuts(model, x()),
    "split": lambda model, store: featcache.split(model, "norm", x()),
    "prefix": lambda model, store: featcache.split(model, "norm", x()).prefix(*x()),
    "check": lambda model, store: featcache.split(model, "norm", x()).check(*x()),
    "extract": lambda model, store: featcache.extract(model, data(), store, cut=["a", "norm"], batch_size=4),
    "train_head": trained,
    "probe": lambda model, store: featcache.probe(model, data(), store, cuts=["a"]),
    "sweep": lambda model, store: featcache.sweep(model, data(), store, cuts=["a"], epochs=1),
    "unknown cut": lambda model, store: featcache.split(model, "no", x()),
    "wrong input": lambda model, store: featcache.split(model, "a", (torch.zeros(2, 9),)),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_callers_network_is_left_as_it_was(kind: str, way: str, training: bool, tmp_path: Path) -> None:
    model = Remembering(kind).train(training)
    model.norm.eval()
    before, generator = state_of(model), torch.get_rng_state()
    with suppress(FeatCacheError):
        WAYS[way](model, str(tmp_path))
    after = state_of(model)
    assert [name for name in before if not same(before[name], after[name])] == []
    assert torch.equal(torch.get_rng_state(), generator)


def test_parameters_that_do_not_exist_yet_are_refused_and_left_so() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(SplitError, match="run the model once on a batch"):
        featcache.split(model, "1", (torch.randn(2, 3),))
    assert isinstance(model[0].weight, nn.parameter.UninitializedParameter)
    model(torch.randn(2, 3))
    assert featcache.split(model, "1", (torch.randn(2, 3),)).cut == "1"


def test_a_network_in_use_by_its_caller_meanwhile_gives_what_it_gave() -> None:
    model = Remembering("tables").eval()
    expected = copy.deepcopy(model)(*x())
    featcache.split(model, "norm", x())
    assert torch.equal(model(*x()), expected)


def test_a_closure_is_copied_over_what_it_will_find_later() -> None:
    def later(x: torch.Tensor) -> torch.Tensor:
        return module(x)

    model = nn.Linear(4, 3)
    model.later = later
    copied = deep_copy(model)
    module = model
    with pytest.raises(NameError):  # the copy has a cell of its own, as empty as it was
        copied.later(torch.ones(1, 4))
    again = deep_copy(model)
    x = torch.ones(1, 4)
    assert torch.equal(again.later(x), model(x))
    with torch.no_grad():
        again.weight.zero_()
    assert not torch.equal(again.later(x), model(x))


class Shelf:
    def __init__(self, **kept: Any) -> None:
        vars(self).update(kept)


def test_a_skeleton_that_shares_objects_copies_only_those_that_lead_to_a_module() -> None:
    model, layer = nn.Module(), nn.Linear(2, 2)
    model.layer = layer
    model.plain = Shelf(dict={"a": 1}, list=[1], set={1}, deque=deque([1]), tuple=([1],), none={})
    leading = {"dict": {1: layer}, "list": [layer], "set": {layer}, "deque": deque([layer]), "tuple": (layer,)}
    model.leading = Shelf(**leading)
    copied, own = skeleton(model, shares_objects=True), skeleton(model)
    assert copied.plain is model.plain
    for name, kept in vars(model.plain).items():
        assert getattr(own.plain, name) is not kept
        assert getattr(own.plain, name) == kept
    for name, kept in leading.items():
        for made in (copied, own):
            found = getattr(made.leading, name)
            assert type(found) is type(kept)
            assert list(found.values() if isinstance(found, dict) else found) == [made.layer]
        assert getattr(model.leading, name) is kept
        assert list(kept.values() if isinstance(kept, dict) else kept) == [layer]
