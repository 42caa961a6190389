"""Many linear heads in one pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn import metrics

import featcache
from featcache.errors import HeadError, UsageError
from featcache.training import products
from featcache.training.metrics import measure_heads
from featcache.training.tasks import Task

GRID = [
    {"learning_rate": rate, "weight_decay": decay, "seed": seed}
    for rate in (0.003, 0.1)
    for decay in (0.0, 0.3)
    for seed in (0, 5)
]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "sgd", "warmup_epochs": 1, "label_smoothing": 0.1},
        {"validation": 0.0},
        {"class_weights": [1.0, 0.2, 3.0, 0.5], "label_smoothing": 0.2},
    ],
)
def test_each_of_many_heads_equals_the_one_that_is_trained_alone(made, features, options) -> None:
    heads = featcache.train_heads(made, features, GRID, epochs=4, batch_size=16, **options)
    for entry, head in zip(GRID, heads, strict=True):
        alone = featcache.train_head(made, features, head="linear", epochs=4, batch_size=16, **options, **entry)
        for name, value in alone.layers.state_dict().items():
            assert torch.allclose(head.layers.state_dict()[name], value, atol=1e-5), (entry, name)
        assert head.options == alone.options
        if alone.metrics is None:
            assert head.metrics is None
        else:
            assert head.metrics.log_loss == pytest.approx(alone.metrics.log_loss, abs=1e-4)
            assert head.metrics == replace(alone.metrics, log_loss=head.metrics.log_loss)
        assert head.validation_metrics == head.metrics
        for mine, theirs in zip(head.history, alone.history, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, abs=1e-4)
            assert mine.learning_rate == pytest.approx(theirs.learning_rate)


def test_heads_measured_together_have_scikit_learns_metrics_where_probabilities_are_0_and_1_too() -> None:
    generator, task = torch.Generator().manual_seed(0), Task("single_label", ("a", "b", "c", "d"))
    outputs = [torch.randn(50, 4, generator=generator) * scale for scale in (0.1, 3.0, 1000.0)]
    true = np.arange(50) % 3  # one class does not occur
    for found, each in zip(measure_heads("given", task, true, outputs), outputs, strict=True):
        predicted, probable = task.decoded(each), task.probabilities(each)
        assert found.accuracy == metrics.accuracy_score(true, predicted)
        assert found.log_loss == pytest.approx(metrics.log_loss(true, probable, labels=range(4)), rel=1e-12)
        assert found.confusion_matrix == metrics.confusion_matrix(true, predicted, labels=range(4)).tolist()


def test_heads_are_the_same_where_torch_has_no_products_of_onednn(made, features, monkeypatch) -> None:
    with_onednn = featcache.train_heads(made, features, GRID, epochs=2, batch_size=16)
    monkeypatch.setattr(products, "_of_onednn", lambda: None)
    for head, other in zip(
        featcache.train_heads(made, features, GRID, epochs=2, batch_size=16), with_onednn, strict=True
    ):
        for name, value in other.layers.state_dict().items():
            assert torch.allclose(head.layers.state_dict()[name], value, atol=1e-6)


def test_a_changed_network_of_one_of_many_heads_is_no_other_heads(made, features, pairs) -> None:
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    changed, other = featcache.train_heads(made, features, GRID[:2], epochs=2)
    with torch.no_grad():
        for tensor in (*changed.model.parameters(), *changed.model.buffers()):
            tensor.mul_(3)
    assert torch.equal(changed.layers.state_dict()["1.weight"], changed.model.head.weight)
    assert all(torch.equal(before[name], value) for name, value in made.model.state_dict().items())
    assert all(torch.equal(before[name], value) for name, value in other.split.model.state_dict().items())
    with torch.no_grad():
        assert torch.allclose(other.model(pairs.inputs), other.outputs(features), atol=1e-5)
    assert other.model is other.model
    assert not any(module.training for module in other.model.modules())


def test_a_callers_model_that_changes_later_changes_none_of_many_heads(made, features, pairs) -> None:
    (head,) = featcache.train_heads(made, features, [{}], epochs=2)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.zero_()
        with torch.inference_mode():
            network = head.model
        assert torch.allclose(network(pairs.inputs), head.outputs(features), atol=1e-5)
    network(pairs.inputs).sum().backward()
    assert network.head.weight.grad is not None


def test_one_of_many_heads_is_saved_and_loaded_like_any_other(made, features, pairs, tmp_path) -> None:
    heads = featcache.train_heads(made, features, GRID[::2], epochs=2)
    loaded = featcache.load_head(heads[1].save(tmp_path / "head"), made)
    assert loaded.metrics == heads[1].metrics
    assert loaded.options == heads[1].options
    assert torch.equal(loaded.outputs(features), heads[1].outputs(features))
    with torch.no_grad():
        assert torch.equal(loaded.model(pairs.inputs), heads[1].model(pairs.inputs))


def test_what_would_part_the_heads_is_refused(made, features) -> None:
    with pytest.raises(UsageError, match="epochs"):
        featcache.train_heads(made, features, [{"epochs": 3}])
    with pytest.raises(UsageError, match="linear"):
        featcache.train_heads(made, features, [{}], head="suffix")
    with pytest.raises(UsageError, match="patience"):
        featcache.train_heads(made, features, [{}], patience=2)
    assert featcache.train_heads(made, features, []) == []


def test_a_head_whose_loss_diverges_is_named_by_its_rate_as_one_trained_alone_is(made, features) -> None:
    options = {"epochs": 3, "validation": 0.0, "optimizer": "sgd"}
    with pytest.raises(HeadError, match=r"smaller --learning-rate than 1e\+38"):
        featcache.train_head(made, features, head="linear", learning_rate=1e38, **options)
    with pytest.raises(HeadError, match=r"smaller learning_rate than 1e\+38 in the grid"):
        featcache.train_heads(made, features, [{"learning_rate": 1e-3}, {"learning_rate": 1e38}], **options)


@pytest.mark.parametrize("name", ["sample_weights", "progress", "epoch"])
def test_an_option_that_heads_do_not_share_is_refused_in_a_sentence(made, features, name: str) -> None:
    with pytest.raises(UsageError, match=f"train_heads has no option '{name}'"):
        featcache.train_heads(made, features, [{}], **{name: None})
