"""What people look at in a notebook: features, results, records and predictions, as HTML and as pandas frames."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import featcache
from featcache.errors import UsageError
from featcache.tables import Records


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    generator = torch.Generator().manual_seed(0)
    data = [(torch.randn(8, generator=generator) + number % 3, number % 3) for number in range(60)]
    network = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 4)).eval()
    store = tmp_path_factory.mktemp("store")
    return network, data, store, featcache.extract(network, data, str(store), cut="1")


def cells(html: str) -> list[list[str]]:
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in re.findall(r"<tr>(.*?)</tr>", html)]


def test_features_are_indexed_by_slices_lists_arrays_and_masks(made) -> None:
    *_, features = made
    values, targets = features.numpy()
    for index in (
        slice(2, 5),
        [0, -1],
        np.arange(3),
        features.targets == 1,
        slice(None, None, -1),
        [True] + [False] * 59,
    ):
        part = features[index]
        chosen = np.asarray(index) if not isinstance(index, slice) else index
        assert np.array_equal(part.numpy()[0], values[chosen])
        assert np.array_equal(part.targets, targets[chosen])
    assert torch.equal(features[np.int64(3)][0], features[3][0])
    assert len(features[[]]) == 0


@pytest.mark.parametrize(
    "wrong",
    [[1.5], np.ones(60), ["1"], [1 + 1j], np.argwhere(np.arange(60) > 50), torch.nonzero(torch.arange(60) > 50)],
    ids=["float", "float mask", "text", "complex", "argwhere", "nonzero"],
)
def test_what_is_neither_a_number_nor_a_boolean_chooses_no_rows(made, wrong) -> None:
    with pytest.raises(UsageError, match="whole numbers, or a boolean for each"):
        made[3][wrong]
    if np.ndim(wrong) == 1:
        with pytest.raises(TypeError):
            made[3][wrong[0]]


@pytest.mark.parametrize("wrong", [[True, False], np.zeros((60, 2), dtype=bool)])
def test_a_mask_of_another_length_than_the_features_is_refused(made, wrong) -> None:
    with pytest.raises(UsageError, match="boolean for each of the 60"):
        made[3][wrong]


def test_features_are_shown_with_rows_classes_and_tensors(made) -> None:
    *_, features = made
    shown = dict(cells(features._repr_html_())[1:])
    assert shown["rows"] == "60 without a split"
    assert shown["1"] == "[6] float32"
    assert shown["set"] == features.recipe.fingerprint[:7]


def test_results_of_advice_are_tables(made) -> None:
    network, data, store, _ = made
    for result in (
        featcache.probe(network, data, str(store), ["0", "1"]),
        featcache.plan(network, data, str(store), ["0", "1"]),
        featcache.sweep(network, data, str(store), ["0", "1"], epochs=1, seeds=1),
    ):
        frame = result.to_pandas()
        assert sorted(frame["cut"]) == ["0", "1"]
        assert len(frame.columns) == len(vars(result.rows[0]))
        header, *rows = cells(result._repr_html_())
        assert header == list(frame.columns)
        assert [row[0] for row in rows] == list(frame["cut"])


def test_sets_history_and_predictions_are_tables(made) -> None:
    network, data, store, features = made
    split = featcache.split(network, "1", (torch.zeros(2, 8),))
    head = featcache.train_head(split, features, epochs=3, batch_size=16)
    assert head.history.to_pandas()["train_loss"].tolist() == [epoch.train_loss for epoch in head.history]
    assert len(cells(head.history._repr_html_())) == 4
    sets = featcache.FeatureStore(str(store)).sets()
    frame = sets.to_pandas()
    assert frame["rows"].dtype == int
    assert set(frame["frontier"]) == {str(spec) for info in sets for spec in info.frontier}
    predicted = featcache.predict(head, [values for values, _ in data])
    frame = predicted.to_pandas()
    assert frame["label"].tolist() == predicted.labels
    assert np.array_equal(frame[predicted.classes].to_numpy(), predicted.probabilities)
    assert repr(predicted) == "Predictions(60 inputs, 3 classes)"
    assert cells(predicted._repr_html_())[0] == ["name", "label", "probability", "0", "1", "2"]


def test_a_loaded_head_has_its_history_as_a_table(made, tmp_path: Path) -> None:
    network, _, _, features = made
    split = featcache.split(network, "1", (torch.zeros(2, 8),))
    folder = featcache.train_head(split, features, epochs=2).save(tmp_path / "head")
    assert featcache.load_head(folder, split).history.to_pandas()["epoch"].tolist() == [1, 2]


def test_what_a_name_holds_is_shown_as_text_and_a_long_table_is_cut_short() -> None:
    class Named:
        pass

    import dataclasses

    record = dataclasses.make_dataclass("Record", ["name", "value", "other"])
    shown = Records(record("<b>", None, Named) for _ in range(150))._repr_html_()
    assert "<b>" not in shown
    assert shown.count("&lt;b&gt;") == 100
    assert "and 50 more" in shown
    assert Records()._repr_html_() == "<table><thead><tr></tr></thead><tbody></tbody></table>"
    assert len(Records().to_pandas()) == 0


def test_sets_are_listed_by_the_numbers_in_the_names_of_their_cuts(tmp_path: Path) -> None:
    network = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(12))).eval()
    data = [(torch.full((4,), float(number)), number % 2) for number in range(8)]
    featcache.extract(network, data, str(tmp_path), cut=["10", "2"])
    assert [info.cut for info in featcache.FeatureStore(str(tmp_path)).sets()] == ["2", "10"]


def test_a_moment_is_shown_as_a_date_and_kept_as_seconds(made) -> None:
    *_, store, features = made
    sets = featcache.FeatureStore(str(store))
    pin = sets.pin(features.recipe.fingerprint, "mine")
    for records, name, moment_s in (
        (sets.sets(), "modified_s", max(info.modified_s for info in sets.sets())),
        (sets.pins(), "pinned_s", pin.pinned_s),
    ):
        header, *rows = cells(records._repr_html_())
        shown = {row[header.index(name[:-2])] for row in rows}
        assert time.strftime("%Y-%m-%d %H:%M", time.localtime(moment_s)) in shown
        assert moment_s in records.to_pandas()[name].tolist()


def test_cuts_pins_tasks_and_comparisons_are_tables(made, tmp_path: Path) -> None:
    network, data, store, _ = made
    split = featcache.split(network, "1", (torch.zeros(2, 8),))
    for records, column in (
        (featcache.cuts(network, (torch.zeros(2, 8),)), "name"),
        (featcache.missing_tasks(network, data, str(tmp_path), cut="1"), "task"),
        (featcache.FeatureStore(str(store)).recompute(split, data, 2), "cut"),
    ):
        assert column in cells(records._repr_html_())[0]
        assert len(records.to_pandas()) == len(records) > 0


def test_a_class_that_is_called_as_a_column_has_a_column_of_its_own(made) -> None:
    network, *_, features = made
    features = features[:]
    features.classes = ["label", "probability", "output label"]
    head = featcache.train_head(featcache.split(network, "1", (torch.zeros(2, 8),)), features, epochs=1)
    found = head.predict(features)
    header = ["name", "label", "probability", "output label", "output probability", "output output label"]
    assert list(found.to_pandas().columns) == header
    assert found.to_csv().splitlines()[0] == ",".join(header)
    assert cells(found._repr_html_())[0] == header
    assert np.allclose(found.to_pandas()[header[3:]].to_numpy(), found.probabilities)


def test_what_a_user_holds_says_in_a_line_what_it_is(made, tmp_path: Path) -> None:
    network, _, store, features = made
    head = featcache.train_head(featcache.split(network, "1", (torch.zeros(2, 8),)), features, epochs=1)
    project = featcache.Project(featcache.Settings("bundled:resnet-mini", "sklearn:digits", store=str(tmp_path)))
    said = f"{head.metrics.split}: {head.metrics}"
    for each, words in (
        (head, f"TrainedHead(suffix after '1' on {features.dataset!r}, 3 outputs; {said})"),
        (features.loader(16), "FeatureLoader(60 rows in batches of 16, shuffled, on cpu)"),
        (features.loader(16, shuffle=False), "FeatureLoader(60 rows in batches of 16, in order, on cpu)"),
        (project, f"Project('bundled:resnet-mini', 'sklearn:digits', store={str(tmp_path)!r})"),
        (project.dataset, "SklearnImages('sklearn:digits', 1797 samples)"),
        (featcache.FeatureStore(str(store)), f"FeatureStore({str(store)!r})"),
    ):
        assert repr(each) == words
    assert "confusion_matrix" not in repr(head.metrics)
    assert "Conv2d" not in repr(project.backbone)
    shown = cells(head._repr_html_())
    assert shown[0] == ["suffix", "after 1"]
    assert ["validation", f"{head.metrics} (12 rows)"] in shown
