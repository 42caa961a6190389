from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import featcache
from featcache.advise import transferability as scores
from featcache.advise.shift import describe_shift, source_shift
from featcache.errors import DataError, UsageError
from featcache.samples.samples import Samples

from ..conftest import TensorPairs


def blobs(rows: int = 120, width: int = 12, classes: int = 3, spread: float = 1.0, seed: int = 0):
    generator = np.random.default_rng(seed)
    targets = np.arange(rows) % classes
    centres = generator.normal(size=(classes, width))
    values = centres[targets] + spread * generator.normal(size=(rows, width)) @ np.diag(np.linspace(0.5, 2, width))
    return values.astype(np.float32), targets


def log_evidence(parameters: np.ndarray, values: np.ndarray, column: np.ndarray) -> float:
    """Of y ~ N(0, XXᵀ/α + I/β), straight from the density of a normal distribution."""
    alpha, beta = np.exp(parameters)
    rows = len(values)
    covariance = values @ values.T / alpha + np.eye(rows) / beta
    _, logdet = np.linalg.slogdet(covariance)
    return -0.5 * (rows * np.log(2 * np.pi) + logdet + column @ np.linalg.solve(covariance, column))


@pytest.mark.parametrize(("rows", "width"), [(60, 8), (30, 45)])
def test_logme_is_the_largest_marginal_likelihood_that_a_general_optimiser_finds(rows: int, width: int) -> None:
    values, targets = blobs(rows, width)
    values = values.astype(np.float64)
    expected = []
    for label in range(3):
        column = (targets == label).astype(float)
        found = optimize.minimize(
            lambda parameters, column=column: -log_evidence(parameters, values, column),
            np.zeros(2),
            method="Nelder-Mead",
            options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000},
        )
        expected.append(-found.fun / rows)
    assert scores.logme(values, targets) == pytest.approx(np.mean(expected), abs=1e-5)


def test_logme_rises_as_classes_come_apart() -> None:
    found = [scores.logme(*blobs(spread=spread)) for spread in (4.0, 1.0, 0.3)]
    assert found == sorted(found)


def test_the_h_score_is_the_trace_of_its_formula_with_ledoit_and_wolfs_covariance() -> None:
    values, targets = blobs()
    centred = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    rows, width = centred.shape
    # Ledoit and Wolf (2004), written out.
    sample = centred.T @ centred / rows
    target = np.trace(sample) / width * np.eye(width)
    distance = ((sample - target) ** 2).sum()
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in centred) / rows**2
    shrinkage = min(1.0, noise / distance)
    covariance = (1 - shrinkage) * sample + shrinkage * target
    means = np.zeros_like(centred)
    for label in range(3):
        means[targets == label] = centred[targets == label].mean(axis=0)
    expected = (1 - shrinkage) * np.trace(np.linalg.inv(covariance) @ (means.T @ means / rows))
    assert scores.h_score(values, targets) == pytest.approx(expected, rel=1e-6)
    assert scores.h_score(1000 * values, targets) == pytest.approx(expected, rel=1e-5)
    assert 0 < expected < 2


def test_leaving_out_one_row_in_closed_form_equals_refitting_without_it() -> None:
    values, targets = blobs(40, 6)
    standard = (values - values.mean(0)) / values.std(0)
    one_hot = np.eye(3)[targets]
    mean_square = (standard**2).sum() / standard.shape[1]
    best = (np.inf, 0.0)
    for ridge in scores.RIDGES:
        predicted = np.empty_like(one_hot)
        for row in range(len(values)):
            kept = np.arange(len(values)) != row
            predicted[row] = (
                Ridge(alpha=ridge * mean_square).fit(standard[kept], one_hot[kept]).predict(standard[[row]])
            )
        error = float(((one_hot - predicted) ** 2).mean())
        if error < best[0]:
            best = (error, float((predicted.argmax(1) == targets).mean()))
    assert scores.ridge_loo_accuracy(values, targets) == pytest.approx(best[1])


def test_the_neighbours_of_a_row_do_not_count_the_row_itself() -> None:
    values, targets = blobs(60, 5, spread=2.0)
    standard = (values - values.mean(0)) / values.std(0)
    right = 0
    for row in range(60):
        kept = np.arange(60) != row
        right += KNeighborsClassifier(1).fit(standard[kept], targets[kept]).predict(standard[[row]])[0] == targets[row]
    assert scores.knn_accuracy(values, targets, neighbours=1) == pytest.approx(right / 60)
    assert scores.knn_accuracy(np.arange(8.0)[:, None] % 2, np.arange(8) % 2) == 1.0


def test_cka_is_one_for_rotated_and_scaled_features_and_small_for_unrelated_ones() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(500, 6))
    rotation = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    assert scores.linear_cka(values, 3 * values @ rotation + 1) == pytest.approx(1.0)
    assert scores.linear_cka(values, generator.normal(size=(500, 6))) < 0.1


def test_scores_of_features_that_do_not_vary_are_finite() -> None:
    targets = np.arange(30) % 3
    for values in (np.zeros((30, 4)), np.ones((30, 4)), np.repeat(np.arange(30.0)[:, None], 4, axis=1)):
        for score in (scores.logme, scores.h_score, scores.ridge_loo_accuracy, scores.knn_accuracy):
            assert np.isfinite(score(values, targets)), score.__name__


def test_scores_do_not_depend_on_how_classes_are_numbered() -> None:
    values, targets = blobs()
    for score in (scores.logme, scores.h_score, scores.ridge_loo_accuracy, scores.knn_accuracy):
        assert score(values, targets) == pytest.approx(score(values, 7 * targets + 2)), score.__name__


def test_data_like_the_source_have_no_shift_and_shifted_ones_have_the_shift_in_deviations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    inputs = torch.randn(400, 3)
    model[0].running_mean.copy_(inputs.mean(0))
    model[0].running_var.copy_(inputs.var(0, unbiased=False))
    for moved, expected in ((0.0, 0.0), (2.0, 4.0)):
        pairs = TensorPairs(inputs + moved * inputs.std(0, unbiased=False), torch.arange(400) % 2)
        found = source_shift(model, Samples(pairs), list(range(400)), 64, torch.device("cpu"))
        assert list(found) == ["0"]
        assert found["0"] == pytest.approx(expected, abs=1e-3)
    assert "not known" in describe_shift({})
    assert not model[0]._forward_pre_hooks


@pytest.mark.slow
def test_the_probe_scores_every_cut_from_one_pass_and_caches_the_features(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    found = featcache.probe(net, pairs, store, ["stem", "block", "tail"])
    assert [row.cut for row in found.rows] == ["stem", "block", "tail"]
    assert [row.width for row in found.rows] == [6, 8, 8]
    assert found.rows[0].cka_before is None
    assert all(0 <= row.cka_before <= 1 for row in found.rows[1:])
    assert all(row.shift is not None and row.shift >= 0 for row in found.rows)
    assert set(found.best) == {"logme", "h_score", "ridge_loo_accuracy", "knn_accuracy", "probe_accuracy"}
    assert {info.cut for info in featcache.FeatureStore(store).sets()} == {"stem", "block", "tail"}
    again = featcache.probe(net, pairs, store, ["stem", "block", "tail"])
    assert again.rows == found.rows
    json.dumps([row.__dict__ for row in found.rows])


def test_rows_of_the_test_split_are_not_scored_and_large_data_are_sampled(net, pairs, tmp_path) -> None:
    pairs.splits = ["test"] * 10 + ["train"] * 40
    store = str(tmp_path / "s")
    assert featcache.probe(net, pairs, store, ["block"]).samples == 40
    assert featcache.probe(net, pairs, store, ["block"], most_samples=20).samples == 20


def test_what_cannot_be_scored_is_refused_in_words(net, pairs, tmp_path) -> None:
    few = TensorPairs(pairs.inputs[:6], pairs.targets_of[:6])
    with pytest.raises(DataError, match="ten"):
        featcache.probe(net, few, str(tmp_path / "s"), ["block"])
    with pytest.raises(UsageError, match="most_samples"):
        featcache.probe(net, pairs, str(tmp_path / "s"), ["block"], most_samples=1)


@pytest.mark.slow
def test_the_command_prints_scores_and_words(image_folder, featcache_command) -> None:
    shared = ("probe", "--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--store", "s")
    done = featcache_command(*shared, "--cut", "layer3", "--cut", "layer4", "--json")
    answer = json.loads(done.stdout)
    assert [row["cut"] for row in answer["rows"]] == ["layer3", "layer4"]
    words = featcache_command(*shared, "--cut", "layer3")
    assert "LogME" in words.stdout
    assert "shift" in words.stderr


def test_cuts_that_are_level_in_the_values_shown_are_called_alike_in_the_order_of_the_network(tmp_path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)).eval()
    torch.nn.init.eye_(network[1].weight)
    torch.nn.init.zeros_(network[1].bias)
    samples = [(torch.randn(8) + number % 3, number % 3) for number in range(30)]
    summary = featcache.probe(network, samples, str(tmp_path), ["0", "1"]).summary
    assert "features at 0 and 1 tell the classes apart best by 5 of 5 scores" in summary
    assert "; 0 and 1 are alike" in summary
