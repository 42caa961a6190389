"""Training from the cache against the usual loop over the whole network, bit for bit on one thread."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import featcache

from ..conftest import SmallNet, TensorPairs
from .reference import usual_loop

ROWS, CLASSES, BATCH, SEED, EPOCHS = 48, 3, 12, 7, 8  # 32 steps, every batch full
LOOP = {"classes": CLASSES, "epochs": EPOCHS, "batch_size": BATCH, "seed": SEED, "lr": 3e-3, "weight_decay": 0.01}


class SkipNet(nn.Module):
    """A skip connection that crosses the cut ``first``, with BatchNorm and dropout after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.drop = nn.Dropout(0.25)
        self.fc = nn.Linear(6, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.second(torch.relu(self.first(x)))
        return self.fc(self.drop(torch.relu(x + y).mean((2, 3))))


class CodeNet(nn.Module):
    """Its own code after the cut: functional dropout that asks for the mode, and a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2)
        self.mix = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.norm = nn.BatchNorm1d(6)
        self.fc = nn.Linear(6, 9)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x)).mean((2, 3))
        for layer in self.mix:
            x = functional.dropout(torch.relu(layer(x)), 0.2, self.training)
        return self.fc(self.norm(x))


class PointwiseNet(nn.Module):
    """A 1x1 convolution gives the class scores, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(6, 9, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.classifier(self.stem(x)), 1)


@pytest.fixture
def data() -> TensorPairs:
    generator = torch.Generator().manual_seed(3)
    return TensorPairs(torch.randn(ROWS, 3, 10, 10, generator=generator), torch.arange(ROWS) % CLASSES)


def assert_equal(mine: nn.Module, theirs: nn.Module) -> None:
    left, right = mine.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.isfinite(value).all() for value in left.values())
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


CASES = [
    pytest.param(SkipNet, "first", ("stem", "first"), id="a skip crosses the cut"),
    pytest.param(CodeNet, "stem", ("stem",), id="functional dropout and a loop"),
    pytest.param(PointwiseNet, "stem", ("stem",), id="a pointwise convolution as last layer"),
    pytest.param(SmallNet, "tail", ("stem", "block", "tail"), id="pooling folded"),
]


@pytest.mark.slow
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(("kind", "cut", "frozen"), CASES)
def test_thirty_steps_from_the_cache_equal_the_usual_loop(data, tmp_path, kind, cut, frozen, fold: bool) -> None:
    torch.manual_seed(1)
    split = featcache.split(kind().eval(), cut, (data.inputs[:2],))
    features = featcache.extract(split, data, str(tmp_path / "s"), batch_size=BATCH)
    expected = usual_loop(split, data, features, frozen, loss_of=nn.CrossEntropyLoss(), **LOOP)
    trained = featcache.train_head(
        split, features, epochs=EPOCHS, batch_size=BATCH, learning_rate=3e-3, validation=0, seed=SEED, fold=fold
    )
    assert_equal(trained.model, expected)
    assert torch.equal(trained.model(data.inputs), expected(data.inputs))


@pytest.mark.parametrize("fold", [True, False])
def test_with_frozen_layers_behind_the_cut_thirty_steps_equal_the_usual_loop(data, tmp_path, fold: bool) -> None:
    torch.manual_seed(1)
    split = featcache.split(SmallNet().eval(), "stem", (data.inputs[:2],))
    features = featcache.extract(split, data, str(tmp_path / "s"), batch_size=BATCH)
    expected = usual_loop(split, data, features, ("stem", "block"), loss_of=nn.CrossEntropyLoss(), **LOOP)
    trained = featcache.train_head(
        split, features, epochs=EPOCHS, batch_size=BATCH, learning_rate=3e-3, validation=0, seed=SEED, fold=fold,
        trainable=["tail", "fc"],
    )  # fmt: skip
    assert_equal(trained.model, expected)


def test_loss_options_and_optimizers_equal_the_usual_loop(data, tmp_path) -> None:
    torch.manual_seed(1)
    split = featcache.split(SkipNet().eval(), "first", (data.inputs[:2],))
    features = featcache.extract(split, data, str(tmp_path / "s"), batch_size=BATCH)
    weights = [1.0, 2.0, 0.5]
    loss = nn.CrossEntropyLoss(weight=torch.tensor(weights), label_smoothing=0.1)
    expected = usual_loop(
        split, data, features, ("stem", "first"), loss_of=loss, optimizer_of=torch.optim.SGD, momentum=0.9, **LOOP
    )
    trained = featcache.train_head(
        split, features, epochs=EPOCHS, batch_size=BATCH, learning_rate=3e-3, validation=0, seed=SEED, optimizer="sgd",
        class_weights=weights, label_smoothing=0.1,
    )  # fmt: skip
    assert_equal(trained.model, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_backbone_of_another_precision_trains_in_it(data, tmp_path, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    model = SmallNet().to(dtype).eval()
    data.inputs = data.inputs.to(dtype)
    split = featcache.split(model, "block", (data.inputs[:2],))
    features = featcache.extract(split, data, str(tmp_path / "s"))
    trained = featcache.train_head(split, features, epochs=2, class_weights="balanced")
    assert trained.model.fc.weight.dtype == dtype
    assert len(featcache.predict(trained, data).labels) == ROWS
    linear = featcache.train_head(split, features, head="linear", epochs=2)
    assert len(featcache.predict(linear, data).labels) == ROWS
