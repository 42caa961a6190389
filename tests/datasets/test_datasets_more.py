"""Data in tar files, of torchvision, of the datasets library, and sounds: real files of each, written here."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from featcache.datasets.patterns import expand_braces
from featcache.datasets.source import open_dataset
from featcache.errors import (
    DataError,
    DataNotFoundError,
    MissingDependencyError,
    UnknownNameError,
    UnreadableSampleError,
    UsageError,
)
from featcache.samples.file_memo import FileMemo
from featcache.testing.sources import DatasetSourceContract

GENERATOR = np.random.default_rng(0)


def png(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 10, 20)).save(out, "PNG")
    return out.getvalue()


def tar(path: Path, members: dict[str, bytes], kind: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, kind) as archive:
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    for number, split in enumerate(("train", "train", "val")):
        members = {}
        for key in range(3):
            members[f"{number}{key}.png"] = png(30 * number + key)
            members[f"{number}{key}.cls"] = str(key % 2).encode()
            members[f"{number}{key}.json"] = json.dumps({"label": "ab"[key % 2], "more": {"size": key + 0.5}}).encode()
        tar(tmp_path / f"set-{split}-{number:03d}.tar", members)
    return tmp_path


class TestTars(DatasetSourceContract):
    nonsense = "wds:there/is/none-{000..003}.tar"

    @pytest.fixture(autouse=True)
    def _tars(self, tars: Path) -> None:
        self.spec = f"wds:{tars}/set-{{train-000,train-001,val-002}}.tar"


def test_members_of_tar_files_are_grouped_by_key_and_told_apart_by_extension(tars: Path) -> None:
    dataset = open_dataset(f"wds:{tars}/set-*.tar")
    assert dataset.splits == ["train"] * 6 + ["val"] * 3
    assert dataset.names[3] == "set-train-001/10"
    assert dataset.targets.tolist() == [0, 1, 0] * 3
    assert dataset[4][0].getpixel((0, 0)) == (31, 10, 20)
    by_json = open_dataset(f"wds:{tars}/set-*.tar?input=png&target=json")
    assert by_json.classes == ["a", "b"]
    floats = open_dataset(f"wds:{tars}/set-train-{{000..001}}.tar?target=json.more.size")
    assert floats.targets.tolist() == [0.5, 1.5, 2.5] * 2
    assert floats.classes is None


def test_members_that_belong_to_no_sample_are_counted(tmp_path: Path) -> None:
    members = {
        "x.png": png(0),
        "x.cls": b"1",
        "README": b"mine",
        "._x.png": b"",
        "more/y.png": png(1),
        "more/y.cls": b"2",
    }
    dataset = open_dataset(f"wds:{tar(tmp_path / 'a.tar', members)}")
    assert dataset.names == ["a/x", "a/more/y"]
    assert "2 members left out, not called KEY.EXTENSION, the first: a.tar: README" in dataset.notes


def test_a_tar_file_that_says_no_split_beside_others_that_do_is_no_training_data(tmp_path: Path) -> None:
    for number, stem in enumerate(("set-train-000", "set-dev", "set-eval-001", "photos-002")):
        tar(tmp_path / "shards" / f"{stem}.tar", {"x.png": png(number), "x.cls": b"1"})
    dataset = open_dataset(f"wds:{tmp_path}/shards/set-*.tar")
    assert sorted(dataset.splits) == ["set-eval", "train", "val"]
    assert open_dataset(f"wds:{tmp_path}/shards/photos-002.tar").splits == [""]


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("train-val-000", "train-val"),
        ("val_train", "val_train"),
        ("Train-Training-000", "train"),
        ("unlabeled_train-00000-of-00002", "unlabeled_train"),
        ("test-00000-of-00001", "test"),
    ],
)
def test_a_tar_file_whose_name_says_two_splits_is_of_none_that_anything_is_done_with(
    tmp_path: Path, stem: str, split: str
) -> None:
    path = tar(tmp_path / "shards" / f"{stem}.tar", {"x.png": png(0), "x.cls": b"1"})
    assert open_dataset(f"wds:{path}").splits == [split]


def test_a_member_has_the_id_of_a_file_of_its_content_and_is_read_once(tars: Path, tmp_path: Path) -> None:
    for key in range(3):
        path = tmp_path / "folder" / "x" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(key))
    for path in tars.glob("*.tar"):
        os.utime(path, (1, 1))
    dataset, memo = open_dataset(f"wds:{tars}/set-*.tar"), FileMemo()
    folder = open_dataset(f"folder:{tmp_path / 'folder'}")
    ids = dataset.sample_ids(memo)
    assert np.array_equal(ids[:3], folder.sample_ids(None))
    assert dataset.decoding == folder.decoding
    assert memo.hashed == 9
    again = FileMemo.from_bytes(memo.to_bytes())
    assert np.array_equal(dataset.sample_ids(again), ids)


def test_what_webdataset_writes_is_read_as_it_reads_it(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.ShardWriter(f"{tmp_path}/part-%03d.tar", maxcount=4, verbose=0) as writer:
        for number in range(10):
            image = Image.new("RGB", (6, 4), (number, 1, 2))
            writer.write({"__key__": f"sub/{number:04d}", "png": image, "cls": number % 3})
    pattern = f"{tmp_path}/part-{{000..002}}.tar"
    theirs = list(webdataset.WebDataset(pattern, shardshuffle=False).decode("pil").to_tuple("png", "cls"))
    ours = open_dataset(f"wds:{pattern}")
    assert ours.targets.tolist() == [target for _, target in theirs]
    assert [ours[row][0].tobytes() for row in range(10)] == [image.convert("RGB").tobytes() for image, _ in theirs]


def test_braces_stand_for_ranges_and_lists() -> None:
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{x,y}/{0..1}") == ["x/0", "x/1", "y/0", "y/1"]
    with pytest.raises(UsageError, match="empty or too long"):
        expand_braces("{5..1}.tar")


def test_tar_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    good = {"a.png": png(0), "a.cls": b"0"}
    cases: list[tuple[dict[str, bytes], str, str]] = [
        ({**good, "b.png": png(1)}, "", "holds no cls for the sample 'b', only png"),
        ({**good, "b.cls": b"1"}, "", "no input for the sample 'b'"),
        ({**good, "a.mask.png": png(1)}, "", "2 inputs .*input=EXTENSION"),
        (good, "?input=jpg", "The members are: cls, png"),
        (good, "?target=label", "holds no label for the sample 'a', only cls, png"),
        ({"a.png": png(0)}, "", "Add target=EXTENSION"),
        ({"readme": b""}, "", "no samples"),
        ({**good, "a.json": b"{"}, "?target=json", "not JSON"),
        ({**good, "a.json": b'{"x": 1}'}, "?target=json", "it has x"),
        ({**good, "a.json": b"3"}, "?target=json", r"a\.json is '3', not an object with fields: write"),
        ({**good, "a.json": b'"my label"'}, "?target=json", "is 'my label', not an object"),
        ({"a.png": png(0), "a.cls": b""}, "", "no value"),
    ]
    for members, options, words in cases:
        path = tar(tmp_path / "t.tar", members)
        with pytest.raises(DataError, match=words) as error:
            open_dataset(f"wds:{path}{options}")
        assert "\n" not in str(error.value)
    whole = tar(tmp_path / "t.tar", good).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:520])
    with pytest.raises(DataError, match=r"cut off|damaged"):
        open_dataset(f"wds:{tmp_path}/cut.tar")
    with pytest.raises(DataError, match="looks compressed"):
        open_dataset(f"wds:{tar(tmp_path / 'z.tar.gz', good, 'w:gz')}")
    with pytest.raises(UsageError, match="fetch them first"):
        open_dataset("wds:https://there/is.tar")
    with pytest.raises(DataNotFoundError, match=r"no file .*t-1\.tar"):
        open_dataset(f"wds:{tmp_path}/t-{{1..2}}.tar")
    damaged = open_dataset(f"wds:{tar(tmp_path / 't.tar', {'a.png': b'nothing', 'a.cls': b'0'})}")
    with pytest.raises(UnreadableSampleError, match=r"t\.tar: a\.png is not an image"):
        damaged[0]


def idx(path: Path, values: np.ndarray) -> None:
    """Write an array as MNIST's files have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">BBBB", 0, 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for part, count in (("train", 12), ("t10k", 5)):
        raw = tmp_path / "root" / "MNIST" / "raw"
        idx(raw / f"{part}-images-idx3-ubyte", GENERATOR.integers(0, 256, (count, 28, 28)))
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(count) % 4)
    return tmp_path / "root"


class TestTorchvisionInMemory(DatasetSourceContract):
    nonsense = "torchvision:CIFR10"
    torch_free = False  # torchvision is torch

    @pytest.fixture(autouse=True)
    def _root(self, mnist: Path) -> None:
        self.spec = f"torchvision:MNIST?root={mnist}"


class TestTorchvisionInFiles(DatasetSourceContract):
    torch_free = False

    @pytest.fixture(autouse=True)
    def _root(self, image_folder: Path) -> None:
        self.spec = f"torchvision:ImageFolder?root={image_folder}"


def test_sets_of_torchvision_have_their_splits_and_classes(mnist: Path, image_folder: Path) -> None:
    dataset = open_dataset(f"torchvision:MNIST?root={mnist}")
    assert dataset.splits == ["train"] * 12 + ["test"] * 5
    assert dataset.classes[3] == "3 - three"
    assert dataset[13][1] == 1
    assert dataset[0][0].mode == "RGB"
    assert len(open_dataset(f"torchvision:MNIST?root={mnist}&split=test")) == 5
    by_torchvision = open_dataset(f"torchvision:ImageFolder?root={image_folder}")
    by_folder = open_dataset(f"folder:{image_folder}")
    assert np.array_equal(by_torchvision.sample_ids(None), by_folder.sample_ids(None))
    assert (by_torchvision.decoding, by_torchvision.classes) == (by_folder.decoding, by_folder.classes)


def test_torchvision_downloads_nothing_unasked_and_says_how_to_go_on(tmp_path: Path, mnist: Path) -> None:
    for words, spec, error in (
        ("add download=true", f"torchvision:CIFAR10?root={tmp_path}", DataNotFoundError),
        ("add download=true", f"torchvision:SVHN?root={tmp_path}", DataNotFoundError),
        ("'CIFAR10'", "torchvision:CIFAR11", UnknownNameError),
        ("It has: train, test", f"torchvision:MNIST?root={mnist}&split=val", UnknownNameError),
        ("neither true nor false", f"torchvision:MNIST?root={mnist}&download=maybe", UsageError),
        ("cannot download ImageFolder", f"torchvision:ImageFolder?root={mnist}&download=true", UsageError),
        ("has no splits", f"torchvision:ImageFolder?root={mnist}&split=train", UsageError),
    ):
        with pytest.raises(error, match=words) as raised:
            open_dataset(spec)
        assert "\n" not in str(raised.value)
    assert not list(tmp_path.glob("cifar*"))


@pytest.fixture
def parquet(library, tmp_path: Path) -> Path:
    """Images within a parquet file, with classes, numbers, texts and lists."""
    rows = {
        "picture": [{"bytes": png(shade), "path": None} for shade in range(5)],
        "label": [0, 1, 1, 0, 1],
        "score": [0.5, 1.0, 1.5, 2.0, 2.5],
        "tags": [[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]],
        "text": [f"text {number}" for number in range(5)],
    }
    features = library.Features(
        {
            "picture": library.Image(),
            "label": library.ClassLabel(names=["no", "yes"]),
            "score": library.Value("float64"),
            "tags": library.List(library.Value("int64"))
            if hasattr(library, "List")
            else library.Sequence(library.Value("int64")),
            "text": library.Value("string"),
        }
    )
    library.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    return tmp_path / "rows.parquet"


class TestParquet(DatasetSourceContract):
    nonsense = "hf:./there/is/none"

    @pytest.fixture(autouse=True)
    def _file(self, parquet: Path) -> None:
        self.spec = f"hf:{parquet}"


class TestTextsOfParquet(DatasetSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, parquet: Path) -> None:
        self.spec = f"hf:{parquet}?text=text&target=score"


def test_columns_are_found_by_kind_and_name(parquet: Path) -> None:
    dataset = open_dataset(f"hf:{parquet}")
    assert dataset.classes == ["no", "yes"]
    assert dataset.targets.tolist() == [0, 1, 1, 0, 1]
    assert dataset[3][0].getpixel((0, 0)) == (3, 10, 20)
    assert dataset.names[3] == "train/3"
    texts = open_dataset(f"hf:{parquet}?text=text&target=score&split=train[1:3]")
    assert [texts[row] for row in range(2)] == [("text 1", 1.0), ("text 2", 1.5)]
    vectors = open_dataset(f"hf:{parquet}?target=tags")
    assert vectors.targets.dtype == np.int64
    assert vectors.targets.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]]
    for options, words in (
        ("?target=lable", "'label'.*It has: picture, label"),
        ("?image=pictures", "'picture'"),
        ("?split=test", "It has: train"),
        ("?text=text&image=picture", "one of them"),
    ):
        with pytest.raises(UsageError, match=words):
            open_dataset(f"hf:{parquet}{options}")


def test_all_splits_of_a_saved_set_and_of_an_image_folder_are_taken(
    library, parquet: Path, tmp_path: Path, image_folder
) -> None:
    whole = library.load_dataset("parquet", data_files=str(parquet), split="train")
    library.DatasetDict({"train": whole, "validation": whole.select([0])}).save_to_disk(tmp_path / "saved")
    saved = open_dataset(f"hf:{tmp_path / 'saved'}")
    assert saved.splits == ["train"] * 5 + ["val"]
    assert np.array_equal(saved.sample_ids(None)[0], saved.sample_ids(None)[5])
    whole.save_to_disk(tmp_path / "undivided")
    assert open_dataset(f"hf:{tmp_path / 'undivided'}").splits == [""] * 5
    folder, own = open_dataset(f"hf:{image_folder}"), open_dataset(f"folder:{image_folder}")
    assert folder.classes == own.classes
    assert sorted(map(bytes, folder.sample_ids(None))) == sorted(map(bytes, own.sample_ids(None)))
    (tmp_path / "t.csv").write_text("review,stars\ngood,5\nbad,1\n")
    texts = open_dataset(f"hf:{tmp_path / 't.csv'}?target=stars")
    assert [texts[row] for row in range(2)] == [("good", 5), ("bad", 1)]


def test_an_edited_file_is_read_anew_even_if_its_times_were_put_back(library, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\ngood,1\n")
    os.utime(path, (1e9, 1e9))
    before = open_dataset(f"hf:{path}").sample_ids(None)
    path.write_text("text,label\nfine,1\n")
    os.utime(path, (1e9, 1e9))
    after = open_dataset(f"hf:{path}")
    assert after[0][0] == "fine"
    assert not np.array_equal(after.sample_ids(None), before)


def test_what_the_library_cannot_load_says_why(library, tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    (tmp_path / "x.doc").write_bytes(b"")
    for spec, error, words in (
        (f"hf:{tmp_path}/bad.parquet", DataError, "Check its files"),
        (f"hf:{tmp_path}/x.doc", DataError, "hf: reads these"),
        (f"hf:{tmp_path}/gone", DataNotFoundError, "no file or folder"),
        ("hf:nobody/nothing", DataNotFoundError, "Fetch it where there is a network"),
    ):
        with pytest.raises(error, match=words) as raised:
            open_dataset(spec)
        assert "\n" not in str(raised.value)


def test_the_datasets_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'featcache\[hf-data\]'"):
        open_dataset("hf:owner/set")


def sound(path: Path, frequency: float, subtype: str = "PCM_16", channels: int = 1) -> Path:
    soundfile = pytest.importorskip("soundfile")
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(np.arange(800) * frequency)
    soundfile.write(path, np.stack([wave] * channels, axis=1), 8000, subtype=subtype)
    return path


class TestSounds(DatasetSourceContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        for number, label in enumerate(("low", "high", "low", "high")):
            sound(tmp_path / label / f"{number}.{'wav' if number < 2 else 'flac'}", 0.01 * (number + 1))
        self.spec = f"folder:{tmp_path}"


def test_all_ways_to_read_a_sound_give_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile = pytest.importorskip("soundfile")
    for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT"):
        sound(tmp_path / "set" / "a" / f"{subtype}.wav", 0.1, subtype, channels=2)
    sound(tmp_path / "set" / "a" / "telephone.wav", 0.1, "ULAW")  # which only soundfile reads
    for subtype in ("PCM_16", "PCM_24"):
        sound(tmp_path / "set" / "a" / f"{subtype}.flac", 0.1, subtype)
    dataset = open_dataset(f"folder:{tmp_path / 'set'}")
    for row, name in enumerate(dataset.names):
        (waveform, rate), _ = dataset[row]
        expected, _ = soundfile.read(tmp_path / "set" / name, dtype="float32", always_2d=True)
        assert rate == 8000
        assert torch.equal(waveform, torch.from_numpy(expected[:, 0].copy())), name
    monkeypatch.setitem(sys.modules, "soundfile", None)
    wav = dataset.names.index("a/PCM_16.wav")
    assert dataset[wav][0][1] == 8000
    with pytest.raises(MissingDependencyError, match=r"pip install 'featcache\[audio\]'"):
        dataset[next(row for row, name in enumerate(dataset.names) if name.endswith("flac"))]


def test_sounds_come_from_tables_and_tar_files_too(tmp_path: Path) -> None:
    path = sound(tmp_path / "a" / "x.wav", 0.1)
    (tmp_path / "t.csv").write_text("file,label\na/x.wav,low\n")
    tar(tmp_path / "t.tar", {"x.wav": path.read_bytes(), "x.cls": b"0"})
    found = [open_dataset(spec) for spec in (f"folder:{tmp_path}", f"csv:{tmp_path}/t.csv", f"wds:{tmp_path}/t.tar")]
    assert len({dataset.sample_ids(None).tobytes() for dataset in found}) == 1
    assert len({json.dumps(dataset.decoding) for dataset in found}) == 1
    assert all(torch.equal(dataset[0][0][0], found[0][0][0][0]) for dataset in found)


def test_damaged_sounds_are_named_and_mixed_folders_refused(tmp_path: Path) -> None:
    path = sound(tmp_path / "a" / "x.wav", 0.1)
    whole = path.read_bytes()
    for content in (b"", b"RIFF", whole[:30], b"nothing at all", whole[:44]):
        path.write_bytes(content)
        with pytest.raises((UnreadableSampleError, MissingDependencyError), match=r"x\.wav"):
            open_dataset(f"folder:{tmp_path}")[0]
    (tmp_path / "a" / "cover.png").write_bytes(png(1))
    assert open_dataset(f"folder:{tmp_path}").names == ["a/cover.png"]
    shutil.copy(path, tmp_path / "a" / "y.wav")
    with pytest.raises(DataError, match="both 1 images and 2 sounds"):
        open_dataset(f"folder:{tmp_path}")


def test_a_compressed_file_is_no_sound(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.flac").write_bytes(gzip.compress(b"x"))
    with pytest.raises(UnreadableSampleError, match="no sound"):
        open_dataset(f"folder:{tmp_path}")[0]
