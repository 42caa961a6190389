"""``csv:FILE``: files and texts by table, and what their targets become."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featcache.datasets.source import dataset_name, open_dataset
from featcache.errors import DataError, DataNotFoundError, UnknownNameError, UnreadableSampleError, UsageError
from featcache.samples.file_memo import FileMemo
from featcache.testing.sources import DatasetSourceContract

REVIEWS = (
    'review,stars,useful,split\n"Good, and\nlong.",5,1,train\nBad.,1,0,test\n"""Fine"" über alles",3,1,validation\n'
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A table in a folder of its own, whose paths lead into and out of that folder."""
    generator = np.random.default_rng(0)
    for name in ("set/a/0.png", "set/a/1.png", "other/2.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)).save(path)
    table = tmp_path / "set" / "photos.csv"
    table.write_text(
        f"image,label,fold\na/0.png,dog,train\na/1.png,ant,test\n{tmp_path}/other/2.png,dog,2\n../other/2.png,cat,2\n"
    )
    return table


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text(REVIEWS)
    return path


class TestFilesOfATable(DatasetSourceContract):
    nonsense = "csv:there/is/none.csv"

    @pytest.fixture(autouse=True)
    def _table(self, photos: Path) -> None:
        self.spec = f"csv:{photos}"


class TestTextsOfATable(DatasetSourceContract):
    nonsense = "csv:"

    @pytest.fixture(autouse=True)
    def _table(self, reviews: Path) -> None:
        self.spec = f"csv:{reviews}?target=stars,useful"


def test_files_are_found_from_the_folder_of_the_table_and_classes_are_sorted(photos: Path) -> None:
    dataset = open_dataset(f"csv:{photos}")
    assert dataset.classes == ["ant", "cat", "dog"]
    assert dataset.targets.tolist() == [2, 0, 2, 1]
    assert dataset.splits == ["train", "test", "2", "2"]
    assert dataset.names[0] == "a/0.png"
    assert dataset[0][0].mode == "RGB"
    ids = dataset.sample_ids(None)
    assert np.array_equal(ids[2], ids[3])
    assert len(np.unique(ids, axis=0)) == 3


def test_a_file_has_the_same_id_in_a_table_and_in_a_folder(photos: Path) -> None:
    memo = FileMemo()
    by_table = open_dataset(f"csv:{photos}")
    by_folder = open_dataset(f"folder:{photos.parent}")
    assert by_table.decoding == by_folder.decoding
    assert np.array_equal(by_table.sample_ids(memo)[:2], by_folder.sample_ids(memo))


def test_texts_keep_their_quotes_and_line_breaks(reviews: Path) -> None:
    dataset = open_dataset(f"csv:{reviews}?target=stars")
    assert [dataset[row][0] for row in range(3)] == ["Good, and\nlong.", "Bad.", '"Fine" über alles']
    assert list(dataset.names) == ["line 2", "line 4", "line 5"]
    assert dataset.splits == ["train", "test", "val"]
    pairs = open_dataset(f"csv:{reviews}?text=review,split&target=none")
    assert pairs[1] == (("Bad.", "test"), 0)
    assert pairs.classes is None


@pytest.mark.parametrize(
    ("values", "options", "targets", "classes"),
    [
        (["b", "a", "b"], "", [1, 0, 1], ["a", "b"]),
        (["2", "0", "3"], "", [2, 0, 3], ["0", "1", "2", "3"]),
        (["700", "-1", "700"], "", [1, 0, 1], ["-1", "700"]),
        (["1", "2.5", "1e-3"], "", [1, 2.5, 1e-3], None),
        (["1", "2", "3"], "&as=float", [1, 2, 3], None),
        (["1.0", "2.5", "1.0"], "&as=class", [0, 1, 0], ["1.0", "2.5"]),
        (["1", "b", "2"], "", [0, 2, 1], ["1", "2", "b"]),
    ],
)
def test_a_column_becomes_classes_or_numbers(
    tmp_path: Path, values: list[str], options: str, targets: list[float], classes: list[str] | None
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"x{row},{value}\n" for row, value in enumerate(values)))
    dataset = open_dataset(f"csv:{path}?target=label{options}")
    assert dataset.targets.dtype == (np.float32 if classes is None else np.int64)
    assert np.allclose(dataset.targets, targets)
    assert dataset.classes == classes


def test_several_columns_become_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text;a;b;c\nx;1;0;0.5\ny;1;1;2\n")
    flags = open_dataset(f"csv:{path}?target=a,b")
    assert flags.targets.tolist() == [[1, 0], [1, 1]]
    assert flags.targets.dtype == np.int64
    assert flags.classes == ["a", "b"]
    floats = open_dataset(f"csv:{path}?target=a,c")
    assert floats.targets.dtype == np.float32
    assert floats.classes is None
    assert floats[1][1].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "options", "error", "words"),
    [
        ("", "", DataError, "is empty"),
        ("path,label\n", "", DataError, "no rows below its header"),
        ("path,label\na.png,1,2\n", "", DataError, r"line 2 has 3 values for 2 columns"),
        ("path,label,path\n", "", DataError, "'path' twice"),
        ("where,label\na.png,1\n", "", DataError, r"It has: where, label\. Add \?path="),
        ("path,kind\na.png,1\n", "", DataError, r"It has: path, kind\. Add target="),
        ("path,label\na.png,1\n", "?target=lable", UnknownNameError, r"Did you mean 'label'\? It has: path, label"),
        ("path,label\na.png,1\n", "?path=paht", UnknownNameError, "'path'"),
        ("path,label\na.png,1\n", "?traget=label", UsageError, "Did you mean 'target'"),
        ("path,label\na.png,1\n", "?target=label&target=path", UsageError, "given twice"),
        ("path,label\na.png,1\n", "?as=kind", UsageError, "as=float"),
        ("path,text,label\na.png,hello,1\n", "", DataError, "add .path=path or .text=text"),
        ("path,text,label\na.png,hello,1\n", "?path=path&text=text", UsageError, "both"),
        ("path,label\nthere.png,1\n\n,2\n", "", DataError, "line 4 names no file"),
        ("path,label\na.doc,1\n", "", DataError, "line 2 names 'a.doc'"),
        ("path,label\na.png,1\nb.wav,1\n", "", DataError, "line 3 names 'b.wav', a sound among images"),
        ("path,label\na.png,1\nb.png,2\n", "", DataNotFoundError, r"line 2 names 'a.png', but there is no file"),
        ("text,label\nx,\n", "", DataError, "line 2 has no value in the target column 'label'"),
        ("text,label\nx,nan\ny,1\n", "", DataError, "line 2 has 'nan', which is not a label"),
        ("text,label\nx,inf\ny,1\n", "?as=float", DataError, "finite"),
        ("text,label\nx,1\ny,b\n", "?as=float", DataError, "line 3 has 'b'"),
        ('text,label\n"x,1\n', "", DataError, "line 2 is not CSV"),
    ],
)
def test_a_table_that_cannot_be_used_says_what_was_found(
    tmp_path: Path, content: str, options: str, error: type[Exception], words: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(error, match=words) as raised:
        open_dataset(f"csv:{path}{options}")
    assert "\n" not in str(raised.value)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match="UTF-8"):
        open_dataset(f"csv:{tmp_path}/t.csv")
    with pytest.raises(DataError, match="'folder:"):
        open_dataset(f"csv:{tmp_path}")
    with pytest.raises(DataNotFoundError, match="no file"):
        open_dataset(f"csv:{tmp_path}/u.csv")


@pytest.mark.slow
def test_texts_for_a_network_of_images_are_refused_in_one_line(featcache_command, reviews: Path) -> None:
    data = f"csv:{reviews}?target=stars"
    for ask in (("cuts",), ("extract", "--cut", "layer4")):
        done = featcache_command(*ask, "--backbone", "bundled:resnet-mini", "--data", data, expect=1)
        assert done.stderr.strip().startswith("error: the transform does not take a sample that is a text")
        assert done.stderr.strip().count("\n") == 0


def test_a_row_whose_file_is_missing_is_named_with_its_line(photos: Path) -> None:
    (photos.parent / "a" / "1.png").unlink()
    dataset = open_dataset(f"csv:{photos}")
    assert len(np.unique(dataset.sample_ids(None), axis=0)) == 3
    with pytest.raises(UnreadableSampleError, match=r"photos\.csv line 3: .*1\.png is not there"):
        dataset[1]


def test_tables_are_told_apart_by_place_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = dataset_name("csv:my data.csv?target=a")
    assert name == dataset_name(f"csv:{tmp_path}/my data.csv?target=a")
    assert name.startswith("my-data-csv-")
    assert name != dataset_name("csv:my data.csv?target=b")


def test_a_row_that_names_something_else_than_an_image_or_sound_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label\nnotes.txt,a\n")
    with pytest.raises(DataError, match=r"Drop the row, or name another column with \?path=\."):
        open_dataset(f"csv:{tmp_path / 't.csv'}")


def test_a_column_that_looks_like_splits_but_has_another_name_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,part\nhello,a,train\nbye,b,Test\n")
    said = "the column 'part' looks like one of splits and is not taken for it: add ?split=part"
    assert said in open_dataset(f"csv:{tmp_path}/t.csv").notes
    asked = open_dataset(f"csv:{tmp_path}/t.csv?split=part")
    assert asked.splits == ["train", "test"]
    assert said not in asked.notes


def test_a_column_of_flags_that_looks_like_a_split_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,is_valid\nhello,a,False\nbye,b,True\n")
    (said,) = (each for each in open_dataset(f"csv:{tmp_path}/t.csv").notes if "is_valid" in each)
    assert "add ?split=is_valid, and say what 'False', 'True' are by --train-splits" in said
    asked = open_dataset(f"csv:{tmp_path}/t.csv?split=is_valid")
    assert asked.splits == ["False", "True"]
    assert not any("is_valid" in each for each in asked.notes)
