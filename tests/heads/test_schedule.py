"""Unfreezing and freezing in stages against the same schedule run on the whole network, bit for bit on one thread."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

import featcache
from featcache import FeatureStore
from featcache.errors import HeadError, UsageError
from featcache.heads.network import new_network
from featcache.heads.schedule import Stage, parse_schedule

from ..conftest import SmallNet, TensorPairs
from .reference import stage

ROWS, BATCH, SEED = 48, 12, 7
OPTIONS = {"batch_size": BATCH, "learning_rate": 3e-3, "validation": 0, "seed": SEED}
LOOP = {"batch_size": BATCH, "loss_of": nn.CrossEntropyLoss(), "lr": 3e-3, "weight_decay": 0.01, "least": 1}
STEM, BLOCK, TAIL = ("stem",), ("stem", "block"), ("stem", "block", "tail")


@pytest.fixture
def data() -> TensorPairs:
    generator = torch.Generator().manual_seed(3)
    return TensorPairs(torch.randn(ROWS, 3, 10, 10, generator=generator), torch.arange(ROWS) % 3)


@pytest.fixture
def split(net: SmallNet, data: TensorPairs) -> featcache.Split:
    return featcache.split(net, "tail", (data.inputs[:2],))


@pytest.fixture
def store(tmp_path) -> FeatureStore:
    return FeatureStore(str(tmp_path / "store"))


def extracted(net: SmallNet, data: TensorPairs, store: FeatureStore, *cuts: str) -> dict[str, featcache.Features]:
    return {cut: featcache.extract(net, data, store, cut=cut, batch_size=BATCH) for cut in cuts}


def assert_equal(mine: nn.Module, theirs: nn.Module) -> None:
    left, right = mine.state_dict(), theirs.state_dict()
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def end_to_end(split, data, features, stages: list[tuple[tuple[str, ...], int]]) -> nn.Module:
    model = new_network(split, 3, SEED).model
    for number, (frozen, epochs) in enumerate(stages):
        stage(model, data, features, frozen, epochs=epochs, seed=SEED + number, **LOOP)
    return model.eval()


@pytest.mark.slow
def test_unfreezing_top_down_equals_the_same_schedule_end_to_end(net, split, data, store) -> None:
    features = extracted(net, data, store, "tail", "block", "stem")
    before = copy.deepcopy(net.state_dict())
    trained = featcache.train_unfreezing(split, features, "tail:3,block:4,stem:2", **OPTIONS)
    expected = end_to_end(split, data, features["stem"], [(TAIL, 3), (BLOCK, 4), (STEM, 2)])
    assert_equal(trained.model, expected)
    assert torch.equal(trained.model(data.inputs), expected(data.inputs))
    assert [record.epoch for record in trained.history] == list(range(1, 10))
    assert [record.stage for record in trained.history] == ["tail"] * 3 + ["block"] * 4 + ["stem"] * 2
    assert (trained.recipe.cut, trained.options.schedule, trained.options.epochs) == (
        "stem",
        "tail:3,block:4,stem:2",
        9,
    )
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.slow
def test_the_head_first_then_more_is_one_line_and_equals_the_end_to_end_run(net, split, data, store) -> None:
    features = extracted(net, data, store, "tail", "block")
    trained = featcache.train_unfreezing(split, features, "head:5,block:4", **OPTIONS)
    expected = end_to_end(split, data, features["block"], [((*TAIL, "pool"), 5), (BLOCK, 4)])
    assert_equal(trained.model, expected)
    assert [record.stage for record in trained.history] == ["head"] * 5 + ["block"] * 4


@pytest.mark.slow
def test_freezing_bottom_up_equals_the_same_schedule_end_to_end(net, data, store) -> None:
    split = featcache.split(net, "stem", (data.inputs[:2],))
    features = extracted(net, data, store, "stem")["stem"]
    trained = featcache.train_freezing(
        split, features, "stem:3,block:2,tail:2,head:2", data, store, extraction={"batch_size": BATCH}, **OPTIONS
    )
    expected = end_to_end(split, data, features, [(STEM, 3), (BLOCK, 2), (TAIL, 2), (TAIL, 2)])
    assert_equal(trained.model, expected)
    assert trained.recipe.fingerprint == features.recipe.fingerprint
    sets = [(info.cut, info.recipe) for info in store.sets()]
    assert sorted(cut for cut, _ in sets) == ["block", "stem", "tail"]
    original = featcache.extract(net, data, store, cut="block").recipe.fingerprint
    assert original not in {recipe for _, recipe in sets}


@pytest.mark.slow
def test_a_head_that_was_trained_in_stages_is_saved_whole_and_loads_behind_its_earliest_cut(
    net, split, data, store, tmp_path
) -> None:
    features = extracted(net, data, store, "tail", "stem")
    stem = featcache.split(net, "stem", (data.inputs[:2],))
    unfrozen = featcache.train_unfreezing(split, features, "tail:2,stem:2", seed=1)
    frozen = featcache.train_freezing(stem, features["stem"], "stem:2,tail:2", data, store, seed=1)
    for trained in (unfrozen, frozen):
        assert trained.metrics.samples == 10
        again = featcache.load_head(trained.save(tmp_path / "head"), stem)
        assert_equal(again.model, trained.model)
        assert again.options == trained.options
        assert (again.predict_proba(features["stem"]) == trained.predict_proba(features["stem"])).all()


def test_rows_to_validate_by_stay_out_of_every_stage(net, split, data, store, monkeypatch) -> None:
    from featcache.heads import train

    seen = []
    real = train.divide

    def noted(*arguments, **options):
        seen.append(real(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(train, "divide", noted)
    features = extracted(net, data, store, "tail", "block")
    featcache.train_unfreezing(split, features, "tail:1,block:1", seed=3)
    assert seen[0].validation.names == seen[1].validation.names


def test_a_schedule_is_read_as_it_is_written() -> None:
    assert parse_schedule("layer4:3, layer3:5") == (Stage("layer4", 3), Stage("layer3", 5))
    assert parse_schedule("head:1,blocks.3:2") == (Stage("blocks.3", 1, True), Stage("blocks.3", 2))
    assert parse_schedule("a:1,b:2,head:3", freezing=True)[-1] == Stage("b", 3, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layer4", "CUT:EPOCHS"), ("layer4:0", "CUT:EPOCHS"), ("layer4:x", "CUT:EPOCHS"), ("", "CUT:EPOCHS"),
        ("head:3", "names no cut"), ("a:1,a:2", "twice"), ("a:1,head:2", "first when unfreezing"), ("cosine", "CUT:EPOCHS"),
    ],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_refused_in_one_line(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        parse_schedule(text)
    assert "\n" not in str(caught.value)


def test_schedules_that_do_not_fit_the_network_or_its_features_are_refused(net, split, data, store) -> None:
    features = extracted(net, data, store, "tail", "block")
    for error, words, schedule, options in (
        (UsageError, "extract them", "tail:1,stem:1", {}),
        (UsageError, "deeper cuts come first", "block:1,tail:1", {}),
        (UsageError, "takes no option 'epochs'", "tail:1", {"epochs": 3}),
        (UsageError, "Did you mean 'optimizer'", "tail:1", {"optimiser": "sgd"}),
    ):
        with pytest.raises(error, match=words):
            featcache.train_unfreezing(split, features, schedule, **options)
    part = {**features, "block": features["block"].subset(range(40))}
    with pytest.raises(HeadError, match="other samples"):
        featcache.train_unfreezing(split, part, "tail:1,block:1")
    with pytest.raises(UsageError, match="bottom up"):
        featcache.train_freezing(split, features["tail"], "tail:1,block:1", data, store)
    with pytest.raises(UsageError, match="begins at 'block'"):
        featcache.train_freezing(split, features["tail"], "block:1,tail:1", data, store)


@pytest.mark.slow
def test_schedules_from_the_command_line_train_save_and_predict(featcache_command, image_folder) -> None:
    (featcache_command.folder / "featcache.toml").write_text(
        'backbone = "bundled:resnet-mini"\ndata = "folder:images"\n[train-head]\nepochs = 40\n'
    )
    featcache_command("extract", "--cut", "layer4", "--cut", "layer3")
    ends = json.loads(featcache_command("train-head", "--schedule", "head:2,layer4:2,layer3:1", "--json").stdout)
    assert [record["stage"] for record in ends["history"]] == ["head", "head", "layer4", "layer4", "layer3"]
    assert ends["cut"] == "layer3"
    frozen = json.loads(featcache_command("train-head", "--freeze-schedule", "layer3:1,layer4:2", "--json").stdout)
    assert [record["stage"] for record in frozen["history"]] == ["layer3", "layer4", "layer4"]
    assert frozen["cut"] == "layer3"
    assert len(json.loads(featcache_command("predict", "images/ant", "--json").stdout)) == 6
    assert featcache_command("ls", "--json").stdout.count('"cut": "layer4"') == 2
    for words, arguments, code in (
        ("--lr-schedule", ("--schedule", "cosine"), 2),
        ("--epochs does not go with", ("--schedule", "layer4:1", "--epochs", "3"), 2),
        ("give one of them", ("--schedule", "layer4:1", "--freeze-schedule", "layer3:1"), 2),
        ("featcache extract --cut layer2", ("--schedule", "layer4:1,layer2:1"), 3),
        ("no sample weights", ("--cut", "layer4", "--sample-weights", "featcache.toml"), 1),
        ("there is no file", ("--cut", "layer4", "--sample-weights", "none.npy"), 1),
        ("scikit-learn has no scorer 'acuracy'", ("--cut", "layer4", "--metric", "acuracy"), 2),
        ("a row of 0 and 1", ("--cut", "layer4", "--task", "multi_label"), 1),
    ):
        done = featcache_command("train-head", *arguments, expect=code)
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
