"""Splits and labels of parquet files and of saved sets of the datasets library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featcache import open_dataset
from featcache.errors import DataError, UsageError

TEXTS = [f"text {row}" for row in range(8)]
LABELS = ["cat", "dog"] * 4
SPLITS = ["train", "Test_Set", "dev", "holdout"] * 2


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The datasets library without a network, with a cache of its own."""
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(found.config, "HF_HUB_OFFLINE", True)
    return found


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
