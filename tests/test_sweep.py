from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache import FeatureStore, HeadError, UsageError
from featcache.advise.compare import Trial, mean_interval, paired_gain
from featcache.advise.sweep import SweepRow, _reason
from featcache.advise.trials import validation_rows

from .conftest import TensorPairs

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
    return Trial(seed, np.arange(len(right)), np.array(right, dtype=bool))


def test_the_sweep_goes_up_while_it_helps_and_recommends_the_cut_that_did(blind, signs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    found = featcache.sweep(blind, signs, store, ["first", "second", "third"], patience=2, **TRAINING)
    assert [row.cut for row in found.rows] == ["third", "second", "first"]
    assert found.recommended == "first"
    third, second, first = found.rows
    assert first.accuracy > 0.7 > 0.6 > max(third.accuracy, second.accuracy)
    assert first.gain == pytest.approx(first.accuracy - third.accuracy)
    assert "first: +" in found.reason
    assert "over third" in found.reason
    json.dumps([row.__dict__ for row in found.rows])


def test_a_shallower_cut_is_not_even_extracted_if_the_last_one_did_not_help(blind, signs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    found = featcache.sweep(blind, signs, store, ["first", "second", "third"], epochs=2, seeds=2, patience=1)
    assert [row.cut for row in found.rows] == ["third", "second"]
    assert found.untried == ("first",)
    assert found.recommended == "third"
    assert "second adds nothing beyond noise" in found.reason
    assert {info.cut for info in store.sets()} == {"third", "second"}


def test_equal_sweeps_give_equal_answers(blind, signs, tmp_path) -> None:
    runs = [
        featcache.sweep(blind, signs, str(tmp_path / name), ["second", "third"], epochs=2, seeds=2) for name in "ab"
    ]
    rows = [[(row.cut, row.accuracy, row.gain, row.gain_half_width) for row in run.rows] for run in runs]
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
    rows = validation_rows(features, 0.2, 0)
    assert len(rows) == 36
    assert not np.isin(features.splits[rows], "test").any()
    assert np.array_equal(rows, validation_rows(features, 0.2, 0))
    parts = [validation_rows(features, 0.2, seed) for seed in range(5)]
    assert sorted(np.concatenate(parts).tolist()) == np.flatnonzero(features.splits != "test").tolist()
    assert not np.array_equal(rows, validation_rows(features, 0.2, 5))
    found = featcache.sweep(blind, signs, str(tmp_path / "s"), ["third"], epochs=1, seeds=1)
    assert found.rows[0].test_accuracy is not None
    signs.splits = ["val" if number % 4 == 0 else "train" for number in range(240)]
    own = featcache.extract(blind, signs, str(tmp_path / "s"), cut="third")
    assert validation_rows(own, 0.2, 5).tolist() == list(range(0, 240, 4))


def test_halving_drops_the_worse_cuts_on_few_rows(blind, signs, tmp_path) -> None:
    store = FeatureStore(str(tmp_path / "s"))
    found = featcache.sweep(blind, signs, store, ["first", "second", "third"], halving=True, **TRAINING)
    assert found.recommended == "first"
    assert len(found.dropped) == 1
    assert {info.cut for info in store.sets()} == {"first", "second", "third"}


def test_what_cannot_be_compared_is_refused(blind, signs, tmp_path) -> None:
    for options in ({"seeds": 0}, {"patience": 0}, {"confidence": 1.0}, {"validation": 0.0}, {"learning_rates": []}):
        with pytest.raises(UsageError, match=next(iter(options))):
            featcache.sweep(blind, signs, str(tmp_path / "s"), ["third"], **options)
    few = TensorPairs(signs.inputs[:4], torch.arange(4))
    with pytest.raises(HeadError, match="too few"):
        featcache.sweep(blind, few, str(tmp_path / "s"), ["third"])


def test_a_paired_gain_is_surer_than_the_difference_of_two_means() -> None:
    base = [trial(0, [1, 0] * 50)]
    better = [trial(0, [1, 0] * 46 + [1, 1] * 4)]
    gain = paired_gain(better, base, 0.9)
    assert gain.mean == pytest.approx(0.04)
    assert gain.beyond_noise
    assert mean_interval(better, 0.9)[1] > 2 * gain.half_width


def test_a_gain_that_differs_from_seed_to_seed_is_noise() -> None:
    base = [trial(seed, [0, 1] * 50) for seed in range(3)]
    changing = [trial(0, [1, 1] * 50), trial(1, [0, 1] * 50), trial(2, [0, 0] * 50)]
    gain = paired_gain(changing, base, 0.9)
    assert gain.mean == pytest.approx(0.0)
    assert not gain.beyond_noise
    assert not paired_gain(base, base, 0.9).beyond_noise


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        rights = [Trial(seed, np.arange(200), generator.random(200) < 0.7) for seed in range(1)]
        mean, half_width = mean_interval(rights, 0.9)
        covered += abs(mean - 0.7) <= half_width
    assert 0.85 <= covered / 300 <= 0.95


def row(cut: str, gain: float | None, half_width: float | None, train_s: float) -> SweepRow:
    return SweepRow(cut, 0.5, 0.5, 0.9, 0.01, gain, half_width, None, None, 1.0, train_s, 3, 10)


def test_the_reason_names_gain_cost_and_what_did_not_help() -> None:
    rows = [row("layer4", None, None, 1.0), row("layer3", 0.021, 0.004, 3.2), row("layer2", 0.001, 0.004, 6.0)]
    assert _reason(rows, "layer3") == (
        "layer3: +2.1 ± 0.4 points over layer4 for 3.2 × the training time; "
        "layer2 adds nothing beyond noise (+0.1 ± 0.4 points)"
    )
    assert "is worse" in _reason([rows[0], row("layer3", -0.05, 0.01, 2.0)], "layer4")


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
        found[rate] = row.accuracy
    assert together.trainings == 3
    assert together.accuracy == found[together.learning_rate]
