from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

import featcache
from featcache import FeatureStore
from featcache.errors import StaleError, UsageError
from featcache.splitting.splitting import split_at

from ..conftest import TensorPairs
from .test_extract import reference

CUTS = ["stem", "block", "tail"]


SEEN: list[int] = []  # global: an extraction leaves alone what a hook holds itself


def note(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    SEEN.append(len(inputs[0]))


def count_calls(module: nn.Module) -> list[int]:
    """A list that grows with every batch that the module sees."""
    SEEN.clear()
    module.register_forward_pre_hook(note)
    return SEEN


def test_several_cuts_are_computed_in_one_pass_each_as_by_itself(net, pairs, tmp_path) -> None:
    calls = count_calls(net.stem)
    made = featcache.extract(net, pairs, str(tmp_path / "s"), cut=CUTS, batch_size=8)
    in_one_pass = calls.count(8)
    assert list(made) == CUTS
    for cut, features in made.items():
        assert np.array_equal(features.numpy()[0], reference(net, pairs.inputs, cut, 8).numpy())
        assert (features.report.computed, features.report.reused) == (50, 0)
    calls.clear()
    featcache.extract(net, pairs, str(tmp_path / "alone"), cut="tail", batch_size=8)
    # Every batch once, and the whole network on the first one.
    assert in_one_pass == calls.count(8)


def test_splits_of_one_recording_are_extracted_in_one_pass_and_not_proven_again(net, pairs, tmp_path) -> None:
    splits = split_at(net, CUTS, (pairs.inputs[:2],))
    calls = count_calls(net.stem)
    made = featcache.extract(splits, pairs, str(tmp_path / "s"), batch_size=8)
    assert list(made) == CUTS
    assert calls.count(8) == 8  # seven batches, and the whole network on the first one
    assert set(calls) == {8, 1, 2, 3}  # batches, and rows that are computed again in other company
    with pytest.raises(UsageError, match="leave it out"):
        featcache.extract(splits, pairs, str(tmp_path / "s"), cut="stem")


def test_splits_of_no_network_or_of_several_are_refused_and_so_is_a_specification(net, pairs, tmp_path) -> None:
    several = [featcache.split(each, "block", (pairs.inputs[:2],)) for each in (net, copy.deepcopy(net))]
    for splits in ([], several):
        with pytest.raises(UsageError, match="several of one network"):
            featcache.extract(splits, pairs, str(tmp_path / "s"))
    with pytest.raises(UsageError, match="load_backbone"):
        featcache.extract("bundled:resnet-mini", pairs, str(tmp_path / "s"), cut="layer4")
    assert not (tmp_path / "s").exists()


def test_each_of_several_cuts_resumes_by_itself(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    some = TensorPairs(pairs.inputs[:20], pairs.targets_of[:20])
    featcache.extract(net, some, store, cut="block", dtype="float16")
    made = featcache.extract(net, pairs, store, cut=["stem", "block"], dtype="float16")
    assert (made["stem"].report.computed, made["stem"].report.reused) == (50, 0)
    assert (made["block"].report.computed, made["block"].report.reused) == (30, 20)
    again = featcache.extract(net, pairs, store, cut=["stem", "block"], dtype="float16")
    assert [features.report.computed for features in again.values()] == [0, 0]


def test_a_cut_that_is_overwritten_later_is_kept_as_it_was(pairs, tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(400, 4)).eval()
    made = featcache.extract(model, pairs, str(tmp_path / "s"), cut=["0", "1"])
    assert (made["0"].numpy()[0] < 0).any()
    assert np.array_equal(made["1"].numpy()[0], made["0"].numpy()[0].clip(min=0))


def test_a_wrong_cut_among_several_leaves_nothing_behind(net, pairs, tmp_path) -> None:
    with pytest.raises(featcache.errors.UnknownCutError, match="block"):
        featcache.extract(net, pairs, str(tmp_path / "s"), cut=["stem", "blok"])
    assert not (tmp_path / "s").exists()


def test_a_deeper_cut_is_derived_from_a_cached_one_bit_for_bit_without_running_what_lies_before(
    net, pairs, tmp_path
) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="stem")
    calls = count_calls(net.stem)
    derived = featcache.extract(net, pairs, store, cut="tail")
    assert 64 not in calls  # the few calls are the recording's, on an example
    assert (derived.report.computed, derived.report.derived, derived.report.reused) == (0, 50, 0)
    assert "stem" in derived.report.notes[0]
    direct = featcache.extract(net, pairs, str(tmp_path / "direct"), cut="tail")
    assert derived.recipe == direct.recipe
    assert np.array_equal(derived.numpy()[0], direct.numpy()[0])


def test_the_deepest_cached_cut_is_read_and_rows_that_it_lacks_are_computed(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    some = TensorPairs(pairs.inputs[:20], pairs.targets_of[:20])
    featcache.extract(net, pairs, store, cut="stem", dtype="float16")
    featcache.extract(net, some, store, cut=["stem", "block"])
    features = featcache.extract(net, pairs, store, cut="tail")
    assert "at block" in features.report.notes[0]
    assert (features.report.derived, features.report.computed) == (20, 30)
    assert np.array_equal(features.numpy()[0], reference(net, pairs.inputs, "tail").numpy())


def test_a_set_whose_weights_have_changed_is_never_derived_from(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="stem")
    with torch.no_grad():
        net.stem[0].weight[0, 0, 0, 0] += 1e-3
    features = featcache.extract(net, pairs, store, cut="tail")
    assert (features.report.derived, features.report.computed) == (0, 50)
    assert np.array_equal(features.numpy()[0], reference(net, pairs.inputs, "tail").numpy())


def test_another_transform_is_never_derived_from(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="stem", transform=double)
    assert featcache.extract(net, pairs, store, cut="tail").report.derived == 0


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_a_rounded_set_is_derived_from_only_if_asked_and_then_it_is_another_recipe(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="stem", dtype="float16")
    exact = featcache.extract(net, pairs, store, cut="block")
    assert exact.report.derived == 0
    lossy = featcache.extract(net, pairs, store, cut="block", from_lossy=True)
    assert lossy.report.derived == 50
    assert lossy.recipe.fingerprint != exact.recipe.fingerprint
    assert lossy.recipe.derived_from["dtype"] == "float16"
    difference = np.abs(lossy.numpy()[0] - exact.numpy()[0]).max()
    assert 0 < difference < 0.05
    with pytest.raises(StaleError, match="no rounded set"):
        featcache.extract(net, pairs, store, cut="stem", from_lossy=True)


def test_a_rounded_set_that_lacks_rows_is_refused_as_a_source(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    some = TensorPairs(pairs.inputs[:20], pairs.targets_of[:20])
    featcache.extract(net, some, store, cut="stem", dtype="float16")
    with pytest.raises(StaleError, match="30 rows"):
        featcache.extract(net, pairs, store, cut="block", from_lossy=True)


def test_rounded_and_pooled_sets_are_derived_from_the_whole_one_at_the_same_cut(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    whole = featcache.extract(net, pairs, store, cut="block").numpy()[0]
    half = featcache.extract(net, pairs, store, cut="block", dtype="float16")
    pooled = featcache.extract(net, pairs, store, cut="block", pool="auto")
    assert (half.report.derived, pooled.report.derived) == (50, 50)
    assert np.array_equal(half.numpy()[0], whole.astype(np.float16).astype(np.float32))
    assert pooled.frontier[0].shape == (8,)
    assert np.allclose(pooled.numpy()[0], whole.mean((2, 3)), atol=1e-6)
    direct = featcache.extract(net, pairs, str(tmp_path / "direct"), cut="block", pool="auto")
    assert np.array_equal(direct.numpy()[0], pooled.numpy()[0])


def test_a_linear_head_trains_on_pooled_features_as_on_whole_ones(net, pairs, tmp_path) -> None:
    split = featcache.split(net, "block", (pairs.inputs[:2],))
    heads = []
    for pool in (None, "auto"):
        features = featcache.extract(split, pairs, str(tmp_path / f"s{pool}"), pool=pool)
        heads.append(featcache.train_head(split, features, head="linear", epochs=3, validation=0.0))
    for one, other in zip(heads[0].model.parameters(), heads[1].model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_pooled_features_cannot_train_the_suffix_and_wrong_pools_are_named(net, pairs, tmp_path) -> None:
    split = featcache.split(net, "block", (pairs.inputs[:2],))
    features = featcache.extract(split, pairs, str(tmp_path / "s"), pool="auto")
    with pytest.raises(featcache.errors.HeadError, match="pooled"):
        featcache.train_head(split, features, epochs=1)
    with pytest.raises(UsageError, match="channels_first"):
        featcache.extract(split, pairs, str(tmp_path / "s"), pool="mean")


@pytest.mark.slow
def test_the_command_extracts_several_cuts_at_once_and_says_what_it_derived(image_folder, featcache_command) -> None:
    shared = ("--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--store", "s")
    done = featcache_command("extract", *shared, "--cut", "layer1", "--cut", "layer2", "--json")
    reports = json.loads(done.stdout)
    assert [(report["cut"], report["computed"]) for report in reports] == [("layer1", 18), ("layer2", 18)]
    done = featcache_command("extract", *shared, "--cut", "layer3")
    assert "18 derived" in done.stderr
    assert "derived from" in done.stderr
    featcache_command("status", *shared, "--cut", "layer3")
    done = featcache_command("extract", *shared, "--cut", "layer1", "--cut", "layer3")
    assert done.stderr.count("nothing to compute") == 2
    assert {info.cut for info in FeatureStore(str(featcache_command.folder / "s")).sets()} == {
        "layer1",
        "layer2",
        "layer3",
    }
