"""What a set lacks of a dataset, and the counts of a report."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from featcache import FeatureStore, Recipe, TensorSpec
from featcache.errors import StaleError
from featcache.extraction.missing import (
    ExtractReport,
    describe,
    missing_rows,
    refuse_changed,
    report_if_complete,
    samples_among,
)
from featcache.extraction.slices import TaskSlice, task_count, task_numbers
from featcache.samples import Changed, Samples, Snapshot
from featcache.store import FeatureSet

# Of six samples, the third is equal to the first.
IDS = np.array([[number] * 16 for number in (7, 1, 7, 2, 3, 4)], np.uint8)
VIEWS = {"augment": "any", "seed": 0}


class Numbered:
    """Samples with declared ids."""

    def __len__(self) -> int:
        return len(IDS)

    def __getitem__(self, index: int) -> tuple[float, int]:
        return 0.0, index

    def sample_id(self, index: int) -> bytes:
        return IDS[index].tobytes()


@pytest.fixture
def snapshot() -> Snapshot:
    return Samples(Numbered(), name="numbers").snapshot()


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(str(tmp_path / "store"))
    store.create()
    return store


def made(store: FeatureStore, rows: list[int], views: int = 0) -> FeatureSet:
    """Return a set, of random views if there are any, with these samples in each of its views."""
    recipe = Recipe("0", "s", {}, (TensorSpec("0", (1,), "float32"),), None, {}, views=VIEWS if views else None)
    feature_set = store.set(recipe)
    for view in range(1, views + 1) if views else (0,):
        if rows:
            feature_set.add(IDS[rows], np.full(len(rows), view), {"0": np.zeros((len(rows), 1), np.float32)}, {})
    feature_set.declare()
    return feature_set


def lacking(snapshot: Snapshot, feature_set: FeatureSet, views: int = 0, retry_skipped: bool = True) -> list[list[int]]:
    return missing_rows(snapshot, feature_set, views, retry_skipped).tolist()


def skip(feature_set: FeatureSet, *rows: int) -> None:
    feature_set.record_skipped({IDS[row].tobytes().hex(): (str(row), "torn") for row in rows})


def test_a_set_lacks_each_sample_once_that_it_has_no_row_of(store: FeatureStore, snapshot: Snapshot) -> None:
    assert lacking(snapshot, made(store, [])) == [[0, 0], [1, 0], [3, 0], [4, 0], [5, 0]]
    assert lacking(snapshot, made(store, [2, 4])) == [[1, 0], [3, 0], [5, 0]]
    assert lacking(snapshot, made(store, [0, 1, 3, 4, 5])) == []


def test_a_set_of_views_lacks_views_from_the_first_on_and_never_the_plain_one(store, snapshot) -> None:
    views = made(store, [0, 1, 3, 4], views=2)
    assert lacking(snapshot, views, 1) == [[5, 1]]
    assert lacking(snapshot, views, 3) == [[5, 1], [5, 2], [0, 3], [1, 3], [3, 3], [4, 3], [5, 3]]
    assert lacking(snapshot, views, 0) == []
    assert lacking(snapshot, made(store, [0, 1]), 3) == [[3, 0], [4, 0], [5, 0]]


def test_skipped_samples_are_lacking_only_where_they_are_tried_again(store: FeatureStore, snapshot: Snapshot) -> None:
    feature_set = made(store, [0, 1])
    assert lacking(snapshot, feature_set, retry_skipped=False) == [[3, 0], [4, 0], [5, 0]]
    skip(feature_set, 4, 0)
    assert lacking(snapshot, feature_set, retry_skipped=False) == [[3, 0], [5, 0]]
    assert lacking(snapshot, feature_set, retry_skipped=True) == [[3, 0], [4, 0], [5, 0]]


def test_a_report_without_work_is_made_only_where_nothing_is_lacking(store: FeatureStore) -> None:
    samples = Samples(Numbered(), name="numbers")
    feature_set = made(store, [0, 1, 3])
    assert report_if_complete(samples, feature_set, retry_skipped=False) is None
    skip(feature_set, 4, 5)
    assert report_if_complete(samples, feature_set, retry_skipped=True) is None
    report = report_if_complete(samples, feature_set, retry_skipped=False)
    assert report is not None
    assert (report.samples, report.reused, report.skipped, report.remaining) == (6, 4, 2, 0)
    assert [(each.position, each.name, each.reason) for each in report.skipped_samples] == [
        (4, "4", "torn"),
        (5, "5", "torn"),
    ]


def test_a_report_without_work_needs_all_views_too(store: FeatureStore) -> None:
    samples = Samples(Numbered(), name="numbers")
    plain, views = made(store, [0, 1, 3, 4, 5]), made(store, [0, 1, 3, 4, 5], views=2)
    options = {"retry_skipped": True, "augmented": views}
    assert report_if_complete(samples, plain, views=3, **options) is None
    report = report_if_complete(samples, plain, views=2, **options)
    assert report is not None
    assert (report.cut, report.dataset, report.recipe) == ("0", "numbers", plain.recipe.fingerprint)
    assert (report.snapshot, report.views) == (samples.snapshot().digest, 2)
    assert (report.samples, report.reused, report.remaining, report.computed) == (6, 18, 0, 0)


def test_a_report_begins_with_nothing_done() -> None:
    report = ExtractReport("0", "numbers", "r", "s", 6)
    assert (report.views, report.computed, report.reused, report.derived, report.skipped, report.remaining) == (0,) * 6
    assert (report.changed, report.size_bytes, report.elapsed_s) == (0, 0, 0)
    assert (report.device, report.task) == (None, None)
    assert report.shards == report.skipped_samples == report.changed_samples == report.notes == []


def test_a_report_counts_equal_samples_each(store: FeatureStore) -> None:
    samples = Samples(Numbered(), name="numbers")
    plain, views = made(store, [1, 0]), made(store, [0, 3], views=2)
    skip(plain, 3)
    report = describe(samples, plain, None, 0)
    assert (report.reused, report.skipped, report.remaining) == (3, 1, 2)
    assert describe(samples, plain, views, 2).reused == 3 + 2 * 3
    assert describe(samples, plain, views, 1).reused == 3 + 3


def test_samples_that_changed_are_refused_by_their_names() -> None:
    unchanged, changed = (ExtractReport("0", "numbers", "r", "s", 6) for _ in range(2))
    refuse_changed([])
    refuse_changed([unchanged, unchanged])
    changed.changed_samples = [Changed(1, "b", "edited"), Changed(3, "b", "edited")]
    with pytest.raises(StaleError, match=r"^1 sample changed after it was listed and has no row: b\. Run again"):
        refuse_changed([unchanged, changed])
    changed.changed_samples += [Changed(4, name, "edited") for name in "cde"]
    with pytest.raises(
        StaleError, match=r"^4 samples changed after they were listed and have no row: b, c, d, …\. Run"
    ):
        refuse_changed([changed])


class Torn(Numbered):
    """As ``Numbered``, but for a sample that cannot be read."""

    def __getitem__(self, index: int) -> tuple[float, int]:
        if index == 1:
            raise OSError("disk error")
        return super().__getitem__(index)


def test_a_report_counts_samples_that_could_not_be_hashed(store: FeatureStore) -> None:
    samples = Samples(Torn(), name="numbers")
    samples.snapshot(skip_unreadable=True)
    report = describe(samples, made(store, [0, 3, 4, 5]), None, 0)
    assert (report.samples, report.reused, report.skipped, report.remaining) == (6, 5, 1, 0)
    assert [each.reason for each in report.skipped_samples] == ["disk error"]


def test_samples_among_rows_are_counted_with_their_equals_where_their_row_is_there(store, snapshot) -> None:
    plain, views = made(store, [0, 1, 3]), made(store, [0, 1], views=2)

    def count(feature_set: FeatureSet, *rows: tuple[int, int]) -> int:
        return samples_among(snapshot, np.array(rows, np.int64).reshape(-1, 2), feature_set)

    assert count(plain) == 0
    assert count(plain, (0, 0)) == count(plain, (2, 0)) == 2
    assert count(plain, (1, 0), (4, 0)) == 1
    assert count(plain, (0, 0), (1, 0), (2, 0), (3, 0)) == 4
    assert count(views, (0, 1), (1, 2), (0, 2), (3, 1), (0, 3)) == 2 + 1 + 2


@pytest.mark.parametrize(("samples", "views", "task_rows"), [(10, 0, 4), (10, 2, 4), (12, 0, 4), (4, 2, 4), (1, 0, 9)])
def test_the_tasks_of_all_samples_and_views_are_numbered_to_their_count(
    samples: int, views: int, task_rows: int
) -> None:
    rows = np.array([[position, view] for view in range(views + 1) for position in range(samples)])
    numbers = task_numbers(rows, samples, task_rows)
    count = task_count(samples, views, task_rows)
    assert sorted(set(numbers.tolist())) == list(range(1, count + 1))
    assert np.bincount(numbers)[1:-1].tolist() == [task_rows] * (count - 1)
    parts = [TaskSlice(number, 3).chosen(rows, samples, task_rows).tolist() for number in (1, 2, 3)]
    assert sorted(itertools.chain(*parts)) == sorted(rows.tolist())
    assert {tuple(row) for row in parts[0]} == {
        tuple(row) for row, number in zip(rows.tolist(), numbers, strict=True) if number % 3 == 1
    }
