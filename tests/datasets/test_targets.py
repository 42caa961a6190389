"""What the values of a target column are taken for: text is never merged, nothing is a class, and what was decided is said."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import nn

import featcache
from featcache.datasets import open_dataset
from featcache.errors import DataError, UsageError

AWKWARD = ["007", "7", "1_1", "11", "+7", "-0", "0", "1e1", "10", "1.0", "٣", "3", "3,5", "a|b"]
VALUES = st.lists(st.one_of(st.text(min_size=1, max_size=6), st.sampled_from(AWKWARD)), min_size=1, max_size=8)


def table(folder: Path, values: list[str], options: str = "") -> Any:
    """Return the dataset of a table of texts with these values as labels."""
    path = folder / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        rows.writerows([f"text {row}", value] for row, value in enumerate(values))
    return open_dataset(f"csv:{path}{options}")


@pytest.mark.parametrize("pair", [("007", "7"), ("1_1", "11"), ("+7", "7"), ("-0", "0"), ("٣", "3"), ("1e1", "x")])
def test_values_that_only_python_takes_for_one_number_are_classes_of_their_own(tmp_path: Path, pair) -> None:
    for option in ("", "?as=class"):
        dataset = table(tmp_path, list(pair) * 2, option)
        assert dataset.classes == sorted(pair)
        assert [dataset.classes[target] for target in dataset.targets] == list(pair) * 2
        assert dataset.notes[0].startswith("target 'label': 2 classes from text")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES, option=st.sampled_from(["", "?as=class"]))
def test_two_different_texts_are_never_one_class_and_a_class_is_called_what_the_file_says(
    tmp_path: Path, values: list[str], option: str
) -> None:
    values = [value for value in values if "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)]
    if not values:
        return
    try:
        dataset = table(tmp_path, values, option)
    except DataError:
        return
    if dataset.classes is None:
        assert option == ""
        assert dataset.targets.dtype == np.float32
        return
    assert [dataset.classes[target] for target in dataset.targets] == [value.strip() for value in values]


def test_what_a_column_was_taken_for_is_said_in_a_note(tmp_path: Path) -> None:
    for values, options, said in (
        (["b", "a"], "", "target 'label': 2 classes from text"),
        (["2", "0", "1"], "", "target 'label': 3 classes from the numbers 0 to 2"),
        (["3", "0", "1"], "", "target 'label': 4 classes from the numbers 0 to 3, of which 3 occur"),
        (["700", "-1"], "", "target 'label': 2 classes from the numbers -1 to 700"),
        (["0.5", "1"], "", "target 'label': regression, 0.5 … 1"),
        (
            ["0.0", "1.0"],
            "",
            "target 'label': regression, 0 … 1; these are 2 whole numbers, and ?as=class makes classes of them",
        ),
        (["0.0", "1.0"], "?as=float", "target 'label': regression, 0 … 1"),
        (["+0.5", "-1"], "", "target 'label': 2 classes from text; ?as=float makes values of them"),
        (["a|b", "b"], "?separator=|", "target 'label': 2 labels from text, of which several can apply"),
    ):
        assert table(tmp_path, values, options).notes == [said]


def test_other_columns_that_are_called_like_a_target_are_said(tmp_path: Path) -> None:
    rows = [{"text": "x", "class": "a", "Label": "b", "y": "c"}, {"text": "z", "class": "d", "Label": "e", "y": "f"}]
    (tmp_path / "t.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    said = "columns that could be the target, too, and are not taken: 'class', 'y'; target=COLUMN names another"
    assert open_dataset(f"csv:{tmp_path / 't.csv'}").notes == ["target 'Label': 2 classes from text", said]
    assert open_dataset(f"csv:{tmp_path / 't.csv'}?target=y").notes == ["target 'y': 2 classes from text"]
    pytest.importorskip("datasets")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert open_dataset(f"hf:{tmp_path / 't.jsonl'}").notes == ["target 'Label': 2 classes from text", said]


def test_different_numbers_that_float32_does_not_tell_apart_are_said(tmp_path: Path) -> None:
    times = [f"{1700000000 + row}.0" for row in range(12)]
    note = table(tmp_path, times).notes[1]
    assert note.startswith("12 different numbers of 'label' are 1 in float32")
    assert "1700000000.0 and 1700000001.0: subtract an offset before, or add ?as=class" in note
    assert len(table(tmp_path, ["0.5", "0.50", "1.5"]).notes) == 1
    (tmp_path / "two.csv").write_text("text,a,b\nx,0.5,1700000000.0\ny,1.5,1700000001.0\n")
    notes = open_dataset(f"csv:{tmp_path / 'two.csv'}?target=a,b").notes
    assert notes[0] == "target 'a', 'b': regression of 2 values"
    assert notes[1].startswith("2 different numbers of 'b' are 1 in float32")


def test_spaces_around_a_value_do_not_count_and_a_merge_is_said(tmp_path: Path) -> None:
    merged = table(tmp_path, ["cat ", "dog", "cat"])
    assert merged.classes == ["cat", "dog"]
    assert merged.notes[1] == "spaces around target values do not count: 'cat' and 'cat ' are one class"
    assert len(table(tmp_path, ["cat ", "dog", "cat "]).notes) == 1


def test_classes_that_look_alike_are_kept_apart_and_named(tmp_path: Path) -> None:
    dataset = table(tmp_path, ["Cat", "cat", "caf\u00e9", "cafe\u0301"])
    assert len(dataset.classes) == 4
    assert dataset.notes[1] == (r"classes that look alike are kept apart: 'Cat' and 'cat', 'cafe\u0301' and 'caf\xe9'")


@pytest.mark.parametrize("value", ["", "null", "nan", "NaN", "<NA>", " "])
def test_a_missing_label_is_refused_with_its_line_or_kept_apart_from_all_classes(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match=r"line 3 has .*missing=unlabelled"):
        table(tmp_path, ["cat", value, "dog"])
    kept = table(tmp_path, ["cat", value, "dog"], "?missing=unlabelled")
    assert (kept.targets.tolist(), kept.classes, kept.splits) == ([0, -1, 1], ["cat", "dog"], ["", "unlabelled", ""])
    assert kept.notes[-1] == ("1 of 3 samples have no label: they are in the split 'unlabelled', which heads leave out")
    values = table(tmp_path, ["1.5", value, "2"], "?missing=unlabelled")
    assert np.isnan(values.targets).tolist() == [False, True, False]
    with pytest.raises(DataError, match="no row has a value"):
        table(tmp_path, [value] * 2, "?missing=unlabelled")
    with pytest.raises(UsageError, match="missing=drop is not known"):
        table(tmp_path, ["cat"], "?missing=drop")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["3,5", "4,25"], r"'3,5'.*a number with a comma: write it with a point.*as=class"),
        (["4", "10,0"], r"line 3 has '10,0'.*a number with a comma"),
        (["dog", "cat|dog"], r"line 3 has 'cat\|dog'.*separator=\|.*as=class"),
        (["['cat', 'dog']", "['dog']"], r"\[.*separator=\|.*as=class"),
        (['["cat"]', '["dog"]'], r"line 2 .*separator=\|"),
    ],
)
def test_values_that_are_not_one_label_are_refused_unless_they_are_said_to_be_names(
    tmp_path: Path, values: list[str], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        table(tmp_path, values)
    assert table(tmp_path, values, "?as=class").classes == sorted(values)
    with pytest.raises(DataError, match="not a number"):
        table(tmp_path, values, "?as=float")


def test_a_separator_reads_several_labels_of_sorted_names(tmp_path: Path) -> None:
    dataset = table(tmp_path, ["dog | cat", "dog", "bird|dog|dog", ""], "?separator=|&missing=unlabelled")
    assert dataset.classes == ["bird", "cat", "dog"]
    assert dataset.targets.tolist() == [[0, 1, 1], [0, 0, 1], [1, 0, 1], [-1, -1, -1]]
    assert "1 samples name a label twice" in dataset.notes
    with pytest.raises(DataError, match="does not divide into labels"):
        table(tmp_path, ["cat|", "dog"], "?separator=|")
    with pytest.raises(UsageError, match="separator=TEXT"):
        table(tmp_path, ["cat|", "dog"], "?separator=|&as=class")


def test_labels_of_tar_files_are_text_too_and_null_is_missing(tmp_path: Path) -> None:
    def tar(labels: list[Any]) -> Path:
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "tars" / "a.tar", "w") as archive:
            for row, label in enumerate(labels):
                for name, content in ((f"{row}.txt", f"t{row}"), (f"{row}.json", json.dumps({"label": label}))):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content.encode()))
        return tmp_path / "tars" / "a.tar"

    assert open_dataset(f"wds:{tar(['007', '7'])}").classes == ["007", "7"]
    with pytest.raises(DataError, match=r"1\.json has no value"):
        open_dataset(f"wds:{tar(['None', None])}")
    kept = open_dataset(f"wds:{tar(['None', None])}?missing=unlabelled")
    assert (kept.classes, kept.targets.tolist(), kept.splits) == (["None"], [0, -1], ["", "unlabelled"])
    with pytest.raises(DataError, match=r"\['cat'\]"):
        open_dataset(f"wds:{tar([['cat'], ['dog']])}")


def test_labels_of_parquet_files_are_text_too_and_null_is_missing(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    import pyarrow
    import pyarrow.parquet

    def rows(labels: list[Any]) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        columns = {"text": [f"t{row}" for row in range(len(labels))], "label": labels}
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
        return f"hf:{path}"

    assert open_dataset(rows(["007", "7"])).classes == ["007", "7"]
    for labels in (["cat", None], [1.5, float("nan")]):
        with pytest.raises(DataError, match="missing=unlabelled"):
            open_dataset(rows(labels))
        kept = open_dataset(f"{rows(labels)}?missing=unlabelled")
        assert kept.splits == ["", "unlabelled"]
    with pytest.raises(DataError, match=r"\['cat'\].*with \| between"):
        open_dataset(rows([["cat"], ["dog", "cat"]]))


@pytest.mark.parametrize(
    ("labels", "options", "kind"),
    [
        (["cat", "dog"], "", "single_label"),
        (["1.5", "0.25"], "", "regression"),
        (["cat|dog", "dog"], "&separator=|", "multi_label"),
    ],
)
def test_heads_leave_unlabelled_rows_out_and_count_them(tmp_path: Path, labels, options: str, kind: str) -> None:
    samples = table(tmp_path, [*labels * 12, "", "null"], f"?missing=unlabelled{options}")
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).eval()

    def numbers(text: str) -> torch.Tensor:
        return torch.tensor([float(ord(text[-1])), float(ord(text[-2])), 1.0])

    features = featcache.extract(network, samples, str(tmp_path / "s"), cut="1", transform=numbers)
    cut = featcache.split(network, "1", (torch.zeros(2, 3),))
    trained = featcache.train_head(cut, features, epochs=1, device="cpu")
    assert trained.task.kind == kind
    assert trained.rows.left_out == {"unlabelled": 2}
    assert sum(trained.rows.train.values()) + sum(trained.rows.validation.values()) == 24
    swept = featcache.sweep(network, samples, str(tmp_path / "s"), ["1"], transform=numbers, epochs=1)
    assert swept.left_out == {"unlabelled": 2}
    if kind == "single_label":
        probed = featcache.probe(network, samples, str(tmp_path / "s"), ["1"], transform=numbers)
        assert (probed.samples, probed.classes, probed.left_out) == (24, 2, {"unlabelled": 2})
