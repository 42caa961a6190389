from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

import featcache
from featcache import FeatureStore
from featcache.errors import DataError, UsageError

from ..conftest import TensorPairs


class Shift:
    """Adds a random number from each of the three global generators."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + random.random() + float(np.random.random()) + torch.rand(1)


@pytest.mark.slow
def test_views_are_the_same_whatever_order_batch_and_worker_they_are_computed_in(net, pairs, tmp_path) -> None:
    options = {"cut": "block", "augment": Shift(), "views": 3, "seed": 5}
    here = featcache.extract(net, pairs, str(tmp_path / "a"), **options)
    backwards = TensorPairs(pairs.inputs.flip(0), pairs.targets_of.flip(0))
    there = featcache.extract(net, backwards, str(tmp_path / "b"), workers=2, **options)
    rows = np.arange(50)
    for view in range(1, 4):
        chosen = np.full(50, view)
        assert torch.equal(here.batch(rows, chosen)[0], there.batch(rows[::-1].copy(), chosen)[0])
    assert not torch.equal(here.batch(rows, np.full(50, 1))[0], here.batch(rows, np.full(50, 2))[0])


def test_the_number_of_views_can_grow_and_only_new_ones_are_computed(net, pairs, tmp_path) -> None:
    store, options = str(tmp_path / "s"), {"cut": "block", "augment": Shift()}
    plain = featcache.extract(net, pairs, store, cut="block")
    two = featcache.extract(net, pairs, store, views=2, **options)
    assert (two.views, two.report.computed, two.report.reused) == (2, 100, 50)
    four = featcache.extract(net, pairs, store, views=4, **options)
    assert (four.views, four.report.computed, four.report.reused) == (4, 100, 150)
    rows, second = np.arange(50), np.full(50, 2)
    assert torch.equal(four.batch(rows, second)[0], two.batch(rows, second)[0])
    assert np.array_equal(four.numpy()[0], plain.numpy()[0])
    assert four.recipe == plain.recipe  # the plain rows are shared with whoever wants no views


def test_another_seed_or_augmentation_is_another_set(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="block", augment=Shift())
    other = featcache.extract(net, pairs, store, cut="block", augment=Shift(), seed=1)
    assert (other.report.computed, other.report.reused) == (50, 50)
    assert len(FeatureStore(store).sets()) == 3


def test_training_sees_a_random_view_each_epoch_and_validation_the_plain_one(net, pairs, tmp_path) -> None:
    features = featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", augment=Shift(), views=4)
    loader = features.loader(16, seed=3)
    chosen = [loader.views(epoch) for epoch in range(8)]
    assert all(set(each.tolist()) <= {1, 2, 3, 4} for each in chosen)
    assert any(not np.array_equal(chosen[0], each) for each in chosen[1:])
    first = torch.cat([frontier for frontier, _ in loader])
    expected = features.batch(loader.order(0), loader.views(0)[loader.order(0)])[0]
    assert torch.equal(first, expected)
    plain = torch.cat([frontier for frontier, _ in features.loader(16, shuffle=False)])
    assert torch.equal(plain, features.batch(np.arange(50))[0])
    unaugmented = torch.cat([frontier for frontier, _ in features.loader(16, seed=3, augmented=False)])
    assert torch.equal(unaugmented, features.batch(loader.order(0))[0])


def test_a_head_trained_on_views_equals_the_loop_that_sees_the_same_views(net, pairs, tmp_path) -> None:
    split = featcache.split(net, "block", (pairs.inputs[:2],))
    features = featcache.extract(split, pairs, str(tmp_path / "s"), augment=Shift(), views=2)
    with_views = featcache.train_head(split, features, epochs=2, validation=0.0)
    again = featcache.train_head(split, features.subset(np.arange(50)), epochs=2, validation=0.0)
    plain = featcache.train_head(split, featcache.extract(split, pairs, str(tmp_path / "s")), epochs=2, validation=0.0)
    weights = [dict(head.model.named_parameters())["fc.weight"] for head in (with_views, again, plain)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_an_estimator_is_fitted_on_all_views(net, pairs, tmp_path) -> None:
    from sklearn.linear_model import LogisticRegression

    split = featcache.split(net, "block", (pairs.inputs[:2],))
    features = featcache.extract(split, pairs, str(tmp_path / "s"), pool="auto", augment=Shift(), views=2)
    head = featcache.train_head(
        split, features, head="sklearn:LogisticRegression", validation=0.0, parameters={"max_iter": 2000}
    )
    every = np.concatenate([features.numpy(view)[0] for view in range(3)])
    expected = LogisticRegression(max_iter=2000, random_state=0).fit(every, np.tile(features.targets, 3))
    assert np.allclose(head.estimator.coef_, expected.coef_, atol=1e-5)
    with pytest.raises(UsageError, match="no view 3"):
        features.numpy(3)


@pytest.mark.slow
def test_derived_views_equal_computed_ones(net, pairs, tmp_path) -> None:
    options = {"augment": Shift(), "views": 2}
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="stem", **options)
    derived = featcache.extract(net, pairs, store, cut="block", **options)
    direct = featcache.extract(net, pairs, str(tmp_path / "direct"), cut="block", **options)
    assert (derived.report.derived, direct.report.computed) == (150, 150)
    for view in range(3):
        rows, chosen = np.arange(50), np.full(50, view)
        assert torch.equal(derived.batch(rows, chosen)[0], direct.batch(rows, chosen)[0])


def test_the_callers_generators_are_left_alone(net, pairs, tmp_path) -> None:
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    featcache.extract(net, pairs, str(tmp_path / "s"), cut="block", augment=Shift(), views=2)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def test_views_without_augmentation_and_augmentation_that_cannot_be_seeded_are_refused(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    with pytest.raises(UsageError, match="--augment"):
        featcache.extract(net, pairs, store, cut="block", views=3)
    with pytest.raises(UsageError, match="at least 1"):
        featcache.extract(net, pairs, store, cut="block", views=0, augment=Shift())
    with pytest.raises(DataError, match="generator of its own"):
        featcache.extract(net, pairs, store, cut="block", augment=Unseeded())
    with pytest.raises(UsageError, match="trivial"):
        featcache.extract(net, pairs, store, cut="block", augment="trivail")


class Unseeded:
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + float(np.random.default_rng().random())


@pytest.mark.slow
def test_the_command_extracts_views_and_trains_on_them(image_folder, featcache_command) -> None:
    shared = (
        "--backbone",
        "bundled:resnet-mini",
        "--data",
        f"folder:{image_folder}",
        "--store",
        "s",
        "--augment",
        "flip",
    )
    done = featcache_command("extract", *shared, "--cut", "layer3", "--views", "2", "--seed", "4", "--json")
    assert json.loads(done.stdout)[0]["computed"] == 54
    done = featcache_command("extract", *shared, "--cut", "layer3", "--views", "3", "--view-seed", "4")
    assert "18 computed, 54 reused" in done.stderr
    status = featcache_command("status", *shared, "--cut", "layer3", "--views", "4", "--view-seed", "4", expect=3)
    assert "partial" in status.stdout + status.stderr or "missing" in status.stdout + status.stderr
    featcache_command("train-head", *shared, "--views", "3", "--view-seed", "4", "--epochs", "1", "--head", "linear")
