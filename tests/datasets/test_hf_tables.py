"""Splits and labels of parquet files and of saved sets of the datasets library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from featcache import open_dataset
from featcache.errors import DataError, UsageError

TEXTS = [f"text {row}" for row in range(8)]
LABELS = ["cat", "dog"] * 4
SPLITS = ["train", "Test_Set", "dev", "holdout"] * 2


def written(library: Any, path: Path, columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> Path:
    """Return a parquet file of texts with these columns."""
    rows = {"text": TEXTS[: len(next(iter(columns.values())))], **columns}
    known = None if features is None else library.Features({"text": library.Value("string"), **features})
    library.Dataset.from_dict(rows, features=known).to_parquet(path)
    return path


@pytest.mark.parametrize("column", ["split", "Fold", "subset"])
def test_a_column_of_splits_says_what_the_rows_of_a_file_are_for(library, tmp_path: Path, column: str) -> None:
    path = written(library, tmp_path / "t.parquet", {"label": LABELS, column: SPLITS})
    dataset = open_dataset(f"hf:{path}")
    assert dataset.splits == ["train", "test", "val", "holdout"] * 2
    assert open_dataset(f"hf:{path}?split=train[4:6]").splits == ["train", "test"]
    lines = [json.dumps({"text": text, "label": "a", column: split}) for text, split in zip(TEXTS, SPLITS, strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert open_dataset(f"hf:{tmp_path / 't.jsonl'}").splits == dataset.splits


def test_a_column_of_splits_may_be_named_and_may_hold_numbers_classes_and_nothing(library, tmp_path: Path) -> None:
    classes = library.ClassLabel(names=["testing", "training"])
    path = written(
        library,
        tmp_path / "t.parquet",
        {"label": LABELS[:4], "part": [0, 1, 1, None], "split": ["train"] * 4, "id": [0, 1, 2, 3]},
        {
            "label": library.Value("string"),
            "part": classes,
            "split": library.Value("string"),
            "id": library.Value("int8"),
        },
    )
    assert open_dataset(f"hf:{path}?split=part&target=label").splits == ["test", "train", "train", ""]
    assert open_dataset(f"hf:{path}?split=id&target=label").splits == ["0", "1", "2", "3"]
    with pytest.raises(UsageError, match=r"no split 'parts'\. It has: train, or a column: text, label, part"):
        open_dataset(f"hf:{path}?split=parts")


def test_a_set_with_splits_of_its_own_keeps_them_and_says_that_a_column_is_not_used(library, tmp_path: Path) -> None:
    rows = library.Dataset.from_dict({"text": TEXTS, "label": LABELS, "split": SPLITS})
    library.DatasetDict({"train": rows, "validation": rows.select([0])}).save_to_disk(tmp_path / "set")
    dataset = open_dataset(f"hf:{tmp_path / 'set'}")
    assert dataset.splits == ["train"] * 8 + ["val"]
    assert "the column 'split' is not used: the set has splits of its own" in dataset.notes
    with pytest.raises(UsageError, match="no split 'split'"):
        open_dataset(f"hf:{tmp_path / 'set'}?split=split")


def test_a_column_of_very_many_splits_is_refused(library, tmp_path: Path) -> None:
    rows = {"text": [str(row) for row in range(300)], "label": ["a"] * 300, "split": list(range(300))}
    library.Dataset.from_dict(rows).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"split column 'split' .*300 different values"):
        open_dataset(f"hf:{tmp_path / 't.parquet'}")


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("test", "test"),
        ("validation-00000-of-00001", "val"),
        ("Train_Set", "train"),
        ("train-test", "train-test"),
        ("rows", ""),
        ("holdout", ""),
    ],
)
def test_the_rows_of_a_file_are_of_the_split_that_its_name_says(library, tmp_path: Path, stem: str, split: str) -> None:
    path = written(library, tmp_path / f"{stem}.parquet", {"label": LABELS})
    assert open_dataset(f"hf:{path}").splits == [split] * 8
    part = split or "train"
    assert open_dataset(f"hf:{path}?split={part}[1:3]").splits == [split] * 2


def test_several_slices_of_one_split_are_all_taken_and_none_twice(library, tmp_path: Path) -> None:
    path = written(library, tmp_path / "t.parquet", {"label": LABELS})
    dataset = open_dataset(f"hf:{path}?split=train[:3],train[5:8]")
    assert [dataset[row][0] for row in range(6)] == [TEXTS[row] for row in (0, 1, 2, 5, 6, 7)]
    assert len(set(dataset.names)) == 6
    for twice in ("train[:3],train[2:4]", "train,train"):
        with pytest.raises(UsageError, match="names rows of 'train' twice"):
            open_dataset(f"hf:{path}?split={twice}")


def saved(library: Any, folder: Path, parts: dict[str, tuple[Any, list[Any]]]) -> Path:
    """Return a saved set whose parts have labels of their own kinds."""
    made = {}
    for split, (feature, labels) in parts.items():
        features = library.Features({"text": library.Value("string"), "label": feature})
        rows = {"text": [f"{split} {text}" for text in TEXTS[: len(labels)]], "label": labels}
        made[split] = library.Dataset.from_dict(rows, features=features)
    library.DatasetDict(made).save_to_disk(folder)
    return folder


def test_labels_of_splits_that_name_other_classes_are_joined_by_their_names(library, tmp_path: Path) -> None:
    train, test = (library.ClassLabel(names=names) for names in (["dog", "cat"], ["cat", "emu", "dog"]))
    alike = open_dataset(
        f"hf:{saved(library, tmp_path / 'a', {'train': (train, [0, 1]), 'test': (train, [1, -1])})}?missing=unlabelled"
    )
    assert (alike.classes, alike.targets.tolist()) == (["dog", "cat"], [0, 1, 1, -1])
    other = open_dataset(f"hf:{saved(library, tmp_path / 'b', {'train': (train, [0, 1]), 'test': (test, [0, 1, 2])})}")
    assert other.classes == ["cat", "dog", "emu"]
    assert [other.classes[target] for target in other.targets] == ["dog", "cat", "cat", "emu", "dog"]
    assert other.notes[0] == "target 'label': 3 classes that the set names"
    bare = saved(library, tmp_path / "c", {"train": (train, [0, 1]), "test": (library.Value("int64"), [0, 1])})
    with pytest.raises(DataError, match=r"has names of classes, but none in 'test'.*split="):
        open_dataset(f"hf:{bare}")
    assert open_dataset(f"hf:{bare}?split=train").classes == ["dog", "cat"]


def test_lists_of_zeros_and_ones_are_labels_of_which_several_can_apply(library, tmp_path: Path) -> None:
    for number, labels in enumerate(([[0, 1], [1, 1]], [[0.0, 1.0], [1.0, 1.0]], [[False, True], [True, True]])):
        path = written(library, tmp_path / f"{number}.parquet", {"label": labels})
        dataset = open_dataset(f"hf:{path}")
        assert (dataset.targets.dtype, dataset.targets.tolist()) == ("int64", [[0, 1], [1, 1]])
        assert dataset.classes == ["label[0]", "label[1]"]
        assert open_dataset(f"hf:{path}?as=float").targets.dtype == "float32"
    values = open_dataset(f"hf:{written(library, tmp_path / 'v.parquet', {'label': [[0.5, 1], [1, 2]]})}")
    assert (values.targets.dtype, values.targets.tolist()) == ("float32", [[0.5, 1], [1, 2]])
    gaps = written(library, tmp_path / "g.parquet", {"label": [[0, 1], None, [1, 1]]})
    with pytest.raises(DataError, match=r"train/1 has no value.*missing=unlabelled"):
        open_dataset(f"hf:{gaps}")
    kept = open_dataset(f"hf:{gaps}?missing=unlabelled")
    assert (kept.targets.tolist(), kept.splits) == ([[0, 1], [-1, -1], [1, 1]], ["", "unlabelled", ""])


def test_lists_of_named_classes_are_flags_with_these_names(library, tmp_path: Path) -> None:
    feature = {"label": library.Sequence(library.ClassLabel(names=["cat", "dog", "emu"]))}
    path = written(library, tmp_path / "t.parquet", {"label": [[0, 2], [], [1, 1]]}, feature)
    dataset = open_dataset(f"hf:{path}")
    assert (dataset.classes, dataset.targets.tolist()) == (["cat", "dog", "emu"], [[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    assert dataset.targets.dtype == "int64"
    assert dataset.notes == [
        "target 'label': 3 labels that the set names, of which several can apply",
        "1 samples name a label twice",
    ]
    path = written(library, tmp_path / "u.parquet", {"label": [[0, -1]]}, feature)
    with pytest.raises(DataError, match="train/0 has no class"):
        open_dataset(f"hf:{path}")


@pytest.mark.parametrize("labels", [[[3, 5], [2, 7]], [[0, 1], [1]], [["cat"], ["dog"]], [[[0, 1]], [[1, 1]]]])
def test_other_lists_are_refused_with_what_to_write(library, tmp_path: Path, labels: list[Any]) -> None:
    path = written(library, tmp_path / "t.parquet", {"label": labels})
    with pytest.raises(DataError, match=r"'label'.*\?separator=\|, or lists of 0 and 1 of one length"):
        open_dataset(f"hf:{path}")
    if labels[0] == [3, 5]:
        assert open_dataset(f"hf:{path}?as=float").targets.tolist() == labels
