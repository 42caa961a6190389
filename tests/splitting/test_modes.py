"""Training and evaluation mode are what the network's own train() and eval() make of them."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import featcache
from featcache.errors import SplitError


class FrozenNorm(nn.Module):
    """Keeps its BatchNorm in evaluation mode, as detection backbones do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer1, self.layer2, self.layer3 = self.block(3), self.block(8), self.block(8)
        self.fc = nn.Linear(8, 3)

    @staticmethod
    def block(channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))

    def train(self, mode: bool = True) -> FrozenNorm:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class FrozenNormReplayed(FrozenNorm):
    """The same with a branch on values after the cut, which no graph can hold."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2(self.layer1(x))
        if float(x.sum()) < -1e9:
            x = x * 2
        return self.fc(self.layer3(x).mean((2, 3)))


def images(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("kind", [FrozenNorm, FrozenNormReplayed])
def test_batch_norm_that_the_network_keeps_frozen_stays_so_in_the_suffix(kind: type[FrozenNorm]) -> None:
    model, x = kind().eval(), images()
    made = featcache.split(model, "layer1", (x[:2],))
    with torch.no_grad():
        expected = copy.deepcopy(model).train()(x)
    made.suffix.train()
    assert torch.allclose(made.suffix(made.prefix(x)), expected, atol=1e-6)
    again = copy.deepcopy(made)
    again.suffix.train()
    assert torch.allclose(again.suffix(again.prefix(x)), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [FrozenNorm, FrozenNormReplayed])
def test_train_head_leaves_statistics_alone_that_the_network_keeps_frozen(
    kind: type[FrozenNorm], tmp_path: Path
) -> None:
    model, x = kind().eval(), images()
    data = [(each, row % 3) for row, each in enumerate(x)]
    features = featcache.extract(model, data, str(tmp_path), cut="layer1", batch_size=4)
    head = featcache.train_head(featcache.split(model, "layer1", (x[:2],)), features, epochs=2, batch_size=6)
    for name, buffer in model.named_buffers():
        assert torch.equal(dict(head.model.named_buffers())[name], buffer), name


@pytest.mark.parametrize("cut", ["stem", "block"])
def test_a_trainer_that_leaves_modes_alone_trains_the_suffix_as_the_whole_network_is_trained(net, cut: str) -> None:
    x, whole = torch.randn(8, 3, 12, 12), copy.deepcopy(net)
    made = featcache.split(net, cut, (x[:2],))
    statistics = net.tail[1].running_mean.clone()
    assert all(module.training for module in made.suffix.modules())
    assert not any(module.training for module in net.modules())
    frontier = made.prefix(x)
    torch.manual_seed(0)
    made.suffix(frontier).square().mean().backward()
    behind = [whole.block, whole.tail, whole.fc] if cut == "stem" else [whole.tail, whole.fc]
    for module in behind:
        module.train()
    torch.manual_seed(0)
    whole(x).square().mean().backward()
    for name, parameter in made.suffix.named_parameters():
        assert torch.equal(parameter.grad, whole.get_parameter(name).grad), name
    for name, buffer in net.named_buffers():  # the network's own: statistics are shared
        assert torch.equal(buffer, whole.get_buffer(name)), name
    assert not torch.equal(net.tail[1].running_mean, statistics)
    assert torch.equal(net(x), net(x))


def test_the_suffix_of_a_network_in_training_mode_has_the_modes_that_it_was_given(net) -> None:
    net.train()
    net.tail[1].eval()
    made = featcache.split(net, "block", (torch.randn(2, 3, 12, 12),))
    idle = [name for name, module in made.suffix.named_modules() if not module.training]
    assert idle == ["tail.1"]
    assert [name for name, module in net.named_modules() if not module.training] == ["tail.1"]


@pytest.mark.parametrize("kind", [FrozenNorm, FrozenNormReplayed])
def test_the_suffix_is_handed_out_in_the_modes_of_the_networks_own_train(kind: type[FrozenNorm]) -> None:
    made = featcache.split(kind().eval(), "layer1", (images(2),))
    for each in (made, copy.deepcopy(made), made.replayed()):
        assert each.suffix.training
        for name, module in each.suffix.named_modules():
            assert module.training is not isinstance(module, nn.BatchNorm2d), name


def test_the_suffix_moves_and_is_loaded_with_the_network() -> None:
    model, other = FrozenNorm().eval(), FrozenNormReplayed().eval()
    made = featcache.split(model, "layer1", (images(2),))
    for parameter in other.parameters():
        parameter.data.add_(0.1)
    model.load_state_dict(other.state_dict(), assign=True)
    model.double()
    x = images(4).double()
    assert torch.equal(made.suffix.eval()(made.prefix(x)), model(x))
    made.suffix.float()
    assert {each.dtype for each in model.fc.parameters()} == {torch.float32}


class DropoutAlways(nn.Module):
    """Keeps its dropout on, as Monte Carlo dropout does."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.drop, self.b = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.drop(self.a(x)))

    def train(self, mode: bool = True) -> DropoutAlways:
        super().train(mode)
        self.drop.training = True
        return self


def test_dropout_that_the_network_keeps_on_makes_the_prefix_random_and_is_refused() -> None:
    with pytest.raises(SplitError, match="random numbers"):
        featcache.split(DropoutAlways().eval(), "drop", (torch.randn(4, 4),))


class Merging(nn.Module):
    """Merges an adapter into the weight in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.adapter = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
        self.merged = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight if self.merged else self.weight + self.adapter
        return x @ weight

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += self.adapter.data * (-1 if mode else 1)
            self.merged = not mode
        return self


@pytest.mark.parametrize("training", [True, False])
def test_weights_that_train_and_eval_change_are_refused_and_stay_as_they_were(training: bool) -> None:
    model = nn.Sequential(Merging(), nn.Linear(4, 2)).train(training)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SplitError, match=r"own (train|eval)\(\) changes '0.weight'"):
        featcache.split(model, "0", (torch.randn(4, 4),))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].merged is (not training)


class Reached(nn.Module):
    """Reaches a module of its own in a roundabout way."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.inner = inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        if way == "closure":
            self.run = lambda x: inner(x)
        elif way == "self":
            self.run = lambda x: self.inner(x)
        elif way == "default":
            self.run = lambda x, inner=inner: inner(x)
        elif way == "object":
            self.run = Runner(inner)
        elif way == "method":
            self.run = Runner(inner).run
        elif way == "list":
            self.run = lambda x, parts=[[inner]]: parts[0][0](x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.run(x)


class Runner:
    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def run(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)

    __call__ = run


@pytest.mark.parametrize("way", ["closure", "self", "default", "object", "method", "list"])
def test_a_module_that_is_reached_in_a_roundabout_way_is_in_evaluation_mode_and_left_alone(way: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), Reached(way), nn.Linear(4, 2)).eval(), torch.randn(8, 4)
    made = featcache.split(model, "1", (x[:2],))
    expected = made.prefix(x)
    model.train()
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(made.prefix(x), expected)
    featcache.split(model, "0", (x[:2],))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_hook_that_fills_its_callers_list_fills_it_in_the_suffix_too() -> None:
    model, seen = FrozenNormReplayed().eval(), []
    model.layer3.register_forward_hook(lambda module, args, output: seen.append(output))
    made = featcache.split(model, "layer1", (images(2),))
    assert not made.flat
    seen.clear()
    made.suffix(made.prefix(images(2)))
    assert len(seen) == 1
