from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import pytest

import featcache
from featcache.advise.estimate import Estimate, break_even, choose_stored, estimate
from featcache.advise.measure import CutCost, DataCost
from featcache.advise.subject import boundaries
from featcache.errors import UsageError
from featcache.splitting.candidates import Cut

FREE_DISK = DataCost(decode_s=0.001, hash_s=0.0, write_s_a_byte=0.0, read_s_a_byte=0.0)


def cost(name: str, prefix_s: float, step_s: float, **more) -> CutCost:
    return CutCost(name, prefix_s, 0.0, step_s, **more)


def test_the_plan_has_a_row_for_each_cut_and_leaves_nothing_behind(net, pairs, tmp_path) -> None:
    found = featcache.plan(net, pairs, str(tmp_path / "s"), ["block", "stem"], epochs=5, batch_size=16)
    assert [row.cut for row in found.rows] == ["stem", "block"]
    assert (found.samples, found.epochs) == (50, 5)
    for row in found.rows:
        assert row.disk_bytes == 50 * row.row_bytes
        assert row.plain_total_s == pytest.approx(5 * row.plain_epoch_s)
        assert min(row.extract_s, row.cached_epoch_s, row.plain_epoch_s) > 0
        assert math.isfinite(row.cached_total_s)
    assert list(tmp_path.iterdir()) == []


def test_the_predicted_disk_is_what_extract_then_writes_as_rows(net, pairs, tmp_path) -> None:
    for dtype in ("float32", "float16"):
        (row,) = featcache.plan(net, pairs, str(tmp_path / "s"), ["block"], dtype=dtype).rows
        features = featcache.extract(net, pairs, str(tmp_path / dtype), cut="block", dtype=dtype)
        values = features.numpy()[0]
        assert row.disk_bytes == values.size * (4 if dtype == "float32" else 2)
        assert row.disk_bytes <= features.report.size_bytes


@pytest.mark.slow
def test_rows_that_are_stored_already_are_not_planned_for_again(net, pairs, tmp_path) -> None:
    store = str(tmp_path / "s")
    featcache.extract(net, pairs, store, cut="block")
    stem, block = featcache.plan(net, pairs, store, ["stem", "block"]).rows
    assert (stem.cached_rows, block.cached_rows) == (0, 50)
    assert block.extract_s == 0
    assert stem.extract_s > 0


def test_several_precisions_are_planned_for_at_once(net, pairs, tmp_path) -> None:
    rows = featcache.plan(net, pairs, str(tmp_path / "s"), ["block"], dtype=["float32", "float16"]).rows
    assert [row.dtype for row in rows] == ["float32", "float16"]
    assert rows[0].disk_bytes == 2 * rows[1].disk_bytes


def test_a_cut_beyond_the_disk_budget_is_not_worth_it_and_the_words_say_so(net, pairs, tmp_path) -> None:
    found = featcache.plan(net, pairs, str(tmp_path / "s"), ["block"], epochs=10**6, disk_budget_bytes=10)
    assert not found.rows[0].worth_it
    assert "disk" in found.rows[0].verdict
    assert found.store_cuts == ()
    assert any("does not pay" in note for note in found.notes)


@pytest.mark.slow
def test_a_time_budget_keeps_the_deepest_cuts_of_a_sweep(net, pairs, tmp_path) -> None:
    found = featcache.plan(net, pairs, str(tmp_path / "s"), ["stem", "block"], time_budget_s=0.0)
    assert found.sweep_cuts == ()
    assert all("allowed" in row.verdict for row in found.rows if row.break_even_epoch and row.break_even_epoch <= 20)
    free = featcache.plan(net, pairs, str(tmp_path / "s"), ["stem", "block"])
    assert free.sweep_cuts == ("block", "stem")


def test_wrong_questions_are_refused_with_what_would_have_worked(net, pairs, tmp_path) -> None:
    with pytest.raises(featcache.errors.UnknownCutError, match="block"):
        featcache.plan(net, pairs, str(tmp_path / "s"), ["blok"])
    with pytest.raises(UsageError, match="epochs"):
        featcache.plan(net, pairs, str(tmp_path / "s"), epochs=0)
    with pytest.raises(UsageError, match="budget"):
        featcache.plan(net, pairs, str(tmp_path / "s"), disk_budget_bytes=-1)


def test_break_even_is_the_first_number_of_epochs_at_which_the_cache_is_quicker() -> None:
    found = Estimate(extract_s=10.0, once_s=1.0, cached_epoch_s=1.0, plain_epoch_s=4.0)
    even = break_even(found)
    assert even == 4
    assert found.cached_total_s(even) < found.plain_total_s(even)
    assert found.cached_total_s(even - 1) >= found.plain_total_s(even - 1)
    assert break_even(Estimate(10.0, 0.0, 4.0, 4.0)) is None
    assert break_even(Estimate(0.0, 0.0, 1.0, 4.0)) == 1


def test_reading_huge_maps_from_a_slow_disk_never_pays() -> None:
    slow = DataCost(0.0, 0.0, 1e-8, 1e-8)
    assert break_even(estimate(cost("a", 1e-3, 1e-3), slow, 1000, 10**6, 1 << 27)) is None
    assert break_even(estimate(cost("a", 1e-3, 1e-3), slow, 1000, 10**3, 1 << 27)) is not None


def test_decoding_processes_work_beside_the_network() -> None:
    alone = estimate(cost("a", 0.002, 0.001), FREE_DISK, 100, 4, 1 << 27)
    beside = estimate(cost("a", 0.002, 0.001), DataCost(0.001, 0.0, 0.0, 0.0, workers=2), 100, 4, 1 << 27)
    assert alone.extract_s == pytest.approx(0.3)
    assert beside.extract_s == pytest.approx(0.2)


def test_the_chosen_storage_is_the_quickest_of_all_that_fit() -> None:
    costs = [cost("a", 0.001, 0.004), cost("b", 0.003, 0.002), cost("c", 0.004, 0.001)]
    row_bytes = [4000, 2000, 500]
    data = DataCost(0.001, 0.0, 1e-8, 1e-9)
    everything = choose_stored(costs, row_bytes, data, 1000, 20)
    assert everything.cuts == ("a", "b", "c")
    seen = set()
    for budget in (0, 500_000, 2_000_000, 2_600_000, 4_100_000, 10**9):
        found = choose_stored(costs, row_bytes, data, 1000, 20, budget)
        assert found.disk_bytes <= budget
        assert found.total_s >= everything.total_s
        seen.add(found.cuts)
    assert () in seen
    assert len(seen) > 2
    once = choose_stored(costs, row_bytes, data, 1000, 1, None)
    assert once.total_s <= everything.total_s


def test_storing_one_early_cut_serves_the_deeper_ones() -> None:
    costs = [cost("a", 0.01, 0.001), cost("b", 0.0101, 0.001)]
    found = choose_stored(costs, [1000, 1000], FREE_DISK, 1000, 20, 1_000_000)
    assert found.cuts == ("a",)


def candidates(*rows: tuple[str, int, float, float]) -> list[Cut]:
    return [Cut(name, (), size, flops, parameters) for name, size, flops, parameters in rows]


def test_boundaries_tell_trained_layers_apart_and_keep_the_smaller_frontier() -> None:
    usable = candidates(
        ("conv", 90, 0.1, 0.1), ("relu", 90, 0.1, 0.1), ("layer", 50, 0.9, 0.9), ("pool", 5, 0.9, 0.9), ("fc", 1, 1.0, 1.0)
    )  # fmt: skip
    found = boundaries([*usable, Cut("odd", (), 1, 0.95, 0.95, "it cannot be cut there")])
    assert [cut.name for cut in found] == ["relu", "pool"]


def test_many_blocks_are_thinned_and_the_deepest_stays() -> None:
    blocks = candidates(*[(str(number), 8, number / 101, number / 101) for number in range(1, 101)])
    found = boundaries(blocks)
    assert 4 <= len(found) <= 8
    assert found[-1].name == "100"
    assert all(one.flops_share < other.flops_share for one, other in itertools.pairwise(found))


@pytest.mark.slow
def test_the_command_prints_a_table_or_json_and_takes_budgets(image_folder, featcache_command) -> None:
    shared = ("plan", "--backbone", "bundled:resnet-mini", "--data", f"folder:{image_folder}", "--store", "s")
    done = featcache_command(*shared, "--cut", "layer3", "--cut", "layer4", "--json", "--disk-budget", "1GB")
    answer = json.loads(done.stdout)
    assert [row["cut"] for row in answer["rows"]] == ["layer3", "layer4"]
    assert answer["disk_budget_bytes"] == 10**9
    words = featcache_command(*shared, "--cut", "layer3", "--time-budget", "2min")
    assert "pays from" in words.stdout
    assert "layer3" in words.stdout
    wrong = featcache_command(*shared, "--disk-budget", "many", expect=2)
    assert "--disk-budget" in wrong.stderr


def test_pooled_vectors_and_random_views_are_planned_for_as_extract_stores_them(net, pairs, tmp_path) -> None:
    flip = featcache.samples.samples.Samples(pairs).augmented(lambda x: x)
    (row,) = featcache.plan(net, flip, str(tmp_path / "s"), ["block"], pool="auto", views=3, dtype="float16").rows
    options = {"cut": "block", "pool": "auto", "views": 3, "dtype": "float16"}
    features = featcache.extract(net, flip, str(tmp_path / "s"), **options)
    assert row.row_bytes == features.numpy()[0][0].size * 2
    assert row.disk_bytes == 4 * 50 * row.row_bytes
    (again,) = featcache.plan(net, flip, str(tmp_path / "s"), ["block"], pool="auto", views=3, dtype="float16").rows
    assert again.cached_rows == 50


def test_views_take_their_time_once_and_their_disk() -> None:
    plain = estimate(cost("a", 0.01, 0.002), FREE_DISK, 1000, 100, 10**6)
    viewed = estimate(cost("a", 0.01, 0.002), replace(FREE_DISK, rows_a_sample=4), 1000, 100, 10**6)
    assert viewed.extract_s == pytest.approx(4 * plain.extract_s)
    assert viewed.cached_epoch_s == plain.cached_epoch_s


def test_probe_and_sweep_take_what_extract_takes(net, pairs, tmp_path) -> None:
    store = featcache.FeatureStore(str(tmp_path / "s"))
    featcache.probe(net, pairs, store, ["block"], numerics="fast")
    featcache.sweep(net, pairs, store, ["block"], numerics="fast", pool="auto", head="linear", epochs=1, seeds=2)
    assert {(recipe.numerics, recipe.pool) for recipe in store.recipes()} == {("fast", "auto")}


def test_a_plan_tells_what_it_does_from_the_first_second_on(net, pairs, tmp_path) -> None:
    seen: list[featcache.ProgressEvent] = []
    featcache.plan(net, pairs, str(tmp_path / "s"), ["block", "tail"], progress=seen.append)
    told = [(event.stage, event.done, event.total) for event in seen]
    assert told == [("record", 0, 1), ("record", 1, 1), ("measure", 0, 2), ("measure", 1, 2), ("measure", 2, 2)]
