"""What the names of splits are taken for."""

from __future__ import annotations

import pytest

from featcache.samples import split_name, split_role

CALLED = {
    "train": ("train", "Training", "train_set", "TRAIN-SET", "trainset", "training set", " train "),
    "val": ("val", "valid", "Validation", "dev", "DEV_set", "validation-set", "valset"),
    "test": ("test", "Testing", "test_set", "testset", "TEST SET"),
    "unlabelled": ("unlabelled", "Unlabeled"),
}


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in CALLED.items() for name in names])
def test_the_usual_names_of_a_split_are_one_whatever_their_case_and_dashes(role: str, name: str) -> None:
    assert split_role(name) == split_name(name) == role


def test_rows_without_a_split_are_training_rows_and_other_names_say_nothing() -> None:
    assert split_role("") == split_role("  ") == "train"
    for name in ("eval", "holdout", "0", "FALSE", "train2", "retrain", "unsupervised"):
        assert split_role(name) is None
        assert split_name(f" {name}") == name
