"""Head folders: what is in them, that they appear whole, and that nothing in them is trusted."""

from __future__ import annotations

import csv
import functools
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import featcache
from featcache.errors import DataError, HeadError, MissingDependencyError, UsageError
from featcache.heads.estimators import load_estimator, save_estimator
from featcache.heads.load import read_head

from ..conftest import TensorPairs

KINDS = ["suffix", "linear", "sklearn:LogisticRegression", "sklearn:SVC", "sklearn:RandomForestClassifier"]


@pytest.mark.slow
@pytest.mark.parametrize("head", KINDS)
def test_the_saved_tensors_have_the_names_of_the_whole_network(made, features, tmp_path, head: str) -> None:
    trained = featcache.train_head(made, features, head=head, epochs=1)
    tensors = load_file(trained.save(tmp_path / "head") / "head.safetensors")
    whole = trained.model.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in tensors.items())
    if head == "suffix":
        assert set(tensors) == {name for name in whole if name.startswith(("tail", "fc"))}
    elif head in ("linear", "sklearn:LogisticRegression"):
        assert set(tensors) == {"head.weight", "head.bias"}


@pytest.mark.slow
@pytest.mark.parametrize("head", KINDS)
def test_a_loaded_head_is_the_one_that_was_saved(made, features, pairs, tmp_path, head: str) -> None:
    trained = featcache.train_head(made, features, head=head, epochs=2)
    again = featcache.load_head(trained.save(tmp_path / "head", {"backbone": "own"}), made)
    assert np.array_equal(again.predict_proba(features), trained.predict_proba(features))
    assert np.array_equal(
        featcache.predict(again, pairs).probabilities, featcache.predict(trained, pairs).probabilities
    )
    for name in ("classes", "options", "history", "metrics", "validation_metrics", "dataset", "snapshot", "elapsed_s"):
        assert getattr(again, name) == getattr(trained, name), name
    assert again.recipe.fingerprint == features.recipe.fingerprint


def test_the_description_holds_what_is_needed_to_know_and_repeat_the_training(made, features, tmp_path) -> None:
    options = {"epochs": 2, "class_weights": np.ones(4), "seed": np.int64(3), "label_smoothing": 0.1}
    folder = featcache.train_head(made, features, **options).save(tmp_path / "head", {"weights": Path("w.pt")})
    described = read_head(folder)
    assert described["options"]["class_weights"] == [1.0] * 4
    assert described["options"]["learning_rate"] == 1e-3
    assert (described["seed"], described["cut"], described["head"]) == (3, "block", "suffix")
    assert described["recipe_fingerprint"] == features.recipe.fingerprint
    assert described["origin"] == {"weights": "w.pt"}
    assert described["versions"]["torch"] == torch.__version__.split("+")[0] or described["versions"]["torch"]
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[0]["train_loss"]) == described["history"][0]["train_loss"]


@pytest.mark.filterwarnings("error")
def test_the_plots_are_svg_with_class_names_in_any_script(made, pairs, tmp_path) -> None:
    pairs.classes = ["a$b$^", "$\\frac$", "猫 <cat>", ""]
    features = featcache.extract(made, pairs, str(tmp_path / "named"))
    trained = featcache.train_head(made, features, epochs=2)
    folder = trained.save(tmp_path / "head")
    first = (folder / "confusion_matrix.svg").read_bytes()
    for name in ("curves.svg", "confusion_matrix.svg"):
        assert ElementTree.parse(folder / name).getroot().tag.endswith("svg")
    words = "".join(ElementTree.fromstring(first).itertext())
    assert all(name in words for name in pairs.classes)
    assert (trained.save(tmp_path / "again") / "confusion_matrix.svg").read_bytes() == first


def test_training_and_saving_need_neither_matplotlib_nor_skops(made, features, tmp_path, monkeypatch) -> None:
    for module in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_svg", "skops", "skops.io"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "featcache.heads.plots", raising=False)
    folder = featcache.train_head(made, features, head="sklearn:RidgeClassifier").save(tmp_path / "head")
    assert {path.name for path in folder.iterdir()} == {"head.json", "head.safetensors", "history.csv", "seal.json"}
    forest = featcache.train_head(made, features, head="sklearn:RandomForestClassifier", parameters={"n_estimators": 3})
    with pytest.raises(MissingDependencyError, match=r"featcache\[estimators\]"):
        forest.save(tmp_path / "forest")
    assert not (tmp_path / "forest").exists()


@pytest.mark.slow
def test_saving_replaces_a_head_and_never_anything_else(made, features, tmp_path) -> None:
    trained = featcache.train_head(made, features, head="linear", epochs=1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(HeadError, match="holds no head"):
        trained.save(mine)
    assert (mine / "thesis.tex").read_text() == "years of work"
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadError, match="is a file"):
        trained.save(tmp_path / "file")
    folder = trained.save(tmp_path / "deep" / "head")
    other = featcache.train_head(made, features, epochs=1).save(folder)
    assert read_head(other)["head"] == "suffix"
    assert [path.name for path in folder.parent.iterdir()] == ["head"]


@pytest.mark.slow
@pytest.mark.parametrize("fails_at", ["write", "rename"])
def test_a_failure_while_saving_leaves_the_old_head_whole(made, features, tmp_path, monkeypatch, fails_at) -> None:
    trained = featcache.train_head(made, features, head="linear", epochs=1)
    folder = trained.save(tmp_path / "heads" / "head")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.startswith(".tmp~") and (self / "head.json").is_file() and target == folder and not calls:
            calls.append(1)
            raise OSError(28, "No space left on device")
        return real(self, target)

    calls: list[int] = []

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    if fails_at == "write":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(HeadError, match="No space left"):
        featcache.train_head(made, features, epochs=1).save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["head"]


def change(folder: Path, **fields: object) -> None:
    described = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps({**described, **fields}))


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "suffix"])
def test_a_damaged_or_lying_folder_is_refused_in_one_line(made, features, tmp_path, head: str) -> None:
    trained = featcache.train_head(made, features, head=head, epochs=1)
    spoilt = [
        lambda folder: (folder / "head.json").write_bytes(b"\xff\x00"),
        lambda folder: (folder / "head.json").write_text("[1]"),
        lambda folder: change(folder, format=99),
        lambda folder: change(folder, format="x"),
        lambda folder: change(folder, options={"x": 1}),
        lambda folder: change(folder, options=3),
        lambda folder: change(folder, recipe={}),
        lambda folder: change(folder, history=[{"epoch": 1}]),
        lambda folder: change(folder, classes=None),
        lambda folder: change(folder, classes=["a"] * 5),
        lambda folder: (folder / "head.safetensors").unlink(),
        lambda folder: (folder / "head.safetensors").write_bytes(b"x" * 100),
        lambda folder: save_file({"head.weight": torch.zeros(1)}, folder / "head.safetensors"),
        lambda folder: (folder / "head.skops").write_bytes(b"x"),
    ]
    for number, spoil in enumerate(spoilt):
        folder = trained.save(tmp_path / f"head{number}")
        spoil(folder)
        with pytest.raises(HeadError) as caught:
            featcache.load_head(folder, made)
        assert "\n" not in str(caught.value), number


def callable_parameter(function: object) -> bytes:
    from sklearn.neighbors import KNeighborsClassifier

    estimator = KNeighborsClassifier(1, weights=function).fit(np.zeros((3, 2)), [0, 1, 2])
    return save_estimator(estimator)


def test_an_estimator_with_anything_but_scikit_learns_own_classes_is_not_loaded() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score
    from sklearn.neighbors import KNeighborsClassifier

    for function in (
        subprocess.run,
        np.testing.assert_equal,
        accuracy_score,
        functools.partial(subprocess.run, "true"),
    ):
        with pytest.raises(HeadError, match="not loaded"):
            load_estimator(callable_parameter(function), "KNeighborsClassifier", 2)
    plain = KNeighborsClassifier(1).fit(np.zeros((3, 2)), [0, 1, 2])
    assert load_estimator(save_estimator(plain), "KNeighborsClassifier", 2).n_neighbors == 1
    with pytest.raises(HeadError, match="for 2 values, not KNeighborsClassifier for 3"):
        load_estimator(save_estimator(plain), "KNeighborsClassifier", 3)
    other = LogisticRegression().fit(np.eye(2), [0, 1])
    with pytest.raises(HeadError, match="not KNeighborsClassifier"):
        load_estimator(save_estimator(other), "KNeighborsClassifier", 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LogisticRegression", {}), ("LogisticRegressionCV", {"cv": 3}), ("RidgeClassifier", {"fit_intercept": False}),
        ("LinearSVC", {}), ("SGDClassifier", {}), ("Perceptron", {}), ("LinearDiscriminantAnalysis", {}),
        ("SVC", {"kernel": "linear"}), ("SVC", {}), ("GaussianNB", {}), ("MLPClassifier", {"max_iter": 20}),
        ("GradientBoostingClassifier", {"n_estimators": 3}), ("NearestCentroid", {}), ("GaussianProcessClassifier", {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2), (1, 3), (0, 2, 3)])
@pytest.mark.filterwarnings("ignore")
def test_the_network_of_an_estimator_decides_as_the_estimator(made, pairs, tmp_path, name, parameters, labels) -> None:
    pairs.targets_of = torch.tensor(labels)[torch.arange(50) % len(labels)]
    pairs.classes = ["a", "b", "c", "d"]
    features = featcache.extract(made, pairs, str(tmp_path / "store"))
    trained = featcache.train_head(made, features, head=f"sklearn:{name}", parameters=parameters, validation=0)
    vectors = features.numpy()[0].mean(axis=(2, 3))
    found = trained.predict_proba(features)
    assert np.array_equal(found.argmax(axis=1), trained.estimator.predict(vectors))
    if name in ("LogisticRegression", "LinearDiscriminantAnalysis", "GaussianNB"):
        expected = trained.estimator.predict_proba(vectors)
        assert np.allclose(found[:, list(labels)], expected, atol=1e-4)


def test_a_classifier_that_cannot_be_trained_or_used_says_why(made, features) -> None:
    for name in ("VotingClassifier", "ClassifierChain"):
        with pytest.raises(UsageError, match="other estimators"):
            featcache.train_head(made, features, head=f"sklearn:{name}")
    with pytest.raises(HeadError, match="KNeighborsClassifier could not be fitted") as caught:
        featcache.train_head(made, features, head="sklearn:KNeighborsClassifier", parameters={"n_neighbors": -1})
    assert "\n" not in str(caught.value)
    with pytest.raises(HeadError, match="RadiusNeighborsClassifier cannot predict") as caught:
        featcache.train_head(made, features, head="sklearn:RadiusNeighborsClassifier", parameters={"radius": 1e-9})
    assert "\n" not in str(caught.value)


class Tagged(TensorPairs):
    """A dataset that says which split each row is in."""

    def __init__(self, pairs: TensorPairs, splits: list[str], targets: list[int]) -> None:
        super().__init__(pairs.inputs, torch.tensor(targets), ["a", "b", "c"])
        self.splits = splits


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_validation_and_test_rows_are_never_trained_on(made, pairs, tmp_path, word: str) -> None:
    splits = ["train"] * 30 + [word] * 12 + ["test"] * 8
    rows = Tagged(pairs, splits, [number % 3 for number in range(50)])
    features = featcache.extract(made, rows, str(tmp_path / "store"))
    trained = featcache.train_head(made, features, head="sklearn:KNeighborsClassifier")
    assert trained.estimator.n_samples_fit_ == 30
    assert (trained.validation_metrics.samples, trained.metrics.samples, trained.metrics.split) == (12, 8, "test")


def test_rows_are_divided_by_class_and_seed_and_a_lonely_row_is_trained_on(made, pairs, tmp_path) -> None:
    targets = [0] * 30 + [1] * 19 + [2]
    features = featcache.extract(made, Tagged(pairs, [""] * 50, targets), str(tmp_path / "store"))
    counts = [
        np.array(featcache.train_head(made, features, head="linear", epochs=1, seed=seed).metrics.confusion_matrix).sum(
            1
        )
        for seed in (0, 1)
    ]
    assert all(count.tolist() == [6, 4, 0] for count in counts)
    with pytest.raises(HeadError, match="too few"):
        featcache.train_head(made, features.subset(np.array([0, 1, 30])), validation=0.5)


def test_one_class_among_the_training_rows_is_refused_even_if_the_test_rows_hold_another(made, pairs, tmp_path) -> None:
    rows = Tagged(pairs, ["train"] * 30 + ["test"] * 20, [0] * 30 + [1] * 20)
    features = featcache.extract(made, rows, str(tmp_path / "store"))
    with pytest.raises(HeadError, match="only one class, 'a', among its training rows"):
        featcache.train_head(made, features)


def test_options_that_cannot_work_are_refused(made, features, net, pairs, tmp_path) -> None:
    for words, options in (
        ("patience", {"patience": 2, "validation": 0}),
        ("warmup_epochs", {"warmup_epochs": 9, "epochs": 3}),
        ("not all 0", {"class_weights": [0, 0, 0, 0]}),
        ("class_weights", {"class_weights": [1, 2, float("nan"), 1]}),
        ("weight_decay", {"weight_decay": float("nan")}),
        ("a head on pooled features", {"head": "linear", "trainable": ["fc"]}),
    ):
        with pytest.raises(UsageError, match=words):
            featcache.train_head(made, features, **options)
    with pytest.raises(DataError, match="no inputs"):
        featcache.predict(featcache.train_head(made, features, head="linear", epochs=1), [])


def test_a_last_batch_of_one_row_with_batch_norm_says_what_to_do(pairs, tmp_path) -> None:
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(432, 6), torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 4)
    ).eval()
    features = featcache.extract(model, pairs, str(tmp_path / "store"), cut="1")
    split = featcache.split(model, "1", (pairs.inputs[:2],))
    with pytest.raises(HeadError, match=r"50 rows in batches of 7.*--train-batch-size"):
        featcache.train_head(split, features, validation=0, batch_size=7)
