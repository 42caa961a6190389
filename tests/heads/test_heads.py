from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

import featcache
from featcache.errors import DataError, HeadError, StaleError, UnknownNameError, UsageError
from featcache.training.tasks import output_tensor

from ..conftest import SmallNet, TensorPairs
from .reference import usual_loop

OPTIONS = {
    "epochs": 8,
    "batch_size": 12,
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "seed": 11,
    "validation": 0.0,
}


@pytest.fixture
def task() -> TensorPairs:
    """Four classes that differ in brightness and slant, learnable by a small network."""
    generator = torch.Generator().manual_seed(5)
    targets = torch.arange(50) % 4
    ramp = torch.linspace(-1, 1, 12)
    pattern = torch.stack([ramp.expand(12, 12), ramp.expand(12, 12).T, -ramp.expand(12, 12), torch.zeros(12, 12)])
    inputs = pattern[targets].unsqueeze(1) + 0.3 * torch.randn(50, 3, 12, 12, generator=generator)
    return TensorPairs(inputs, targets, ["right", "down", "left", "flat"])


@pytest.mark.parametrize(("cut", "frozen"), [("block", ("stem", "block")), ("tail", ("stem", "block", "tail"))])
def test_training_from_the_cache_equals_the_whole_network_bit_for_bit_over_30_steps(
    net, task, tmp_path, cut: str, frozen: tuple[str, ...]
) -> None:
    made = featcache.split(net, cut, (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"), batch_size=50)
    expected = usual_loop(
        made, task, features, frozen, classes=4, epochs=OPTIONS["epochs"], batch_size=OPTIONS["batch_size"],
        seed=OPTIONS["seed"], loss_of=nn.CrossEntropyLoss(), lr=OPTIONS["learning_rate"],
        weight_decay=OPTIONS["weight_decay"],
    )  # fmt: skip
    trained = featcache.train_head(made, features, **OPTIONS)
    mine, theirs = trained.model.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert torch.equal(trained.model(task.inputs), expected(task.inputs))


def test_folding_changes_nothing_but_the_time(net, task, tmp_path) -> None:
    made = featcache.split(net, "stem", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    options = {**OPTIONS, "trainable": ["fc"]}
    folded = featcache.train_head(made, features, **options)
    plain = featcache.train_head(made, features, fold=False, **options)
    for name, value in plain.model.state_dict().items():
        assert torch.allclose(folded.model.state_dict()[name], value, atol=1e-6), name
    untouched = [name for name in net.state_dict() if not name.startswith("fc")]
    assert all(torch.equal(folded.model.state_dict()[name], net.state_dict()[name]) for name in untouched)


def test_training_never_changes_the_callers_model_or_random_state(net, task, tmp_path) -> None:
    before = copy.deepcopy(net.state_dict())
    features = featcache.extract(net, task, str(tmp_path / "s"), cut="block")
    made = featcache.split(net, "block", (task.inputs[:2],))
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    featcache.train_head(made, features, epochs=2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_same_seed_gives_the_same_head_and_another_one_another(net, task, tmp_path) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    weights = [featcache.train_head(made, features, epochs=2, seed=seed).model.fc.weight.detach() for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "parameters"),
    [
        ("suffix", {}),
        ("linear", {}),
        ("sklearn:LogisticRegression", {"C": 10.0}),
        ("sklearn:RidgeClassifier", {}),
        ("sklearn:KNeighborsClassifier", {"n_neighbors": 3}),
        ("sklearn:RandomForestClassifier", {"n_estimators": 20}),
    ],
)
def test_every_kind_of_head_trains_saves_loads_and_predicts(net, task, tmp_path, head: str, parameters: dict) -> None:
    made = featcache.split(net, "tail", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    trained = featcache.train_head(made, features, head=head, parameters=parameters, epochs=60, learning_rate=0.05)
    assert trained.metrics.accuracy > 0.5
    assert trained.metrics.split == "validation"
    assert np.array(trained.metrics.confusion_matrix).sum() == trained.metrics.samples == 10
    folder = trained.save(tmp_path / "head")
    assert {"head.json", "head.safetensors", "history.csv"} <= {path.name for path in folder.iterdir()}
    again = featcache.load_head(folder, made)
    here = featcache.predict(trained, task)
    there = featcache.predict(again, task)
    assert np.array_equal(here.probabilities, there.probabilities)
    assert here.labels == there.labels
    assert np.allclose(here.probabilities, trained.predict_proba(features), atol=1e-5)
    assert np.allclose(here.probabilities.sum(axis=1), 1)
    assert here.to_csv().splitlines()[0] == "name,label,probability,right,down,left,flat"
    assert len(json.loads(here.to_json())) == 50


def test_a_linear_scikit_learn_head_equals_the_estimator(net, task, tmp_path) -> None:
    made = featcache.split(net, "tail", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    for rows in (np.arange(50), np.flatnonzero(task.targets_of.numpy() < 2)):
        part = features.subset(rows)
        trained = featcache.train_head(made, part, head="sklearn:LogisticRegression", validation=0)
        vectors = part.numpy()[0].mean(axis=(2, 3))
        expected = trained.estimator.predict_proba(vectors)
        assert np.allclose(trained.predict_proba(part)[:, : expected.shape[1]], expected, atol=1e-4)


@pytest.mark.parametrize("rows", [range(50), range(0, 50, 2), [3, 7, 11]])
def test_metrics_of_classes_are_those_of_scikit_learn_also_where_classes_are_absent(net, task, tmp_path, rows) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    part = features.subset(list(rows))
    trained = featcache.train_head(made, features, head="linear", epochs=1, learning_rate=1e-4)
    found, probable = trained.evaluate(part), trained.predict_proba(part)
    predicted, true = probable.argmax(axis=1), part.targets
    present = np.unique(true)
    recall = metrics.recall_score(true, predicted, labels=present, average="macro", zero_division=0)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(true, predicted))
    assert found.balanced_accuracy == pytest.approx(recall)
    assert found.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro", zero_division=0))
    assert found.log_loss == pytest.approx(metrics.log_loss(true, probable, labels=range(4)))
    assert found.confusion_matrix == metrics.confusion_matrix(true, predicted, labels=range(4)).tolist()


def test_early_stopping_keeps_the_best_weights(net, task, tmp_path) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    trained = featcache.train_head(made, features, epochs=200, patience=3, learning_rate=0.05, lr_schedule="constant")
    losses = [record.validation_loss for record in trained.history]
    best = int(np.argmin(losses))
    assert len(losses) - 1 - best == 3
    assert trained.metrics.log_loss == pytest.approx(losses[best], rel=1e-4)


def test_the_datasets_own_splits_are_used(net, task, tmp_path) -> None:
    task.splits = ["train"] * 30 + ["val"] * 10 + ["test"] * 10
    made = featcache.split(net, "block", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    trained = featcache.train_head(made, features, epochs=2)
    assert (trained.validation_metrics.samples, trained.metrics.samples) == (10, 10)
    assert trained.metrics.split == "test"
    assert len(features.where("val")) == 10
    with pytest.raises(UsageError, match="'test'"):
        features.where("holdout")


def test_class_weights_smoothing_and_optimizers_are_applied(net, task, tmp_path) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    losses = {
        json.dumps(options): featcache.train_head(made, features, epochs=2, batch_size=8, **options)
        .history[-1]
        .train_loss
        for options in (
            {},
            {"label_smoothing": 0.2},
            {"class_weights": [1, 5, 1, 1]},
            {"optimizer": "sgd"},
            {"warmup_epochs": 1},
            {"lr_schedule": "constant"},
        )
    }
    assert len(set(losses.values())) == len(losses)


def test_wrong_heads_and_options_are_refused_in_one_line(net, task, tmp_path) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    for error, words, options in (
        (UnknownNameError, "suffix, linear", {"head": "lineer"}),
        (UnknownNameError, "LogisticRegression", {"head": "sklearn:LogisticRegresion"}),
        (UsageError, "no parameter 'c'", {"head": "sklearn:LogisticRegression", "parameters": {"c": 1}}),
        (UsageError, "adamw", {"optimizer": "adamm"}),
        (UsageError, "learning_rate", {"learning_rate": -1.0}),
        (UsageError, "fc", {"trainable": ["cf"]}),
        (UsageError, "class_weights", {"class_weights": [1.0]}),
        (UsageError, "validation", {"validation": 1.5}),
        (HeadError, "learning-rate", {"learning_rate": 1e30, "optimizer": "sgd"}),
    ):
        with pytest.raises(error, match=words) as caught:
            featcache.train_head(made, features, epochs=4, **options)
        assert "\n" not in str(caught.value)


def test_data_that_cannot_be_learned_from_is_refused(net, task, tmp_path) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    one = TensorPairs(task.inputs, torch.zeros(50, dtype=torch.long), ["only", "other"])
    with pytest.raises(HeadError, match="only one class, 'only'"):
        featcache.train_head(made, featcache.extract(made, one, str(tmp_path / "s")))

    class Floats(TensorPairs):
        def __getitem__(self, index: int):
            return self.inputs[index], 0.5

    features = featcache.extract(made, Floats(task.inputs, task.targets_of), str(tmp_path / "s"))
    with pytest.raises(DataError, match="not class numbers"):
        featcache.train_head(made, features, task="single_label")


def test_features_of_another_network_are_refused(net, task, tmp_path) -> None:
    features = featcache.extract(net, task, str(tmp_path / "s"), cut="block")
    other = featcache.split(SmallNet().eval(), "block", (task.inputs[:2],))
    with pytest.raises(StaleError, match="other weights"):
        featcache.train_head(other, features)


def test_a_head_is_not_put_on_another_backbone_and_a_damaged_one_is_not_loaded(net, task, tmp_path) -> None:
    made = featcache.split(net, "block", (task.inputs[:2],))
    trained = featcache.train_head(made, featcache.extract(made, task, str(tmp_path / "s")), epochs=1)
    folder = trained.save(tmp_path / "head")
    with pytest.raises(HeadError, match="another backbone"):
        featcache.load_head(folder, featcache.split(SmallNet().eval(), "block", (task.inputs[:2],)))
    with pytest.raises(HeadError, match="cut at 'tail'"):
        featcache.load_head(folder, featcache.split(net, "tail", (task.inputs[:2],)))
    (folder / "head.safetensors").write_bytes(b"damaged")
    with pytest.raises(HeadError, match=r"does not fit|is damaged"):
        featcache.load_head(folder, made)


def test_a_network_without_a_last_layer_after_the_cut_points_to_the_linear_head(net, task, tmp_path) -> None:
    made = featcache.split(net, "fc", (task.inputs[:2],))
    features = featcache.extract(made, task, str(tmp_path / "s"))
    with pytest.raises(HeadError, match="--head linear"):
        featcache.train_head(made, features)
    assert featcache.train_head(made, features, head="linear").metrics is not None


def test_the_scores_are_taken_out_of_an_output_that_is_no_tensor(net, task, tmp_path) -> None:
    class Dictionary(SmallNet):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"hidden": x, "logits": super().forward(x)}

    model = Dictionary().eval()
    model.load_state_dict(net.state_dict())
    made = featcache.split(model, "block", (task.inputs[:2],))
    trained = featcache.train_head(made, featcache.extract(made, task, str(tmp_path / "s")), **OPTIONS)
    plain = featcache.split(net, "block", (task.inputs[:2],))
    same = featcache.train_head(plain, featcache.extract(plain, task, str(tmp_path / "s")), **OPTIONS)
    expected = same.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trained.model.state_dict().items())
    assert featcache.predict(trained, task).labels == featcache.predict(same, task).labels


def test_an_output_without_any_tensor_is_named() -> None:
    with pytest.raises(HeadError, match="output is dict, not a tensor"):
        output_tensor({"loss": None})


def test_a_network_in_place_of_a_split_is_refused_and_says_to_split_it(net, task, tmp_path) -> None:
    features = featcache.extract(net, task, str(tmp_path), cut="block")
    with pytest.raises(UsageError, match=r"SmallNet is not a split: split it first, featcache\.split"):
        featcache.train_head(net, features, epochs=1)
    with pytest.raises(UsageError, match=r"SmallNet is not a split: split it first, featcache\.split"):
        featcache.train_heads(net, features, [{"seed": 0}])


def test_the_rows_of_a_split_are_found_by_every_name_that_means_it(net, task, tmp_path) -> None:
    features = featcache.extract(net, task, str(tmp_path), cut="block")
    names = ["train", "TRAINING", "dev", "Testing"] * (len(features) // 4) + ["other"] * (len(features) % 4)
    named = features.with_splits(names)
    assert len(named.where("train")) == names.count("train")
    assert len(named.where("val")) == len(named.where("Validation")) == names.count("dev")
    assert len(named.where("test")) == names.count("Testing")
    assert len(named.where("train_set")) == names.count("train") + names.count("TRAINING")
    with pytest.raises(UsageError, match="no split 'others'"):
        named.where("others")
