"""Which rows a head is trained on, and which it is judged by."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache.errors import HeadError, UsageError
from featcache.training.options import TrainOptions
from featcache.training.rows import Division, divide
from featcache.training.tasks import find_task

from ..conftest import Items


@pytest.fixture(scope="module")
def features_of(tmp_path_factory: pytest.TempPathFactory):
    """Return the features of forty rows with the given targets."""

    def make(targets: np.ndarray, classes: list[str] | None = None) -> featcache.Features:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
        inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
        return featcache.extract(model, Items(inputs, targets, classes), str(tmp_path_factory.mktemp("rows")), cut="0")

    return make


@pytest.fixture(scope="module")
def features(features_of) -> featcache.Features:
    """Forty rows of four classes, one class after the other."""
    return features_of(np.arange(40) % 4, list("abcd"))


def names(features: featcache.Features | None) -> list[int]:
    """Return the numbers of the samples."""
    return [] if features is None else [int(name) for name in features.names]


def everything(made: Division) -> list[int]:
    return sorted([*names(made.train), *names(made.validation), *names(made.test)])


def divided(
    features: featcache.Features, share: float = 0.2, seed: int = 0, sample_weights=None, **options
) -> Division:
    chosen = TrainOptions(validation=share, seed=seed, **options)
    return divide(features, chosen, find_task(features), sample_weights=sample_weights)


@pytest.mark.parametrize("called", ["val", "valid", "validation", "dev", "Validation_Set"])
def test_a_head_is_never_trained_on_a_validation_or_a_test_split(features, called: str) -> None:
    splits = np.array(["train", "train", called, "testing", ""] * 8)
    made = divided(features.with_splits(splits))
    assert names(made.train) == [row for row in range(40) if splits[row] in ("train", "")]
    assert names(made.validation) == [row for row in range(40) if splits[row] == called]
    assert names(made.test) == [row for row in range(40) if splits[row] == "testing"]
    assert made.weights is None
    assert str(made.used) == (
        f"trained on 24 rows (8 of no split, 16 of train), validated by 8 rows of {called}, tested on 8 rows of testing"
    )


@pytest.mark.parametrize("called", ["eval", "holdout", "0", "FALSE", "train2"])
def test_rows_of_a_split_whose_name_says_nothing_are_refused_until_somebody_says_what_they_are_for(
    features, called: str
) -> None:
    splits = np.array(["train", "train", called, "test", ""] * 8)
    split = features.with_splits(splits)
    rows = [row for row in range(40) if splits[row] == called]
    with pytest.raises(UsageError, match=rf"8 rows of {called},.*--test-splits {called}"):
        divided(split)
    for option, part in (("validation_splits", "validation"), ("test_splits", "test"), ("train_splits", "train")):
        assert names(getattr(divided(split, 0.0, **{option: [called]}), part)) == rows
    left = divided(split, 0.0, train_splits=["train"])
    assert names(left.train) == [row for row in range(40) if splits[row] == "train"]
    assert left.used.left_out == {"": 8, called: 8}
    assert str(left.used).endswith(f"left out 16 rows (8 of no split, 8 of {called})")


def test_where_an_option_names_splits_no_others_are_used_so(features) -> None:
    splits = features.with_splits(["train", "train", "val", "test", "fold 1"] * 8)
    made = divided(splits, train_splits="train,fold 1", validation_splits=["test"], test_splits=["val"])
    assert (made.used.train, made.used.validation, made.used.test) == (
        {"fold 1": 8, "train": 16},
        {"test": 8},
        {"val": 8},
    )
    only = divided(splits, 0.5, train_splits=["Training"], validation_splits=["fold 1"], test_splits=[])
    assert only.used.left_out == {"test": 8, "val": 8}
    assert only.test is None


def test_a_split_that_is_not_there_or_has_two_uses_is_refused_with_those_that_are_there(features) -> None:
    splits = features.with_splits(["train", "val", "unlabelled", ""] * 10)
    with pytest.raises(UsageError, match=r"no split 'holdout'; it has '', 'train', 'unlabelled', 'val'"):
        divided(splits, test_splits=["holdout"])
    with pytest.raises(UsageError, match="'val' is in both train_splits and validation_splits"):
        TrainOptions(train_splits=["train", "dev"], validation_splits=["val"])
    with pytest.raises(UsageError, match="'unlabelled', whose rows have no labels"):
        TrainOptions(train_splits=["unlabelled"])


def test_unlabelled_rows_are_used_for_nothing_and_counted(features_of) -> None:
    targets = np.where(np.arange(40) % 5 == 0, -1, np.arange(40) % 2)
    features = features_of(targets, ["a", "b"]).with_splits(np.where(targets < 0, "unlabelled", ""))
    made = divided(features, 0.25)
    assert sorted([*names(made.train), *names(made.validation)]) == np.flatnonzero(targets >= 0).tolist()
    assert str(made.used) == (
        "trained on 24 rows, validated by 8 rows (a share of the training rows), tested on no rows, "
        "left out 8 rows of unlabelled"
    )


def test_without_a_validation_split_a_share_of_each_class_is_kept_for_it_by_the_seed(features) -> None:
    made = divided(features, 0.2, seed=3)
    assert everything(made) == list(range(40))
    assert made.test is None
    kept, left = names(made.validation), names(made.train)
    assert [sum(row % 4 == label for row in kept) for label in range(4)] == [2, 2, 2, 2]
    assert (kept, left) == (sorted(kept), sorted(left))
    assert names(divided(features, 0.2, seed=3).validation) == kept
    assert names(divided(features, 0.2, seed=4).validation) != kept


def test_a_share_of_nothing_or_a_validation_split_keeps_all_other_rows_for_training(features) -> None:
    assert divided(features, 0.0).validation is None
    assert len(divided(features, 0.0).train) == 40
    made = divided(features.with_splits(["val"] * 4 + ["train"] * 36), 0.5)
    assert (names(made.validation), len(made.train)) == ([0, 1, 2, 3], 36)


def test_a_class_of_one_row_stays_in_training(features_of) -> None:
    targets = np.arange(40) % 3
    targets[17] = 3
    features = features_of(targets, list("abcd"))
    for seed in range(4):
        made = divided(features, 0.25, seed)
        assert 17 in names(made.train)
        assert (len(made.train), len(made.validation)) == (30, 10)
        assert everything(made) == list(range(40))


def test_each_class_has_a_row_on_both_sides_or_the_rows_are_too_few(features) -> None:
    eight = features.subset(np.arange(8))
    assert [len(each) for each in (divided(eight, 0.1).train, divided(eight, 0.1).validation)] == [4, 4]
    for few, share in ((np.arange(7), 0.1), (np.arange(40), 0.95)):
        with pytest.raises(HeadError, match=f"{len(few)} training rows of 4 classes are too few to keep {share:.0%}"):
            divided(features.subset(few), share)
    assert len(divided(features, 0.9).train) == 4


def test_rows_of_values_are_kept_by_chance(features_of) -> None:
    features = features_of(np.linspace(0, 1, 40))
    made = divided(features, 0.2, seed=3)
    assert (len(made.train), len(made.validation)) == (32, 8)
    assert everything(made) == list(range(40))
    assert names(made.validation) == sorted(names(made.validation)) != list(range(8))
    assert names(divided(features, 0.2, seed=4).validation) != names(made.validation)
    assert len(divided(features, 0.001).validation) == 1
    assert len(divided(features.subset(np.arange(2)), 0.5).train) == 1
    for few, share in (([0], 0.5), ([0, 1], 0.9)):
        with pytest.raises(HeadError, match=f"{len(few)} training rows are too few to keep {share:.0%}"):
            divided(features.subset(np.array(few)), share)


def test_rows_without_training_split_or_of_a_single_class_are_refused(features, features_of) -> None:
    with pytest.raises(HeadError, match=r"no training rows: all are in \['test', 'val'\]"):
        divided(features.with_splits(["val", "test"] * 20))
    only = features.with_splits(["train" if row % 4 == 2 else "test" for row in range(40)])
    with pytest.raises(HeadError, match="only one class, 'c'"):
        divided(only)
    divided(features.with_splits(["train" if row % 4 > 1 else "test" for row in range(40)]))
    maps = np.full((40, 4, 4), 255)
    for value, said in ((255, "none"), (1, "'b'")):
        maps[0, 0, 0] = value
        features = features_of(maps, ["a", "b"])
        with pytest.raises(HeadError, match=f"only one class, {said}"):
            divide(features, TrainOptions(validation=0.0), find_task(features, "dense", 255))
    maps[0, 0, 1] = 0
    features = features_of(maps, ["a", "b"])
    assert len(divide(features, TrainOptions(validation=0.0), find_task(features, "dense", 255)).train) == 40


def test_the_weights_of_training_rows_have_the_mean_one_and_follow_their_rows(features) -> None:
    given = np.arange(40, dtype=np.int64)
    made = divided(features.with_splits(["test"] * 10 + ["train"] * 30), 0.2, sample_weights=given)
    rows = np.array(names(made.train))
    assert rows.min() >= 10
    assert np.allclose(made.weights, rows / rows.mean())
    assert len(divided(features, sample_weights=[0.0] * 4 + [1.0] * 36).train) == 32


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ([1.0] * 39, "must be 40 numbers"),
        (np.ones((40, 1)), "must be 40 numbers"),
        ([-1e-9] + [1.0] * 39, "must be 40 numbers"),
        ([float("nan")] + [1.0] * 39, "must be 40 numbers"),
        ([float("inf")] + [1.0] * 39, "must be 40 numbers"),
        (["many"] * 40, "must be numbers"),
        ([0.0] * 40, "0 for every training row"),
    ],
)
def test_weights_that_are_none_are_refused(features, given: object, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        divided(features, sample_weights=given)


def test_rows_to_judge_by_that_hold_a_sample_that_is_trained_on_are_counted(tmp_path_factory) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    inputs[36:] = inputs[:4]
    items = Items(inputs, np.arange(40) % 4, list("abcd"))
    features = featcache.extract(model, items, str(tmp_path_factory.mktemp("repeated")), cut="0")
    splits = np.array(["train"] * 30 + ["test"] * 10)
    used = divided(features.with_splits(splits), share=0).used
    assert used.repeated == 4
    assert str(used).endswith("; 4 of the rows to validate by or test on hold samples that are trained on, too")
    apart = divided(features.subset(np.arange(36)).with_splits(splits[:36]), share=0).used
    assert apart.repeated == 0
    assert "too" not in str(apart)


def test_classes_without_a_training_row_are_said(features, features_of) -> None:
    splits = np.array(["train", "train", "train", "test"] * 10)
    one = divided(features.with_splits(splits)).used
    assert one.untrained == ["d"]
    assert str(one).endswith("; no training row of the class d")
    two = divided(features.with_splits(np.array(["train", "train", "val", "test"] * 10))).used
    assert str(two).endswith("; no training row of the classes c, d")
    many = features_of(np.arange(40), [f"k{number}" for number in range(40)])
    first = divided(many.with_splits(np.array(["train"] * 30 + ["test"] * 10)), 0.0).used
    assert str(first).endswith("; no training row of the classes k30, k31, k32, k33, k34, k35 and 4 more")
    assert divided(features).used.untrained == []


def test_labels_of_which_several_can_apply_and_that_no_training_row_has_are_said(features_of) -> None:
    flags = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]] * 10)
    features = features_of(flags, list("abcd"))
    assert divided(features.with_splits(np.array(["train", "train", "train", "test"] * 10))).used.untrained == ["c"]
    values = features_of(np.arange(40, dtype=np.float32))
    assert divided(values.with_splits(np.array(["train", "test"] * 20))).used.untrained == []
