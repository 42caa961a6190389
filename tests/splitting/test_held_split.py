"""A split that is held while its network changes: nothing that was recorded before is used after."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

import featcache
from featcache.errors import HeadError, StaleError


class Plain:
    """An object that torch does not know of, with a network in it."""

    def __init__(self) -> None:
        self.layer = nn.Linear(8, 8)


class Net(nn.Module):
    """Computes with all kinds of things that are neither parameters nor buffers, before the cut and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.mean, self.shifts = 1.0, torch.tensor(0.3), [0.1, 0.2]
        self.stem = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.plain, self.hidden = Plain(), [nn.Linear(8, 8)]
        hidden = self.hidden
        self.call = lambda x: hidden[0](x)
        self.mid = nn.Linear(8, 8)
        self.beta, self.after = 1.0, nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - self.mean) * self.alpha + self.shifts[0]
        x = self.mid(self.call(self.plain.layer(self.stem(x))))
        return self.fc(self.after(x.relu() * self.beta))


def put(name: str, value):
    return lambda net: setattr(net, name, value)


def other_forward(net: Net) -> None:
    net.stem.forward = types.MethodType(lambda self, x: self[0](x), net.stem)


BEFORE = {
    "an attribute": put("alpha", 3.0),
    "a plain tensor, in place": lambda net: net.mean.fill_(5.0),
    "a plain tensor": put("mean", torch.tensor(5.0)),
    "an entry of a list": lambda net: net.shifts.__setitem__(0, 2.0),
    "an activation": lambda net: net.stem.__setitem__(1, nn.Tanh()),
    "a replaced forward": other_forward,
    "a forward hook": lambda net: net.stem.register_forward_hook(lambda module, given, output: output * 3),
    "a forward pre-hook": lambda net: net.stem.register_forward_pre_hook(lambda module, given: (given[0] * 3,)),
    "a module in a plain object": lambda net: net.plain.layer.weight.data.mul_(2),
    "a module in a list": lambda net: net.hidden[0].weight.data.mul_(2),
    "a module that a lambda reaches": lambda net: net.hidden.__setitem__(0, nn.Linear(8, 8)),
}
BEHIND = {
    "an attribute": put("beta", 0.5),
    "an activation": lambda net: net.after.__setitem__(1, nn.Tanh()),
    "a hook": lambda net: net.after.register_forward_hook(lambda module, given, output: output * 3),
}


@pytest.fixture
def network() -> Net:
    torch.manual_seed(1)
    return Net().eval()


@pytest.fixture
def rows() -> list[tuple[torch.Tensor, int]]:
    inputs = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    return [(each, number % 3) for number, each in enumerate(inputs)]


@pytest.mark.parametrize("change", BEFORE)
def test_a_change_before_the_cut_is_noticed_when_the_split_is_used_again(network, rows, tmp_path, change: str) -> None:
    split = featcache.split(network, "mid", (torch.zeros(2, 6),))
    store = featcache.FeatureStore(str(tmp_path / "store"))
    before = featcache.extract(split, rows, store)
    head = featcache.train_head(split, before, epochs=1)
    folder = head.save(tmp_path / "head")
    BEFORE[change](network)
    for use in (lambda: featcache.load_head(folder, split), lambda: featcache.merge(head, split)):
        with pytest.raises((HeadError, StaleError)):
            use()
    with pytest.raises(StaleError):
        featcache.train_head(split, before, epochs=1)
    with pytest.raises(StaleError):
        featcache.train_heads(split, before, [{}], epochs=1)
    with pytest.raises(StaleError):
        featcache.train_unfreezing(split, {"mid": before}, "mid:1")
    with pytest.raises(StaleError):
        featcache.train_freezing(split, before, "mid:1", rows, store)
    assert store.status(split, rows).state == "stale"
    after = featcache.extract(split, rows, store)
    assert after.report.computed == len(rows)
    inputs = torch.stack([each for each, _ in rows])
    seen = []
    hook = network.mid.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        network(inputs)
    hook.remove()
    assert torch.allclose(torch.from_numpy(after.numpy()[0]), seen[0], atol=1e-6)
    assert featcache.extract(network, rows, store, cut="mid").report.computed == 0


@pytest.mark.parametrize("change", BEHIND)
def test_a_change_behind_the_cut_costs_nothing_and_is_trained_on(network, rows, tmp_path, change: str) -> None:
    split = featcache.split(network, "mid", (torch.zeros(2, 6),))
    featcache.extract(split, rows, str(tmp_path / "store"))
    BEHIND[change](network)
    features = featcache.extract(split, rows, str(tmp_path / "store"))
    assert features.report.computed == 0
    options = {"epochs": 2, "batch_size": 4, "validation": 0.0}
    held = featcache.train_head(split, features, **options)
    fresh = featcache.train_head(featcache.split(network, "mid", (torch.zeros(2, 6),)), features, **options)
    for mine, other in zip(held.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_a_split_of_a_network_that_did_not_change_is_used_as_it_is(network, rows, tmp_path) -> None:
    split = featcache.split(network, "mid", (torch.zeros(2, 6),))
    features = featcache.extract(split, rows, str(tmp_path / "store"))
    network.train()
    network.fc.weight.data.mul_(2)
    assert featcache.extract(split, rows, str(tmp_path / "store")).report.computed == 0
    featcache.train_head(split, features, epochs=1)
