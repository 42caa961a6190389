"""A head that is no better than a constant says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import featcache

from ..conftest import CommandLine, Items


def judged(made, targets: np.ndarray, inputs: torch.Tensor, folder: Path) -> featcache.TrainedHead:
    splits = ["train"] * 30 + ["test"] * 20
    features = featcache.extract(made, Items(inputs, targets), str(folder / "s")).with_splits(splits)
    return featcache.train_head(made, features, head="linear", validation=0, weight_decay=1e-3)


def test_the_most_frequent_class_is_what_a_head_of_classes_has_to_beat(made, pairs, tmp_path: Path) -> None:
    noise = (np.random.default_rng(0).random(50) < 0.2).astype(np.int64)
    metrics = judged(made, noise, pairs.inputs, tmp_path / "noise").metrics
    share = np.bincount(noise[30:]).max() / 20
    assert metrics.accuracy <= share
    assert metrics.trivial == f"always predicting the most frequent class ({100 * share:.2f} %)"
    learned = (pairs.inputs + torch.arange(50)[:, None, None, None] % 2 * 5, np.arange(50) % 2)
    assert judged(made, learned[1], learned[0], tmp_path / "learned").metrics.trivial == ""


def test_a_split_of_one_class_that_is_all_right_is_not_told_off() -> None:
    assert featcache.Metrics("test", 3, 1.0, 1.0, 1.0, 0.0, [[3, 0], [0, 0]]).trivial == ""


def test_the_mean_is_what_a_head_of_values_has_to_beat(made, pairs, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=50).astype(np.float32)
    metrics = judged(made, noise, pairs.inputs, tmp_path).metrics
    assert metrics.r2 < 0
    assert metrics.trivial == "always predicting the mean"
    assert featcache.RegressionMetrics("test", 5, 0.0, 1.0, 1.0).trivial == ""


@pytest.mark.slow
def test_the_command_says_so_in_one_line(featcache_command: CommandLine, image_folder: Path) -> None:
    at = ("--data", f"folder:{image_folder}", "--backbone", "bundled:resnet-mini")
    featcache_command("extract", *at, "--cut", "avgpool")
    said = featcache_command("train-head", *at, "--head", "sklearn:DummyClassifier").stderr
    assert (
        "note: on the validation rows, the head is no better than always predicting the most frequent class (" in said
    )
