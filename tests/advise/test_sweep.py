from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache import FeatureStore
from featcache.advise import SweepRow
from featcache.advise.choice import choose, reason
from featcache.advise.compare import Gain, Trial, mean_interval, paired_gain
from featcache.advise.folds import validation_rows
from featcache.advise.judge import judge_of
from featcache.advise.saved import load_advice, save_advice
from featcache.errors import HeadError, UsageError
from featcache.training import TrainOptions, row_uses

from ..conftest import TensorPairs

TRAINING = {"epochs": 30, "seeds": 2, "train_batch_size": 16, "learning_rates": [1e-2]}


class Blind(nn.Module):
    """Its last layer sees almost nothing of what the first one sees, so that only training more layers can help."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 16)
        self.third = nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x)))))))


@pytest.fixture
def blind() -> nn.Module:
    torch.manual_seed(0)
    model = Blind().eval()
    with torch.no_grad():
        model.second.weight.mul_(1e-3)  # next to nothing gets through
        model.second.bias.fill_(1.0)
    return model


@pytest.fixture
def signs() -> TensorPairs:
    inputs = torch.randn(240, 8, generator=torch.Generator().manual_seed(0))
    return TensorPairs(inputs, (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long())


def trial(seed: int, right: list[int]) -> Trial:
    return Trial(seed, np.arange(len(right)), np.array(right, dtype=float))


@pytest.mark.slow
def test_the_sweep_goes_up_while_it_helps_and_recommends_the_cut_that_did(blind, signs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    found = featcache.sweep(blind, signs, store, ["first", "second", "third"], **TRAINING)
    assert [row.cut for row in found.rows] == ["third", "second", "first"]
    assert found.recommended == "first"
    third, second, first = found.rows
    assert first.score > 0.7 > 0.6 > max(third.score, second.score)
    assert first.difference is None
    assert third.difference == pytest.approx(third.score - first.score)
    assert third.difference + third.difference_half_width < 0
    assert "first: " in found.reason
    assert "over second" in found.reason
    assert found.score == "accuracy"
    json.dumps([row.__dict__ for row in found.rows])


@pytest.mark.slow
def test_of_cuts_within_the_tolerance_of_the_best_the_deepest_is_recommended(blind, signs, tmp_path) -> None:
    asked = (blind, signs, str(tmp_path / "s"), ["first", "third"])
    found = featcache.sweep(*asked, **TRAINING)
    behind = found.rows[1].score - found.rows[0].score
    assert found.recommended == "first"
    tolerant = featcache.sweep(*asked, tolerance=behind + 0.01, **TRAINING)
    assert tolerant.recommended == "third"
    assert "first adds +" in tolerant.reason
    assert "within the tolerance" in tolerant.reason
    assert [row.score for row in tolerant.rows] == [row.score for row in found.rows]


@pytest.mark.slow
def test_the_race_ends_after_cuts_that_cannot_be_better_and_not_for_those_that_few_rows_leave_open(
    blind, signs, tmp_path
) -> None:
    asked = (blind, signs, str(tmp_path / "s"), ["first", "second", "third"])
    every = featcache.sweep(*asked, epochs=2, patience=None)
    assert every.untried == ()
    # All that the second cut can gain is less than this tolerance.
    found = featcache.sweep(*asked, epochs=2, patience=1, tolerance=0.9)
    assert [row.cut for row in found.rows] == ["third", "second"]
    assert found.untried == ("first",)
    assert found.recommended == "third"
    # It is no better, but noise leaves room for that.
    assert every.rows[1].score <= every.rows[0].score
    third, second = featcache.sweep(*asked[:3], ["second", "third"], epochs=2, tolerance=0.0).rows
    assert abs(second.score - third.score) < (second.difference_half_width or third.difference_half_width)
    assert featcache.sweep(*asked, epochs=2, patience=1, tolerance=0.0).untried == ()


def test_small_features_are_extracted_in_one_pass_and_large_ones_when_it_is_their_turn(
    blind, signs, tmp_path, monkeypatch
) -> None:
    cuts = ["first", "second", "third"]
    small = FeatureStore(str(tmp_path / "small"))
    featcache.sweep(blind, signs, small, cuts, epochs=2, patience=1, tolerance=0.9)
    assert {info.cut for info in small.sets()} == {"first", "second", "third"}
    monkeypatch.setattr("featcache.advise.trials.TOGETHER_BYTES", 2 * 240 * 16 * 4)
    large = FeatureStore(str(tmp_path / "large"))
    found = featcache.sweep(blind, signs, large, cuts, epochs=2, patience=1, tolerance=0.9)
    assert found.untried == ("first",)
    assert {info.cut for info in large.sets()} == {"second", "third"}


def test_equal_sweeps_give_equal_answers(blind, signs, tmp_path) -> None:
    runs = [featcache.sweep(blind, signs, str(tmp_path / name), ["second", "third"], epochs=2) for name in "ab"]
    rows = [[(row.cut, row.score, row.difference, row.difference_half_width) for row in run.rows] for run in runs]
    assert rows[0] == rows[1]


def test_every_cut_gets_the_same_number_of_trainings_and_the_best_rate_of_its_own(blind, signs, tmp_path) -> None:
    found = featcache.sweep(
        blind, signs, str(tmp_path / "s"), ["first", "third"], epochs=10, seeds=2, learning_rates=[1e-5, 1e-2]
    )
    assert {row.trainings for row in found.rows} == {3}
    assert {row.learning_rate for row in found.rows} <= {1e-5, 1e-2}
    assert found.rows[-1].cut == "first"
    assert found.rows[-1].learning_rate == 1e-2


def test_cuts_are_compared_by_the_same_rows_and_never_by_test_rows(blind, signs, tmp_path) -> None:
    signs.splits = ["test" if number % 4 == 0 else "" for number in range(240)]
    features = featcache.extract(blind, signs, str(tmp_path / "s"), cut="third")
    judge, uses = judge_of(features), row_uses(features, TrainOptions())
    rows = validation_rows(features, uses, 0.2, 0, judge)
    assert len(rows) == 36
    assert not np.isin(features.splits[rows], "test").any()
    assert np.array_equal(rows, validation_rows(features, uses, 0.2, 0, judge))
    parts = [validation_rows(features, uses, 0.2, seed, judge) for seed in range(5)]
    assert sorted(np.concatenate(parts).tolist()) == np.flatnonzero(features.splits != "test").tolist()
    assert not np.array_equal(rows, validation_rows(features, uses, 0.2, 5, judge))
    signs.splits = ["val" if number % 4 == 0 else "train" for number in range(240)]
    own = featcache.extract(blind, signs, str(tmp_path / "s"), cut="third")
    assert validation_rows(own, row_uses(own, TrainOptions()), 0.2, 5, judge).tolist() == list(range(0, 240, 4))


def test_what_test_rows_hold_changes_nothing(blind, signs, tmp_path) -> None:
    signs.splits = ["test" if number % 4 == 0 else "" for number in range(240)]
    scores = []
    for name in "ab":
        found = featcache.sweep(blind, signs, str(tmp_path / name), ["second", "third"], epochs=3)
        scores.append([row.score for row in found.rows])
        signs.inputs = torch.where(torch.arange(240)[:, None] % 4 == 0, torch.zeros(8), signs.inputs)
    assert scores[0] == scores[1]


def test_a_size_of_batches_that_was_not_asked_for_leaves_no_batch_of_one_row(signs, tmp_path) -> None:
    torch.manual_seed(0)
    parts = {"first": nn.Linear(8, 8), "norm": nn.BatchNorm1d(8), "last": nn.Linear(8, 2)}
    model = nn.Sequential(OrderedDict(parts)).eval()
    data = TensorPairs(signs.inputs[:98], torch.arange(98) % 2)
    found = featcache.sweep(model, data, str(tmp_path / "s"), ["first"], epochs=1)  # of 49 rows, 16 a batch leave one
    assert found.rows[0].trainings == 2
    with pytest.raises(HeadError, match="--train-batch-size"):
        featcache.sweep(model, data, str(tmp_path / "s"), ["first"], epochs=1, train_batch_size=16)


@pytest.mark.slow
def test_halving_drops_the_worse_cuts_on_few_rows(blind, signs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    found = featcache.sweep(blind, signs, store, ["first", "second", "third"], halving=True, **TRAINING)
    assert found.recommended == "first"
    assert len(found.dropped) == 1
    assert {info.cut for info in store.sets()} == {"first", "second", "third"}


def test_what_cannot_be_compared_is_refused(blind, signs, tmp_path) -> None:
    refused = (
        {"seeds": 0}, {"patience": 0}, {"confidence": 1.0}, {"validation": 0.0}, {"learning_rates": []}, {"tolerance": -1},
        {"epochs": 0}, {"train_batch_size": 0}, {"task": "unheard of"},
    )  # fmt: skip
    for number, options in enumerate(refused):
        with pytest.raises(UsageError, match=next(iter(options)).replace("train_", "")):
            featcache.sweep(blind, signs, str(tmp_path / str(number)), ["third"], **options)
    few = TensorPairs(signs.inputs[:4], torch.arange(4))
    with pytest.raises(HeadError, match="too few"):
        featcache.sweep(blind, few, str(tmp_path / "s"), ["third"])


def test_a_paired_gain_is_surer_than_the_difference_of_two_means() -> None:
    base = [trial(0, [1, 0] * 50)]
    better = [trial(0, [1, 0] * 46 + [1, 1] * 4)]
    gain = paired_gain(better, base, 0.9)
    assert gain.mean == pytest.approx(0.04)
    assert gain.mean > gain.half_width
    assert mean_interval(better, 0.9)[1] > 2 * gain.half_width


def test_a_gain_that_differs_from_seed_to_seed_is_noise() -> None:
    base = [trial(seed, [0, 1] * 50) for seed in range(3)]
    changing = [trial(0, [1, 1] * 50), trial(1, [0, 1] * 50), trial(2, [0, 0] * 50)]
    gain = paired_gain(changing, base, 0.9)
    assert gain.mean == pytest.approx(0.0)
    assert gain.half_width > 0.3
    assert paired_gain(base, base, 0.9) == Gain(0.0, 0.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        rights = [Trial(seed, np.arange(200), (generator.random(200) < 0.7).astype(float)) for seed in range(1)]
        mean, half_width = mean_interval(rights, 0.9)
        covered += abs(mean - 0.7) <= half_width
    assert 0.85 <= covered / 300 <= 0.95


def row(cut: str, score: float, difference: float | None, half_width: float | None, train_s: float) -> SweepRow:
    return SweepRow(cut, 0.5, 0.5, score, 0.01, difference, half_width, None, 1.0, train_s, 3, 10)


def test_the_reason_names_gain_and_cost_and_says_what_is_noise_and_what_is_within_the_tolerance() -> None:
    rows = [
        row("layer4", 0.9, -0.021, 0.004, 1.0), row("layer3", 0.921, None, None, 3.2), row("layer2", 0.923, 0.002, 0.004, 6.0),
        row("layer1", 0.92, -0.001, 0.004, 9.0), row("stem", 0.8, -0.121, 0.02, 12.0),
    ]  # fmt: skip
    assert reason(rows, "layer3", 0.005) == (
        "layer3: 92.1 % (± 1.0), +2.1 ± 0.4 points over layer4 for 3.2 × the training time; "
        "layer2 adds +0.2 ± 0.4 points (not beyond noise), within the tolerance of 0.5; "
        "layer1 adds nothing (-0.1 ± 0.4 points); stem is worse (-12.1 ± 2.0 points)"
    )
    unproven = [row("layer4", 0.9, -0.01, 0.02, 1.0), row("layer3", 0.91, None, None, 2.0)]
    words = reason(unproven, "layer3", 0.005)
    assert "+1.0 ± 2.0 points over layer4 (not beyond noise)" in words
    assert "more --seeds" in words
    open_ = [row("layer4", 0.9, None, None, 1.0), row("layer3", 0.896, -0.004, 0.066, 2.0)]
    assert "what layer3 adds is not known (-0.4 ± 6.6 points)" in reason(open_, "layer4", 0.005)


def test_the_best_mean_decides_and_ties_go_to_the_deeper_cut() -> None:
    means = {"deep": 0.90, "middle": 0.947, "shallow": 0.95}
    assert choose(means, 0.005) == "middle"
    assert choose(means, 0.0) == "shallow"
    assert choose(means, 0.06) == "deep"


@pytest.mark.slow
def test_the_command_prints_the_recommended_cut_and_writes_the_plot(image_folder, featcache_command) -> None:
    pytest.importorskip("matplotlib")
    shared = ("sweep", "--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--store", "s")
    short = ("--epochs", "1", "--seeds", "2", "--cut", "layer3", "--cut", "layer4", "--validation", "0.4")
    done = featcache_command(*shared, *short, "--plot", "sweep.svg")
    assert "recommended: layer" in done.stdout
    ElementTree.parse(featcache_command.folder / "sweep.svg")
    answer = json.loads(featcache_command(*shared, *short, "--json").stdout)
    assert answer["recommended"] in ("layer3", "layer4")
    assert [each["cut"] for each in answer["rows"]] == ["layer4", "layer3"]


def test_several_rates_of_linear_heads_are_tried_in_one_pass_and_the_best_is_the_one_that_single_trainings_find(
    net, pairs, tmp_path
) -> None:
    options = {"head": "linear", "epochs": 5, "seeds": 1}
    rates = [1e-4, 1e-2, 3e-1]
    together = featcache.sweep(net, pairs, str(tmp_path / "s"), ["block"], learning_rates=rates, **options).rows[0]
    found = {}
    for rate in rates:
        (row,) = featcache.sweep(net, pairs, str(tmp_path / "s"), ["block"], learning_rates=[rate], **options).rows
        found[rate] = row.score
    assert together.trainings == 3
    assert together.score == found[together.learning_rate]


def test_an_answer_of_another_version_is_not_taken_for_one_of_this(blind, signs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    found = featcache.sweep(blind, signs, store, ["third"], epochs=1)
    save_advice(store, "blind", "sweep", found)
    kept = load_advice(store, "blind", found.dataset)["sweep"]
    assert kept["recommended"] == "third"
    path = tmp_path / "s" / "advice" / found.dataset / "sweep.json"
    content = json.loads(path.read_text())
    content["result"]["rows"][0]["accuracy"] = content["result"]["rows"][0].pop("score")
    path.write_text(json.dumps(content))
    assert load_advice(store, "blind", found.dataset) == {}


def test_linear_heads_are_solved_unless_epochs_are_asked_for(tmp_path) -> None:
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, generator=generator) + number % 3, number % 3) for number in range(60)]
    network = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4)).eval()
    for options, epochs in (
        ({}, 0),
        ({"epochs": 3}, 3),
        ({"learning_rates": [0.1]}, 40),
        ({"train_batch_size": 8}, 40),
    ):
        found = featcache.sweep(network, data, str(tmp_path), ["0", "1"], head="linear", seeds=1, **options)
        assert found.epochs == epochs
