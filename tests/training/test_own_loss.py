"""Losses of the caller's own: what they are given, what they train, and what is refused of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import featcache
from featcache.errors import HeadError, UsageError
from featcache.heads import new_network

from ..conftest import Items, SmallNet

ROWS = 40
EQUAL = {"batch_size": 8, "learning_rate": 3e-3, "seed": 5, "epochs": 4, "lr_schedule": "constant", "validation": 0}


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(ROWS, 3, 12, 12, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def classes(inputs) -> np.ndarray:
    return (inputs.mean((1, 2, 3)) > 0).long().numpy()


def cached(inputs, targets, tmp_path, model: nn.Module | None = None, cut: str = "block"):
    torch.manual_seed(0)
    split = featcache.split((model or SmallNet()).eval(), cut, (inputs[:2],))
    return split, featcache.extract(split, Items(inputs, targets), str(tmp_path / "store"), batch_size=8)


def usual(model: nn.Module, features, inputs, targets, loss_of: Callable, trained=("tail", "fc")) -> nn.Module:
    """Return the network that the usual loop trains by a loss of (output, targets, what crosses the cut)."""
    parameters = [value for name, value in model.named_parameters() if name.startswith(trained)]
    optimizer = torch.optim.AdamW(parameters, 3e-3, weight_decay=0.01)
    loader = features.loader(8, seed=5)
    torch.manual_seed(5)
    for epoch in range(4):
        model.eval()
        for name in trained:
            model.get_submodule(name).train()
        for rows in torch.from_numpy(loader.order(epoch)).split(8):
            with torch.no_grad():
                crossing = model.block(model.stem(inputs[rows]))
            loss = loss_of(model(inputs[rows]), torch.from_numpy(targets)[rows], crossing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def assert_same(trained: featcache.TrainedHead, expected: nn.Module) -> None:
    mine = trained.model.state_dict()
    assert [name for name, value in expected.state_dict().items() if not torch.equal(mine[name], value)] == []


def focal(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    each = functional.cross_entropy(output, targets, reduction="none")
    return ((1 - torch.exp(-each)) ** 2 * each).mean()


def leaning(output: torch.Tensor, targets: torch.Tensor, frontier: torch.Tensor) -> torch.Tensor:
    """Ask for what crosses the cut too."""
    return functional.cross_entropy(output, targets) + (output.mean(1) - frontier.mean((1, 2, 3))).square().mean()


def test_any_loss_trains_as_it_does_in_the_usual_loop(inputs, classes, tmp_path) -> None:
    split, features = cached(inputs, classes, tmp_path)
    trained = featcache.train_head(split, features, loss=focal, **EQUAL)
    expected = usual(new_network(split, 2, 5).model, features, inputs, classes, lambda out, true, _: focal(out, true))
    assert_same(trained, expected)


@pytest.mark.parametrize("loss", [functional.cross_entropy, nn.CrossEntropyLoss()])
def test_the_loss_that_is_the_tasks_own_changes_nothing(inputs, classes, tmp_path, loss) -> None:
    split, features = cached(inputs, classes, tmp_path)
    plain = featcache.train_head(split, features, **EQUAL)
    assert_same(featcache.train_head(split, features, loss=loss, **EQUAL), plain.model)


def test_a_loss_with_a_third_parameter_gets_what_crosses_the_cut(inputs, classes, tmp_path) -> None:
    split, features = cached(inputs, classes, tmp_path)
    trained = featcache.train_head(split, features, loss=leaning, **EQUAL)
    assert_same(trained, usual(new_network(split, 2, 5).model, features, inputs, classes, leaning))
    # Where layers after the cut are frozen, or features pooled, it is given the same.
    alone = featcache.train_head(split, features, loss=leaning, trainable=["fc"], **EQUAL)
    assert_same(alone, usual(new_network(split, 2, 5).model, features, inputs, classes, leaning, ("fc",)))
    assert featcache.train_head(split, features, loss=leaning, head="linear", **EQUAL).history[-1].train_loss > 0


def test_rows_are_validated_by_the_same_loss(inputs, classes, tmp_path) -> None:
    split, features = cached(inputs, classes, tmp_path)
    features = features.with_splits(["train"] * 28 + ["val"] * 12)
    trained = featcache.train_head(split, features, loss=focal, epochs=3, batch_size=8)
    with torch.no_grad():
        parts = [trained.layers(frontier) for frontier, _ in features.where("val").loader(8, shuffle=False)]
    expected = [float(focal(out, torch.from_numpy(classes)[28 + 8 * n :][: len(out)])) for n, out in enumerate(parts)]
    least = min(record.validation_loss for record in trained.history)
    assert least == pytest.approx((8 * expected[0] + 4 * expected[1]) / 12, rel=1e-5)


def test_a_head_is_saved_without_its_loss_and_predicts(inputs, classes, tmp_path) -> None:
    split, features = cached(inputs, classes, tmp_path)
    trained = featcache.train_head(split, features, loss=lambda out, true: focal(out, true), epochs=1, batch_size=8)
    folder = trained.save(tmp_path / "head")
    assert json.loads((folder / "head.json").read_text())["options"]["loss"] is None
    again = featcache.load_head(folder, split)
    assert np.array_equal(again.predict_proba(features), trained.predict_proba(features))
    assert again.metrics == trained.metrics


def contrastive(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Pull what has the same number together and push the rest apart; it takes no single row for what it means."""
    vectors = functional.normalize(output)
    same = (targets[:, None] == targets) & ~torch.eye(len(targets), dtype=torch.bool)
    shares = (vectors @ vectors.T / 0.5).log_softmax(1)
    return -(shares * same).sum() / same.sum().clamp(min=1)


def test_the_networks_own_output_is_trained_by_any_targets_and_its_last_layer_stays(inputs, tmp_path) -> None:
    groups = np.arange(ROWS) % 5 - 2  # class numbers they are not
    split, features = cached(inputs, groups, tmp_path)
    before = copy.deepcopy(split.model)
    trained = featcache.train_head(split, features, loss=contrastive, task="output", **EQUAL)
    expected = usual(copy.deepcopy(before), features, inputs, groups, lambda out, true, _: contrastive(out, true))
    assert_same(trained, expected)
    assert (trained.task.kind, trained.classes, trained.metrics) == ("output", [], None)
    again = featcache.load_head(trained.save(tmp_path / "head"), split)
    predicted = featcache.predict(again, list(inputs))
    with torch.no_grad():
        assert np.allclose(predicted.values, expected(inputs).numpy(), atol=1e-6)
    assert np.allclose(again.predict_values(features), predicted.values, atol=1e-6)
    assert predicted.to_csv().splitlines()[0] == "name,value 0,value 1,value 2,value 3"
    assert list(json.loads(predicted.to_json())[0]["values"]) == ["value 0", "value 1", "value 2", "value 3"]
    for asked in (trained.predict_proba, trained.evaluate):
        with pytest.raises(UsageError, match="predict_values"):
            asked(features)


def test_float_maps_are_learned_by_a_loss_of_ones_own(inputs, tmp_path) -> None:
    class Depth(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.tail(self.block(self.stem(x)))

    depths = inputs.mean(1)[:, ::2, ::2].numpy()
    split, features = cached(inputs, depths, tmp_path, Depth())
    trained = featcache.train_head(
        split, features, task="output", loss=lambda out, true: functional.l1_loss(out[:, 0], true), epochs=4
    )
    assert trained.history[-1].validation_loss < 2
    assert trained.predict_values(features).shape == (ROWS, 8, 6, 6)


class WithLoss(nn.Module):
    """As networks of transformers, it returns its own loss where it is given labels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.classifier = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.classifier(torch.tanh(self.body(torch.tanh(self.stem(x)))))
        return {"loss": functional.cross_entropy(logits, labels), "logits": logits}


def test_a_network_that_returns_its_own_loss_is_trained_by_that_or_by_its_scores(tmp_path) -> None:
    x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1))
    labels = (x[:, 0] > 0).long()
    samples = [({"x": x[row], "labels": labels[row]}, int(labels[row])) for row in range(ROWS)]
    torch.manual_seed(0)
    split = featcache.split(WithLoss().eval(), "stem", {"x": x[:2], "labels": labels[:2]})
    features = featcache.extract(split, samples, str(tmp_path / "store"))
    by_scores = featcache.train_head(split, features, **EQUAL)
    own = featcache.train_head(split, features, loss=lambda output, _: output["loss"], **EQUAL)
    assert_same(own, by_scores.model)
    kept = featcache.train_head(split, features, task="output", loss=lambda output, _: output["loss"], **EQUAL)
    assert kept.history[-1].train_loss < kept.history[0].train_loss


def test_a_network_that_returns_nothing_but_a_loss_is_told_what_to_give(tmp_path) -> None:
    class OnlyLoss(WithLoss):
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return super().forward(x, labels)["loss"]

    x, labels = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(1)), torch.arange(ROWS) % 2
    samples = [({"x": x[row], "labels": labels[row]}, row % 2) for row in range(ROWS)]
    split = featcache.split(OnlyLoss().eval(), "stem", {"x": x[:2], "labels": labels[:2]})
    features = featcache.extract(split, samples, str(tmp_path / "store"))
    with pytest.raises(HeadError, match=r"its own loss.*task='output' with loss="):
        featcache.train_head(split, features, epochs=1)
    trained = featcache.train_head(split, features, task="output", loss=lambda output, _: output, epochs=4)
    assert trained.history[-1].train_loss < trained.history[0].train_loss
    with pytest.raises(HeadError, match="predicts nothing of a sample"):
        trained.predict_values(features)


class Learned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.scale * functional.cross_entropy(output, targets)


def test_losses_that_cannot_be_trained_by_are_refused_in_one_line(inputs, classes, tmp_path) -> None:
    split, features = cached(inputs, classes, tmp_path)
    plain = functional.cross_entropy
    for error, words, options in (
        (HeadError, r"shape \[8\]", {"loss": lambda out, true: plain(out, true, reduction="none")}),
        (HeadError, "returned float", {"loss": lambda out, true: float(plain(out.detach(), true))}),
        (HeadError, "no gradient", {"loss": lambda out, true: plain(out.detach(), true)}),
        (HeadError, "became nan in epoch 1", {"loss": lambda out, true: plain(out, true) * float("nan")}),
        (UsageError, "parameters of its own", {"loss": Learned()}),
        (UsageError, r"\(output, targets\)", {"loss": lambda out: out.mean()}),
        (UsageError, "not 4 values", {"loss": lambda a, b, c, d: a.mean()}),
        (UsageError, "not str", {"loss": "focal"}),
        (UsageError, "GaussianNLLLoss takes three values", {"loss": nn.GaussianNLLLoss()}),
        (UsageError, "gaussian_nll_loss takes three values", {"loss": functional.gaussian_nll_loss}),
        (UsageError, "scikit-learn", {"loss": focal, "head": "sklearn:Ridge"}),
        (UsageError, "label_smoothing", {"loss": focal, "label_smoothing": 0.1}),
        (UsageError, "class_weights", {"loss": focal, "class_weights": "balanced"}),
        (UsageError, "sample_weights", {"loss": focal, "sample_weights": np.ones(ROWS)}),
        (UsageError, "give loss", {"task": "output"}),
        (UsageError, "no metric", {"task": "output", "loss": contrastive, "metric": "accuracy"}),
        (UsageError, "--head suffix", {"task": "output", "loss": contrastive, "head": "linear"}),
    ):
        with pytest.raises(error, match=words) as caught:
            featcache.train_head(split, features, epochs=1, batch_size=8, **options)
        assert "\n" not in str(caught.value)

    def judged_badly(output: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return plain(output, targets) if torch.is_grad_enabled() else plain(output, targets) / 0

    with pytest.raises(HeadError, match="validation rows became inf"):
        featcache.train_head(split, features, epochs=1, batch_size=8, loss=judged_badly)
    with pytest.raises(UsageError, match="no loss but cross entropy"):
        featcache.train_heads(split, features, [{}], loss=focal)
    with pytest.raises(UsageError, match="task='output' keeps"):
        featcache.train_unfreezing(split, {"block": features}, "head:1,block:1", task="output", loss=contrastive)


def test_the_networks_own_output_may_be_one_number_a_sample(inputs, tmp_path) -> None:
    class Score(SmallNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).mean(1)

    split, features = cached(inputs, inputs.mean((1, 2, 3)).numpy(), tmp_path, Score())
    trained = featcache.train_head(split, features, task="output", loss=functional.mse_loss, epochs=1)
    found = featcache.predict(trained, list(inputs))
    assert found.values.shape == (ROWS,)
    assert np.allclose(found.values, trained.predict_values(features), atol=1e-6)
    assert found.to_csv().splitlines()[0] == "name,value 0"
