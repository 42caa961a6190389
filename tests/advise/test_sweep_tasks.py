"""The sweep over tasks other than single labels: what it compares cuts by, and that it finds the cut that helps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.advise.judge import judge_of
from featcache.errors import DataError, UsageError

from ..conftest import Items, SmallNet, TensorPairs
from ..training.test_tasks import Segmenter
from .test_sweep import Blind

TRAINING = {"epochs": 30, "train_batch_size": 16, "learning_rates": [1e-2]}


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(240, 8, generator=torch.Generator().manual_seed(0))


def blind(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    model = Blind().eval()
    model.last = nn.Linear(16, outputs)
    with torch.no_grad():
        model.second.weight.mul_(1e-3)
        model.second.bias.fill_(1.0)
    return model


def outputs_like(targets: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(targets, dtype=np.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "score", "targets_of"),
    [
        ("multi_label", "F1 of a sample", lambda x: (x[:, :3] > 0).long().numpy()),
        ("regression", "R2", lambda x: x[:, 0].numpy()),
        ("regression", "R2", lambda x: x[:, :2].numpy()),
    ],
)
def test_labels_and_values_are_swept_and_the_cut_that_sees_them_is_recommended(
    inputs, tmp_path, task, score, targets_of
) -> None:
    targets = targets_of(inputs)
    model = blind(1 if targets.ndim == 1 else targets.shape[1])
    found = featcache.sweep(model, Items(inputs, targets), str(tmp_path / "s"), ["first", "third"], **TRAINING)
    assert (found.task, found.score) == (task, score)
    assert found.recommended == "first"
    third, first = found.rows
    assert first.score > 0.7
    assert third.difference + third.difference_half_width < 0


def test_the_score_of_values_is_the_r2_of_all_rows_that_judged(inputs, tmp_path) -> None:
    from sklearn.metrics import r2_score

    targets = inputs[:, 0].numpy()
    features = featcache.extract(blind(1), Items(inputs, targets), str(tmp_path / "s"), cut="first")
    predicted = targets + np.random.default_rng(0).normal(0, 0.5, len(targets)).astype(np.float32)
    scores = judge_of(features).scores(features.targets, outputs_like(predicted)[:, None])
    assert scores.mean() == pytest.approx(r2_score(targets, predicted), abs=1e-6)
    assert scores.max() <= 1


def test_the_score_of_several_labels_is_the_f1_of_samples(inputs, tmp_path) -> None:
    from sklearn.metrics import f1_score

    targets = (inputs[:, :4] > 0.8).long().numpy()
    assert not targets.any(axis=1).all(), "some rows must have no label for this test to say all that it should"
    features = featcache.extract(blind(4), Items(inputs, targets), str(tmp_path / "s"), cut="first")
    predicted = np.where(np.random.default_rng(0).random(targets.shape) < 0.2, 1 - targets, targets)
    scores = judge_of(features).scores(features.targets, outputs_like(predicted) - 0.5)
    assert scores.mean() == pytest.approx(f1_score(targets, predicted, average="samples", zero_division=1.0))


def test_dense_targets_are_compared_by_their_labelled_pixels(tmp_path) -> None:
    images = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    masks = (images[:, 0] > 0).long().numpy()
    masks[:, :3] = 255
    torch.manual_seed(0)
    found = featcache.sweep(
        Segmenter().eval(), Items(images, masks), str(tmp_path / "s"), ["stem", "body"], epochs=2, seeds=2
    )
    assert found.score == "pixel accuracy"
    features = featcache.extract(Segmenter().eval(), Items(images, masks), str(tmp_path / "t"), cut="stem")
    predicted = np.where(masks == 255, 0, masks)
    predicted[:, 3:, :4] = 1 - predicted[:, 3:, :4]
    scores = judge_of(features).scores(features.targets, torch.from_numpy(predicted))
    assert scores == pytest.approx(np.full(24, 1 - 4 / 12))


def test_the_task_can_be_said_where_targets_suggest_another(inputs, tmp_path) -> None:
    data = TensorPairs(inputs, (inputs[:, 0] > 0).long())
    found = featcache.sweep(blind(1), data, str(tmp_path / "s"), ["first"], task="regression", epochs=2)
    assert found.score == "R2"
    with pytest.raises(DataError, match="several labels"):
        featcache.sweep(blind(1), data, str(tmp_path / "s"), ["first"], task="multi_label")
    with pytest.raises(UsageError, match="task"):
        featcache.sweep(blind(1), data, str(tmp_path / "s"), ["first"], task="unheard of")


def test_a_class_of_which_only_validation_rows_are_there_does_not_end_the_sweep(tmp_path) -> None:
    torch.manual_seed(0)
    images = torch.randn(40, 3, 12, 12)
    data = TensorPairs(images, torch.arange(40) % 3)
    data.splits = ["val" if number % 3 == 2 or number < 6 else "train" for number in range(40)]
    found = featcache.sweep(
        SmallNet().eval(), data, str(tmp_path / "s"), ["block"], epochs=1, learning_rates=[1e-3, 1e-2]
    )
    assert found.rows[0].score < 1
