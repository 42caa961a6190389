from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.datasets.media import open_media
from featcache.datasets.source import dataset_name, open_dataset
from featcache.errors import DataError, DataNotFoundError, UnknownNameError, UnreadableSampleError, UsageError
from featcache.samples.file_memo import FileMemo
from featcache.testing.sources import DatasetSourceContract


def put(path: Path, shade: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), shade).save(path)
    return path


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    root = tmp_path / "splits"
    for number, split in enumerate(("train", "Test", "validation")):
        for label in ("b", "a", "ç"):
            put(root / split / label / f"{number}.png", 40 * number + len(label) + ord(label) % 7)
    return root


class TestFolder(DatasetSourceContract):
    nonsense = "folder:there/is/none"

    @pytest.fixture(autouse=True)
    def _folder(self, image_folder: Path) -> None:
        self.spec = f"folder:{image_folder}"


class TestFolderWithSplits(DatasetSourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, splits: Path) -> None:
        self.spec = f"folder:{splits}"


class TestDigits(DatasetSourceContract):
    spec = "sklearn:digits"
    nonsense = "sklearn:digts"


def test_folders_called_train_val_and_test_become_splits(splits: Path) -> None:
    dataset = open_dataset(f"folder:{splits}")
    assert dataset.classes == ["a", "b", "ç"]
    assert Counter(dataset.splits) == {"train": 3, "test": 3, "val": 3}
    found = dict(zip(dataset.names, zip(dataset.splits, dataset.targets.tolist(), strict=True), strict=True))
    assert found["Test/b/1.png"] == ("test", 1)
    assert found["validation/ç/2.png"] == ("val", 2)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for label in ("bus", "car", "train"):
        put(tmp_path / label / "0.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ["bus", "car", "train"]
    assert set(dataset.splits) == {""}


def test_splits_beside_other_folders_of_images_are_refused(splits: Path) -> None:
    (splits / "notes").mkdir()
    assert len(open_dataset(f"folder:{splits}")) == 9
    put(splits / "more" / "0.png")
    with pytest.raises(DataError, match=r"both splits .*train.* and folders of images .*more"):
        open_dataset(f"folder:{splits}")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "dev"), {"train": 2, "val": 2}),
        (("train", "testing"), {"train": 2, "test": 2}),
        (("train_set", "Test-Set"), {"train": 2, "test": 2}),
        (("dev", "eval"), {"val": 2, "eval": 2}),
        (("train", "holdout"), {"train": 2, "holdout": 2}),
    ],
)
def test_split_folders_are_known_by_the_names_that_tables_know_and_never_classes(
    tmp_path: Path, folders: tuple[str, ...], splits: dict[str, int]
) -> None:
    for folder in folders:
        for label in ("cat", "dog"):
            put(tmp_path / folder / label / "0.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert dataset.classes == ["cat", "dog"]
    assert Counter(dataset.splits) == splits
    unknown = {"eval", "holdout"} & set(folders)
    assert [note.split(" ")[0] for note in dataset.notes] == sorted(unknown)
    assert all("is a split of that name, not a class" in note for note in dataset.notes)


def test_images_without_a_class_in_a_split_folder_are_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path / "test" / "1.png")
    put(tmp_path / "test" / "2.png")
    for label in ("cat", "dog"):
        put(tmp_path / "train" / label / "0.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert (dataset.classes, dataset.splits) == (["cat", "dog"], ["train", "train"])
    assert dataset.notes == ["2 files in test/ have no class and are left out; `featcache predict` says what they are"]


def test_a_folder_around_the_data_set_is_refused_with_the_one_that_is_meant(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        put(tmp_path / "wrap" / "dataset" / "train" / label / "0.png")
    with pytest.raises(DataError, match=f"Did you mean folder:{tmp_path}/wrap/dataset"):
        open_dataset(f"folder:{tmp_path}/wrap/")
    inner = open_dataset(f"folder:{tmp_path}/wrap/dataset/")
    assert (inner.classes, inner.notes) == (["cat", "dog"], [])


def test_what_only_looks_like_classes_is_said(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        put(tmp_path / "one" / "photos" / label / "0.png")
        put(tmp_path / "folds" / "fold1" / label / "0.png")
        put(tmp_path / "folds" / "fold2" / label / "0.png")
    one, folds = open_dataset(f"folder:{tmp_path}/one"), open_dataset(f"folder:{tmp_path}/folds")
    assert one.classes == ["photos"]
    assert one.notes == [
        f"'photos' is the only class, and holds folders like classes: folder:{tmp_path}/one/photos has them"
    ]
    assert folds.classes == ["fold1", "fold2"]
    assert folds.notes == [
        "fold1, fold2 are taken for classes, but all hold 'cat': call them train, val or test if they are splits"
    ]


def test_folders_like_splits_among_or_within_classes_are_pointed_out(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        put(tmp_path / "among" / label / "0.png")
        for split in ("test", "train"):
            put(tmp_path / "within" / label / split / "0.png")
            put(tmp_path / "beside" / split / label / "0.png")
    put(tmp_path / "among" / "test" / "1.png")
    (tmp_path / "beside" / "annotations").mkdir()
    among, within, beside = (open_dataset(f"folder:{tmp_path}/{each}") for each in ("among", "within", "beside"))
    assert among.notes == ["'test' is taken for a class, though it is called like a split"]
    assert "what lies in their test and train is not kept apart: put the splits outside (test/cat)" in within.notes[0]
    assert beside.notes == ["annotations beside the splits hold no images or sounds"]


@pytest.mark.parametrize("around", ["one", "one/two/three"])
def test_a_data_set_is_found_however_deep_it_lies(tmp_path: Path, around: str) -> None:
    for label in ("cat", "dog"):
        put(tmp_path / "divided" / around / "train" / label / "0.png")
        put(tmp_path / "whole" / around / label / "0.png")
    with pytest.raises(DataError, match=f"Did you mean folder:{tmp_path}/divided/{around}"):
        open_dataset(f"folder:{tmp_path}/divided")
    assert f"folder:{tmp_path}/whole/{around} has them" in open_dataset(f"folder:{tmp_path}/whole").notes[0]


def test_classes_that_differ_by_case_or_by_the_way_of_writing_an_accent_are_kept_apart_and_named(
    tmp_path: Path,
) -> None:
    for label in ("Cat", "cat", "caf\u00e9", "cafe\u0301"):
        put(tmp_path / label / "0.png")
    dataset = open_dataset(f"folder:{tmp_path}")
    assert len(dataset.classes) == 4
    assert "'Cat' and 'cat'" in dataset.notes[0]
    assert r"'cafe\u0301' and 'caf\xe9'" in dataset.notes[0]


def test_images_in_nested_folders_are_found_and_hidden_ones_left_out(tmp_path: Path) -> None:
    put(tmp_path / "a" / "deep" / "er" / "x.png")
    put(tmp_path / "a" / "deep" / "y.JPG", 9)
    put(tmp_path / "a" / ".hidden.png")
    put(tmp_path / "a" / ".cache" / "x.png")
    put(tmp_path / ".git" / "x.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "folder.png").mkdir()
    assert open_dataset(f"folder:{tmp_path}").names == ["a/deep/er/x.png", "a/deep/y.JPG"]


def test_it_lists_what_torchvision_lists(image_folder: Path) -> None:
    from torchvision.datasets import ImageFolder

    put(image_folder / "bee" / "deep" / "er.PNG", 7)
    theirs, ours = ImageFolder(str(image_folder)), open_dataset(f"folder:{image_folder}")
    assert ours.classes == theirs.classes
    listed = {os.path.relpath(path, image_folder): target for path, target in theirs.samples}
    assert dict(zip(ours.names, ours.targets.tolist(), strict=True)) == listed
    assert [ours[0][0].tobytes(), ours[7][0].tobytes()] == [
        theirs.loader(str(image_folder / ours.names[position])).tobytes() for position in (0, 7)
    ]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    put(tmp_path / "a" / "0.png")
    put(tmp_path / "b" / "1.png", 9)
    for place, target in (("a/up", "."), ("a/self", "a"), ("a/other", "b"), ("b/other", "a")):
        (tmp_path / place).symlink_to(tmp_path / target, target_is_directory=True)
    dataset = open_dataset(f"folder:{tmp_path}")
    assert sorted(dataset.names) == ["a/0.png", "a/other/1.png", "b/1.png", "b/other/0.png"]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda root: None, DataNotFoundError, "there is no folder"),
        (lambda root: put(root.with_suffix(".png")).rename(root), DataError, "is a file"),
        (lambda root: root.mkdir(), DataError, "nothing that could be a class"),
        (lambda root: put(root / "loose.png"), DataError, "1 images that lie loose"),
        (lambda root: (root / "a").mkdir(parents=True), DataError, "holds no images"),
        (lambda root: (put(root / "a" / "0.png"), (root / "b").mkdir()), DataError, "no images of the class 'b'"),
        (lambda root: put(root / "train" / "loose.png"), DataError, "1 images that lie loose"),
    ],
)
def test_a_folder_that_cannot_be_used_says_what_was_found(tmp_path: Path, make, error, words) -> None:
    make(tmp_path / "images")
    with pytest.raises(error, match=words) as raised:
        open_dataset(f"folder:{tmp_path / 'images'}")
    assert "\n" not in str(raised.value)


def test_damaged_images_are_named_and_never_raise_anything_else(tmp_path: Path) -> None:
    generator = random.Random(0)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    said = []
    for extension in ("jpg", "png", "bmp", "webp"):
        path = tmp_path / f"image.{extension}"
        Image.fromarray(pixels).save(path)
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
            for _ in range(min(3, len(damaged))):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            path.write_bytes(damaged)
            try:
                assert open_media("image", path).mode == "RGB"
            except UnreadableSampleError as error:
                said.append(f"{path.name} {error}")
    assert len(said) > 60
    assert all(each.count(each.split()[0]) == 2 for each in said)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(UnreadableSampleError, match=r"x\.png"):
        open_media("image", tmp_path / "x.png")
    with pytest.raises(UnreadableSampleError, match=r"y\.png is not there"):
        open_media("image", tmp_path / "y.png")


def test_a_file_that_cannot_be_read_hides_no_other_and_is_named_when_it_is_opened(image_folder: Path) -> None:
    whole = open_dataset(f"folder:{image_folder}").sample_ids(None)
    (image_folder / "ant" / "0.png").unlink()
    (image_folder / "ant" / "0.png").symlink_to("nowhere.png")
    dataset = open_dataset(f"folder:{image_folder}")
    memo = FileMemo()
    ids = dataset.sample_ids(memo)
    assert np.array_equal(ids[1:], whole[1:])
    assert not np.array_equal(ids[0], whole[0])
    assert memo.hashed == len(dataset) - 1
    with pytest.raises(UnreadableSampleError, match=r"0\.png is not there"):
        dataset[0]


def test_names_of_snapshots_are_readable_and_differ_by_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert dataset_name("folder:Some Data") == dataset_name(f"folder:{tmp_path / 'Some Data'}")
    assert dataset_name("folder:Some Data").startswith("some-data-")
    assert dataset_name("folder:a/x") != dataset_name("folder:b/x")


FACTORY = """
import torch
class Pairs(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, i): return torch.full((2,), float(i)), i
def make(): return Pairs()
def fail(): raise ValueError("no disk")
"""


def test_functions_of_files_and_packages_make_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_data.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    by_file = open_dataset("my_data.py:make")
    assert by_file[2][1] == 2
    assert by_file.name.startswith("make")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(open_dataset("my_data:make")) == 3


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("digits", UsageError, "not a data specification"),
        ("folder:", UsageError, "not a data specification"),
        ("foldr:x", UnknownNameError, "'folder'"),
        ("sklearn:digit", UnknownNameError, "'digits'"),
        ("my_data.py:mke", UnknownNameError, "'make'"),
        ("none.py:make", UnknownNameError, r"no file none\.py"),
        ("no_such_package.data:make", UnknownNameError, "no_such_package"),
        ("my_data.py:fail", UsageError, "no disk"),
        ("pictures", UsageError, "'folder:pictures'"),
    ],
)
def test_a_specification_that_leads_nowhere_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[Exception], words: str
) -> None:
    (tmp_path / "my_data.py").write_text(FACTORY)
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words) as raised:
        open_dataset(spec)
    assert "\n" not in str(raised.value)
